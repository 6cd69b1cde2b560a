"""Exported C programs: compiled, run, and compared with the networks that they come from."""

import importlib.util
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import made_up
import normlab
from normlab import notation
from normlab.errors import NormlabError, UsageError
from normlab.export.firmware import emit, prove, write
from normlab.export.firmware.parameters import compute, parameters_of
from normlab.export.firmware.program import in_floats, in_integers
from normlab.inference.evaluate import to_input
from normlab.layers.activations import ACTIVATIONS
from normlab.network.memory import plan
from normlab.network.model import Network
from normlab.network.shapes import INPUT, infer_shapes
from normlab.network.steps import lower, network_steps
from normlab.runs.checkpoint import save_weights

compiled = pytest.mark.skipif(prove.compiler() is None, reason="no C compiler")

EVERY_BLOCK = "C:6v C:6+*2 P D:7a D:7a+*2 A c:7*2 D:8s2 c:8+ GAP FC:5 FC"
NORMS = (
    *("bn", "none", "sws", "gn", "gn-ws", "ln", "in", "rms", "ln-channel", "dyt"),
    *("frn", "proxy-gn", "proxy-ln", "ln-full", "lrn", "evonorm-s0", "evonorm-b0"),
)
ABOUT = {"layout": "made up"}


def random_network(layout, norm="bn", activation="relu", classes=4, shape=INPUT):
    """A network with random weights and statistics whose features keep their scale."""
    network = Network(layout, norm=norm, activation=activation, classes=classes, shape=shape).eval()
    random = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if ("norms." in name or "branch_scales" in name) and tensor.is_floating_point():
            center = 0.0 if name.endswith(("bias", "mean", "scales")) else 1.0
            tensor.copy_(torch.rand(tensor.shape, generator=random) - 0.5 + center)
    network.input_mean.fill_(0.45)
    network.input_std.fill_(0.25)
    with torch.no_grad():
        for weight in network.weights:
            weight *= 2.4
    return network


def pictures(count, shape, seed=0):
    """Pictures of patches, uint8 N × C × H × W."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, 256, (count, shape[0], 4, 4), np.uint8)
    rows = np.arange(shape[1]) * 4 // shape[1]
    columns = np.arange(shape[2]) * 4 // shape[2]
    return patches[:, :, rows][:, :, :, columns]


def firmware(network, norm, activation, classes, float32=False):
    steps = network_steps(
        network.layout, norm=norm, classes=classes, activation=activation, shape=network.shape
    )
    parameters = parameters_of(network, steps)
    origin = emit.Origin(name="net_x", classes=[f"class {k}" for k in range(classes)], about=ABOUT)
    if float32:
        return in_floats(origin, plan(steps, item=4), parameters)
    return in_integers(origin, plan(steps), parameters, pictures(50, steps[0].source))


def check(layout, norm="bn", activation="relu", classes=4, float32=False, shape=INPUT):
    """A program against its reference, to the last bit; the program's logits in nats."""
    network = random_network(layout, norm, activation, classes, shape)
    program = firmware(network, norm, activation, classes, float32)
    pixels = pictures(6, program.memory.steps[0].source, seed=1)
    found = prove.run("net_x", program, pixels, compile_with=prove.compiler())
    expected = program.logits(pixels)
    assert expected.dtype == found.logits.dtype
    assert (found.logits == expected).all()
    assert (found.scores == program.scores(expected)).all()
    assert (found.best == expected.argmax(1)).all()
    return network, pixels, expected


# What a step computes


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_the_steps_compute_what_the_network_computes(norm, activation):
    network = random_network(EVERY_BLOCK, norm, activation)
    steps = network_steps(network.layout, norm=norm, classes=4, activation=activation, shape=INPUT)
    pixels = pictures(5, steps[0].source)
    *_, last = compute(steps, parameters_of(network, steps), pixels)
    with torch.no_grad():
        expected = network(to_input(torch.from_numpy(pixels)))
    torch.testing.assert_close(last.output.flatten(1), expected, atol=1e-3, rtol=1e-3)


# The program


@compiled
@pytest.mark.slow(3)
@pytest.mark.parametrize("norm", NORMS)
def test_a_program_in_integers_equals_its_reference(norm):
    check(EVERY_BLOCK, norm)


@compiled
@pytest.mark.parametrize(
    "norm",
    [
        *("bn", "gn", "rms", "ln-channel", "dyt", "frn", "proxy-gn", "ln-full", "lrn"),
        *("evonorm-s0", "evonorm-b0"),
    ],
)
def test_a_program_in_floats_equals_its_reference_and_the_network(norm):
    network, pixels, logits = check(EVERY_BLOCK, norm, float32=True)
    with torch.no_grad():
        expected = network(to_input(torch.from_numpy(pixels)))
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-3, rtol=1e-3)


@compiled
@pytest.mark.parametrize("float32", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_computed(activation, float32):
    check("C:5s2 P C:6/gn=2 D:6a+ GAP FC", activation=activation, float32=float32)


@pytest.mark.parametrize("norm", NORMS)
def test_integers_stand_for_what_the_network_computes(norm):
    """With a margin: random networks are more sensitive to rounding than trained ones."""
    network = random_network("C:8 C:8+ P D:12 GAP FC", norm)
    program = firmware(network, norm, "relu", 4)
    pixels = pictures(40, program.memory.steps[0].source, seed=1)
    with torch.no_grad():
        expected = network(to_input(torch.from_numpy(pixels))).numpy()
    logits = program.logits(pixels).astype(float)
    logits *= np.abs(expected).max() / np.abs(logits).max()
    correlation = np.corrcoef(logits.ravel(), expected.ravel())[0, 1]
    assert correlation > 0.97


@st.composite
def layouts(draw):
    """Layouts of the notation that are small to run. Some are refused, as a program is."""
    blocks = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from("CcDPACD"))
        if kind in "PA":
            blocks.append(kind)
            continue
        token = f"{kind}:{draw(st.integers(1, 9))}"
        if kind != "c":
            token += draw(st.sampled_from(["", "", "v"]))
        token += draw(st.sampled_from(["", "", "s2"]))
        if kind == "D":
            token += draw(st.sampled_from(["", "a"]))
        if kind != "c":
            token += draw(st.sampled_from(["", "", *(f"/{norm}" for norm in NORMS)]))
        blocks.append(token + draw(st.sampled_from(["", "+"])) + draw(st.sampled_from(["", "*2"])))
    end = draw(st.sampled_from(["GAP FC", "GAP c", "FC", "FC:3 FC", "GAP c:5 C:5+ FC", "c GAP"]))
    return " ".join(["P", *blocks, end] if draw(st.booleans()) else [*blocks, end])


@compiled
@pytest.mark.slow(3)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_images_of_other_shapes_are_classified_as_by_pytorch(shape):
    check("nano", "gn", shape=shape)
    network, pixels, logits = check("nano", "gn", float32=True, shape=shape)
    with torch.no_grad():
        expected = network(to_input(torch.from_numpy(pixels)))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@compiled
@pytest.mark.parametrize("float32", [False, True])
def test_a_window_as_large_as_its_map_is_no_fully_connected_layer(float32):
    check("P P P C:2 GAP FC", float32=float32, shape=(1, 24, 24))


@compiled
@pytest.mark.slow(7)
@settings(
    max_examples=15, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(
    layout=layouts(),
    norm=st.sampled_from(NORMS),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    float32=st.booleans(),
    shape=st.builds(
        lambda channels, size: (channels, size, size), st.sampled_from([1, 3]), st.integers(16, 40)
    ),
)
def test_any_layout_is_exported_and_equals_its_reference(layout, norm, activation, float32, shape):
    try:
        blocks = notation.parse(layout)
        lower(infer_shapes(blocks, norm=norm, classes=4, activation=activation, shape=shape))
    except UsageError:
        assume(False)
    try:
        check(layout, norm, activation, float32=float32, shape=shape)
    except NormlabError as error:  # a number that 8 bits cannot have, said before anything is made
        assert "for int8" in str(error)


# The boards

spec = importlib.util.spec_from_file_location(
    "emulate", Path(__file__).parents[2] / "benchmarks" / "boards" / "emulate.py"
)
boards = importlib.util.module_from_spec(spec)
sys.modules["emulate"] = boards  # a dataclass looks its module up
spec.loader.exec_module(boards)


@pytest.mark.skipif(boards.missing() is not None, reason=f"no {boards.missing()}")
@pytest.mark.parametrize("board", boards.BOARDS)
@pytest.mark.parametrize(
    ("layout", "norm", "activation", "float32"),
    [
        (EVERY_BLOCK, "bn", "relu", False),
        (EVERY_BLOCK, "gn", "prelu", False),
        (EVERY_BLOCK, "dyt", "relu", False),
        ("C:5s2 P D:6a/evonorm-s0 D:6/evonorm-b0+ GAP FC", "proxy-gn", "prelu", False),
        ("C:5s2 P D:6a/ln-full D:6/frn+ C:6/lrn GAP FC", "proxy-ln", "hard-swish", False),
        ("C:5s2 P D:6a/evonorm-s0 D:6/evonorm-b0+ GAP FC", "proxy-gn", "prelu", True),
        ("C:5s2 P D:6a/ln-channel D:6/rms+ GAP FC", "in", "hard-swish", False),
        ("C:5s2 P D:6a/ln-channel D:6/rms+ GAP FC", "gn", "gelu", True),
    ],
)
def test_an_emulated_board_computes_the_same(board, layout, norm, activation, float32):
    program = firmware(random_network(layout, norm, activation), norm, activation, 4, float32)
    pixels = pictures(2, program.memory.steps[0].source, seed=1)
    files = {"net_x.h": program.source.header, "net_x.c": program.source.program}
    found = boards.emulate("net_x", files, pixels, board)
    expected = program.logits(pixels)
    assert (found.logits == expected).all()
    assert (found.scores == program.scores(expected)).all()
    assert (found.best == expected.argmax(1)).all()
    assert (found.arena, found.constants) == (program.memory.arena, program.source.constants)
    assert 0 < found.stack < 600
    assert found.instructions > 10_000


@pytest.mark.skipif(boards.missing() is not None, reason=f"no {boards.missing()}")
def test_an_emulated_board_measures_what_a_function_calls(tmp_path):
    """Another program's flash without ours, on a stack as large as it needs."""
    files = {
        "caller.h": "#include <stdint.h>\n#define CALLER_CLASSES 2\n"
        "struct caller_arena { int32_t logits[2]; };\n"
        "int caller(const uint8_t *pixels, int8_t *scores, struct caller_arena *arena);\n",
        "caller.c": '#include "caller.h"\nint last(const uint8_t *pixels, int size);\n'
        "static const int32_t own[] = {1000, 2000, 3000};\n"
        "int caller(const uint8_t *pixels, int8_t *scores, struct caller_arena *arena)\n"
        "{ scores[0] = 0; scores[1] = (int8_t)(last(pixels, 4) - own[pixels[0]]);\n"
        "  arena->logits[0] = arena->logits[1] = own[pixels[1]]; return 1; }\n",
    }
    called = tmp_path / "called.c"
    called.write_text(
        "static const short table[256] = {[3] = 1007};\n"
        "int last(const unsigned char *pixels, int size)\n"
        "{ volatile char large[200000];\n"
        "  for (int k = 0; k < 200000; k++) large[k] = (char)k;\n"
        "  return table[pixels[size - 1]] + large[pixels[0]]; }\n"
    )
    pixels = np.array([0, 1, 2, 3], np.uint8).reshape(1, 1, 2, 2)
    found = boards.emulate("caller", files, pixels, "M4", sources=[called], stack=2**18)
    assert (found.best, found.scores.tolist(), found.logits.tolist()) == (1, [[0, 7]], [[2000] * 2])
    assert found.constants == 512
    assert 512 < found.flash < 1200
    assert 200_000 < found.stack < 200_400
    assert found.instructions > 200_000


# The memory


@pytest.mark.parametrize(
    ("layout", "norm", "rows"),
    [
        # Every map that a 3 × 3 window reads is a ring of three rows; pooling reads two.
        ("C:4 C:4 P C:4 GAP FC", "bn", [3, 3, 2, 3, 1, 1, 1]),
        # Statistics need the whole map, which the normalization writes in three rows.
        ("C:4 C:4 GAP FC", "ln", [3, 32, 3, 32, 1, 1, 1]),
        # A skip needs the whole map, too: it is normalized in place.
        ("C:4 C:4+ GAP FC", "ln", [3, 32, 32, 32, 1, 1, 1]),
        ("P P FC", "bn", [2, 2, 8, 1]),
    ],
)
def test_as_many_rows_exist_as_are_needed(layout, norm, rows):
    steps = network_steps(layout, norm=norm, classes=4, activation="relu", shape=INPUT)
    assert [r.count for r in plan(steps).rows] == rows


def test_a_normalization_with_a_skip_works_in_place():
    steps = network_steps("C:4 C:4+ GAP FC", norm="ln", classes=4, activation="relu", shape=INPUT)
    memory = plan(steps)
    assert memory.rows[1].offset == memory.rows[2].offset
    # Two whole maps with their padding, and the rings of three and of one row.
    assert memory.size < 2 * 32 * 34 * 4 + 3 * 34 * 3 + 2 * 34 * 4


@pytest.mark.parametrize(("network", "limit"), [("nano", 11_000), ("micro", 33_000)])
def test_the_networks_of_the_zoo_fit_a_small_memory(network, limit):
    layout = normlab.summarize(network).layout
    steps = network_steps(layout, norm="bn", classes=10, activation="relu", shape=INPUT)
    assert plan(steps).arena <= limit
    assert plan(steps, item=4).arena <= 4 * limit


@pytest.mark.parametrize(
    ("norm", "activation"),
    [*((norm, "relu") for norm in NORMS), *product(("bn", "gn"), ("prelu", "silu"))],
)
def test_the_summary_says_what_the_program_needs(norm, activation):
    table = normlab.summarize(EVERY_BLOCK, norm=norm, activation=activation, classes=4)
    program = firmware(random_network(EVERY_BLOCK, norm, activation), norm, activation, 4)
    assert table.memory.constants == program.source.constants
    assert table.memory.arena == program.memory.arena
    assert f"{program.memory.arena:,} bytes of RAM" in table.note


def test_the_summary_says_nothing_of_what_has_no_program():
    table = normlab.summarize("C:4 GAP FC", norm="torch.nn:Identity")
    assert table.memory is None
    assert "microcontroller" not in table.note


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("nano", "nano"),
        ("micro-bn-0", "micro_bn_0"),
        ("Über/../x y", "ber_x_y"),
        ("int", "net_int"),
        ("memset", "net_memset"),
        ("uint8_t", "net_uint8_t"),
        ("3-bn", "net_3_bn"),
        ("\n*/", "net"),
    ],
)
def test_a_name_is_an_identifier(text, name):
    assert emit.identifier(text) == name


@given(st.text())
def test_a_text_is_a_string_literal(text):
    literal = emit.c_string(text)
    assert re.fullmatch(r'"([ !#-\[\]-~]|\\[0-7]{3})*"', literal)
    assert "?" not in literal
    content = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), literal[1:-1].encode())
    assert content == text.encode("utf-8", "surrogatepass")


# The command


PECULIAR = ('quote" \\', "new\nline */ /*", "</script>`` <b>", "ü\u202e??/")


def peculiar_run(folder, layout="C:6s2 P D:8 GAP FC", **settings):
    """A run on digits whose classes have peculiar names and whose weights are random."""
    from normlab.data import load

    digits = load("digits", channels="colour")
    classes = (*PECULIAR, *digits.classes[len(PECULIAR) :])
    norm = settings.get("norm", "bn")
    network = random_network(layout, norm, "relu", len(classes))
    run = made_up.run(
        folder,
        layout=network.layout,
        classes=classes,
        fingerprint=digits.fingerprint,
        train=len(digits.train),
        test=len(digits.test),
        network=layout,
        dataset="digits",
        channels="colour",
        **settings,
    )
    run.write_config()
    save_weights(folder / "model.safetensors", network)
    return normlab.Run.open(folder)


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(prove, "compiler", lambda: None)


@compiled
@pytest.mark.slow(5)
@pytest.mark.parametrize("options", [(), ("--float",)], ids=["int8", "float"])
def test_a_folder_is_written_built_and_tested(trained, tmp_path, cli, options):
    folder = tmp_path / "run-1"
    shutil.copytree(trained.path, folder)
    code, output, errors = cli("export", folder, "--to", "c", *options)
    assert (code, errors) == (0, "")
    written = folder / "model-c"
    names = {"run_1.c", "run_1.h", "test.c", "Makefile", "README.md"}
    assert {path.name for path in written.iterdir()} == names
    assert "equal to the reference to the last bit on 360 images" in output
    assert str(folder) not in "".join(path.read_text() for path in written.iterdir())
    done = subprocess.run(["make", "-C", written, "test"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "all pictures as expected" in done.stdout
    # It is written again over itself, and never over another program's files.
    assert cli("export", folder, "--to", "c", *options)[0] == 0
    (written / "Makefile").write_text("all:\n")
    code, _, errors = cli("export", folder, "--to", "c", *options)
    assert code == 2
    assert "normlab did not write it" in errors


@compiled
@pytest.mark.slow(1)
def test_peculiar_class_names_stay_names(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "LOSS", 1.0)  # random weights
    monkeypatch.setattr(write, "count_correct", lambda *_: 0)
    run = peculiar_run(tmp_path / "run")
    program = normlab.export_run(run, "c", tmp_path / "out")
    header = (program.path / f"{program.name}.h").read_text()
    assert header.count("*/") == header.count("/*")
    assert all(line.isprintable() for line in header.split("\n"))
    page = (program.path / "README.md").read_text()
    assert len(page.split("The classes:")[1].strip().splitlines()) == 10
    names = tmp_path / "names.c"
    names.write_text(
        f'#include "out/{program.name}.h"\n#include <stdio.h>\n'
        f"int main(void) {{ const char *const all[] = {program.name.upper()}_CLASS_NAMES; "
        "for (int k = 0; k < 10; k++) fwrite(all[k], 1, __builtin_strlen(all[k]) + 1, stdout); "
        "return 0; }\n"
    )
    program_file = tmp_path / "names"
    subprocess.run([prove.compiler(), names, "-o", program_file], check=True)
    printed = subprocess.run([program_file], capture_output=True, check=True).stdout
    assert printed.decode().split("\0")[:4] == list(PECULIAR)


@pytest.mark.slow(1)
def test_without_a_compiler_only_unproved_is_written(trained, tmp_path, cli, no_compiler):
    out = tmp_path / "out"
    code, _, errors = cli("export", trained.path, "--to", "c", "--out", out)
    assert code == 1
    assert len(errors.strip().splitlines()) == 1
    assert "cannot be proved" in errors
    assert not out.exists()
    code, output, _ = cli("export", trained.path, "--to", "c", "--out", out, "--unproved")
    assert code == 0
    assert "not proved" in output
    assert (out / "Makefile").exists()


@pytest.mark.parametrize(
    ("layout", "settings", "says"),
    [
        (
            "C:4 P D:4/torch.nn:Identity GAP FC",
            {},
            "the normalization torch.nn:Identity has no C: use one of bn, ",
        ),
        ("C:4 P GAP c:10 c+", {}, "c:10+: the classifier of a C program adds no input"),
        ("C:4 C+*500 P GAP FC", {}, "a C program has at most 200 blocks, not 504"),
        (
            "C:4 P GAP FC",
            {"norm": "torch.nn:Identity"},
            "the normalization torch.nn:Identity has no C",
        ),
    ],
)
def test_what_has_no_c_is_refused_in_one_line(layout, settings, says, tmp_path, cli):
    run = peculiar_run(tmp_path / "run", layout, **settings)
    code, _, errors = cli("export", run.path, "--to", "c")
    assert code == 2
    assert says in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (run.path / "model-c").exists()


def test_numbers_that_are_not_finite_are_refused(tmp_path, cli):
    run = peculiar_run(tmp_path / "run")
    network = run.network()
    with torch.no_grad():
        network.weights[1][0, 0] = torch.nan
    save_weights(run.path / "model.safetensors", network)
    code, _, errors = cli("export", run.path, "--to", "c")
    assert code == 1
    assert len(errors.strip().splitlines()) == 1
    assert "not finite" in errors
    assert not (run.path / "model-c").exists()


@compiled
@pytest.mark.slow(2)
def test_a_program_that_loses_accuracy_is_not_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "count_correct", lambda *_: 360)
    with pytest.raises(NormlabError, match=r"^the program loses \d+ images of 360 .* nothing was"):
        normlab.export_run(trained, "c", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@compiled
@pytest.mark.slow(5)
def test_a_program_that_differs_from_its_reference_is_not_written(trained, tmp_path, monkeypatch):
    parts = tmp_path / "c"
    shutil.copytree(emit.PARTS, parts)
    part = parts / "int8" / "maximum.c"
    part.write_text(part.read_text().replace("a > d ? a : d", "a"))
    monkeypatch.setattr(emit, "PARTS", parts)
    with pytest.raises(NormlabError, match=r"differs from its reference on \d+ of 360 images"):
        normlab.export_run(trained, "c", tmp_path / "out")
    start = parts / "int8" / "start.c"
    intact = start.read_text()
    start.write_text(intact.replace("* step->slot", "* step->slot * 99999"))
    with pytest.raises(NormlabError, match=r"^the C program fails: .*AddressSanitizer"):
        normlab.export_run(trained, "c", tmp_path / "out")
    part.write_text(
        "int unused;\n" + part.read_text().replace("int channels", "int extra, channels")
    )
    with pytest.raises(NormlabError, match=r"^the C program does not compile: .*extra"):
        normlab.export_run(trained, "c", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_of_other_formats_are_refused(trained, cli):
    code, _, errors = cli("export", trained.path, "--to", "c", "--int8", "--float")
    assert code == 2
    assert "exclude each other" in errors
    for flag in ("--float", "--unproved"):
        code, _, errors = cli("export", trained.path, "--to", "pt2", flag)
        assert code == 2
        assert f"--to pt2 has no {flag}" in errors
