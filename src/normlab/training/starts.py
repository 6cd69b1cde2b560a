"""A start: a trained network whose weights a run begins with, all but the classifier.

Weights are found by their place. A block whose convolutions fit keeps them, and what fits of its
normalizations, with running statistics. A block of which a convolution does not fit starts anew as
a whole: normalizations of other maps would mean nothing to it. Mean and standard deviation of the
input are always those of the run's own data.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from normlab import notation
from normlab.config import TrainingConfig
from normlab.errors import UsageError
from normlab.inference.predict import MODELS, named_run
from normlab.network import zoo
from normlab.network.model import Network
from normlab.runs.provenance import Start
from normlab.runs.run import Run
from normlab.wording import counted, listed


def check_settings(config: TrainingConfig) -> None:
    """Raises UsageError if a start has branches, which would change what its weights compute."""
    if config.start_from is not None and config.branches != "none":
        raise UsageError(
            f"--start-from and --branches {config.branches} exclude each other: leave one out"
        )


def find(config: TrainingConfig) -> Run | None:
    """The run that `--start-from` names; None if a configuration has no start.

    Raises:
        UsageError: There is no such folder or network.
        RunError: The folder is not a run's, or the run is not finished or damaged.
    """
    text = config.start_from
    if text is None:
        return None
    if (run := named_run(text, "--start-from")) is not None:
        return run
    raise UsageError(
        f"--start-from {text}: there is no such folder; expected the folder of a finished run, or "
        f"{' or '.join(MODELS)}"
    )


def recorded(run: Run) -> Start:
    """What a study records of its start. A run's record also has what the run kept of it."""
    config = run.config
    name = f"{zoo.short_name(config.network)}-{config.norm}-{config.seed}"
    return Start(name=name, weights=run.weights_digest())


@torch.no_grad()
def copy_weights(network: Network, run: Run, flag: str) -> Start:
    """Copies the weights of a trained network into a new one, and says what does not fit.

    Args:
        network: The new network, without branches.
        run: The trained network's run.
        flag: What named it, for errors.

    Raises:
        UsageError: No convolution fits.
        RunError: The run is damaged.
    """
    source = run.network()
    own, given = network.state_dict(), source.state_dict()
    weights, places = _weights(network), _places(network)
    classifier, its_classifier = places[weights[-1]], _places(source)[_weights(source)[-1]]
    kept: dict[str, Tensor] = {}
    anew, partly = [], 0
    for place in dict.fromkeys(places.values()):
        names = [name for name in own if places.get(name) == place]
        fitting = {
            name: value
            for name in names
            if (value := _fitted(given.get(name), own[name], first=name == weights[0])) is not None
        }
        if place == classifier:
            continue
        if place == its_classifier or any(
            name in weights and name not in fitting for name in names
        ):
            anew.append(_called(network, place))
            continue
        kept |= fitting
        partly += len(fitting) < len(names)
    if not kept.keys() & set(weights):
        raise UsageError(f'{flag}: none of its weights fits this network; they fit "{run.layout}"')
    network.load_state_dict(own | kept)
    if partly:
        anew.append(f"the normalization of {counted(partly, 'block')} in part")
    notes = [f"new: {listed(['the classifier', *anew])}"]
    if source.shape[0] != network.shape[0] and weights[0] in kept:
        how = "summed over" if source.shape[0] == 3 else "divided among"
        notes.append(f"{how} the colours: the first convolution")
    parameters = {name for name, _ in network.named_parameters()}
    return replace(
        recorded(run),
        kept=sum(kept[name].numel() for name in kept if name in parameters),
        note="; ".join([*notes, *_left(source, its_classifier, kept, places)]),
    )


def _left(
    source: Network, classifier: str, kept: Collection[str], places: Mapping[str, str]
) -> Iterator[str]:
    """What a trained network has beside its classifier that the new one did not take.

    Args:
        source: The trained network.
        classifier: The part that is its classifier.
        kept: The tensors that the new network took.
        places: The parts that the new network's tensors belong to.
    """
    begun = {places[name] for name in kept}
    unused = [
        name.rpartition(".")[2].replace("_", " ")  # `blocks.3.norms.0.running_mean`
        for name, place in _places(source).items()
        if place in begun and name not in kept
    ]
    if unused:
        yield f"without its {listed([*dict.fromkeys(unused)])}"
    further = {*_places(source).values()} - {*places.values()} - {classifier}
    if further:
        yield f"without {counted(len(further), 'further block')} that it has"


def _weights(network: Network) -> list[str]:
    """The names of the weights of convolutions and `FC`, in order; the classifier's is last."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [names[id(weight)] for weight in network.weights if id(weight) in names]


def _places(network: Network) -> dict[str, str]:
    """The part that each tensor belongs to: a layout's block, or a custom network's module."""
    custom = network.counted_parameters is not None
    return {
        name: name.rpartition(".")[0] if custom else ".".join(name.split(".")[:2])
        for name in network.state_dict()
        if name.startswith("blocks.")
    }


def _fitted(given: Tensor | None, own: Tensor, *, first: bool) -> Tensor | None:
    """A tensor as the new network takes it; None if it does not fit.

    The first convolution also fits images of other channels. The kernels for three are summed: a
    grey picture, whose colours are equal, gives the same. Those for one are divided by three.
    """
    if given is None or given.dtype != own.dtype:
        return None
    if given.shape == own.shape:
        return given
    if not first or own.dim() != 4 or given.dim() != 4:
        return None
    without_channels = given.shape[0], *given.shape[2:]
    if without_channels != (own.shape[0], *own.shape[2:]):
        return None
    if (given.shape[1], own.shape[1]) == (3, 1):
        return given.sum(dim=1, keepdim=True)
    if (given.shape[1], own.shape[1]) == (1, 3):
        return (given / 3).expand_as(own)
    return None


def _called(network: Network, place: str) -> str:
    """A part's name for the user: `block 3 (D:24+)`; the module's of a custom network."""
    if network.counted_parameters is not None:
        return place.partition(".")[2].partition(".")[2]
    number = int(place.partition(".")[2])
    return f"block {number + 1} ({notation.format(notation.parse(network.layout)[number:][:1])})"
