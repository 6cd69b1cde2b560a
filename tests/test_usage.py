"""What people type instead of what a command takes: each gets one line that says what to do."""

import re
import shlex

import pytest

from normlab.cli import _COMMANDS
from normlab.config import RunConfig, norm_name
from normlab.errors import UsageError
from normlab.notation import LayoutError, parse
from normlab.recipes import RECIPES
from normlab.training.progress import recipe_advice
from normlab.usage import flags


@pytest.fixture
def refused(cli, monkeypatch, tmp_path):
    """Runs a command that must be refused as wrong usage, in one line, and returns that line."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        code, out, errors = cli(*arguments)
        assert (code, out, errors.count("\n")) == (2, "", 1), errors
        assert errors.startswith("normlab: ")
        assert "None" not in errors
        return errors.removeprefix("normlab: ").rstrip()

    return command


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trian", "train"),
        ("compair", "compare"),
        ("Train", "train"),
        ("pred", "predict"),
        ("micro", "normlab train micro"),
        ("C:8 P GAP FC", 'normlab train "C:8 P GAP FC"'),
    ],
)
def test_a_misspelt_command(typed, meant, refused):
    line = f"no command {typed!r}: did you mean {meant}? `normlab --help` lists the commands"
    assert refused(typed, "--norm", "gn") == line


def test_a_command_that_is_near_none(refused):
    assert refused("help") == "no command 'help': `normlab --help` lists the commands"


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("train", "--normalization", "--norm"),
        ("train", "--normalisation", "--norm"),
        ("train", "--norms", "--norm"),
        ("train", "--seeds", "--seed"),
        ("train", "--epoch", "--epochs"),
        ("train", "--batchsize", "--batch-size"),
        ("train", "--learning_rates", "--learning-rate"),
        ("train", "--lrate", "--lr"),
        ("train", "--data", "--dataset"),
        ("compare", "--norm", "--norms"),
        ("compare", "--normalization", "--norms"),
        ("compare", "--seed", "--seeds"),
        ("compare", "--batch", "--batch-sizes"),
        ("export", "--too", "--to"),
        ("export", "--floats", "--float"),
        ("report", "--no-image", "--no-images"),
    ],
)
@pytest.mark.parametrize("form", [("{}", "3"), ("{}=3",)])
def test_a_misspelt_flag(command, typed, meant, form, refused):
    line = refused(command, *(part.format(typed) for part in form))
    typed = typed.replace("_", "-")
    assert line == (
        f"normlab {command} has no {typed}: did you mean {meant}? "
        f"`normlab {command} --help` lists the flags"
    )


def test_flags_that_are_near_none(refused):
    for flag in ("--optimizer", "--bs", "--workers"):
        line = f"normlab train has no {flag}: `normlab train --help` lists the flags"
        assert refused("train", "nano", flag, "3") == line
    for flag in ("--network", "--model", "--layout"):
        line = refused("train", flag, "micro")
        assert f"no {flag}: the network is given without a flag, as in normlab train micro." in line
    assert "does not take '-e'" in refused("train", "nano", "-e", "3")


def test_the_flags_are_those_of_the_help(cli):
    for name, function in _COMMANDS.items():
        _, text, _ = cli(name, "--help")
        shown = {word.strip(",") for word in text.split() if word.startswith("--")}
        assert set(flags(function)) <= shown | {"--float"}, name
    assert {"--lr", "--learning-rate", "--help"} <= set(flags(_COMMANDS["train"]))
    assert "--network" not in flags(_COMMANDS["train"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("predict", "--model", "mikro", "x.png"),
         "no --model 'mikro': did you mean micro? Choose micro or nano"),
        (("predict", "--model=mikro", "x.png"),
         "no --model 'mikro': did you mean micro? Choose micro or nano"),
        (("export", "--model", "nano", "--to", "onx"),
         "no --to 'onx': did you mean onnx? Choose c, html, onnx or pt2"),
        (("train", "nano", "--device", "gpu"),
         "no --device 'gpu': did you mean cuda? Choose auto, cpu, cuda or mps"),
        (("train", "nano", "--precision", "bf16"),
         "no --precision 'bf16': did you mean bfloat16? Choose float32 or bfloat16"),
        (("train", "nano", "--activation", "gelo"),
         "no --activation 'gelo': did you mean gelu? "
         "Choose relu, hard-swish, silu, gelu, prelu or leaky"),
        (("compare", "nano", "--tune", "lr", "learning-rate"),
         "no --tune 'learning-rate': did you mean lr? "
         "Choose lr, wd, muon, batch-size, augment or label-smoothing"),
        (("train", "nano", "--budget=50,000"),
         "--budget must be a whole number such as 32768, 32k or 1.5M, not '50,000'"),
        (("compare", "nano", "--budgets", "1k", "5x"),
         "--budgets must be a whole number such as 32768, 32k or 1.5M, not '5x'"),
        (("train", "nano", "--lr", "fast"), "--lr must be a number, not 'fast'"),
        (("compare", "nano", "--norms", "bn", "gn", "--seeds", "bn"),
         "--seeds must be a whole number, not 'bn'"),
        (("train", "nano", "--dataset", "relu", "--lr=relu", "--activation", "relu"),
         "--lr must be a number, not 'relu'"),
        (("train", "nano", "--dataset", "gpu", "--device", "gpu"),
         "no --device 'gpu': did you mean cuda? Choose auto, cpu, cuda or mps"),
        (("compare", "nano", "--batch-sizes", "2", "big"),
         "--batch-sizes must be a whole number, not 'big'"),
    ],
)  # fmt: skip
def test_a_misspelt_value(arguments, line, refused):
    assert refused(*arguments) == line


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--norms bn,gn", "--norms bn gn"),
        ("--norms bn gn,ln", "--norms gn ln"),
        ("--norms=bn,gn", "--norms bn gn"),
        ("--norms 'bn, gn'", "--norms bn gn"),
        ("--norms bn, gn", "--norms bn"),
        ("--tune lr,wd", "--tune lr wd"),
        ("--layouts nano,micro", "--layouts nano micro"),
        ("--batch_sizes 4,8", "--batch-sizes 4 8"),
    ],
)
def test_values_separated_by_commas(typed, meant, refused):
    line = refused("compare", "nano", *shlex.split(typed))
    assert line.endswith(f": separate values with spaces: {meant}")


def test_values_that_have_commas_or_of_which_there_is_one(refused):
    one = "--to takes one of c, html, onnx or pt2 at a time, not 'c,onnx'"
    assert refused("export", "--model", "nano", "--to", "c,onnx") == one
    number = "--batch-sizes must be a whole number, not '1,000'"
    assert refused("compare", "nano", "--batch-sizes", "1,000") == number
    assert "spaces" not in refused(
        "compare", "nano", "--dataset", "digits", "--contrasts", "bn,rms"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("train", "C1", "C2", "c3", "P1", "GAP", "C10"),
         'put the layout in quotes: normlab train "C1 C2 c3 P1 GAP C10"'),
        (("train", "--norm", "gn", "C:8", "P", "GAP", "FC", "--epochs", "1"),
         'put the layout in quotes: normlab train "C:8 P GAP FC"'),
        (("train", "C:8", "C:8", "GAP", "FC"),
         'put the layout in quotes: normlab train "C:8 C:8 GAP FC"'),
        (("train", "conv", "P", "GAP", "FC"),
         'put the layout in quotes: normlab train "conv P GAP FC"'),
        (("train", "C:8", "P", "GAP", "linear", "--norm", "gn"),
         'put the layout in quotes: normlab train "C:8 P GAP linear"'),
        (("train", "nano", "C:8"),
         "normlab train does not take 'C:8': `normlab train --help` says what it takes"),
        (("C1", "C2", "c3", "P", "--norm", "gn"),
         "no command 'C1': did you mean normlab train \"C1 C2 c3 P\"? `normlab --help` lists the "
         "commands"),
        (("train", "nano", "-a_b"),
         "normlab train does not take '-a_b': `normlab train --help` says what it takes"),
        (("summary", "C:8", "C:8+*3", "c", "GAP", "--norm", "gn"),
         'put the layout in quotes: normlab summary "C:8 C:8+*3 c GAP"'),
        (("compare", "C1", "GAP", "FC", "--norms", "bn", "gn"),
         'put the layout in quotes: normlab compare "C1 GAP FC"'),
        (("train", "nano", "micro"),
         "normlab train does not take 'micro': `normlab train --help` says what it takes"),
        (("data", "digits"),
         "normlab data does not take 'digits': did you mean --dataset digits? "
         "`normlab data --help` says what it takes"),
        (("compare", "nano", "--seeds", "1", "2", "3"),
         "--seeds takes the number of seeds: --seeds 3 means seeds 0, 1 and 2"),
        (("compare", "nano", "--seeds", "5", "--epochs", "3", "5"),
         "normlab compare does not take '5': `normlab compare --help` says what it takes"),
        (("compare", "nano", "--epochs", "5", "--seeds", "3", "5"),
         "--seeds takes the number of seeds: --seeds 3 means seeds 0, 1 and 2"),
        (("compare", "nano", "micro"), "give further networks with a flag: --layouts micro"),
        (("compare", "C:4 GAP FC", "C:8 GAP FC", "--seeds", "3"),
         "give further networks with a flag: --layouts 'C:8 GAP FC'"),
        (("zoo", "micro"), "normlab zoo does not take 'micro': `normlab zoo --help` says what it "
         "takes"),
    ],
)  # fmt: skip
def test_words_that_a_command_does_not_take(arguments, line, refused):
    assert refused(*arguments) == line


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("train", "--lr"), "--lr"),
        (("train", "micro", "--norm"), "--norm"),
        (("train", "--seed", "--norm", "gn"), "--seed"),
        (("train", "nano", "--batch_size", "--epochs", "3"), "--batch_size"),
        (("train", "nano", "--log"), "--log"),
        (("train", "nano", "--out"), "--out"),
        (("train", "--resume"), "--resume"),
        (("predict", "--model"), "--model"),
        (("export", "runs/x", "--to"), "--to"),
        (("compare", "micro", "--norms"), "--norms"),
        (("compare", "micro", "--batch-sizes", "--norms", "bn"), "--batch-sizes"),
        (("report", "x", "--published"), "--published"),
    ],
)
def test_a_flag_without_its_value(arguments, flag, refused):
    help_of = f"`normlab {arguments[0]} --help` says which it takes"
    assert refused(*arguments) == f"{flag} needs a value: {help_of}"


def test_a_flag_that_takes_no_value(refused):
    for value in ("", "1", "yes"):
        line = f"--dry-run takes no value: leave out ={value}"
        assert refused("train", "nano", f"--dry-run={value}") == line


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("summary",), "NAME_OR_LAYOUT"),
        (("summary", "--norm", "gn"), "NAME_OR_LAYOUT"),
        (("evaluate", "--split=test", "--threads", "2"), "RUN"),
        (("export", "runs/x"), "--to"),
        (("export", "--int8", "runs/x"), "--to"),
        (("push",), "RUN and OWNER/NAME"),
        (("push", "--yes", "runs/x"), "OWNER/NAME"),
    ],
)
def test_what_a_command_needs(arguments, needed, refused):
    name = arguments[0]
    help_of = f"`normlab {name} --help` says what it takes"
    assert refused(*arguments) == f"normlab {name} needs {needed}: {help_of}"


def test_no_command(refused):
    assert refused() == "expected a command: `normlab --help` lists the commands"
    line = "expected a command before --norm: `normlab --help` lists the commands"
    assert refused("--norm", "gn") == line


@pytest.mark.parametrize("name", ["", *_COMMANDS])
def test_help_is_given_whatever_else_is_missing(name, cli):
    code, out, errors = cli(*filter(None, [name]), "--help")
    assert (code, errors) == (0, "")
    assert "usage: normlab" in out


def test_no_step_after_augment_means_none(asked):
    assert asked("train", "nano", "--augment").augment == ()
    assert asked("train", "nano", "--augment", "--lr", "0.1").augment == ()


@pytest.mark.parametrize("network", ["nano", "C:8 P GAP FC"])
def test_a_network_that_a_flag_took(network, refused):
    line = refused("compare", "--norms", "bn", "gn", network)
    assert line.endswith(f"or a layout before --norms, which took {network} as a normalization")


@pytest.mark.parametrize(
    ("layout", "place", "problem"),
    [
        ("conv P GAP FC", 0, "unknown block 'conv': did you mean C?"),
        ("C:8 Conv2d:8 GAP FC", 4, "unknown block 'Conv2d': did you mean C?"),
        ("C:8 MaxPool GAP FC", 4, "unknown block 'MaxPool': did you mean P?"),
        ("C:8 P gap fc", 6, "unknown block 'gap': did you mean GAP?"),
        ("C:8 p GAP FC", 4, "unknown block 'p': did you mean P?"),
        ("C:8 GAP linear", 8, "unknown block 'linear': did you mean FC?"),
        ("C:8 ReLU GAP FC", 4, "unknown block 'ReLU': expected C, c, D, P, A, GAP or FC"),
        ("C:8, P, GAP", 3, "separate blocks with spaces alone"),
        ("C:8,P,GAP", 3, "separate blocks with spaces alone"),
        ("C:8 -> P", 4, "separate blocks with spaces alone"),
        ("C8-P-GAP", 2, "separate blocks with spaces alone"),
        ("C:8/gn,P GAP", 6, "separate blocks with spaces alone"),
        ("C:8q P", 3, "'q' is not an option"),
    ],
)
def test_a_layout_in_other_words(layout, place, problem):
    with pytest.raises(LayoutError) as refused:
        parse(layout)
    assert refused.value.start == place
    assert refused.value.problem.startswith(problem)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        *(("batchnorm", "bn"), ("BatchNorm2d", "bn"), ("batch_norm", "bn"), ("BN", "bn")),
        *(("layer_norm", "ln"), ("LayerNorm", "ln"), ("GN", "gn"), ("GroupNorm=4", "gn=4")),
        *(("group-norm", "gn"), ("InstanceNorm2d", "in"), ("RMSNorm", "rms")),
        ("GN-WS=1", "gn-ws=1"),
        *(("bn", "bn"), ("NORMS:L1", "NORMS:L1"), ("ln-full", "ln-full")),
    ],
)  # fmt: skip
def test_a_normalization_by_another_name_is_known_by_its_own(typed, name, cli):
    assert norm_name(typed) == name
    if ":" not in name:
        code, out, _ = cli("summary", "C:8 GAP FC", "--norm", typed)
        assert (code, f"normalization {name}, " in out) == (0, True)


@pytest.fixture
def asked(cli, monkeypatch):
    """Returns the configuration that a command would have trained or compared."""

    def asked_by(*arguments):
        configs = []

        def stop(config, *_, **__):
            configs.append(config)
            raise UsageError("enough")

        monkeypatch.setattr("normlab.training.loop.train", stop)
        monkeypatch.setattr("normlab.study.compare.compare", stop)
        cli(*arguments)
        return configs[0]

    return asked_by


def test_the_short_names_of_flags(asked):
    typed = ("--lr", "0.1", "--batch", "8", "--wd", "0.01", "--norm", "BatchNorm2d")
    expected = RunConfig(
        network="nano", learning_rate=0.1, batch_size=8, weight_decay=0.01, norm="bn"
    )
    assert asked("train", "nano", *typed) == expected
    compared = asked("compare", "nano", "--lr", "0.1", "--norms", "GN", "layer_norm")
    assert (compared.learning_rate, compared.norms) == (0.1, ("gn", "ln"))


def test_the_help_of_a_setting_is_the_same_in_every_command(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    texts = {}
    for name in _COMMANDS:
        _, out, _ = cli(name, "--help")
        flag = ""
        for line in out.splitlines():
            if match := re.match(
                r"\W+((?:--[a-z][a-z0-9-]*(?:, )?)+)(?: [^ ]+)*(?: {2,}(.*))?", line
            ):
                flag, line = match[1], match[2] or ""
                texts.setdefault(flag, {})[name] = ""
            border = "--" in line or "──" in line or line.strip().endswith(" options")
            if flag and not border:
                texts[flag][name] += line.strip(" │").partition(" (default:")[0]
            else:
                flag = ""
    assert len(texts["--data-root"]) > 5
    assert texts["--size"]["summary"].startswith("Height and width of the network's input")
    # These are other settings by the same name: other files, several values, other choices.
    for flag in ("--out", "--classes", "--recipe", "--train-images", "--label-noise", "--channels"):
        assert len(set(texts.pop(flag).values())) > 1
    assert {flag: texts[flag] for flag in texts if len(set(texts[flag].values())) > 1} == {}


@pytest.mark.parametrize("command", ["predict", "explain"])
@pytest.mark.parametrize("name", ["cat.jpg", "absent.PNG", "-", "*.png", "photos"])
def test_a_picture_without_a_model(command, name, refused, tmp_path):
    (tmp_path / "cat.jpg").touch()
    (tmp_path / "photos").mkdir()
    line = f"expected a network: give --model micro, or a run's folder before {name}"
    assert refused(command, name) == line


@pytest.mark.parametrize(
    ("flag", "value", "problem"),
    [
        ("--recipe", "dmeo", "no recipe 'dmeo'"),
        ("--norm", "gm", "no normalization 'gm': did you mean gn?"),
        ("--dataset", "digit", "no data set 'digit'"),
        ("--threads", "0", "--threads must be at least 1"),
        ("--teacher-weight", "0.5", "--teacher-weight needs a --teacher"),
        ("--teacher", "nowhere", "--teacher nowhere: there is no such folder"),
    ],
)
def test_settings_are_checked_before_the_folder(flag, value, problem, trained, refused):
    assert problem in refused("train", "nano", "--out", trained.path, flag, value)


def test_a_finished_run_can_be_looked_at(trained, cli):
    code, _, errors = cli("train", "nano", "--dataset", "digits", "--out", trained.path)
    assert (code, errors.count("\n")) == (1, 1)
    assert f"holds a finished run: normlab report {trained.path} makes its page" in errors


def test_the_digits_have_a_recipe():
    for name, recipe in RECIPES.items():
        advice = recipe_advice("digits", name, recipe)
        assert (advice is None) == (name == "demo")
        assert advice is None or advice.endswith("--recipe demo is")
    assert recipe_advice("cifar10", "seed", RECIPES["seed"]) is None


def test_a_misspelt_recipe(refused):
    assert refused("train", "nano", "--recipe", "dmeo").endswith("did you mean demo?")
