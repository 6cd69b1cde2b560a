import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normlab.checkpoint import Checkpoint, load_weights, save_weights
from normlab.errors import RunError
from normlab.model import Network

LAYOUT = "C:4 D:6 GAP FC"


@pytest.fixture
def network():
    return Network(LAYOUT)


def test_a_checkpoint_comes_back_as_it_was(network, tmp_path):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    saved = Checkpoint(
        model=network.state_dict(),
        optimizer=optimizer.state_dict(),
        epoch=3,
        step=17,
        loss_sum=1 / 3,
        correct=99,
        seconds=12.5,
    )
    saved.save(tmp_path / "checkpoint.pt")
    loaded = Checkpoint.load(tmp_path / "checkpoint.pt")
    for name in ("epoch", "step", "loss_sum", "correct", "seconds"):
        assert getattr(loaded, name) == getattr(saved, name)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.model[name], tensor)
    buffers = [s["momentum_buffer"] for s in loaded.optimizer["state"].values()]
    assert all(b.abs().sum() > 0 for b in buffers)


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_a_hostile_checkpoint_is_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"schema": 1, "model": Hostile()}, "checkpoint.pt")
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        Checkpoint.load(Path("checkpoint.pt"))
    Path("checkpoint.pt").write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        Checkpoint.load(Path("checkpoint.pt"))
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [[], {}, {"schema": 1}, {"schema": 1, "epochs": 3}, "text"])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="is damaged"):
        Checkpoint.load(tmp_path / "checkpoint.pt")


def test_a_newer_checkpoint_is_refused(tmp_path):
    torch.save({"schema": 2}, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="schema 2, this normlab reads 1"):
        Checkpoint.load(tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="cannot be resumed"):
        Checkpoint.load(tmp_path / "none.pt")


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_checkpoint_raises_nothing_but_one_line(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "checkpoint.pt"
    Checkpoint(model={"weight": torch.arange(6.0)}, optimizer={}).save(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        loaded = Checkpoint.load(path)
    except RunError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(loaded, Checkpoint)


def test_weights_come_back_into_an_equal_network(network, tmp_path):
    network.to(memory_format=torch.channels_last)
    save_weights(tmp_path / "model.safetensors", network)
    other = Network(LAYOUT, seed=1)
    load_weights(tmp_path / "model.safetensors", other)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(other.eval()(x), network.eval()(x))


@pytest.mark.parametrize(
    ("layout", "problem"),
    [
        ("C:5 D:6 GAP FC", r"blocks\.0\.conv\.weight is \[4, 3, 3, 3\], expected \[5, 3, 3, 3\]"),
        ("C:4 GAP FC", "it has a tensor .* too many"),
        ("C:4 D:6 C:6 GAP FC", "it has no tensor"),
    ],
)
def test_another_networks_weights_are_refused(network, layout, problem, tmp_path):
    save_weights(tmp_path / "model.safetensors", network)
    with pytest.raises(RunError, match=f"is another network's: {problem}"):
        load_weights(tmp_path / "model.safetensors", Network(layout))


def test_weights_of_another_type_are_refused(network, tmp_path):
    save_weights(tmp_path / "model.safetensors", network.to(torch.float16))
    with pytest.raises(RunError, match=r"is torch\.float16, expected torch\.float32"):
        load_weights(tmp_path / "model.safetensors", Network(LAYOUT))


def test_damaged_or_missing_weights_are_said_in_one_line(network, tmp_path):
    with pytest.raises(RunError, match="is its training finished"):
        load_weights(tmp_path / "model.safetensors", network)
    save_weights(tmp_path / "model.safetensors", network)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-9])
    with pytest.raises(RunError, match="is damaged"):
        load_weights(tmp_path / "model.safetensors", network)
