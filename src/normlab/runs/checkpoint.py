"""State on disk: weights as safetensors, and the checkpoint that a stopped run is resumed from.

Both carry a SHA-256 of their content. A file that changed on the disk is refused.
"""

import hashlib
import io
import os
import warnings
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from normlab.errors import RunError, printable
from normlab.notation import is_custom
from normlab.ranges import Count, Range
from normlab.storage.files import write_atomically
from normlab.storage.reading import open_regular, read_bytes
from normlab.storage.records import MalformedError, check, entry, parse

if TYPE_CHECKING:
    from normlab.network.summary import Summary

SCHEMA = 3
MAGIC = "normlab-checkpoint"
LARGEST = 2**32  # bytes: the state of half a billion parameters
LARGEST_HEADER = 2**24  # bytes: of a hundred thousand tensors
LARGEST_ENTRY = 2**11  # bytes: what a checkpoint's archive has of a tensor beside its values


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
    model: dict[str, Tensor]
    optimizer: list[dict[str, Any]]
    epoch: Count = 0
    step: Count = 0
    loss_sum: Annotated[float, Range(at_least=0)] = 0.0
    correct: Count = 0
    seconds: Annotated[float, Range(at_least=0, at_most=1e8)] = 0.0  # the epoch's are more

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all. The previous checkpoint is kept beside it.

        Raises:
            RunError: The network is too large: the file could not be read again.
            NormlabError: It cannot be written.
        """
        content = io.BytesIO()
        torch.save(dict(vars(self)), content)  # asdict would copy every tensor
        state_bytes = content.getvalue()
        if (size := len(state_bytes)) > LARGEST - 200:  # less the line before it
            raise RunError(f"the network is too large: its checkpoint would have {size:,} bytes")
        head = f"{MAGIC} {SCHEMA} {hashlib.sha256(state_bytes).hexdigest()}\n"
        write_atomically(path, head.encode() + state_bytes, previous=previous_checkpoint(path))

    @classmethod
    def load(cls, path: Path, largest: int = LARGEST) -> "Checkpoint":
        """Reads one. Only tensors and plain values are read: no code in the file is executed.

        Args:
            path: The file.
            largest: How many bytes it may have. One that has more is not read.

        Raises:
            RunError: The file is missing, too large, damaged, or another normlab wrote it.
        """
        try:
            head, _, content = read_bytes(path, largest).partition(b"\n")
        except FileNotFoundError:
            raise _missing(path) from None
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}") from None
        damaged = RunError(f"{path} is damaged: it is not a checkpoint that normlab wrote")
        match head.decode(errors="replace").split(" "):
            case [magic, schema, checksum] if magic == MAGIC:
                if schema != str(SCHEMA):
                    raise RunError(f"{path} has schema {schema[:9]}, this normlab reads {SCHEMA}")
            case _:
                raise damaged
        if hashlib.sha256(content).hexdigest() != checksum:
            raise damaged
        try:
            state = _unpickled(content)
            check(cls, state)
            tensors = state["model"].values()
            if any(t.device.type != "cpu" or t.layout != torch.strided for t in tensors):
                raise MalformedError("a tensor has no values")
            if sum(t.nbytes for t in tensors) > LARGEST:  # many may have their values in one place
                raise MalformedError("its tensors are larger than a network's")
            return cls(**state)
        except Exception as error:  # a foreign pickle with a valid checksum can raise anything
            raise damaged from error


def _unpickled(content: bytes) -> Any:
    """The state in a checkpoint's archive, with PyTorch's restricted unpickler."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # never PyTorch's old formats
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise MalformedError("it is compressed: torch.save does not do that")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what a forger wrote
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def is_checkpoint(path: Path) -> bool:
    """Whether a file begins as a checkpoint that normlab wrote."""
    with suppress(OSError), open_regular(path) as file:
        return file.read(len(MAGIC)) == MAGIC.encode()
    return False


def _missing(path: Path) -> RunError:
    return RunError(f"{path.parent} has no {path.name} to resume from")


def largest_size(network: nn.Module) -> int:
    """How many bytes a checkpoint of a network can have: its state, and a momentum of each weight.

    Args:
        network: With its branches.
    """
    tensors = network.state_dict().values()
    storages = [tensor.untyped_storage() for tensor in tensors]  # a view's is saved whole
    whole: int = sum(storage.nbytes() for storage in storages)
    return min(LARGEST, 2 * (whole + LARGEST_ENTRY * len(tensors)) + 2**20)


def refuse_smaller(path: Path, summary: "Summary") -> None:
    """Refuses a checkpoint and the previous one if neither can hold a network's parameters.

    Only their sizes are read. A custom network was built for its summary: it needs no such check.

    Raises:
        RunError: Both are missing or too small.
    """
    found = [each for each in (path, previous_checkpoint(path)) if each.exists()]
    if not found:
        raise _missing(path)
    size, least = max(each.stat().st_size for each in found), 4 * summary.parameters
    if min(size, LARGEST) < least and not is_custom(summary.layout):
        raise RunError(
            f"{path} is damaged or another network's: the layout's parameters take {least:,} "
            f"bytes, it has {size:,} (at most {LARGEST:,} are read)"
        )


def load_latest(path: Path, run: str, largest: int = LARGEST) -> tuple[Checkpoint, str]:
    """A run's checkpoint; the previous one if it is damaged or belongs to another run.

    Args:
        path: The checkpoint.
        run: The run's digest.
        largest: How many bytes either may have.

    Returns:
        The checkpoint, and a note for the user if it is the previous one, else an empty text.

    Raises:
        RunError: Neither checkpoint is whole and the run's own.
    """
    try:
        return _load_own(path, run, largest), ""
    except RunError as error:
        previous = previous_checkpoint(path)
        if not previous.exists():
            raise
        try:
            return _load_own(previous, run, largest), f"{error}; resuming from {previous.name}"
        except RunError as second:
            raise RunError(f"{error}; and {second}") from None


def _load_own(path: Path, run: str, largest: int) -> Checkpoint:
    checkpoint = Checkpoint.load(path, largest)
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
    write_atomically(path, read_bytes(previous_checkpoint(path), LARGEST))


def remove(path: Path) -> None:
    """Removes a checkpoint and the previous one."""
    for each in (path, previous_checkpoint(path)):
        each.unlink(missing_ok=True)


def save_weights(path: Path, network: nn.Module) -> None:
    """Writes a network's parameters and buffers as safetensors, whole or not at all."""
    tensors = {name: _plain(tensor) for name, tensor in network.state_dict().items()}
    metadata = {"sha256": _digest(tensors)}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_weights(path: Path, network: nn.Module) -> None:
    """Loads the tensors of a safetensors file into a network.

    The file's header is compared with the network first.

    Raises:
        RunError: The file is missing, cannot be read, is damaged, or belongs to another network.
    """
    refuse_another(path, header(path), network)
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


def header(path: Path) -> dict[str, Tensor]:
    """The types and shapes of a safetensors file's tensors, as tensors without values.

    Only the file's header is read.

    Raises:
        RunError: The file is missing, cannot be read, or is damaged.
    """
    try:
        with open_regular(path) as file:
            whole = os.fstat(file.fileno()).st_size
            size = int.from_bytes(file.read(8), "little")
            content = file.read(min(size, LARGEST_HEADER))
    except FileNotFoundError:
        raise RunError(f"{path.parent} has no {path.name}: is its training finished?") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    if whole > LARGEST:
        raise RunError(f"{path} has {whole:,} bytes, at most {LARGEST:,} are expected")
    try:
        described = parse(content.decode())
        tensors = {
            name: torch.empty(
                entry(tensor, "shape", list),
                dtype=STORED_TYPES[entry(tensor, "dtype", str)],
                device="meta",
            )
            for name, tensor in described.items()
            if name != "__metadata__"
        }
        stated = 8 + size + sum(tensor.nbytes for tensor in tensors.values())
        if stated != whole:
            raise MalformedError(f"it has {whole:,} bytes, its header describes {stated:,}")
        return tensors
    except KeyError as error:
        raise RunError(
            f"{path} is another network's: it has numbers of type {str(error)[:60]}"
        ) from None
    except (AttributeError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"{path} is damaged: {reason}") from None


# safetensors' names of the types that a network's state can have.
STORED_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def refuse_another(path: Path, tensors: dict[str, Tensor], network: nn.Module) -> None:
    """Raises RunError if a file's tensors are not those of a network."""
    own = network.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            raise RunError(f"{path} is another network's: it has no tensor {name}")
        if name not in own:
            raise RunError(
                f"{path} is another network's: it has a tensor {printable(name)[:200]} too many"
            )
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
    """A copy: two tensors of a custom network may share their memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
