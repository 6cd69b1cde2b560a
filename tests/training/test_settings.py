"""What `train` accepts, its run can hold: one set of ranges serves the flags and the files."""

import dataclasses
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normlab import Run, RunConfig, train
from normlab.data import apply_splits, load
from normlab.data.dataset import Dataset, Split
from normlab.errors import DataError, DivergedError, UsageError
from normlab.storage.records import check_settings
from normlab.training.callbacks import Callback

NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 7, 40, 10**9, 10**9 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**400]),
    st.sampled_from([0.0, 0.5, 1.0, 1e-320, 1e9, 1e300, math.inf, -math.inf, math.nan, -0.1]),
    st.sampled_from([None, True, "1", (1,)]),
    st.integers(-3, 60),
    st.floats(),
)
USUAL = RunConfig(network="C:2 P GAP FC", dataset="digits", recipe="demo")
OTHERS = {
    "network": st.sampled_from(["C:2 P GAP FC", "C P GAP", "nano", "", "C:2", 3]),
    "norm": st.sampled_from(["bn", "gn", "gn=2", "gn=0", "ln", "none", "x", ""]),
    "recipe": st.sampled_from(["demo", "seed", "nano", None, "x", 1]),
    "precision": st.sampled_from(["float32", "bfloat16", "x", None]),
    "dataset": st.sampled_from(["digits", "a\ud800b", "a\nb", None]),
    "untuned": st.sampled_from([True, False, 1, None]),
    "skip_unreadable": st.sampled_from([True, False, 0]),
    "size": st.sampled_from([32, 28, 8, 32.0, None]),
    "channels": st.sampled_from(["auto", "grey", "colour", "gray", None]),
}
FIELDS = {field.name: OTHERS.get(field.name, NUMBERS) for field in dataclasses.fields(RunConfig)}
CHANGES = st.lists(st.sampled_from(sorted(FIELDS)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)


class OneEpoch(Callback):
    """Ends each run after its first epoch: some have a billion."""

    def on_step_end(self, state):
        state.stop()


@pytest.fixture(scope="module")
def few():
    whole = load("digits")
    return dataclasses.replace(
        whole,
        train=whole.train.take(range(60)),
        test=whole.test.take(range(20)),
    )


@pytest.mark.slow(1)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=CHANGES)
def test_what_train_accepts_can_be_read_again(changes, few, tmp_path_factory):
    config = dataclasses.replace(USUAL, **changes)
    out = tmp_path_factory.mktemp("runs") / "run"
    try:
        check_settings(config)  # as `train` does, before it splits the data
        dataset = apply_splits(few, config)
        train(config, out, dataset=dataset, callbacks=[OneEpoch()], quiet=True)
    except (UsageError, DataError):
        assert not out.exists()
        return
    except DivergedError:  # such as at a learning rate of 1e9: it can be read, too
        assert not Run.open(out).finished
        return
    run = Run.open(out)
    filled_in = {"recipe": run.config.recipe, "activation": run.config.activation}
    filled_in |= {"size": 32, "channels": "grey"}
    assert run.config == dataclasses.replace(config, **filled_in)
    assert run.network().training is False


@pytest.mark.parametrize(
    ("classes", "problem"),
    [(("a", "a"), "two of its classes have one name"), (("a", 1), "classes must be tuple")],
)
def test_a_data_set_that_a_run_could_not_hold_is_refused_before_the_training(
    classes, problem, few, tmp_path
):
    split = Split(few.train.images[:20], few.train.labels[:20] % 2)
    dataset = Dataset("made up", classes, split, split)
    with pytest.raises(UsageError, match=f"could not be read again: .*{problem}"):
        train(USUAL, tmp_path / "run", dataset=dataset, quiet=True)
    assert not (tmp_path / "run").exists()
