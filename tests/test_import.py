"""What importing normlab loads, and its public names."""

import importlib
import subprocess
import sys

import pytest

import normlab


def modules_after(code):
    text = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_normlab_imports_nothing_heavy():
    loaded = modules_after("import normlab, normlab.cli, normlab.config")
    heavy = {"torch", "numpy", "sklearn", "matplotlib", "kornia", "scipy", "pooch", "PIL", "rich"}
    assert not loaded & (heavy | {"ray", "gradio", "onnx", "captum", "huggingface_hub"})


@pytest.mark.slow(3)
def test_training_needs_no_extras():
    loaded = modules_after("import normlab; normlab.train; normlab.write_report; normlab.plots")
    assert not loaded & {
        "ray",
        "gradio",
        "onnx",
        "onnxruntime",
        "captum",
        "torchvision",
        "huggingface_hub",
    }


@pytest.mark.slow(4)
def test_a_step_and_its_evaluation_import_no_compiler_and_nothing_that_it_does_not_use():
    """They would take each run two seconds."""
    loaded = modules_after(
        "import normlab\n"
        "config = normlab.RunConfig(network='C:4 GAP FC', dataset='digits', recipe='demo', "
        "epochs=1, train_images=64)\n"
        "import tempfile\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    run = normlab.train(config, folder + '/run', quiet=True)\n"
        "    normlab.evaluate(run.network(), run.dataset()).confusion\n"
        "normlab.statistics.proportion_interval(3, 4)"
    )
    assert "normlab.training.sgd" in loaded
    assert not loaded & {"torch._dynamo", "sklearn", "scipy.stats", "matplotlib", "kornia"}


@pytest.mark.slow(3)
def test_a_command_collects_garbage_rarely_and_the_library_leaves_it_to_its_user():
    def thresholds(code):
        text = f"import gc\nprint(gc.get_threshold()[0])\n{code}\nprint(gc.get_threshold()[0])"
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, check=True)
        return map(int, done.stdout.split())

    library = "import normlab, normlab.cli, normlab.classifier, normlab.study.job"
    before, after = thresholds(library)
    assert after == before
    before, after = thresholds("import normlab.__main__")
    assert after > before


@pytest.mark.slow(3)
def test_a_file_that_the_users_code_keeps_open_is_written_when_the_command_ends(tmp_path):
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "class Recorder:\n"
        "    def __init__(self):\n"
        "        self.file = open('log.txt', 'w')\n"
        "        self.hooks = [self.write]  # a cycle: only the garbage collector ends it\n"
        "    def write(self, text):\n"
        "        self.file.write(text)\n"
        "RECORDER = Recorder()\n"
        "def tiny(norm, classes):\n"
        "    RECORDER.write('built')\n"
        "    parts = norm.conv2d(3, 4, 3), norm(4), torch.nn.AdaptiveAvgPool2d(1)\n"
        "    return torch.nn.Sequential(*parts, torch.nn.Flatten(), torch.nn.Linear(4, classes))\n"
    )
    command = [sys.executable, "-m", "normlab", "summary", "nets:tiny"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "log.txt").read_text().startswith("built")


def test_every_public_name_is_what_its_module_defines():
    for name, home in normlab._PUBLIC.items():
        module, _, attribute = home.partition(":")
        imported = importlib.import_module(f"normlab.{module}")
        assert getattr(normlab, name) is (getattr(imported, attribute) if attribute else imported)
    assert set(normlab._PUBLIC) == set(normlab.__all__)
    assert callable(normlab.train)
    assert callable(normlab.evaluate)
    assert set(normlab.__all__) < set(dir(normlab))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(normlab, "no_such_name")
