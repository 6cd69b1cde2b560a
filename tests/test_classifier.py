"""The scikit-learn estimator: scikit-learn's own checks, and its handling of images."""

import pickle
import signal
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from normlab import Classifier, NormlabError, summarize
from normlab.data import load
from normlab.errors import DataError, DivergedError, UsageError
from normlab.training.callbacks import Evaluation

SMALL = Classifier("C:6s2 P C:12 FC", recipe="demo", epochs=1, learning_rate=0.05)


@pytest.fixture(scope="module")
def digits():
    """scikit-learn's digits as pictures, uint8, 400 × 8 × 8, and their labels."""
    images, labels = load_digits(return_X_y=True)
    return np.rint(images[:400].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8), labels[:400]


@pytest.fixture(scope="module")
def fitted(digits):
    return clone(SMALL).fit(*digits)


# scikit-learn's checks


class OfTables(Classifier):
    """A table's rows drawn as pictures: one stripe per column, brighter for higher values.

    scikit-learn's checks use tables only and skip estimators of images. With this, the classifier
    passes all of them. Here `validate_data` and the scaler handle the checks of X; the tests below
    check X for images. One check skips itself unless SCIPY_ARRAY_API is set: only NumPy arrays are
    supported.
    """

    def fit(self, X, y):  # noqa: N803
        self.scaler_ = MinMaxScaler((0, 255), clip=True).fit(validate_data(self, X))
        return super().fit(self.drawn(X), y)

    def predict_proba(self, X):  # noqa: N803
        check_is_fitted(self)
        return super().predict_proba(self.drawn(validate_data(self, X, reset=False)))

    def drawn(self, X):  # noqa: N803
        shades = self.scaler_.transform(X).round().astype(np.uint8)
        return shades[:, None, :].repeat(4, axis=1).repeat(5, axis=2)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


@pytest.mark.slow(1)
@parametrize_with_checks([OfTables("C:4s2 C:4s2 FC", recipe="demo", epochs=3, learning_rate=0.05)])
def test_it_passes_scikit_learn_s_checks(estimator, check):
    check(estimator)


# Fitting


@pytest.mark.slow(2)
def test_it_trains_the_same_network_as_train(trained):
    """Bit-equal to the run's network, from the same images as N × H × W × 3."""
    split, config = load("digits", channels="colour").train, trained.config
    classifier = Classifier(
        config.network,
        channels="colour",
        recipe="demo",
        epochs=config.epochs,
        learning_rate=config.learning_rate,
    )
    classifier.fit(split.images.transpose(0, 2, 3, 1), split.labels)
    expected = trained.network().state_dict()
    for name, value in classifier.trained_.network.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert [e.train_loss for e in classifier.history_] == [e.train_loss for e in trained.epochs]


def test_fit_sets_classes_network_and_history(digits, fitted):
    images, labels = digits
    assert fitted.classes_.tolist() == list(range(10))
    assert fitted.trained_.classes == tuple("0123456789")
    assert [e.epoch for e in fitted.history_] == [1]
    assert fitted.history_[0].split == "train"
    assert not hasattr(fitted, "n_features_in_")
    probabilities = fitted.predict_proba(images)
    assert probabilities.shape == (400, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    predictions = fitted.trained_.predict(list(images[:20]))
    assert [prediction.label for prediction in predictions] == [
        str(k) for k in fitted.predict(images[:20])
    ]
    assert fitted.score(images, labels) == (fitted.predict(images) == labels).mean()


@pytest.mark.parametrize(
    "names",
    [
        np.array(list("jihgfedcba")),
        np.array(list("jihgfedcba"), dtype=object),
        np.arange(10) * -1.0,
        np.arange(10, dtype=np.int8) - 5,
    ],
)
def test_labels_of_any_kind_are_predicted_as_they_were_given(names, digits, fitted):
    images, labels = digits
    classifier = clone(SMALL).fit(images, names[labels])
    assert classifier.classes_.tolist() == sorted(names.tolist())
    assert classifier.classes_.dtype == names.dtype
    assert set(classifier.predict(images)) <= set(names)
    assert classifier.trained_.classes == tuple(map(str, sorted(names.tolist())))


def test_labels_may_be_a_list_of_booleans(digits):
    images, labels = digits
    classifier = clone(SMALL).fit(list(images), [bool(k == 0) for k in labels])
    assert classifier.predict(images).dtype == bool
    assert classifier.predict_proba(images).shape == (400, 2)
    assert classifier.score(images, labels == 0) > 0.9


def test_the_same_seed_gives_the_same_predictions_and_another_seed_others(digits, fitted):
    images, labels = digits
    again = clone(fitted).fit(images, labels)
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))
    other = clone(fitted).set_params(random_state=1).fit(images, labels)
    assert (other.predict_proba(images) != fitted.predict_proba(images)).any()


def test_a_second_fit_starts_from_new_weights(digits, fitted):
    images, labels = digits
    classifier = clone(SMALL).fit(images, labels % 3)
    assert classifier.predict_proba(images).shape == (400, 3)
    classifier.fit(images, labels)
    np.testing.assert_array_equal(classifier.predict_proba(images), fitted.predict_proba(images))


def test_a_failed_fit_keeps_the_fitted_network(digits, fitted):
    images, labels = digits
    classifier = clone(SMALL).fit(images, labels)
    with pytest.raises(DivergedError):
        classifier.set_params(norm="none", learning_rate=1e6).fit(images, labels % 2)
    np.testing.assert_array_equal(classifier.predict_proba(images), fitted.predict_proba(images))


def test_it_is_pickled_with_its_network(digits, fitted, tmp_path):
    images, _ = digits
    joblib.dump(fitted, tmp_path / "classifier.joblib")
    for copy in (
        pickle.loads(pickle.dumps(fitted)),
        joblib.load(tmp_path / "classifier.joblib"),
    ):
        np.testing.assert_array_equal(copy.predict_proba(images), fitted.predict_proba(images))
        assert copy.history_ == fitted.history_


def test_it_prints_only_if_verbose(digits, capsys):
    clone(SMALL).fit(*digits)
    assert capsys.readouterr() == ("", "")
    clone(SMALL).set_params(verbose=True).fit(*digits)
    output = capsys.readouterr().out
    assert "the images given: 400 training" in output
    (line,) = (line for line in output.splitlines() if line.startswith("epoch"))
    assert line.startswith("epoch 1/1  train loss ")
    assert line.count("loss") == 1


def test_ctrl_c_stops_it_and_leaves_no_folder(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Evaluation, "on_step_end", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        clone(SMALL).fit(*digits)
    assert [*tmp_path.iterdir()] == []


# Images


def test_images_in_any_form_get_the_same_predictions(digits, fitted, tmp_path):
    grey = digits[0][:5]
    colours = grey[..., None].repeat(3, axis=3)
    opaque = np.concatenate([colours, np.full_like(grey[..., None], 255)], axis=3)
    pictures = [Image.fromarray(image) for image in grey]
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = fitted.predict_proba(grey)
    assert len(np.unique(expected, axis=0)) == 5
    files = [path.read_bytes() for path in paths]
    names = np.array([*map(str, paths)])
    for given in (colours, opaque, [*grey], pictures, (*paths,), files, names, names.astype("O")):
        np.testing.assert_array_equal(fitted.predict_proba(given), expected)


def test_a_list_may_hold_images_of_different_sizes(fitted):
    sizes = (np.full((9, 40), 7, np.uint8), np.full((50, 50, 3), 7, np.uint8))
    one, other = fitted.predict_proba(sizes)
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (np.zeros((9, 64), np.uint8), r"9 × 64, a table: reshape its rows, X\.reshape\(-1, h"),
        (np.zeros((9, 8, 8)), r"float64, 9 × 8 × 8, expected uint8: scale to 0–255"),
        (np.zeros((9, 8, 8), bool), "X is bool, .* expected uint8"),
        (np.zeros((9, 3, 8, 8), np.uint8), r"channels first: .* X\.transpose\(0, 2, 3, 1\)"),
        (np.zeros((9, 1, 8, 8), np.uint8), r"channels first: .* X\.transpose\(0, 2, 3, 1\)"),
        (np.zeros((9, 8, 8, 5), np.uint8), "9 × 8 × 8 × 5, expected uint8, N × H × W × 3"),
        (np.zeros((9, 8, 3), np.uint8), r"one picture: make it several, X\[None\]"),
        (np.zeros((0, 8, 8), np.uint8), "X is uint8, 0 × 8 × 8, expected"),
        (np.zeros((9, 0, 8), np.uint8), "X is uint8, 9 × 0 × 8, expected"),
        (np.zeros((9, 1, 8, 8, 3), np.uint8), "expected uint8, N × H × W × 3"),
        ([], "X is empty"),
        (np.zeros(0, np.uint8), "X is uint8, 0, expected"),
        (np.zeros(9, np.uint8), r"X\[0\]: expected a path, .* or an array, got int"),
        ([[0, 1], [1, 0]], r"X\[0\]: expected a path, .* got list"),
        ([np.zeros((8, 8), np.uint8), np.zeros((8, 8))], r"X\[1\]: expected uint8, .* got float64"),
        ([np.zeros((0, 8), np.uint8)] * 2, r"X\[0\]: expected uint8, .* got uint8, 0 × 8"),
        ("cat.png", "X is one picture, expected several"),
        (Path("cat.png"), "X is one picture"),
        (b"a file's bytes", "X is one picture"),
        (Image.new("RGB", (8, 8)), "X is one picture"),
        (None, "X is object, not an array, expected"),
        (7, "X is int64, not an array, expected"),
    ],
)
def test_anything_but_images_is_refused_in_one_line(given, problem, fitted):
    count = len(given) if isinstance(given, list | np.ndarray) else 1
    labels = range(count)
    for call in (fitted.predict, fitted.predict_proba, lambda given: SMALL.fit(given, labels)):
        with pytest.raises(ValueError, match=problem) as error:
            call(given)
        assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(fitted, tmp_path):
    (tmp_path / "x.png").write_text("no")
    with pytest.raises(DataError, match=r"x\.png cannot be read as an image"):
        fitted.predict([tmp_path / "x.png"])


def test_invalid_labels_are_refused(digits):
    images, labels = digits
    for y, problem in (
        (labels[:-1], "inconsistent numbers of samples: .*400, 399"),
        (None, "requires y to be passed"),
        (np.zeros(400), "y has one class, 0.0: two or more are needed"),
        (np.linspace(0, 1, 400), "Unknown label type"),
        (np.full((400, 2), 1), "y should be a 1d array"),
        ([*labels[:-1], np.nan], "NaN"),
    ):
        with pytest.raises(ValueError, match=problem):
            clone(SMALL).fit(images, y)


def test_predicting_before_fitting_is_refused(digits):
    for call in (SMALL.predict, SMALL.predict_proba):
        with pytest.raises(NotFittedError):
            call(digits[0])


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({"random_state": None}, "random_state must be an integer, not None"),
        ({"random_state": np.random.RandomState(0)}, "random_state must be an integer"),
        ({"epochs": 2.5}, r"epochs must be int \| None, not 2\.5"),
        ({"learning_rate": "high"}, "learning_rate must be float"),
        ({"device": "gpu"}, "device must be Literal"),
        ({"precision": "float16"}, "precision must be Literal"),
        ({"norm": "gm"}, "did you mean gn"),
        ({"network": "nanno"}, "did you mean nano"),
        ({"budget": 3}, "budget"),
        ({"ram": 100}, "bytes of RAM with bn, .* more than --ram 100"),
        ({"flash": 100}, "bytes of flash with bn, .* more than --flash 100"),
        ({"macs": 1000}, "more than --macs 1,000"),
        ({"board": "pico", "ram": 300_000}, "270,336"),
        ({"board": "uno"}, "board must be Literal"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_parameters_are_checked_by_fit(setting, problem, digits):
    classifier = clone(SMALL).set_params(**setting)
    with pytest.raises(UsageError, match=problem):
        classifier.fit(*digits)


def test_open_widths_are_solved_for_the_limits(digits):
    limits = {"ram": 4000, "flash": 5000, "macs": 100_000}
    for name, limit in limits.items():
        classifier = clone(SMALL).set_params(network="C P C P C GAP FC", **{name: limit})
        network = classifier.fit(*digits).trained_.network
        needs = summarize(network.layout, shape=network.shape)
        needed = {"ram": needs.memory.arena, "flash": needs.memory.constants, "macs": needs.macs}
        assert 0.8 * limit < needed[name] <= limit


def test_a_loss_that_is_not_finite_says_what_to_change(digits):
    with pytest.raises(NormlabError, match=r"^the loss was not finite: lower learning_rate$"):
        clone(SMALL).set_params(norm="none", learning_rate=1e6).fit(*digits)


# With other parts of scikit-learn


def test_cross_validation_is_above_chance(digits):
    images, labels = digits
    folds = StratifiedKFold(2)
    scores = cross_val_score(SMALL, images, labels, cv=folds)
    assert (scores > 0.5).all()  # chance gives 0.1, with a standard deviation of 0.02
    listed = [Image.fromarray(image) for image in images]
    np.testing.assert_array_equal(cross_val_score(SMALL, listed, labels, cv=folds), scores)


@pytest.mark.slow(6)
def test_grid_search_works_in_several_processes(digits):
    grid = {"norm": ["bn", "gn"], "learning_rate": np.array([1e-6, 0.05])}
    search = GridSearchCV(SMALL, grid, cv=StratifiedKFold(2), n_jobs=2).fit(*digits)
    assert search.best_params_["learning_rate"] == 0.05
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = clone(SMALL).set_params(**search.best_params_).fit(*digits)
    np.testing.assert_array_equal(search.predict_proba(digits[0]), best.predict_proba(digits[0]))


@pytest.mark.slow(2)
def test_it_works_in_a_pipeline_and_its_grid_search(digits, fitted):
    images, labels = digits
    pipeline = Pipeline(
        [
            ("reshape", FunctionTransformer(lambda rows: rows.reshape(-1, 8, 8))),
            ("classify", SMALL),
        ]
    )
    rows = images.reshape(400, 64)
    np.testing.assert_array_equal(
        clone(pipeline).fit(rows, labels).predict(rows), fitted.predict(images)
    )
    grid = {"classify__epochs": np.arange(1, 3), "classify__batch_size": np.array([8])}
    search = GridSearchCV(pipeline, grid, cv=StratifiedKFold(2)).fit(rows, labels)
    assert (
        len(search.best_estimator_["classify"].history_) == search.best_params_["classify__epochs"]
    )
