import copy
import hashlib
import io
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normlab.errors import RunError
from normlab.network.model import Network
from normlab.runs.checkpoint import (
    Checkpoint,
    largest_size,
    load_latest,
    load_weights,
    previous_checkpoint,
    remove,
    restore_previous,
    save_weights,
)

LAYOUT = "C:4 D:6 GAP FC"


@pytest.fixture
def network():
    return Network(LAYOUT)


def test_a_loaded_checkpoint_equals_the_saved_one(network, tmp_path):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    first = Checkpoint(
        run="which",
        model=network.state_dict(),
        optimizer=[optimizer.state_dict()],
        epoch=3,
        step=17,
        loss_sum=1 / 3,
        correct=99,
        seconds=12.5,
    )
    first.save(tmp_path / "checkpoint.pt")
    loaded = Checkpoint.load(tmp_path / "checkpoint.pt")
    for name in ("run", "epoch", "step", "loss_sum", "correct", "seconds"):
        assert getattr(loaded, name) == getattr(first, name)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.model[name], tensor)
    buffers = [s["momentum_buffer"] for s in loaded.optimizer[0]["state"].values()]
    assert all(b.abs().sum() > 0 for b in buffers)


@pytest.mark.parametrize("layout", [LAYOUT, "C:64 C:64 GAP FC", f"C:4 {'D:4 ' * 60}GAP FC"])
def test_a_networks_checkpoint_has_less_than_the_largest_size(layout, tmp_path):
    network = Network(layout)
    state = {number: {"momentum_buffer": w} for number, w in enumerate(network.parameters())}
    own = Checkpoint(run="a" * 64, model=network.state_dict(), optimizer=[{"state": state}])
    own.optimizer = copy.deepcopy(own.optimizer)  # else each tensor would be saved once
    path = tmp_path / "checkpoint.pt"
    own.save(path)
    largest = largest_size(network)
    assert path.stat().st_size < largest - 2**20  # the allowance for what is in no tensor
    own.model["more"] = torch.zeros(largest, dtype=torch.uint8)
    own.save(path)
    previous = load_latest(path, own.run, largest)
    assert previous[1].startswith(f"{path} cannot be read: it has ")


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def written(path, content, schema=3):
    """Writes a file as a forger would: with a valid checksum."""
    head = f"normlab-checkpoint {schema} {hashlib.sha256(content).hexdigest()}\n"
    path.write_bytes(head.encode() + content)


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_a_hostile_checkpoint_is_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (saved({"model": Hostile()}), pickle.dumps(Hostile(), protocol=2)):
        written(Path("checkpoint.pt"), content)
        with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
            Checkpoint.load(Path("checkpoint.pt"))
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [[], {}, {"epochs": 3}, "text"])
def test_a_file_that_is_not_a_checkpoint_is_refused(content, tmp_path):
    written(tmp_path / "checkpoint.pt", saved(content))
    with pytest.raises(RunError, match="is damaged"):
        Checkpoint.load(tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.pt").write_bytes(saved(content))
    with pytest.raises(RunError, match="is damaged"):
        Checkpoint.load(tmp_path / "checkpoint.pt")


def test_a_newer_or_older_checkpoint_is_refused(tmp_path):
    for schema in (2, 4):
        written(tmp_path / "checkpoint.pt", b"", schema=schema)
        with pytest.raises(RunError, match=f"schema {schema}, this normlab reads 3"):
            Checkpoint.load(tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="to resume from"):
        Checkpoint.load(tmp_path / "none.pt")


@given(data=st.data())
def test_a_damaged_checkpoint_is_refused_in_one_line(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "checkpoint.pt"
    Checkpoint(run="", model={"weight": torch.arange(6.0)}, optimizer=[]).save(path)
    damage(data, path)
    with pytest.raises(RunError) as caught:
        Checkpoint.load(path)
    assert "\n" not in str(caught.value)


def damage(data, path):
    """Cuts a file short, or changes a byte."""
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)


def test_the_previous_checkpoint_stands_in_for_a_damaged_one(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for epoch in (1, 2, 3):
        Checkpoint(run="own", model={}, optimizer=[], epoch=epoch).save(path)
    assert load_latest(path, "own")[0].epoch == 3
    assert load_latest(path, "own")[1] == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-before.pt", "checkpoint.pt"]
    path.write_bytes(path.read_bytes()[:-1])
    checkpoint, note = load_latest(path, "own")
    assert checkpoint.epoch == 2
    assert note.startswith(f"{path} is damaged")
    assert note.endswith("resuming from checkpoint-before.pt")
    assert load_latest(path, "own")[0].run == "own"
    with pytest.raises(RunError, match=r"pt is damaged.*; and .*-before\.pt is another run's"):
        load_latest(path, "another")
    path.unlink()  # a process was killed between two renamings
    assert load_latest(path, "own")[0].epoch == 2
    previous_checkpoint(path).write_bytes(b"")
    with pytest.raises(RunError, match=r"to resume from; and .*-before.pt is damaged"):
        load_latest(path, "own")
    remove(path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match=r"has no checkpoint\.pt to resume from"):
        load_latest(path, "own")


def test_the_previous_checkpoint_can_be_restored(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for epoch in (1.0, 2.0):
        Checkpoint(run="own", model={"weight": torch.tensor(epoch)}, optimizer=[]).save(path)
    path.write_bytes(b"damaged")
    restore_previous(path)
    restored, note = load_latest(path, "own")
    assert (restored.model["weight"].item(), note) == (1.0, "")
    assert (tmp_path / "checkpoint-before.pt").exists()


def test_an_unreadable_file_is_named(network, tmp_path):
    """Here a folder has its name; a file without read permission is reported in the same way."""
    path = tmp_path / "model.safetensors"
    path.mkdir()
    for read in (Checkpoint.load, lambda place: load_weights(place, network)):
        with pytest.raises(RunError, match=f"^{path} cannot be read: Is a directory$"):
            read(path)


def test_weights_that_are_not_finite_are_refused(network, tmp_path):
    path = tmp_path / "model.safetensors"
    with torch.no_grad():
        network.blocks[0].conv.weight[0, 0, 0, 0] = torch.nan
    save_weights(path, network)
    message = r"is damaged: blocks\.0\.conv\.weight has values that are not finite$"
    with pytest.raises(RunError, match=message):
        load_weights(path, Network(LAYOUT))


def test_weights_are_loaded_into_an_equal_network(network, tmp_path):
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
    with pytest.raises(RunError, match=rf"model\.safetensors is another network's: {problem}"):
        load_weights(tmp_path / "model.safetensors", Network(layout))


def test_weights_of_another_type_are_refused(network, tmp_path):
    save_weights(tmp_path / "model.safetensors", network.to(torch.float16))
    with pytest.raises(RunError, match=r"is torch\.float16, expected torch\.float32"):
        load_weights(tmp_path / "model.safetensors", Network(LAYOUT))


@given(data=st.data())
def test_weights_that_changed_on_the_disk_are_refused(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    save_weights(path, Network(LAYOUT))
    damage(data, path)
    with pytest.raises(RunError) as caught:
        load_weights(path, Network(LAYOUT))
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)


def test_damaged_or_missing_weights_are_reported_in_one_line(network, tmp_path):
    with pytest.raises(RunError, match="is its training finished"):
        load_weights(tmp_path / "model.safetensors", network)
    save_weights(tmp_path / "model.safetensors", network)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-9])
    with pytest.raises(RunError, match="is damaged"):
        load_weights(tmp_path / "model.safetensors", network)
