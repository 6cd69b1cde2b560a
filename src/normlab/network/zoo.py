"""Named layouts."""

import difflib
import hashlib
import re
from dataclasses import dataclass

from normlab.config import ActivationName
from normlab.errors import UsageError
from normlab.notation import is_custom


@dataclass(frozen=True)
class Entry:
    """A named layout.

    Attributes:
        layout: The layout; the classifier's width is the number of classes.
        about: Its source and its purpose.
        chosen_with: The normalizations with which it was chosen among other layouts
            (benchmarks/NOTES.md); empty if it was not chosen by accuracy here.
        activation: Its activation, where no other is asked for.
    """

    layout: str
    about: str
    chosen_with: str = ""
    activation: ActivationName = "relu"


ZOO = {
    "seed-bn": Entry(
        "C:12 C:24 C:24+ c:12 P C:24 C:24 C:32v c:20 P C:42v C:42+ c GAP",
        "the published BatchNorm network",
    ),
    "seed-gn": Entry(
        "C:12 C:24 C:24+ c:12 P C:24 C:24/gn=3 C:32v c:20 P C:42v C:42+ c GAP",
        "the published GroupNorm network: only one block has GroupNorm",
    ),
    "seed-ln": Entry(
        "C:12 C:24 C:24+ c:12 P C:12/ln-full C:24 C:32v c:20 P C:32vs2/ln-full C:32+ c GAP",
        "the published LayerNorm network: narrower, and only two blocks have LayerNorm",
    ),
    "assignment": Entry(
        "C1 C2 c3 P1 C3 C4 C5 c6 P2 C7 C8 C9 GAP C10",
        "the assignment's own line, its widths solved from the budget",
    ),
    "micro": Entry(
        "C:24 D:48 P D:64 D:64+ D:64+ P D:104 D:104+ D:104+ GAP FC",
        "any blocks, under 50,000 parameters",
        chosen_with="bn",
    ),
    "nano": Entry(
        "C:12 D:16 D:16+ P D:24 D:24+ P D:26 D:26+ GAP FC",
        "any blocks, under 5,000 parameters",
        chosen_with="bn",
    ),
    "line": Entry(
        "C:16 C:24 c:16 P C:24 C:24+ C:24+ c:16 P C:36 C:36+ C:36+ GAP c",
        "the assignment's line with residuals in four blocks, under 50,000 parameters",
        chosen_with="bn",
    ),
    "line-5k": Entry(
        "C:6 C:8 c:6 P C:8 C:8+ C:8+ c:6 P C:10 C:10+ C:10+ GAP c",
        "the same under 5,000 parameters",
        chosen_with="bn, gn and ln, in trials that were not the same for each",
    ),
    "teacher": Entry(
        "C:32 C:64 P C:128 C:128+ P C:256 C:256+ P C:256 C:256+ GAP FC",
        "a large network that teaches small ones (normlab train teacher --precision bfloat16)",
    ),
    "sprint": Entry(
        "C:32s2 C:32+ P C:48 P C:48 GAP FC",
        "reaches about 70% on CIFAR-10 after one epoch of its recipe: for a first look or lesson",
        chosen_with="bn",
    ),
}


BEGIN = 24  # characters of a layout in a folder's name


def find(network: str) -> str:
    """The layout with this name. Text that is not a name is returned as a layout itself.

    So is the `module:function` of a custom network.

    Raises:
        UsageError: The text resembles a name, but is not one.
    """
    if network in ZOO:
        return ZOO[network].layout
    if is_custom(network):
        return network
    near = difflib.get_close_matches(network.lower(), ZOO)
    if near:
        raise UsageError(f"no network {network!r}: did you mean {' or '.join(near)}?")
    return network


def activation_of(network: str, asked: ActivationName | None = None) -> ActivationName:
    """The activation that was asked for; else the named network's own; else `relu`."""
    return asked or (ZOO[network].activation if network in ZOO else "relu")


def short_name(network: str) -> str:
    """A network's name in records: its name, or a hash of its layout."""
    if network in ZOO:
        return network
    if is_custom(network):
        return network.replace(":", ".")
    return f"layout-{_hash(network)}"


def folder_name(network: str) -> str:
    """A network's name in folder names: its name, or how its layout begins, and a hash of it."""
    if network in ZOO or is_custom(network):
        return short_name(network)
    begin = ""
    for block in network.split():
        word = re.sub(r"[^A-Za-z0-9]", "", block)  # other characters mean something to a shell
        if len(begin) + len(word) > BEGIN:
            break
        begin += f"{word}-" * bool(word)
    return f"{begin or 'layout-'}{_hash(network)}"


def _hash(network: str) -> str:
    return hashlib.sha256(network.encode(errors="surrogatepass")).hexdigest()[:6]
