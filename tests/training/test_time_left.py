from types import SimpleNamespace

import pytest

from normlab.training import time_left
from normlab.training.time_left import MEASURED, MEASURED_EPOCHS, WARM_UP, TimeLeft


class Clock:
    """A run of 4 epochs of 20 steps of 10 images, whose time is what the test says."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(time_left, "perf_counter", lambda: self.now)
        self.now = 100.0
        self.left = TimeLeft()
        data = SimpleNamespace(holdout=0, test=60)
        self.state = SimpleNamespace(
            run=SimpleNamespace(data=data), epochs=4, steps=20, epoch=0, step=0, images=10
        )

    def steps(self, number, seconds):
        for _ in range(number):
            self.now += seconds
            self.state.step += 1
            self.left.step_ended()

    def end_epoch(self, seconds):
        self.now += seconds
        self.state.epoch, self.state.step = self.state.epoch + 1, 0
        self.left.epoch_ended()

    @property
    def seconds(self):
        return self.left.seconds(self.state)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_the_time_left_is_that_of_the_run(clock):
    clock.steps(1 + WARM_UP, 9.0)  # the first takes as long as the imports before it
    clock.steps(MEASURED - 1, 0.5)
    assert clock.seconds is None
    clock.steps(1, 0.5)
    steps = 4 * 20 - (1 + WARM_UP + MEASURED)
    # An evaluation of 60 images is taken for a third of six steps.
    assert clock.seconds == pytest.approx(0.5 * steps + 4 * 1.0)


def test_an_evaluation_is_measured_once_there_was_one(clock):
    clock.steps(20, 0.5)
    clock.end_epoch(7.0)
    assert clock.seconds == pytest.approx(3 * (20 * 0.5 + 7.0))
    clock.now += 50.0  # such as a callback's, between two epochs
    clock.steps(5, 0.5)
    assert clock.seconds == pytest.approx(55 * 0.5 + 3 * 7.0)


def test_a_machine_that_becomes_slower_makes_the_rest_longer(clock):
    clock.state = SimpleNamespace(**vars(clock.state) | {"steps": 200})
    clock.steps(100, 0.5)
    before = clock.seconds
    clock.steps(60, 2.0)
    assert clock.seconds == pytest.approx(2.0 * (4 * 200 - 160) + 4 * 4.0)
    assert clock.seconds > before


def test_epochs_of_one_step_are_measured_as_a_whole(clock):
    clock.state = SimpleNamespace(**vars(clock.state) | {"epochs": 50, "steps": 1})
    for _ in range(1 + MEASURED_EPOCHS):  # the first has the imports before it
        assert clock.seconds is None
        clock.steps(1, 0.5)
        clock.end_epoch(0.25)
    assert clock.seconds == pytest.approx(0.75 * (50 - 1 - MEASURED_EPOCHS))
