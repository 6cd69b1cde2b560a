"""The page, in Gradio: a picture, what each run answers, pictures to try, the models' cards."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from normlab.errors import DataError, RunError
from normlab.inference.predict import Picture, Prediction
from normlab.serve.examples import Example
from normlab.serve.runs import Answer, ServedRun

SHOWN_CLASSES = 10
ABOUT = """# What is on the picture?

Drop a picture, take one, or choose one to try. The network sees the square at its centre, shrunk to
32 × 32 pixels. A heat map (Grad-CAM) is bright where the picture speaks for the answer.
"""
CSS = """
.gradio-container { overflow-wrap: anywhere; }
#answers > .row {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(260px, 100%), 1fr));
}
.picture img { width: 100%; height: 100%; object-fit: contain; }
.to-try .grid-wrap { min-height: 0; max-height: none; padding-top: 32px; }
.to-try .grid-container {
  grid-template: none / repeat(auto-fill, minmax(60px, 1fr)); grid-auto-rows: auto;
}
.to-try .caption-label { padding: 1px 4px; max-width: 100%; font-size: 10px; right: 0; bottom: 0; }
.to-try img { image-rendering: pixelated; }
"""
# On a phone they are below the picture.
SHOW_ANSWERS = """(picture) => {
  const answers = document.getElementById("answers");
  if (picture && answers.getBoundingClientRect().top > innerHeight / 2)
    answers.scrollIntoView({behavior: "smooth"});
}"""
# A heat map's file is deleted after two minutes, which is sooner than some scroll to it: Gradio
# would load it only then.
LOAD_AT_ONCE = """() => {
  const load = () => document.querySelectorAll("#answers img[loading=lazy]")
    .forEach((image) => { image.loading = "eager"; });
  new MutationObserver(load).observe(
    document.getElementById("answers"),
    {childList: true, subtree: true, attributeFilter: ["loading"]});
}"""
THEME = gr.themes.Default(
    primary_hue="blue",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)

Explain = Callable[[Picture], Awaitable[list[Answer]]]


def build_page(
    runs: Sequence[ServedRun], explain: Explain, to_try: Sequence[Example] | str, address: str
) -> gr.Blocks:
    """The page.

    Args:
        runs: One or several, side by side.
        explain: Asks all of them about a picture.
        to_try: Pictures and their classes; or why there are none.
        address: Of this server.
    """
    title = f"normlab: {', '.join(run.name for run in runs)}"
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                picture = gr.Image(
                    label="Picture",
                    format="png",
                    height=300,
                    buttons=[],
                    elem_classes="picture",
                    webcam_options=gr.WebcamOptions(mirror=False),
                )
                if isinstance(to_try, str):
                    gr.Markdown(f"There are no pictures to try: {to_try}")
                else:
                    _gallery(to_try, picture)
            with gr.Column(scale=min(len(runs), 3), min_width=280, elem_id="answers"), gr.Row():
                outputs = [component for run in runs for component in _column(run)]
        for run in runs:
            with gr.Accordion(f"About {run.name}", open=False):
                gr.Markdown(run.card)
        with gr.Accordion("From a program", open=False):
            gr.Markdown(_from_a_program(runs, address))

        async def answer(shown: dict[str, Any] | None) -> list[Any]:
            if shown is None:
                return [None] * len(outputs)
            # Gradio's own check passes over a path that comes without its mark.
            path = Path(shown.get("path") or "").resolve()
            folder = Path(picture.GRADIO_CACHE).resolve()
            if not (path.is_relative_to(folder) and path.is_file()):
                raise gr.Error("The picture was not uploaded.", print_exception=False)
            try:
                answers = await explain(path.read_bytes())
            except (DataError, RunError) as error:
                said = str(error)
                raise gr.Error(f"{said[0].upper()}{said[1:]}.", print_exception=False) from None
            return [value for answer in answers for value in _shown(*answer)]

        # Not preprocessed: Gradio would decode the picture, without our limits and messages.
        asked = picture.change(answer, picture, outputs, preprocess=False, api_name="answer")
        asked.success(None, picture, js=SHOW_ANSWERS)
        asked.failure(None, None, picture, js="() => null")  # what is no picture is not shown
        page.load(None, js=LOAD_AT_ONCE)
    return page


def _gallery(pictures: Sequence[Example], picture: gr.Image) -> None:
    """Pictures to try: who chooses one sees it in the place of an own one."""
    gallery = gr.Gallery(
        list(pictures),
        label="Pictures to try",
        format="png",
        columns=5,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_classes="to-try",
    )

    def take(chosen: gr.SelectData) -> NDArray[np.uint8]:
        place: int = chosen.index
        return pictures[place][0]

    gallery.select(take, None, picture, api_visibility="private")


def _column(run: ServedRun) -> list[gr.components.Component]:
    """Where a run's answer stands: what `_shown` fills."""
    with gr.Column(min_width=260):
        label = gr.Label(label=f"{run.name}, {run.norm}", num_top_classes=SHOWN_CLASSES)
        notes = gr.Markdown()
        heat = gr.Image(
            label="Grad-CAM",
            format="png",
            buttons=[],
            interactive=False,
            visible=not run.without_maps,
        )
        if run.without_maps:
            gr.Markdown(run.without_maps)
    return [label, notes, heat]


def _from_a_program(runs: Sequence[ServedRun], address: str) -> str:
    places = ["", *(f"?run={quote(run.name)}" for run in runs[1:])]
    text = "\n".join(f'curl --data-binary @picture.jpg "{address}/predict{p}"' for p in places)
    return f"The answer is JSON, as that of `normlab predict --json`:\n\n```\n{text}\n```"


def _shown(prediction: Prediction, heat: NDArray[np.uint8] | None) -> list[Any]:
    shares = dict(zip(prediction.classes, map(float, prediction.probabilities), strict=True))
    notes = f"Note: {'; '.join(prediction.notes)}." if prediction.notes else ""
    image = None if heat is None else np.ascontiguousarray(heat.transpose(1, 2, 0))
    return [shares, notes, image]
