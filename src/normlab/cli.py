"""The command line: one function per command.

A function under `@command` is a command: its parameters are the flags, its docstring is the help.
Many flags come from the dataclasses of `config`. Commands import what they need when they run, so
that `--help` needs no torch.
"""

import functools
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from normlab import usage
from normlab.config import (
    ROOT_HELP,
    ActivationOfNetwork,
    Budget,
    DataConfig,
    DataRoot,
    Device,
    Execution,
    ImageSize,
    Limits,
    LogFormat,
    NetworkModel,
    Norm,
    RunConfig,
    StudyConfig,
    default_is,
)
from normlab.errors import NormlabError, UsageError
from normlab.export import formats
from normlab.notes import note
from normlab.process import exit_after, show
from normlab.storage.files import exists, refuse_foreign
from normlab.wording import counted, percent

if TYPE_CHECKING:
    from normlab.inference.predict import Predictor

_UNSET = RunConfig(network="")
_NO_STUDY = StudyConfig(network="")
_Config = Annotated[RunConfig, OmitArgPrefixes]
_Study = Annotated[StudyConfig, OmitArgPrefixes]
_Data = Annotated[DataConfig, OmitArgPrefixes]
_Limits = Annotated[Limits, OmitArgPrefixes]
_Execution = Annotated[Execution, OmitArgPrefixes]
_Runs = Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]", help_behavior_hint="")]
_Run = Annotated[Path, Positional, arg(metavar="RUN", help_behavior_hint="")]
_RunAndPicture = Annotated[
    tuple[str, ...], Positional, arg(metavar="RUN PICTURE", help_behavior_hint="")
]
_RunAndPictures = Annotated[
    tuple[str, ...], Positional, arg(metavar="RUN PICTURE [PICTURE ...]", help_behavior_hint="")
]
_ExportFormat = Annotated[
    str, arg(constructor=tyro.extras.literal_type_from_choices(formats.names()))
]

_COMMANDS: dict[str, Callable[..., None]] = {}


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a function a command of its name."""
    function.__doc__ = usage.unwrapped_arguments(function)
    _COMMANDS[function.__name__] = function
    return function


@command
def train(
    config: _Config = _UNSET,
    execution: _Execution = Execution(),  # noqa: B008 — it is frozen
    *,
    out: Annotated[Path | None, default_is("runs/DATASET/NETWORK-NORM-SEED")] = None,
    resume: Annotated[Path | None, arg(metavar="RUN", help_behavior_hint="")] = None,
    log: Annotated[
        tuple[LogFormat, ...],
        tyro.conf.UseAppendAction,
        arg(metavar="{csv,tensorboard,mlflow}", help_behavior_hint=""),
    ] = (),
    dry_run: bool = False,
) -> None:
    """Train a network and write its run's folder, with a report.

        $ normlab train seed-bn --seed 1
        $ normlab train assignment --norm gn --budget 5000 --epochs 10
        $ normlab train assignment --norm gn --dry-run
        $ normlab train "C:16 D:24 P D:32+ GAP FC" --dataset digits --recipe demo
        $ normlab train --resume runs/cifar10/seed-bn-1
        $ normlab train my_nets:resnet20 --norm gn
        $ torchrun --nproc-per-node 2 -m normlab train micro --norm sync-bn

    Args:
        config: What to train, on what data, how.
        execution: Where to train.
        out: The run's folder.
        resume: Resume the stopped run in this folder, with its own settings.
        log: Write the epochs for other programs, too: `csv` into RUN/metrics.csv, `tensorboard`
            into RUN/tensorboard, `mlflow` where MLFLOW_TRACKING_URI says. Repeat the flag for more.
        dry_run: Print what would be run and the estimated time, and stop there.
    """
    from normlab.findings.run import little_learned, result
    from normlab.report.run_page import write_report
    from normlab.runs import machine
    from normlab.training.distributed import distributed
    from normlab.training.logs import log_callbacks
    from normlab.training.loop import resume as resume_run
    from normlab.training.loop import train as train_run

    logs = log_callbacks(log)
    with distributed(execution.device) as processes:
        if resume is not None:
            if config != _UNSET or out is not None or dry_run:
                raise UsageError(
                    "--resume takes the settings from the run: leave out all flags but "
                    "--data-root, --device, --threads and --log"
                )
            run = resume_run(resume, execution, callbacks=logs)
        elif not config.network:
            raise UsageError(
                "expected a network: a name that `normlab zoo` lists, or a layout such as "
                '"C1 C2 c3 P1 C3 C4 C5 c6 P2 C7 C8 C9 GAP C10"'
            )
        else:
            folder = out or _default_out(config)
            run = train_run(config, folder, execution, callbacks=logs, dry_run=dry_run)
    if dry_run or not processes.is_main:
        return
    show(result(run))
    if remark := little_learned(run):
        show(f"note: {remark}")
    machine.prepare(execution)  # the page is computed with as many threads
    try:
        page = write_report([run], data_root=execution.data_root)
    except NormlabError as error:
        again = shlex.join(["normlab", "report", str(run.path)])
        raise NormlabError(
            f"{error}. The run is complete; for its page: {run.trusting}{again}"
        ) from error
    show(f"report: {page}")


@command
def compare(
    config: _Study = _NO_STUDY,
    *,
    out: Annotated[Path | None, default_is("studies/DATASET/NETWORK")] = None,
    workers: Annotated[int | None, default_is("one per core, or one on a GPU")] = None,
    ray: Annotated[str | None, arg(metavar="[ADDRESS]", help_behavior_hint="")] = None,
    dry_run: bool = False,
    data_root: DataRoot = None,
    device: Device = "cpu",
) -> None:
    """Train every normalization with every seed on the same network, and say which is best.

        $ normlab compare micro --norms bn gn ln --seeds 5
        $ normlab compare nano --norms bn gn --batch-sizes 2 8 32 128 --epochs 5 --dry-run
        $ normlab compare "C:8 P C:16 P C:16 GAP FC" --dataset digits --recipe demo --seeds 3

    If it was stopped, the same command resumes it. Each run uses one thread.

    Args:
        config: What to compare.
        out: The study's folder.
        workers: Number of runs at a time.
        ray: Execute the runs on Ray: on a cluster of this machine's cores, or on the cluster at
            ADDRESS, whose nodes must all see the study's folder.
        dry_run: Print what would be run and the estimated time, and stop there.
    """
    from normlab.findings.groups import group_by_setting
    from normlab.findings.study import headline
    from normlab.report.study_page import write_study_report
    from normlab.study.compare import compare as run_study

    if not config.network:
        hint = "" if ray in (None, "local") else f" before --ray, which took {ray} as an address"
        if taken := usage.networks(config.norms):
            hint = f" before --norms, which took {taken[0]} as a normalization"
        raise UsageError(f"expected a network: a name that `normlab zoo` lists, or a layout{hint}")
    study = run_study(
        config,
        out or _default_study(config),
        Execution(data_root=data_root, device=device),
        workers=workers,
        ray=ray,
        dry_run=dry_run,
    )
    if dry_run:
        return
    if any(result.state == "done" for result in study.results):
        for sentence in headline(study, group_by_setting(study)):
            show(sentence)
        show(f"report: {write_study_report(study, data_root=data_root)}")
    failed = [result for result in study.results if result.state == "failed"]
    if failed:
        raise NormlabError(
            f"{len(failed)} of {len(study.results)} runs failed: {study.path / 'study.csv'} says "
            "why. To try them again, repeat the command"
        )


@command
def evaluate(
    run: _Run,
    execution: _Execution = Execution(),  # noqa: B008 — it is frozen
    *,
    split: Literal["test", "holdout", "train"] = "test",
    tta: Annotated[Literal["flip"] | None, default_is("none")] = None,
) -> None:
    """Print a run's accuracy, loss and accuracy per class.

        $ normlab evaluate runs/cifar10/seed-bn-0
        $ normlab evaluate runs/cifar10/seed-bn-0 --tta flip

    Args:
        run: A run's folder.
        execution: Where to evaluate.
        split: The images to evaluate on; `holdout` if the run held images out.
        tta: Test-time augmentation: `flip` averages over each image and its mirror image.
    """
    from rich.console import Console

    from normlab.inference.evaluate import evaluate as evaluate_network
    from normlab.runs import machine
    from normlab.runs.run import Run

    opened = Run.open(run)
    if split == "holdout" and not opened.data.holdout:
        raise UsageError(f"{run} held no images out: leave out --split holdout")
    device = machine.prepare(execution)
    network = opened.network().to(device)
    dataset = opened.dataset(execution.data_root, any_copy=True)
    evaluation = evaluate_network(network, dataset, split, tta=tta)
    console = Console()
    for fact in dataset.notes:
        show(f"note: {fact}")
    console.print(evaluation, crop=False)
    if opened.epochs and split == opened.split and tta is None:
        stated = opened.last
        images = len(evaluation.labels)
        differing = evaluation.correct - round(stated.accuracy * images)
        verdict = "the same"
        if differing:
            verdict = f"{counted(abs(differing), 'image')} {'fewer' if differing > 0 else 'more'}"
        print(f"the run's folder states {percent(stated.accuracy, images)}: {verdict}")


@command
def predict(
    inputs: _RunAndPictures,
    *,
    model: NetworkModel = None,
    json: bool = False,
    csv: bool = False,
    device: Device = "cpu",
) -> None:
    """Classify pictures: the most probable class of each, and the next two.

        $ normlab predict --model nano cat.jpg
        $ normlab predict runs/cifar10/micro-bn-0 cat.jpg holidays/
        $ normlab predict runs/cifar10/micro-bn-0 "*.png" --csv > answers.csv
        $ curl -s https://example.org/a.jpg | normlab predict runs/cifar10/micro-bn-0 -

    Pictures are turned upright, cropped to the square at their centre and resized, as in training.
    A picture that cannot be read is named on the standard error; the others are classified. What is
    left out of a folder or pattern is counted there: pictures of formats that are not read, and
    files that are not pictures.
    The exit code is 1 if a picture was not classified or a folder could not be opened. Other files
    do not change it.

    Args:
        inputs: A run's folder (leave it out with --model), then pictures of any size: files in any
            format that Pillow reads, folders of them, patterns, or - for the standard input.
        json: One line of JSON per picture, with the probabilities of all classes.
        csv: A table with the probabilities of all classes.
    """
    from normlab.inference.finding import find_pictures
    from normlab.inference.predict import predict_files
    from normlab.report.prediction_lines import write_predictions
    from normlab.runs import machine

    if json and csv:
        raise UsageError("--json and --csv exclude each other: leave one out")
    predictor, pictures = _load_predictor(inputs, model)
    predictor.to(machine.prepare(Execution(device=device)))
    names, left_out = find_pictures(pictures)
    if str(left_out):
        note(str(left_out))
    predictions = predict_files(predictor, names)
    unreadable = write_predictions(
        predictions, names, predictor.classes, "json" if json else "csv" if csv else "text"
    )
    unreadable += len(left_out.pictures)
    if unreadable:
        of = len(names) + len(left_out.pictures)
        raise NormlabError(f"{unreadable} of {counted(of, 'picture')} could not be read")
    if left_out.locked:
        raise NormlabError(f"{counted(len(left_out.locked), 'folder')} could not be opened")


@command
def explain(
    inputs: _RunAndPicture,
    *,
    classes: Annotated[tuple[str, ...], default_is("the predicted class")] = (),
    model: NetworkModel = None,
    out: Annotated[Path | None, default_is("PICTURE-explained.png, in this folder")] = None,
) -> None:
    """Draw where a network looks in a picture: Grad-CAM and occlusion.

        $ normlab explain runs/cifar10/micro-bn-0 cat.jpg
        $ normlab explain runs/cifar10/micro-bn-0 cat.jpg --classes cat dog --out why.png
        $ normlab explain --model nano cat.jpg

    Grad-CAM is bright where the last feature maps before pooling speak for the class. Occlusion is
    red where covering a square of a quarter of the side lowers the class's probability, blue where
    it raises it. It needs captum: pip install "normlab[explain]".

    Args:
        inputs: A run's folder (leave it out with --model), then a picture: a file, or - for the
            standard input.
        classes: The classes to explain.
        out: The figure, a PNG.
    """
    from normlab.inference.explain import explain as explain_picture
    from normlab.report import plots
    from normlab.report.prediction_lines import as_text

    if out is not None and out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the figure is a PNG, end its name with .png")
    if classes and len(inputs) < 1 + (model is None):
        raise UsageError("expected the picture before --classes, which takes all that follows it")
    predictor, pictures = _load_predictor(inputs, model)
    if len(pictures) != 1:
        raise UsageError(f"expected one picture, got {len(pictures)}")
    (picture,) = pictures
    if os.path.isdir(picture):  # noqa: PTH112 — a name may be too long to be a path
        raise UsageError(f"expected one picture, but {picture} is a folder: give a picture in it")
    stem = "picture" if picture == "-" else Path(picture).stem
    out = out or Path(f"{stem}-explained.png")
    refuse_foreign(out, plots.PNG_MARK)
    explained = explain_picture(predictor, picture, classes)
    with _suggesting_out():
        plots.save(plots.explanation(explained), out)
    print(as_text(explained.prediction))
    show(f"explanation: {out}")


@command
def export(
    runs: _Runs,
    *,
    model: NetworkModel = None,
    to: _ExportFormat,
    int8: bool = False,
    float32: Annotated[bool, arg(name="float")] = False,
    unproved: bool = False,
    out: Annotated[
        Path | None,
        default_is("model.FORMAT, model-int8.FORMAT with --int8, or model-c, in RUN"),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Write a run's network for use without normlab: ONNX, torch.export, C, or a web page.

        $ normlab export runs/cifar10/micro-bn-0 --to onnx
        $ normlab export runs/cifar10/micro-bn-0 --to onnx --int8
        $ normlab export runs/cifar10/micro-bn-0 --to pt2 --out micro.pt2
        $ normlab export --model nano --to onnx
        $ normlab export runs/cifar10/nano-bn-0 --to c
        $ normlab export runs/digits/*-0 --to html

    The exported network maps pixels to probabilities. Before it is written, its predictions for
    1,000 test images (CIFAR-10's with --model) must equal those of the trained network. `onnx`
    needs pip install "normlab[export]".
    `c` writes a folder with a C program for microcontrollers, and checks the program with this
    machine's C compiler.
    `html` writes a page that classifies pictures in a browser, without a server. The page can show
    several runs side by side.

    Args:
        runs: A run's folder (leave it out with --model); for `html` one or several.
        to: The format: `onnx` for ONNX Runtime and others, `pt2` for `torch.export.load`, `c`,
            `html`.
        int8: Weights and activations in 8 bits: smaller, a little less accurate. For `onnx`; `c`
            always has 8 bits, unless --float is given.
        float32: Single-precision numbers instead of 8 bits, for `c`.
        unproved: Write `c` without compiling and checking it, for machines without a C compiler.
        out: The file or folder. With --model it is named after the model, in this folder; without,
            a page about several runs is in the folder that holds them.
    """
    from normlab.export.exporter import export_run
    from normlab.runs.run import Run

    opened = [Run.open(folder) for folder in _folders(runs, model)]
    if model is not None and out is None:
        out = Path(formats.file_name(model, to, int8=int8))
    if to == "c" and len(opened) == 1 and not unproved and not (int8 and float32):  # else refused
        show("compiling the program, and comparing its results: a minute or two")
    with _suggesting_out():
        exported = export_run(
            opened, to, out, int8=int8, float32=float32, unproved=unproved, data_root=data_root
        )
    print(exported)


@command
def report(
    runs: _Runs,
    *,
    out: Annotated[
        Path | None, default_is("report.html in RUN, or in the folder that holds the runs")
    ] = None,
    data_root: DataRoot = None,
    no_images: bool = False,
    published: Annotated[Path | None, arg(metavar="CSV", help_behavior_hint="")] = None,
    pdf: bool = False,
) -> None:
    """Write one self-contained HTML page about a run, about several together, or about a study.

        $ normlab report runs/cifar10/seed-bn-0
        $ normlab report runs/digits/*-0 --out comparison.html
        $ normlab report studies/cifar10/micro --no-images
        $ normlab report runs/cifar10/seed-bn-0 --pdf

    Args:
        runs: Runs' folders, or a study's.
        out: The page.
        no_images: Leave out the pictures of the data.
        published: A table of published curves, drawn beside the runs' curves.
        pdf: Also print the page to report.pdf, next to it. It needs Chromium or Chrome.
    """
    from normlab.report.pdf import find_chromium, pdf_of, write_pdf
    from normlab.report.run_page import write_report
    from normlab.runs.run import Run
    from normlab.runs.several import common_folder

    if not runs:
        raise UsageError("expected one run's folder or more, or a study's")
    is_study = len(runs) == 1 and exists(runs[0] / "study.json")
    if is_study and (out is not None or published is not None):
        raise UsageError("a study's page takes neither --out nor --published: leave them out")
    opened = [] if is_study else [Run.open(run) for run in runs]
    if pdf:  # what is missing or in the way is said before the page is computed
        find_chromium()
        pdf_of(out or (runs[0] if is_study else common_folder(opened)) / "report.html")
    if is_study:
        from normlab.report.study_page import write_study_report
        from normlab.study.record import Study

        study = Study.open(runs[0])
        page = write_study_report(study, data_root=data_root, images=not no_images)
    else:
        page = write_report(
            opened, out, data_root=data_root, images=not no_images, published=published
        )
    show(f"report: {page}")
    printed = page.with_suffix(".pdf")
    if pdf:
        show(f"PDF: {write_pdf(page)}")
    elif printed != page and exists(printed):
        show(f"note: {printed} is older than the page: --pdf prints it anew")


@command
def card(
    runs: _Runs,
    *,
    out: Annotated[Path | None, default_is("README.md in the first RUN")] = None,
) -> None:
    """Write a run's model card, so that its folder can be put on the Hugging Face Hub as it is.

        $ normlab card runs/cifar10/micro-bn-0
        $ normlab card runs/cifar10/micro-bn-0 runs/cifar10/micro-bn-1 runs/cifar10/micro-bn-2

    Args:
        runs: A run's folder, and repeats of it with other seeds: the card then gives their mean.
        out: The card.
    """
    from normlab.report.card import write_card
    from normlab.runs.run import Run

    if not runs:
        raise UsageError("expected a run's folder")
    show(f"card: {write_card([Run.open(run) for run in runs], out)}")


@command
def push(
    run: _Run,
    to: Annotated[str, Positional, arg(metavar="OWNER/NAME", help_behavior_hint="")],
    *,
    yes: bool = False,
) -> None:
    """Upload a run's network and its card to the Hugging Face Hub.

        $ normlab card runs/cifar10/micro-bn-0
        $ normlab push runs/cifar10/micro-bn-0 me/micro-bn

    It says which files go where, and asks first. The run's page is not uploaded: it may show
    pictures of the data. It needs huggingface_hub (pip install "normlab[hub]") and a login:
    hf auth login.

    Args:
        run: A run's folder, with its card.
        to: The repository. If it does not exist, it is created as a public repository.
        yes: Upload without asking.
    """
    from rich.console import Console

    from normlab.export.hub import prepare
    from normlab.export.hub import push as upload
    from normlab.runs.run import Run

    prepared = prepare(Run.open(run), to)
    Console().print(prepared.table, crop=False)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask in: give --yes to upload without asking")
        try:
            answer = input("upload? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise NormlabError("nothing was uploaded")
    show(f"uploaded: {upload(prepared)}")


@command
def serve(
    runs: _Runs,
    *,
    model: NetworkModel = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    name: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, arg(metavar="HOST", help_behavior_hint="")
    ] = (),
    data_root: Annotated[
        Path | None, default_is("$NORMLAB_DATA, else the cached download", help=ROOT_HELP)
    ] = None,
) -> None:
    """Serve a page that classifies pictures and photos with several networks, side by side.

        $ normlab serve runs/cifar10/micro-bn-0
        $ normlab serve runs/cifar10/micro-bn-0 runs/cifar10/micro-gn-0 runs/cifar10/micro-ln-0
        $ curl --data-binary @cat.jpg http://127.0.0.1:7860/predict

    The pictures to try come from the run's data, if it is on this machine: nothing is downloaded.
    It needs gradio: pip install "normlab[serve]". Ctrl-C stops the server.

    Args:
        runs: Runs' folders.
        host: The address to listen on. By default only this machine can reach the page; 0.0.0.0
            opens it to the whole network.
        port: The port; 0 takes a free one.
        name: Another name by which browsers reach the server: an alias, or a proxy's name. Repeat
            the flag for several.
    """
    from normlab.runs.run import Run
    from normlab.serve import serve as serve_runs

    folders = _folders(runs, model)
    if not folders:
        raise UsageError("expected one run's folder or more, or --model NAME")
    opened = [Run.open(folder) for folder in folders]
    serve_runs(opened, host=host, port=port, data_root=data_root, names=name)


@command
def data(
    config: _Data = DataConfig(),  # noqa: B008 — it is frozen
    *,
    data_root: DataRoot = None,
    recipe: Annotated[str | None, default_is("own for folder:, npz: and hf:, else seed")] = None,
    out: Annotated[Path | None, default_is("DATASET.html, in this folder")] = None,
) -> None:
    """Explore a data set: figures in the terminal, pictures on a page.

        $ normlab data
        $ normlab data --dataset digits --recipe demo
        $ normlab data --dataset folder:photos --out page.html

    Args:
        config: The data set and its splits.
        recipe: The recipe whose augmentation is shown, step by step.
        out: The page.
    """
    from rich.console import Console

    from normlab import recipes
    from normlab.data import load_for, with_own_holdout
    from normlab.data.describe import describe
    from normlab.report.data_page import write_data_page

    named = recipes.name_of(RunConfig(network="", dataset=config.dataset, recipe=recipe))
    found = recipes.find(named)
    steps = [*(["mirror"] if found.mirror else []), *found.augment]
    dataset = load_for(config, data_root)
    if holdout := with_own_holdout(config, dataset).holdout:
        dataset = dataset.hold_out(holdout, config.split_seed)
    Console().print(describe(dataset), crop=False)
    out = out or Path(f"{_data_part(config)}.html")
    with _suggesting_out():
        page = write_data_page(dataset, out, recipe_steps=steps)
    show(f"page: {page}")


@command
def summary(
    network: Annotated[str, Positional, arg(metavar="NAME_OR_LAYOUT", help_behavior_hint="")],
    *,
    norm: Norm = _UNSET.norm,
    activation: ActivationOfNetwork = None,
    budget: Budget = None,
    limits: _Limits = Limits(),  # noqa: B008 — it is frozen
    classes: int = 10,
    size: ImageSize = DataConfig.size,
    channels: Literal["grey", "colour"] = "colour",
) -> None:
    """Print a network's layer table: shapes, parameters, multiply-accumulates, receptive field.

        $ normlab summary seed-ln
        $ normlab summary assignment --norm gn --budget 5000
        $ normlab summary nano --activation prelu
        $ normlab summary line-5k --size 28 --channels grey
        $ normlab summary assignment --ram 32k --flash 64k --macs 2M
        $ normlab summary micro --board microbit-v2

    Args:
        network: A name that `normlab zoo` lists, a layout, or your `module:function`.
        limits: What the network must not exceed.
        classes: Number of classes.
        channels: `grey`: one channel; `colour`: three.
    """
    from rich.console import Console

    from normlab.network.summary import summarize
    from normlab.storage.records import check_settings

    config = RunConfig(
        network=network, norm=norm, budget=budget, size=size, channels=channels, **vars(limits)
    )
    check_settings(config)
    table = summarize(
        network,
        norm=norm,
        activation=activation,
        classes=classes,
        budget=budget,
        shape=config.shape,
        limits=limits,
    )
    print(table.layout)  # on one line, however long, so that it can be copied
    Console().print(table, crop=False)


@command
def zoo() -> None:
    """List the named networks.

    $ normlab zoo
    """
    from normlab.network.zoo import ZOO

    for name, entry in ZOO.items():
        activation = "" if entry.activation == "relu" else f" ({entry.activation})"
        print(f"{name}: {entry.about}\n    {entry.layout}{activation}")


@command
def norms() -> None:
    """List the normalizations: formula, axes, parameters, paper.

    $ normlab norms
    """
    from normlab.layers.norms import REGISTRY

    for name, entry in REGISTRY.items():
        spelling = f"{name}, {name}=n (n: {entry.argument})" if entry.argument else name
        print(f"{spelling}\n    {entry.formula}")
        if entry.skip_init:
            print("    a residual branch is multiplied by a learned scale, which starts at 0")
        print(f"    over {entry.axes}; {entry.parameters} parameters\n    {entry.paper}")


_STYLE = (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)

_ABOUT = """Train tiny image classifiers under a parameter budget, and compare their normalizations.

Start with: normlab train assignment --norm gn --dataset digits --recipe demo"""


@contextmanager
def _suggesting_out() -> Iterator[None]:
    """Where a file cannot be written, says that --out names another."""
    try:
        yield
    except NormlabError as error:
        # What cannot be read, or is used wrongly, has a class of its own.
        if type(error) is not NormlabError or not isinstance(error.__cause__, OSError):
            raise
        raise NormlabError(f"{error}. Name another place with --out") from error


def _folders(runs: Sequence[Path], model: str | None) -> list[Path]:
    """The runs' folders, and the folder of the named model."""
    from normlab.inference.predict import find_model

    return [*runs, *([] if model is None else [find_model(model)])]


def _load_predictor(inputs: Sequence[str], model: str | None) -> "tuple[Predictor, Sequence[str]]":
    """The network, from the first input or the named model, and the pictures."""
    from normlab.inference.predict import load

    if model is None and not inputs:
        raise UsageError("expected a run's folder and a picture, or --model NAME and a picture")
    if model is None and _is_picture(inputs[0], alone=len(inputs) == 1):
        raise UsageError(
            f"expected a network: give --model micro, or a run's folder before {inputs[0]}"
        )
    pictures = inputs[1:] if model is None else inputs
    if not pictures:
        raise UsageError(
            "expected a picture" + (" after the run's folder" if model is None else "")
        )
    return load(inputs[0]) if model is None else load(model=model), pictures


def _is_picture(text: str, *, alone: bool) -> bool:
    """Whether the first input is a picture, or a folder of them, and no run: there, or not."""
    from normlab.data.formats import HEIC_SUFFIXES, UNREAD_SUFFIXES, suffixes

    path, pictures = Path(text), {*suffixes(), *HEIC_SUFFIXES, *UNREAD_SUFFIXES}
    if exists(path / "config.json") or path.name == "model.safetensors":
        return False
    if text == "-" or any(character in text for character in "*?["):
        return True
    return path.is_file() or path.suffix.lower() in pictures or (alone and path.is_dir())


def _default_out(config: RunConfig) -> Path:
    """runs/DATASET/NETWORK-NORM-SEED, with budget, limits, activation, size and channels if given.

    The published networks have the normalization in their name.
    """
    parts = []
    if config.budget is not None:
        parts.append(str(config.budget))
    for name in ("ram", "flash", "macs"):
        if (limit := getattr(config, name)) is not None:
            parts.append(f"{name}{limit}")
    if config.board is not None:
        parts.append(config.board)
    if not (config.network.startswith("seed-") and config.norm == _UNSET.norm):
        parts.append(config.norm.replace(":", "."))
    if config.activation is not None:
        parts.append(config.activation)
    parts += _shape_parts(config)
    return _named_folder(
        Path("runs") / _data_part(config), config.network, [*parts, str(config.seed)]
    )


def _default_study(config: StudyConfig) -> Path:
    """studies/DATASET/NETWORK, with size and channels if given."""
    folder = Path("studies") / _data_part(config)
    return _named_folder(folder, config.network, _shape_parts(config))


def _named_folder(folder: Path, network: str, parts: Sequence[str]) -> Path:
    """A folder named after a network and these parts.

    Earlier versions named a layout by its hash alone: such a folder is found again.
    """
    from normlab.network.zoo import folder_name, short_name

    earlier = folder / "-".join([short_name(network), *parts])
    return earlier if exists(earlier) else folder / "-".join([folder_name(network), *parts])


def _data_part(config: DataConfig) -> str:
    """The data set in the name of a file or folder: `cifar100-coarse`, `folder-photos`."""
    last = ""
    if config.place:  # of `folder:..`, too; a link keeps its name
        last = Path(os.path.abspath(config.place)).name.removesuffix(".npz")  # noqa: PTH100
    return re.sub(r"[^\w.]+", "-", f"{config.kind}-{last[:50]}").strip("-.")


def _shape_parts(config: DataConfig) -> list[str]:
    """Size and channels in a folder's name, if they are given: `28px`, `grey`."""
    parts = [] if config.size == DataConfig.size else [f"{config.size}px"]
    return parts + ([] if config.channels == DataConfig.channels else [config.channels])


def _dispatch(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        from normlab.version import __version__

        print(f"normlab {__version__}")
        return
    if arguments and arguments[0] in _COMMANDS:
        _call(arguments[0], _with_address(arguments)[1:])
        return
    if arguments and not arguments[0].startswith("-"):
        raise usage.unknown_command(arguments, [*_COMMANDS])
    if not _asks_for_help(arguments):
        before = f" before {arguments[0]}" if arguments else ""
        raise UsageError(f"expected a command{before}: `normlab --help` lists the commands")
    # No command: help, or a shell's completion script, which lists all commands.
    overview = [
        Annotated[
            Any,
            tyro.conf.subcommand(
                name, constructor=command, description=_help(command)[1], prefix_name=False
            ),
        ]
        for name, command in _COMMANDS.items()
    ]
    tyro.cli(
        Union[tuple(overview)],  # type: ignore[call-overload] # noqa: UP007 — made at run time
        prog="normlab",
        description=_ABOUT,
        args=arguments,
        config=_STYLE,
    )


def _call(name: str, arguments: list[str]) -> None:
    """Calls a command. UsageError, and it is not called, if it does not take its arguments."""
    command = _COMMANDS[name]
    usage.refuse_unknown_flags(name, command, arguments)
    asks_for_help = _asks_for_help(arguments)
    if not asks_for_help:
        usage.refuse_misplaced_values(name, command, arguments)
        usage.refuse_commas(command, arguments)

    @functools.wraps(command)
    def with_arguments(*given: Any, **named: Any) -> Callable[[], None]:
        return functools.partial(command, *given, **named)

    # A shell that completes a word needs the choices, which these readers keep from tyro.
    completes = any(argument.startswith("--tyro-") for argument in arguments)
    try:
        call, rest = tyro.cli(
            with_arguments,
            prog=f"normlab {name}",
            description=_help(command)[0],
            args=arguments,
            config=_STYLE,
            return_unknown_args=True,
            console_outputs=asks_for_help,
            registry=None if completes else usage.readers(command, arguments),
        )
    except SystemExit:
        if asks_for_help:
            raise
        raise usage.missing(name, command, arguments) from None
    if rest:
        raise usage.unexpected(name, command, arguments, rest)
    call()


def _asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a text of tyro's: help, or a shell's completion script."""
    return any(word in ("-h", "--help") or word.startswith("--tyro-") for word in arguments)


def _with_address(arguments: list[str]) -> list[str]:
    """Completes a --ray without an address."""
    given = []
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        given.append(argument)
        if argument == "--ray" and following.startswith("--"):
            given.append("local")
    return given


def _help(command: Callable[..., None]) -> tuple[str, str]:
    """A command's docstring up to its arguments, and its first line."""
    text = (inspect.getdoc(command) or "").partition("\n\nArgs:")[0]
    return text, text.partition("\n")[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    exit_after(lambda: _dispatch(given))
