"""The settings of the calling program and of its user change no number and no page."""

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import matplotlib as mpl
import numpy as np
import pytest
import torch

import normlab
from harness import EXECUTION, TINY, assert_equal_runs
from made_up import study as made_up_study
from normlab.export.exporter import export_run
from normlab.report.data_page import write_data_page
from normlab.report.run_page import write_report
from normlab.report.study_page import write_study_report
from normlab.training.loop import resume, train


@contextmanager
def set_by(setter, value, before):
    setter(value)
    try:
        yield
    finally:
        setter(before)


def precision(operation):
    return lambda value: setattr(operation, "fp32_precision", value)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: set_by(torch.set_default_dtype, torch.float64, torch.float32),
    "no gradients": torch.no_grad,
    "gradients off": lambda: set_by(torch.set_grad_enabled, False, True),
    "inference mode": torch.inference_mode,
    "default device": lambda: set_by(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "deterministic": lambda: set_by(torch.set_deterministic_debug_mode, "error", "default"),
    "anomaly detection": lambda: set_by(torch.autograd.set_detect_anomaly, True, False),
    "threads": lambda: set_by(torch.set_num_threads, 3, torch.get_num_threads()),
    "denormals": lambda: set_by(torch.set_flush_denormal, True, False),
    "without oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False, allow_tf32=None),
    "bfloat16 products": lambda: set_by(torch.set_float32_matmul_precision, "medium", "highest"),
    "bfloat16 convolutions": lambda: set_by(precision(torch.backends.mkldnn.conv), "bf16", "none"),
    "cuDNN's benchmark": lambda: torch.backends.cudnn.flags(enabled=False, benchmark=True),
    "NumPy's errors": lambda: np.errstate(all="raise"),
}


def settings():
    """All that SETTINGS set."""
    backends = torch.backends
    return {
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "device": torch.get_default_device(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "anomalies": torch.is_anomaly_enabled(),
        "threads": torch.get_num_threads(),
        "denormals": float(torch.full((), 1e-40, dtype=torch.float32, device="cpu").mul(1)),
        "oneDNN": backends.mkldnn.enabled,
        "products": (backends.mkldnn.matmul.fp32_precision, torch.get_float32_matmul_precision()),
        "convolutions": backends.mkldnn.conv.fp32_precision,
        "cuDNN": (backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic),
        "NumPy": np.geterr(),
        "generator": torch.get_rng_state().tolist(),
    }


@contextmanager
def all_settings():
    with ExitStack() as stack:
        for setting in SETTINGS.values():
            stack.enter_context(setting())
        yield


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """A run that was trained with torch's own settings."""
    return train(TINY, tmp_path_factory.mktemp("runs") / "usual", EXECUTION, quiet=True)


@pytest.mark.parametrize("setting", SETTINGS)
def test_training_within_the_callers_settings_gives_equal_bits(setting, usual, tmp_path):
    with SETTINGS[setting]():
        before = settings()
        run = train(TINY, tmp_path / "run", EXECUTION, quiet=True)
        assert settings() == before
    assert_equal_runs(run.path, usual.path)


def test_so_does_training_that_is_stopped_and_resumed_within_all_of_them(usual, tmp_path):
    class Stop(normlab.Callback):
        def on_epoch_end(self, state):
            raise SystemExit

    with all_settings():
        before = settings()
        with pytest.raises(SystemExit):
            train(TINY, tmp_path / "run", EXECUTION, callbacks=[Stop()], quiet=True)
        assert settings() == before
        resume(tmp_path / "run", EXECUTION, quiet=True)
        assert settings() == before
    assert_equal_runs(tmp_path / "run", usual.path)


def results(run, folder):
    """What the library computes from a run, as bytes and numbers."""
    data = normlab.data.load("digits")
    pictures = list(data.test.images[:3].transpose(0, 2, 3, 1))
    predictor = normlab.load(run.path)
    explained = normlab.explain(predictor, pictures[0])
    (maps,) = explained.maps
    fitted = normlab.Classifier("c:4 GAP FC", epochs=1, threads=1).fit(
        data.train.images[:40].transpose(0, 2, 3, 1), data.train.labels[:40]
    )
    page = write_report([run], folder / "report.html")
    data_page = write_data_page(data, folder / "data.html", recipe_steps=["color-jitter"])
    return [
        normlab.evaluate(predictor.network, data).probabilities.tobytes(),
        np.stack([p.probabilities for p in predictor.predict(pictures)]).tobytes(),
        maps.grad_cam.tobytes(),
        maps.occlusion.tobytes(),
        fitted.predict_proba(pictures).tobytes(),
        page.read_bytes(),
        data_page.read_bytes(),
    ]


@pytest.mark.slow(2)
def test_everything_that_is_computed_from_a_run_is_equal_within_all_of_them(usual, tmp_path):
    pytest.importorskip("captum")
    threads = torch.get_num_threads()
    torch.set_num_threads(3)  # the number of threads itself may change the last bits
    try:
        expected = results(usual, tmp_path / "usual")
    finally:
        torch.set_num_threads(threads)
    with all_settings():
        before = settings()
        found = results(usual, tmp_path / "found")
        assert settings() == before
    assert [a == b for a, b in zip(expected, found, strict=True)] == [True] * len(expected)


@pytest.mark.slow(1)
def test_an_export_within_all_of_them_is_checked_and_equal(usual, tmp_path):
    expected = export_run(usual, "pt2", tmp_path / "usual.pt2")
    with all_settings():
        before = settings()
        found = export_run(usual, "pt2", tmp_path / "found.pt2")
        assert settings() == before
    assert (found.size, found.images) == (expected.size, expected.images)
    assert found.difference < 1e-6
    pixels = torch.from_numpy(usual.dataset().test.images[:20])
    one, other = (torch.export.load(tmp_path / f"{n}.pt2").module() for n in ("usual", "found"))
    assert torch.equal(one(pixels), other(pixels))


@pytest.mark.slow(4)
def test_a_study_within_all_of_them_has_equal_results(tmp_path):
    study = normlab.StudyConfig(
        network="c:4 GAP FC", dataset="digits", recipe="demo", norms=("bn",), seeds=1, epochs=1
    )
    expected = normlab.compare(study, tmp_path / "usual", EXECUTION, workers=1, quiet=True)
    with all_settings():
        before = settings()
        found = normlab.compare(study, tmp_path / "found", EXECUTION, workers=1, quiet=True)
        assert settings() == before
    assert [r.accuracies for r in found.results] == [r.accuracies for r in expected.results]


# --- matplotlib ---

HOSTILE = {
    "text.usetex": "True",
    "font.family": "serif",
    "font.size": "31",
    "axes.formatter.use_locale": "True",
    "axes.formatter.useoffset": "False",
    "axes.grid": "True",
    "axes.xmargin": "0.4",
    "axes.prop_cycle": "cycler('color', ['ff0000'])",
    "image.cmap": "jet",
    "image.origin": "lower",
    "lines.marker": "x",
    "patch.linewidth": "9",
    "path.sketch": "1, 100, 2",
    "savefig.bbox": "tight",
    "savefig.dpi": "20",
    "svg.image_inline": "False",
    "legend.fontsize": "40",
    "xtick.direction": "in",
    "ytick.minor.visible": "True",
}


@pytest.mark.slow(3)
def test_pages_within_the_callers_style_are_equal(usual, tmp_path):
    (tmp_path / "hostile.mplstyle").write_text("".join(f"{k}: {v}\n" for k, v in HOSTILE.items()))
    studies = [made_up_study(tmp_path / name) for name in ("usual", "found")]
    expected = write_report([usual], tmp_path / "usual.html").read_bytes()
    write_study_report(studies[0], images=False)
    with mpl.rc_context(fname=tmp_path / "hostile.mplstyle"):
        before = dict(mpl.rcParams)
        assert write_report([usual], tmp_path / "found.html").read_bytes() == expected
        write_study_report(studies[1], images=False)
        assert dict(mpl.rcParams) == before
    figures = [tmp_path / f"{page}-figures" / "curves.png" for page in ("usual", "found")]
    assert figures[1].read_bytes() == figures[0].read_bytes()
    names = sorted(path.name for path in (studies[0].path / "figures").iterdir())
    for name in names:
        first, second = (study.path / "figures" / name for study in studies)
        assert first.read_bytes() == second.read_bytes(), name


@pytest.mark.slow(4)
def test_a_page_by_the_command_is_equal_whatever_the_users_settings_are(usual, tmp_path):
    """A matplotlibrc, in the folder too, a backend that does not exist, an ASCII locale."""
    (tmp_path / "matplotlibrc").write_text("".join(f"{k}: {v}\n" for k, v in HOSTILE.items()))
    hostile = {
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "MPLBACKEND": "no_such_backend",
        "LC_ALL": "POSIX",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
    }
    page = tmp_path / "hostile.html"
    expected = write_report([usual], tmp_path / "usual.html").read_bytes()
    ended = subprocess.run(
        [sys.executable, "-m", "normlab", "report", usual.path, "--out", page],
        env=os.environ | hostile,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert page.read_bytes() == expected
    figures = [tmp_path / f"{page}-figures" / "curves.png" for page in ("usual", "hostile")]
    assert figures[1].read_bytes() == figures[0].read_bytes()
