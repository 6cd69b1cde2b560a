"""State on disk: weights as safetensors, and the checkpoint that a stopped run is resumed from.

Both carry a SHA-256 of their content. A file that changed on the disk is refused.
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
    """The state of a run after one of its steps. Random draws have no state to save.

    Attributes:
        run: The run's digest.
        model: The network's state.
        optimizer: The optimizers' states.
        epoch: Finished epochs.
        step: Finished steps of the epoch in progress.
        loss_sum: Sum of the losses of the images seen in that epoch.
        correct: How many of them were classified correctly.
        seconds: Seconds spent in that epoch.
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
        """Writes it, whole or not at all. The previous checkpoint is kept beside it."""
        # asdict would copy every tensor.
        state = {name: getattr(self, name) for name in _FIELDS}
        content = io.BytesIO()
        torch.save(state, content)
        state_bytes = content.getvalue()
        head = f"{MAGIC} {SCHEMA} {hashlib.sha256(state_bytes).hexdigest()}\n"
        write_atomically(path, head.encode() + state_bytes, previous=previous_checkpoint(path))

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Reads one. Only tensors and plain values are read: no code in the file is executed.

        Raises:
            RunError: The file is missing, damaged, or another normlab wrote it.
        """
        try:
            head, _, content = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            raise RunError(f"{path.parent} cannot be resumed: it has no {path.name}") from None
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}") from None
        damaged = RunError(f"{path} is damaged: it is not a checkpoint that normlab wrote")
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
        except Exception as error:  # a foreign pickle with a valid checksum can raise anything
            raise damaged from error


def load_latest(path: Path, run: str) -> tuple[Checkpoint, str]:
    """A run's checkpoint; the previous one if it is damaged or belongs to another run.

    Args:
        path: The checkpoint.
        run: The run's digest.

    Returns:
        The checkpoint, and a note for the user if it is the previous one, else an empty text.

    Raises:
        RunError: Neither checkpoint is whole and the run's own.
    """
    try:
        return _load_own(path, run), ""
    except RunError as error:
        previous = previous_checkpoint(path)
        if not previous.exists():
            raise
        try:
            return _load_own(previous, run), f"{error}; resuming from {previous.name}"
        except RunError as second:
            raise RunError(f"{error}; and {second}") from None


def _load_own(path: Path, run: str) -> Checkpoint:
    checkpoint = Checkpoint.load(path)
    if checkpoint.run != run:
        raise RunError(f"{path} is another run's: config.json has other settings or other data")
    return checkpoint


def previous_checkpoint(path: Path) -> Path:
    """The file that keeps the checkpoint before the last one."""
    return path.with_stem(f"{path.stem}-before")


def restore_previous(path: Path) -> None:
    """Replaces a useless checkpoint by the previous one, or the next save would keep it.

    It copies the file: another process of the run may be reading it.
    """
    write_atomically(path, previous_checkpoint(path).read_bytes())


def remove(path: Path) -> None:
    """Removes a checkpoint and the previous one."""
    for each in (path, previous_checkpoint(path)):
        each.unlink(missing_ok=True)


_FIELDS = tuple(Checkpoint.__dataclass_fields__)


def save_weights(path: Path, network: nn.Module) -> None:
    """Writes a network's parameters and buffers as safetensors, whole or not at all."""
    tensors = {name: _plain(tensor) for name, tensor in network.state_dict().items()}
    metadata = {"sha256": _digest(tensors)}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_weights(path: Path, network: nn.Module) -> None:
    """Loads the tensors of a safetensors file into a network.

    Raises:
        RunError: The file is missing, cannot be read, is damaged, or belongs to another network.
    """
    try:
        path.open("rb").close()  # safetensors reports every error as a missing file
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
        raise RunError(f"{path} is damaged: checksum mismatch")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise RunError(f"{path} is damaged: {name} has values that are not finite")
    network.load_state_dict(tensors)


def refuse_another(path: Path, tensors: dict[str, Tensor], network: nn.Module) -> None:
    """Raises RunError if a file's tensors are not those of a network."""
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
