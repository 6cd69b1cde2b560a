"""State on disk: weights as safetensors, and what a run needs to go on."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from normlab.errors import RunError
from normlab.files import write_atomically

SCHEMA = 1


@dataclass(kw_only=True)
class Checkpoint:
    """A run after one of its steps. Random draws carry no state, so there is none to save.

    Attributes:
        model: The network's state.
        optimizer: The optimizers' states.
        epoch: Epochs that are done.
        step: Steps of the next epoch that are done.
        loss_sum: Sum of the losses of that epoch's images so far.
        correct: Right answers among them.
        seconds: Time spent in that epoch so far.
    """

    model: dict[str, Any]
    optimizer: list[dict[str, Any]]
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        # Not asdict, which would copy every tensor.
        state = {"schema": SCHEMA} | {name: getattr(self, name) for name in _FIELDS}
        content = io.BytesIO()
        torch.save(state, content)
        write_atomically(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Reads one, tensors and plain values only: nothing in the file is executed.

        Raises:
            RunError: There is none, it is damaged, or a newer normlab wrote it.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            schema = state.pop("schema")
            if schema != SCHEMA:
                raise RunError(f"{path} has schema {schema!r}, this normlab reads {SCHEMA}")
            return cls(**state)
        except FileNotFoundError:
            raise RunError(f"{path.parent} cannot be resumed: it has no {path.name}") from None
        except RunError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            raise RunError(f"{path} is damaged: it is no checkpoint that normlab wrote") from error


_FIELDS = tuple(Checkpoint.__dataclass_fields__)


def save_weights(path: Path, network: nn.Module) -> None:
    """Writes a network's parameters and buffers as safetensors, whole or not at all."""
    tensors = {name: _plain(tensor) for name, tensor in network.state_dict().items()}
    write_atomically(path, safetensors.torch.save(tensors))


def load_weights(path: Path, network: nn.Module) -> None:
    """Puts the tensors of a safetensors file into a network.

    Raises:
        RunError: There is no such file, it is damaged, or it holds another network's tensors.
    """
    try:
        tensors = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path.parent} has no {path.name}: is its training finished?") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
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
    network.load_state_dict(tensors)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
