"""State on disk: weights as safetensors, and what a run needs to go on.

Both carry a SHA-256 of their content: what changed on the disk is refused, not computed with.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from normlab.errors import RunError
from normlab.storage.files import write_atomically

SCHEMA = 3
MAGIC = "normlab-checkpoint"


@dataclass(kw_only=True)
class Checkpoint:
    """A run after one of its steps. Random draws carry no state, so there is none to save.

    Attributes:
        run: Which run it is of: the run's digest.
        model: The network's state.
        optimizer: The optimizers' states.
        epoch: Epochs that are done.
        step: Steps of the next epoch that are done.
        loss_sum: Sum of the losses of that epoch's images so far.
        correct: Right answers among them.
        seconds: Time spent in that epoch so far.
    """

    run: str
    model: dict[str, Any]
    optimizer: list[dict[str, Any]]
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all; the one before is kept beside it (`before`)."""
        # Not asdict, which would copy every tensor.
        state = {name: getattr(self, name) for name in _FIELDS}
        content = io.BytesIO()
        torch.save(state, content)
        state_bytes = content.getvalue()
        head = f"{MAGIC} {SCHEMA} {hashlib.sha256(state_bytes).hexdigest()}\n"
        write_atomically(path, head.encode() + state_bytes, previous=before(path))

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Reads one, tensors and plain values only: nothing in the file is executed.

        Raises:
            RunError: There is none, it is damaged, or another normlab wrote it.
        """
        try:
            head, _, content = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            raise RunError(f"{path.parent} cannot be resumed: it has no {path.name}") from None
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}") from None
        damaged = RunError(f"{path} is damaged: it is no checkpoint that normlab wrote")
        match head.decode(errors="replace").split(" "):
            case [magic, schema, checksum] if magic == MAGIC:
                if schema != str(SCHEMA):
                    raise RunError(f"{path} has schema {schema}, this normlab reads {SCHEMA}")
            case _:
                raise damaged
        if hashlib.sha256(content).hexdigest() != checksum:
            raise damaged
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return cls(**state)
        except Exception as error:  # somebody else's pickle, with a checksum, can raise anything
            raise damaged from error


def load_latest(path: Path, run: str) -> tuple[Checkpoint, str]:
    """The checkpoint of a run, or where it is damaged or another run's the one before it.

    Args:
        path: The checkpoint.
        run: The run's digest.

    Returns:
        The checkpoint, and what to tell where it is the one before; empty where it is not.

    Raises:
        RunError: Neither is there, whole and the run's own.
    """
    try:
        return _load_own(path, run), ""
    except RunError as error:
        if not before(path).exists():
            raise
        try:
            return _load_own(before(path), run), f"{error}; going on from {before(path).name}"
        except RunError as second:
            raise RunError(f"{error}; and {second}") from None


def _load_own(path: Path, run: str) -> Checkpoint:
    checkpoint = Checkpoint.load(path)
    if checkpoint.run != run:
        raise RunError(f"{path} is another run's: config.json has other settings or other data")
    return checkpoint


def before(path: Path) -> Path:
    """Where the checkpoint before the last one is kept."""
    return path.with_stem(f"{path.stem}-before")


def restore(path: Path) -> None:
    """Puts the checkpoint before in the place of one that is of no use, which a save would keep.

    A copy, not a renaming: another process of the run may be reading it.
    """
    write_atomically(path, before(path).read_bytes())


def remove(path: Path) -> None:
    """Removes a checkpoint and the one before it."""
    for each in (path, before(path)):
        each.unlink(missing_ok=True)


_FIELDS = tuple(Checkpoint.__dataclass_fields__)


def save_weights(path: Path, network: nn.Module) -> None:
    """Writes a network's parameters and buffers as safetensors, whole or not at all."""
    tensors = {name: _plain(tensor) for name, tensor in network.state_dict().items()}
    metadata = {"sha256": _digest(tensors)}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_weights(path: Path, network: nn.Module) -> None:
    """Puts the tensors of a safetensors file into a network.

    Raises:
        RunError: There is no such file, it cannot be read, it is damaged, or it holds another
            network's tensors.
    """
    try:
        path.open("rb").close()  # safetensors would say of any trouble that there is no such file
    except FileNotFoundError:
        raise RunError(f"{path.parent} has no {path.name}: is its training finished?") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    refuse_another(path, tensors, network)
    if metadata.get("sha256") != _digest(tensors):
        raise RunError(f"{path} is damaged: its checksum does not fit")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise RunError(f"{path} is damaged: {name} has values that are not finite")
    network.load_state_dict(tensors)


def refuse_another(path: Path, tensors: dict[str, Tensor], network: nn.Module) -> None:
    """RunError where a file's tensors are not those that a network has."""
    own = network.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            raise RunError(f"{path} is another network's: it has no tensor {name}")
        if name not in own:
            raise RunError(f"{path} is another network's: it has a tensor {name} too many")
        if tensors[name].shape != own[name].shape:
            raise RunError(
                f"{path} is another network's: {name} is {list(tensors[name].shape)}, "
                f"expected {list(own[name].shape)}"
            )
        if tensors[name].dtype != own[name].dtype:
            raise RunError(
                f"{path} is another network's: {name} is {tensors[name].dtype}, "
                f"expected {own[name].dtype}"
            )


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 (hex) of names, types, shapes and values, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
