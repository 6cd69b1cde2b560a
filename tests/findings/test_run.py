import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_up import CLASSES, LAYOUT, MATRIX, epochs, evaluation, rising, run
from normlab.errors import UsageError
from normlab.findings.run import analyze, compare, little_learned
from normlab.runs.several import names
from normlab.wording import percent

EVALUATION = evaluation(MATRIX)


def text_of(run_, evaluation_=EVALUATION):
    return "\n".join(analyze(run_, evaluation_))


def test_a_run_like_the_published_one():
    curve = epochs([0.6, 0.7019, 0.7189, 0.7141], train=[0.5, 0.6, 0.68, 0.6885])
    assert analyze(run(curve=curve), EVALUATION) == [
        "One run: 71.41% of the 10,000 test images are classified correctly after the last of 4 "
        "epochs (95% sampling interval 70.52% to 72.29%).",
        "Accuracy first passed 70% in epoch 2 (70.19%).",
        "The best epoch is 3 with 71.89%. It was chosen on the same test images that it is "
        "measured on, so it is optimistic: report the last epoch.",
        "Test accuracy is 2.56 points above training accuracy (68.85%). This does not "
        "indicate a problem: training accuracy is measured on augmented images, with dropout and "
        "while the weights still change.",
        "The hardest class is cat (49.6%), the easiest automobile (83.9%); the difference is "
        "larger than the sampling error. All test images are counted.",
        "The most confused pair is cat and dog, 357 of the 2,859 mistakes: cat is taken for dog "
        "in 186 images, dog for cat in 171 images.",
    ]


def test_held_out_images_are_never_called_test_images():
    curve = epochs([0.8, 0.7141], split="holdout")
    text = text_of(run(holdout=5_000, curve=curve), evaluation(MATRIX, split="holdout"))
    assert "of the 5,000 held-out images" in text
    assert "chosen on the same held-out images" in text
    assert "The test split was not read." in text
    assert "test images" not in text
    assert "test accuracy" not in text.lower()


def test_an_evaluation_of_another_split_is_refused():
    with pytest.raises(ValueError, match="the curve is of test, the evaluation of holdout"):
        analyze(run(), evaluation(MATRIX, split="holdout"))


def test_unbalanced_classes_lead_with_balanced_accuracy_and_the_most_frequent_answer():
    """Two classes of flowers: 90 and 30 images, of which 81 and 15 are classified correctly."""
    flowers = evaluation([[81, 9], [15, 15]], classes=("daisy", "rose"))
    of_flowers = run(accuracies=[0.5, 0.8], classes=("daisy", "rose"), test=120)
    first, second, *_ = analyze(of_flowers, flowers)
    assert first == (
        "Balanced accuracy, the mean of the classes' accuracies, is 70.0%. The classes are "
        "unbalanced: of 120 test images, daisy has 90 and rose 30; always answering daisy would "
        "get a balanced accuracy of 50.0% and an accuracy of 75.0%."
    )
    assert second.startswith("One run: 80.0% of the 120 test images")
    assert flowers.headline.startswith("test: balanced accuracy 70.0%, accuracy 80.0% (96 of 120)")


@pytest.mark.parametrize(
    ("matrix", "unbalanced"),
    [
        ([[20, 0], [0, 10]], True),  # twice as many
        ([[19, 0], [0, 10]], False),
        ([[0, 0, 0], [0, 9, 0], [0, 0, 9]], False),  # a class without images is not measured
        ([[0, 0, 0], [0, 9, 0], [0, 0, 3]], True),
        ([[2, 0], [0, 1]], False),  # rounding
        ([[3, 0], [0, 1]], True),
    ],
)
def test_classes_are_unbalanced_from_twice_as_many_images_on(matrix, unbalanced):
    found = evaluation(matrix)
    assert found.unbalanced == unbalanced
    assert found.balanced_accuracy == 1
    assert ("unbalanced" in text_of(run(test=len(found.labels)), found)) == unbalanced


@pytest.mark.parametrize("dataset", ["digits", "folder:flowers", "cifar100", "npz:a.npz"])
def test_the_assignments_target_is_one_for_its_data_only(dataset):
    assert "70%" not in text_of(run(dataset=dataset))
    assert "first passed 70%" in text_of(run(dataset="cifar10"))


def test_no_epoch_above_the_target():
    text = text_of(run(accuracies=[0.6, 0.6996, 0.69]))
    assert "No epoch passed 70%: the highest is 69.96%, in epoch 2." in text
    assert "first passed" not in text


def test_there_is_no_warning_if_the_last_epoch_is_the_best():
    assert "The best epoch" not in text_of(run(accuracies=[0.6, 0.7141]))


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (0.7221, "differ by less than the sampling error (±0.97 points): no gap can be shown"),
        (
            0.7441,
            "is 3.00 points above test accuracy, more than the sampling error (±0.96 points): "
            "slight",
        ),
        (0.9141, "Training accuracy (91.41%) is 20.00 points above test accuracy: overfitting."),
        (0.6641, "Test accuracy is 5.00 points above training accuracy (66.41%). This does"),
    ],
)
def test_the_gap(train, expected):
    text = text_of(run(curve=epochs([0.7141], train=[train])))
    assert expected in text
    assert ("overfitting" in text) == (train > 0.73)


def test_the_gap_is_explained_by_the_recipe():
    plain = run(accuracies=[0.7141])
    plain = dataclasses.replace(
        plain, recipe=dataclasses.replace(plain.recipe, dropout=0.0, augment=())
    )
    text = text_of(plain)
    assert "training accuracy is measured while the weights still change." in text
    assert "dropout" not in text
    assert "augmented" not in text


def test_underfitting_means_that_both_accuracies_are_low():
    low = run(curve=epochs([0.40], train=[0.41]))
    assert re.search(
        r"The network underfits: with [\d,]+ parameters it classifies only 41\.00% of the training "
        "images",
        text_of(low),
    )
    overfit = run(curve=epochs([0.40], train=[0.54]))
    assert "underfits" not in text_of(overfit)
    assert "underfits" not in text_of(run())


def test_a_run_that_learned_little_is_worth_a_remark():
    stays = run(curve=epochs([0.18], train=[0.19]))
    parameters = f"{stays.summary.parameters:,} parameters"
    remark = little_learned(stays)
    assert remark.startswith(
        "18.00% of the test images are classified correctly; guessing would get 10%"
    )
    assert f"{parameters} or 1 epoch may be too few: try a larger network" in remark
    assert little_learned(run(curve=epochs([0.33], train=[0.2]))) is None
    assert little_learned(run(curve=epochs([0.2], train=[0.5]))) is None  # it learned by heart


def test_a_network_that_is_no_better_than_chance():
    matrix = np.zeros((2, 2), dtype=int)
    matrix[:, 0] = 50
    guess = run(curve=epochs([0.5], train=[0.5]), classes=("a", "b"), test=100)
    text = text_of(guess, evaluation(matrix))
    assert "Always predicting the most frequent class would give 50.0%" in text


def test_a_loss_that_is_still_falling():
    falling = [1.0, 0.9, 0.8, 0.75, 0.7]
    text = text_of(run(curve=epochs([0.7] * 5, losses=falling)))
    assert "still falling in each of the last 5 epochs, from 1.0000 to 0.7000" in text
    assert "may help" in text
    for unclear in ([1.0, 0.9, 0.8, 0.81, 0.7], [0.7004, 0.7003, 0.7002, 0.7001, 0.7], falling[1:]):
        text = text_of(run(curve=epochs([0.7] * len(unclear), losses=unclear)))
        assert "falling" not in text
    # Where the learning rate has fallen to 0, the loss falls with it.
    annealed = [
        dataclasses.replace(epoch, learning_rate=rate)
        for epoch, rate in zip(
            epochs([0.7] * 5, losses=falling), (0.01, 0.008, 0.005, 0.002, 0.0001), strict=True
        )
    ]
    assert "falling" not in text_of(run(curve=tuple(annealed)))


def test_a_loss_that_rises_while_the_training_loss_falls():
    rises = [0.7, 0.75, 0.8, 0.9, 1.0]
    text = text_of(run(curve=epochs([0.7] * 5, losses=rises, train_losses=rises[::-1])))
    assert "rising in each of the last 5 epochs" in text
    text = text_of(run(curve=epochs([0.7] * 5, losses=rises, train_losses=rises)))
    assert "rising" not in text


def test_classes_within_sampling_error_are_not_ranked():
    even = evaluation([[70, 30], [28, 72]])
    assert "hardest" not in text_of(run(test=200, classes=("a", "b")), even)


def test_classes_that_are_equally_hard_or_easy_are_all_named():
    matrix = np.array([[40, 30, 30], [0, 95, 5], [5, 0, 95]])
    easiest = text_of(run(test=300), evaluation(matrix))
    assert "hardest class is airplane (40.0%), the easiest automobile and bird (95.0%)" in easiest
    hardest = text_of(run(test=300), evaluation(np.array([[40, 30, 30], [30, 40, 30], [5, 0, 95]])))
    assert "hardest classes are airplane and automobile (40.0%), the easiest bird (95" in hardest


def test_a_class_without_images_is_not_the_hardest():
    matrix = np.array([[90, 10, 0], [60, 40, 0], [0, 0, 0]])
    text = text_of(run(test=200), evaluation(matrix))
    assert "hardest class is automobile (40.0%), the easiest airplane (90.0%)" in text


def test_equally_confused_pairs_are_not_ranked():
    assert "confused" not in text_of(run(), evaluation([[5, 2, 0], [1, 5, 3], [0, 0, 9]]))
    text = text_of(run(), evaluation([[5, 2, 0], [1, 5, 1], [0, 0, 9]]))
    assert (
        "airplane is taken for automobile in 2 images, automobile for airplane in one image" in text
    )
    text = text_of(run(), evaluation([[5, 2, 0], [0, 5, 1], [0, 0, 9]]))
    assert "airplane is taken for automobile in 2 images, automobile for airplane in none" in text


def test_a_different_accuracy_of_the_same_weights_is_reported():
    assert "Evaluated again, the same weights got 71.41%" in text_of(run(accuracies=[0.7142]))
    flipped = dataclasses.replace(EVALUATION, tta="flip")
    assert "Averaged over test-time augmentation (flip), accuracy is 71.41%." in text_of(
        run(), flipped
    )


def test_comparison_within_sampling_error():
    better, worse = run("bn"), run("gn", accuracies=rising(0.7116), norm="gn")
    text = "\n".join(compare([worse, better], [evaluation(MATRIX, seed=1), EVALUATION]))
    assert "Highest last-epoch accuracy: bn, 71.41%." in text
    assert re.search(
        r"bn is 0\.25 points ahead of gn, within the sampling error on the same 10,000 images "
        r"\(±1\.\d\d points, 95%\)",
        text,
    )
    assert "Each is a single run: these errors do not include the effect of another seed" in text
    assert "The runs differ only in the normalization." in text
    assert "The hardest class is the same in all runs: cat." in text


def test_the_error_of_paired_images():
    # Of 100 images the first alone is right on 30, the second alone on 10.
    labels = np.zeros(100, dtype=np.int64)
    first, second = np.ones(100), np.ones(100)
    first[:60], second[:30], second[60:70] = 0, 0, 0
    pair = [
        dataclasses.replace(
            evaluation([[1, 0], [0, 1]]),
            labels=labels,
            probabilities=np.stack([1 - wrong, wrong], axis=1).astype(np.float32),
        )
        for wrong in (first, second)
    ]
    runs = [
        run(name, accuracies=[e.accuracy], test=100, classes=("a", "b"))
        for name, e in zip("xy", pair, strict=True)
    ]
    by_hand = 1.959964 * np.sqrt((30.5 + 10.5 - 20**2 / 102) / 102**2)
    text = "\n".join(compare(runs, pair))
    assert "x is 20.0 points ahead of y, more than the sampling error" in text
    assert f"on the same 100 images (±{100 * by_hand:.1f} points, 95%)" in text


def test_runs_on_different_images_are_not_compared():
    one = run("a", accuracies=rising(0.73))
    for other in (run("b", fingerprint="cd" * 32), run("b", holdout=5_000)):
        split = other.split
        text = "\n".join(compare([one, other], [EVALUATION, evaluation(MATRIX, split=split)]))
        assert (
            "a and b are measured on different images: their accuracies cannot be compared." in text
        )
        assert "Highest" not in text


def test_only_runs_on_the_same_images_are_ranked():
    runs = [
        run("a", accuracies=rising(0.73)),
        run("x", fingerprint="cd" * 32, accuracies=rising(0.99)),
        run("b"),
        run("y", fingerprint="cd" * 32),
        run("z", fingerprint="ef" * 32),
    ]
    sentences = compare(runs, [EVALUATION] * 5)
    assert sentences[0] == (
        "Not all runs are measured on the same images: accuracies can be compared only among a "
        "and b, and among x and y."
    )
    assert sentences[1] == "Highest last-epoch accuracy of a and b: a, 73.00%."
    assert sentences[2].startswith("a is 1.59 points ahead of b")
    assert sentences[3] == "Highest last-epoch accuracy of x and y: x, 99.00%."
    assert sentences[4].startswith("x is 27.59 points ahead of y")


def test_other_differing_settings_are_named():
    narrow = LAYOUT.replace("C:42v", "C:32v/ln-full").replace("C:42+", "C:32+")
    other = run("b", layout=narrow, epochs=3, learning_rate=0.1, seed=4, budget=5_000)
    text = "\n".join(compare([run("a"), other], [EVALUATION, EVALUATION]))
    assert (
        "Besides the normalization and the seed, the runs differ in the layout (48,020 and " in text
    )
    assert "epochs (20 and 3), learning rate (0.01 and 0.1)" in text
    assert "budget (none and 5,000)" in text
    assert "cannot be attributed to the normalization alone" in text


def test_the_normalization_of_a_block_does_not_change_the_layout():
    other = run("b", layout=LAYOUT.replace("C:24 C:32v", "C:24/gn=3 C:32v"))
    text = "\n".join(compare([run("a"), other], [EVALUATION, EVALUATION]))
    assert "The runs differ only in the normalization." in text


def test_equal_runs_tie():
    text = "\n".join(compare([run("a"), run("b")], [EVALUATION, EVALUATION]))
    assert "Highest last-epoch accuracy: a and b, 71.41%." in text
    assert "The runs have the same settings." in text


def test_repeats_show_the_effect_of_the_seed():
    repeats = [run("a"), run("b", accuracies=rising(0.7041), seed=1)]
    text = "\n".join(compare(repeats, [EVALUATION, EVALUATION]))
    assert (
        "a and b differ only in the seed; their last-epoch accuracies are 1.00 points apart" in text
    )
    assert "single run" not in text
    assert "The runs differ only in the seed." in text


def test_a_run_that_a_callback_stopped_is_no_repeat_of_a_whole_one():
    stopped = dataclasses.replace(run("b", seed=1), stopped_after=8, epochs=run("b").epochs[:8])
    text = "\n".join(compare([run("a"), stopped], [EVALUATION, EVALUATION]))
    assert "differ only in the seed;" not in text
    assert "Each is a single run" in text
    assert "The runs differ only in the seed and the last epoch (20 and 8)." in text
    again = dataclasses.replace(run("c", seed=2), stopped_after=8, epochs=run("c").epochs[:8])
    text = "\n".join(compare([stopped, again], [EVALUATION, EVALUATION]))
    assert "b and c differ only in the seed; their last-epoch accuracies are" in text
    assert "The runs differ only in the seed." in text


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"label_noise": 0.2}, "label noise (0.0 and 0.2)"),
        ({"precision": "bfloat16"}, "precision (float32 and bfloat16)"),
    ],
)
def test_runs_of_other_settings_are_no_repeats(other, named):
    text = "\n".join(compare([run("a"), run("b", seed=1, **other)], [EVALUATION, EVALUATION]))
    assert "Each is a single run" in text
    assert f"The runs differ only in the seed and {named}." in text


@pytest.mark.parametrize(
    ("single", "expected"),
    [(["c"], "c is a single run: these"), (["c", "d"], "c and d are single runs: these")],
)
def test_arms_without_repeats_are_called_single_runs(single, expected):
    arms = [run(name, norm=f"gn={k + 1}") for k, name in enumerate(single)]
    repeats = [run("a"), run("b", accuracies=rising(0.7041), seed=1)]
    text = "\n".join(compare([*repeats, *arms], [EVALUATION] * (2 + len(arms))))
    assert "a and b differ only in the seed" in text
    assert expected in text


def test_names_tell_runs_apart(tmp_path):
    assert names([run(tmp_path / "a"), run(tmp_path / "b")]) == ["a", "b"]
    paths = ("x/1/a", "y/1/a", "y/2/a", "b")
    assert names([run(tmp_path / p) for p in paths]) == ["x/1/a", "y/1/a", "2/a", "b"]
    with pytest.raises(UsageError, match=r"a is given twice: leave one out"):
        names([run(tmp_path / "a"), run(tmp_path / "b"), run(tmp_path / "b" / ".." / "a")])


share = st.floats(0, 1)
positive = st.floats(1e-6, 1e3)


@st.composite
def measured(draw):
    """Any run and an evaluation of its network."""
    count = draw(st.integers(2, 5))
    cells = st.lists(st.integers(0, 40), min_size=count, max_size=count)
    matrix = np.array(draw(st.lists(cells, min_size=count, max_size=count)))
    matrix[0, 0] += matrix.sum() == 0
    holdout = draw(st.booleans())
    images = int(matrix.sum())
    length = draw(st.integers(1, 8))
    curve = draw(
        st.lists(st.tuples(share, share, positive, positive), min_size=length, max_size=length)
    )
    accuracies, train, losses, train_losses = map(list, zip(*curve, strict=True))
    split = "holdout" if holdout else "test"
    run_ = run(
        draw(st.sampled_from(["a", "b", "c/a"])),
        curve=epochs(
            accuracies, train=train, losses=losses, train_losses=train_losses, split=split
        ),
        classes=CLASSES[:count],
        holdout=images if holdout else 0,
        test=images,
        seed=draw(st.integers(0, 2)),
    )
    return run_, evaluation(matrix, split=split)


@settings(max_examples=150)
@given(measured())
def test_any_run_can_be_analyzed(pair):
    run_, evaluation_ = pair
    text = text_of(run_, evaluation_)
    images = len(evaluation_.labels)
    first = "Balanced accuracy, " if evaluation_.unbalanced else "One run: "
    assert text.startswith(first)
    assert f"One run: {percent(run_.last.accuracy, images)} of the {images:,} " in text
    assert "nan" not in text
    passed = any(e.accuracy > 0.7 for e in run_.epochs)
    assert ("first passed 70%" in text) == passed
    assert (f"highest is {percent(run_.best.accuracy, images)}" in text) == (not passed)
    for number in re.findall(r"-?[\d.]+%", text):
        assert 0 <= float(number[:-1]) <= 100


@settings(max_examples=80)
@given(st.lists(measured(), min_size=2, max_size=4))
def test_any_runs_can_be_compared(pairs):
    runs, evaluations = map(list, zip(*pairs, strict=True))
    runs = [dataclasses.replace(r, path=r.path / str(k)) for k, r in enumerate(runs)]
    same_size = [e for e in evaluations if len(e.labels) == len(evaluations[0].labels)]
    if len(same_size) < len(evaluations):  # runs with one fingerprint have the same images
        runs = [
            dataclasses.replace(r, data=dataclasses.replace(r.data, fingerprint=str(k)))
            for k, r in enumerate(runs)
        ]
    sentences = compare(runs, evaluations)
    same = len({(r.data.fingerprint, r.data.holdout) for r in runs}) == 1
    assert sentences[0].startswith("Highest last-epoch accuracy: ") == same
    if same:
        top = max(r.last.accuracy for r in runs)
        assert percent(top, runs[0].data.test) in sentences[0]


def test_each_run_needs_its_own_evaluation():
    for evaluations in (
        [],
        [EVALUATION],
        [EVALUATION] * 3,
        [EVALUATION, evaluation(MATRIX, split="holdout")],
    ):
        with pytest.raises(ValueError, match="each run needs its evaluation"):
            compare([run("a"), run("b")], evaluations)
