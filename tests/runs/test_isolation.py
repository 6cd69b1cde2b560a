"""What isolation does on devices; tests/environment/test_settings.py has its effect on results."""

import subprocess
import sys
from threading import Thread

import pytest
import torch

from normlab.runs.isolation import isolated, repeatable


def test_the_generator_and_the_threads_are_restored_after_an_error():
    state, threads = torch.get_rng_state(), torch.get_num_threads()

    @isolated()
    @repeatable(torch.device("cpu"))
    def fail():
        torch.rand(3)
        torch.set_num_threads(threads + 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_it_can_be_entered_twice():
    @isolated()
    def dtype():
        return torch.get_default_dtype()

    torch.set_default_dtype(torch.float64)
    try:
        with isolated():
            assert dtype() == torch.float32
            assert torch.get_default_dtype() == torch.float32
        assert dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_prediction_does_not_disturb_what_another_thread_draws():
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with isolated():
        torch.rand(1)
        other = Thread(target=torch.manual_seed, args=(4,))
        other.start()
        other.join()
    assert torch.equal(torch.rand(2), expected)


CONVOLUTIONS = """
import torch
from normlab.runs.isolation import isolated

torch.cuda.is_available = lambda: True
cudnn = torch.backends.cudnn
cudnn.benchmark = True
{setting}
before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
with isolated():
    assert cudnn.conv.fp32_precision == "ieee"
    assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == (True, False, True)
assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == before
assert cudnn.benchmark
"""


@pytest.mark.slow(2)
@pytest.mark.parametrize(
    "setting",
    [
        "",
        "cudnn.allow_tf32 = False",
        "cudnn.allow_tf32 = True",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.backends.fp32_precision = 'ieee'",
    ],
)
def test_convolutions_of_a_gpu_are_in_float32_and_its_settings_are_restored(setting):
    """In a process of its own: torch cannot take back that its newer settings were used."""
    code = CONVOLUTIONS.format(setting=setting)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_gpu_uses_deterministic_algorithms_and_its_settings_are_restored(monkeypatch):
    """Without a GPU, what torch.random says about it is replaced: the rest is real."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.random, "fork_rng", lambda devices: torch.no_grad())
    fills = torch.utils.deterministic.fill_uninitialized_memory
    with repeatable(torch.device("cuda")):
        assert torch.get_deterministic_debug_mode() == 1
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.get_deterministic_debug_mode() == 0
    assert torch.utils.deterministic.fill_uninitialized_memory == fills


def test_the_generator_of_mps_is_restored(monkeypatch):
    """MPS is on Macs only: elsewhere a stand-in has its two functions."""
    if not torch.backends.mps.is_available():
        states = [1]
        monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states[-1])
        monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
        monkeypatch.setattr(torch.mps, "manual_seed", states.append)
    before = torch.mps.get_rng_state()
    with repeatable(torch.device("mps")):
        torch.mps.manual_seed(7)
    after = torch.mps.get_rng_state()
    assert before == after if isinstance(before, int) else torch.equal(before, after)
