"""The family of contrasts that a study plans."""

import dataclasses
import json
from itertools import combinations
from pathlib import Path

import pytest

from made_up import study as made_up
from normlab.config import StudyConfig
from normlab.errors import RunError, UsageError
from normlab.findings import contrasts as findings
from normlab.storage.checksums import add_checksum
from normlab.study.contrasts import family
from normlab.study.plan import plan
from normlab.study.record import Study

RESULTS = Path(__file__).parents[2] / "results"
CONFIG = StudyConfig(network="nano", norms=("bn", "gn", "ln"), batch_sizes=(8, 32, 64))


def planned(*contrasts, config=CONFIG, **settings):
    """The names of the arms of each contrast."""
    config = dataclasses.replace(config, contrasts=contrasts, **settings)
    arms = plan(config, classes=10, images=50_000, shape=(3, 32, 32))
    return [tuple(arm.name for arm in contrast.arms) for contrast in family(config, arms)]


def test_by_default_pairs_in_each_setting_and_changes_against_the_first_are_tested():
    pairs = [
        (f"{first}-batch{batch}", f"{second}-batch{batch}")
        for batch in (8, 32, 64)
        for first, second in combinations(("bn", "gn", "ln"), 2)
    ]
    changes = [
        (f"bn-batch{batch}", f"{other}-batch{batch}", "bn-batch8", f"{other}-batch8")
        for batch in (32, 64)
        for other in ("gn", "ln")
    ]
    assert planned() == pairs + changes
    assert planned("pairs", "changes") == planned()
    assert planned("pairs") == pairs
    assert planned("changes") == changes
    assert planned(batch_sizes=()) == [("bn", "gn"), ("bn", "ln"), ("gn", "ln")]
    assert planned(norms=("bn",)) == []


def test_changes_along_two_axes_are_along_one_at_a_time():
    found = planned("changes", norms=("bn", "gn"), batch_sizes=(8, 32), label_noise=(0.0, 0.2))
    assert [(arms[0], arms[2]) for arms in found] == [
        ("bn-batch32-noise0", "bn-batch8-noise0"),
        ("bn-batch32-noise0.2", "bn-batch8-noise0.2"),
        ("bn-batch8-noise0.2", "bn-batch8-noise0"),
        ("bn-batch32-noise0.2", "bn-batch32-noise0"),
    ]


def test_stated_contrasts_are_the_whole_family():
    assert planned("bn,gn@batch8,batch64") == [
        ("bn-batch8", "gn-batch8", "bn-batch64", "gn-batch64")
    ]
    assert planned("ln,bn@batch32") == [("ln-batch32", "bn-batch32")]
    assert planned("gn,ln") == [(f"gn-batch{b}", f"ln-batch{b}") for b in (8, 32, 64)]
    assert planned("bn,gn", batch_sizes=()) == [("bn", "gn")]


def test_a_contrast_that_differs_in_its_sign_only_is_counted_once():
    assert len(planned("pairs", "gn,bn@batch8")) == 9
    same = ("bn,gn@batch8,batch64", "gn,bn@batch64,batch8", "gn,bn@batch8,batch64")
    assert planned(*same) == planned(same[0])
    assert len(planned("bn,gn@batch8,batch64", "bn,gn@batch8,batch32")) == 2


@pytest.mark.parametrize(
    ("contrast", "problem"),
    [
        ("bn", "must be pairs, changes, or two normalizations, such as bn,gn"),
        ("bn,bn", "must be pairs, changes, or two normalizations"),
        ("bn,gn,ln", "must be pairs, changes, or two normalizations"),
        ("bn,rms", "'bn,rms' has 'rms', not one of bn, gn and ln"),
        ("bn,gn@batch2", "has 'batch2'; the settings are batch8, batch32 and batch64"),
        ("bn,gn@batch8,batch8", "must have two different settings at most"),
        ("bn,gn@batch8,batch32,batch64", "must have two different settings at most"),
    ],
)
def test_a_contrast_of_other_arms_is_refused(contrast, problem):
    with pytest.raises(UsageError, match="--contrasts") as caught:
        planned(contrast)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_contrast_that_a_study_cannot_have_is_refused():
    with pytest.raises(UsageError, match="this study has no changes"):
        planned("changes", batch_sizes=())
    with pytest.raises(UsageError, match="there is one setting"):
        planned("bn,gn@batch8", batch_sizes=())


# In study.json


def content(study):
    return json.loads((study.path / "study.json").read_text())


def test_what_older_files_lack_is_written_only_if_given(tmp_path):
    usual = content(made_up(tmp_path / "usual", seeds=2, trials=False))
    assert not {"contrasts", "margin", "looks"} & usual["study"].keys()
    assert "earlier_seeds" not in usual
    given = {"contrasts": ("bn,gn",), "margin": 1.0, "looks": 2}
    study = made_up(tmp_path / "given", seeds=2, trials=False, **given)
    stored = content(study)["study"]
    assert {name: stored[name] for name in given} == given | {"contrasts": ["bn,gn"]}
    assert Study.open(study.path).config == study.config
    assert "--contrasts bn,gn --margin 1.0 --looks 2" in study.config.command


@pytest.mark.parametrize("name", ["line", "line-5k", "micro", "nano", "sprint", "sprint-batches"])
def test_committed_studies_have_the_default_family_and_are_written_as_they_are(name, tmp_path):
    study = Study.open(RESULTS / name)
    assert study.config.contrasts == ()
    assert study.tested_seeds == study.config.seeds
    norms, settings = len(study.config.norms), len(study.config.batch_sizes) or 1
    pairs = settings * norms * (norms - 1) // 2
    assert findings.comparisons(study) == pairs + (settings - 1) * (norms - 1)
    dataclasses.replace(study, path=tmp_path).write()
    for file in ("study.json", "study.csv"):
        assert (tmp_path / file).read_bytes() == (study.path / file).read_bytes()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("contrasts", ["bn,rms"]),
        ("contrasts", "pairs"),
        ("margin", -1.0),
        ("looks", 0),
        ("earlier_seeds", [2]),
        ("earlier_seeds", [0]),
        ("earlier_seeds", [True]),
        ("earlier_seeds", [1, 1]),
        ("earlier_seeds", 1),
    ],
)
def test_a_plan_that_does_not_fit_is_a_damaged_file(place, value, tmp_path):
    study = made_up(tmp_path, seeds=2, trials=False)
    stored = content(study)
    costs = stored.pop("costs")
    del stored["checksum"]
    (stored if place == "earlier_seeds" else stored["study"])[place] = value
    (tmp_path / "study.json").write_text(json.dumps(add_checksum(stored) | {"costs": costs}))
    with pytest.raises(RunError, match=r"^[^\n]*study.json is damaged: [^\n]*$"):
        Study.open(tmp_path)


# Seeds that are added


def test_added_seeds_are_recorded_and_kept_runs_stay(tmp_path):
    study = made_up(tmp_path, seeds=3, trials=False)
    more = study.with_seeds(5)
    assert more.earlier_seeds == (3,)
    assert more.config.seeds == 5
    assert [r for r in more.results if r.seed < 3] == list(study.results)
    assert {r.state for r in more.results if r.seed >= 3} == {"waiting"}
    more.write()
    assert Study.open(tmp_path) == more
    assert more.with_seeds(8).earlier_seeds == (3, 5)


def test_seeds_that_are_added_before_any_result_change_the_plan(tmp_path):
    study = made_up(tmp_path, seeds=3, trials=False)
    unseen = tuple(dataclasses.replace(r, state="stopped", accuracies=()) for r in study.results)
    more = dataclasses.replace(study, results=unseen, costs={}).with_seeds(5)
    assert more.earlier_seeds == ()
    assert more.tested_seeds == 5


@pytest.mark.parametrize(
    ("looks", "earlier", "tested"),
    [(1, (), 8), (1, (3,), 3), (1, (3, 5), 3), (2, (), 8), (2, (3,), 8), (2, (3, 5), 5)],
)
def test_tests_are_over_the_seeds_of_the_last_planned_look(looks, earlier, tested, tmp_path):
    study = made_up(tmp_path, seeds=8, trials=False, looks=looks)
    study = dataclasses.replace(study, earlier_seeds=earlier)
    assert study.tested_seeds == tested
    assert findings.comparisons(study) == 3 * looks
