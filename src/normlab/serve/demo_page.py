"""The demo page, in Gradio: a picture, each run's prediction, example pictures, model cards."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import numpy as np
from gradio.exceptions import InvalidPathError
from gradio.processing_utils import save_img_array_to_cache
from numpy.typing import NDArray

from normlab.errors import DataError, RunError
from normlab.inference.picture_process import NoProcessError
from normlab.serve.examples import Example
from normlab.serve.kept_files import KeptFiles
from normlab.serve.limits import NOT_UNDERSTOOD, log_failure
from normlab.serve.served_run import PredictionWithHeatMap, ServedRun
from normlab.wording import listed

SHOWN_CLASSES = 10
ABOUT = """# What is in the picture?

Drop a picture, take a photo, or choose a picture to try. The network sees the square at the
picture's centre, resized to {sizes}. A heat map (Grad-CAM) is bright where the picture supports
the prediction.
"""
CSS = """
.gradio-container { overflow-wrap: anywhere; }
/* Beside each other: the pictures to try are below the picture. On a phone: below the answers. */
#try {
  display: grid; grid-template: "picture answers" auto "samples answers" 1fr / 1fr 1fr;
}
#try.of-2 { grid-template-columns: 1fr 2fr; }
#try.of-3 { grid-template-columns: 1fr 3fr; }
#picture { grid-area: picture; }
#answers { grid-area: answers; }
#samples { grid-area: samples; }
#try > .column { min-width: 0 !important; }
@media (max-width: 640px) {
  #try, #try.of-2, #try.of-3 { grid-template: "picture" "answers" "samples" / minmax(0, 1fr); }
  #answers .column:not(:has(.confidence-set)) .heat-map { display: none; }
}
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
# On a phone the predictions are below the picture, and above the pictures to try.
SCROLL_TO_ANSWERS = """(picture) => {
  const answers = document.getElementById("answers");
  const top = answers.getBoundingClientRect().top;
  if (picture && (top < 0 || top > innerHeight / 2))
    answers.scrollIntoView({behavior: "smooth"});
}"""
# Gradio loads an image when it is scrolled into view. A heat map's file may be deleted by then: it
# is kept for two minutes.
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

Explain = Callable[[bytes], Awaitable[list[PredictionWithHeatMap]]]


class _Page(gr.Blocks):  # type: ignore[misc]
    """Answers an event that no page sends in one line. Gradio prints a traceback, and shows paths.

    What it shows of such an error may be a folder of the server.
    """

    async def process_api(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Handles an event."""
        try:
            result: dict[str, Any] = await super().process_api(*arguments, **options)
        except gr.Error:
            raise
        except InvalidPathError:
            raise _refusal("the picture was not uploaded") from None
        except Exception as error:
            log_failure("an event of the page", error)
            raise _refusal(NOT_UNDERSTOOD) from None
        return result


def build_page(
    runs: Sequence[ServedRun],
    explain: Explain,
    examples: Sequence[Example] | str,
    address: str,
    kept: KeptFiles,
) -> gr.Blocks:
    """Builds the page.

    Args:
        runs: One or several, shown side by side.
        explain: Predicts and explains a picture's file with all of them.
        examples: Example pictures and their classes; or why there are none.
        address: The server's URL.
        kept: Where uploads and heat maps are.
    """
    title = f"normlab: {', '.join(run.name for run in runs)}"
    with _Page(title=title, analytics_enabled=False) as page:
        gr.Markdown(ABOUT.format(sizes=sizes(runs)))
        with gr.Row(elem_id="try", elem_classes=f"of-{min(len(runs), 3)}"):
            with gr.Column(elem_id="picture"):
                picture = gr.Image(
                    label="Picture",
                    format="png",
                    height=300,
                    buttons=[],
                    elem_classes="picture",
                    webcam_options=gr.WebcamOptions(mirror=False),
                )
            with gr.Column(elem_id="answers"), gr.Row():
                outputs = [component for run in runs for component in _column(run)]
            with gr.Column(elem_id="samples"):
                if isinstance(examples, str):
                    gr.Markdown(f"There are no pictures to try: {examples}")
                else:
                    _gallery(examples, picture)
        for run in runs:
            with gr.Accordion(f"About {run.name}", open=False):
                gr.Markdown(run.card)
        with gr.Accordion("From a program", open=False):
            gr.Markdown(_http_usage(runs, address))

        async def answer(uploaded: dict[str, Any] | None, request: gr.Request) -> list[Any]:
            if uploaded is None:
                return [None] * len(outputs)
            # Gradio does not check a path that is not marked as a file.
            path = Path(uploaded.get("path") or "").resolve()
            folder = Path(picture.GRADIO_CACHE).resolve()
            if not path.is_relative_to(folder) or path.is_dir():
                raise _refusal("the picture was not uploaded")
            try:
                content = path.read_bytes()
            except OSError:  # it was deleted: many uploads at once; or it never was there
                raise _refusal("the picture is no longer kept: upload it again") from None
            try:
                results = await explain(content)
            except (DataError, NoProcessError, RunError) as error:
                raise _refusal(str(error)) from None
            maps = [_save(result.heat_map, picture.GRADIO_CACHE) for result in results]
            kept.add(request.session_hash or "", [path, *map(Path, filter(None, maps))])
            return [v for pair in zip(results, maps, strict=True) for v in _values(*pair)]

        def leave(request: gr.Request) -> None:
            kept.delete_session(request.session_hash or "")

        # Without preprocessing: Gradio would decode the picture without our limits and messages.
        event = picture.change(answer, picture, outputs, preprocess=False, api_name="answer")
        event.success(None, picture, js=SCROLL_TO_ANSWERS)
        event.failure(None, None, picture, js="() => null")  # removes the unreadable picture
        page.load(None, js=LOAD_AT_ONCE)
        page.unload(leave)
    return page


def sizes(runs: Sequence[ServedRun]) -> str:
    """What the runs' networks see: `32 × 32 pixels`, or several of these."""
    return listed([*dict.fromkeys(run.sees for run in runs)], "or")


def _refusal(reason: str) -> gr.Error:
    return gr.Error(f"{reason[0].upper()}{reason[1:]}.", print_exception=False)


def _save(heat_map: NDArray[np.uint8] | None, folder: str) -> str | None:
    """Saves a heat map as Gradio would, and returns its path."""
    if heat_map is None:
        return None
    image = np.ascontiguousarray(heat_map.transpose(1, 2, 0))
    path: str = save_img_array_to_cache(image, folder, format="png")
    return path


def _gallery(pictures: Sequence[Example], picture: gr.Image) -> None:
    """A gallery of examples. Choosing one takes it as the picture."""
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

    def choose(selected: gr.SelectData) -> NDArray[np.uint8]:
        index: int = selected.index
        return pictures[index][0]

    gallery.select(choose, None, picture, api_visibility="private")


def _column(run: ServedRun) -> list[gr.components.Component]:
    """The components that show a run's prediction; `_values` fills them."""
    with gr.Column(min_width=260):
        label = gr.Label(label=f"{run.name}, {run.norm}", num_top_classes=SHOWN_CLASSES)
        notes = gr.Markdown()
        heat_map = gr.Image(
            label="Grad-CAM",
            format="png",
            elem_classes="heat-map",
            buttons=[],
            interactive=False,
            visible=not run.no_heat_maps,
        )
        if run.no_heat_maps:
            gr.Markdown(run.no_heat_maps)
    return [label, notes, heat_map]


def _http_usage(runs: Sequence[ServedRun], address: str) -> str:
    queries = ["", *(f"?run={quote(run.name)}" for run in runs[1:])]
    text = "\n".join(f'curl --data-binary @picture.jpg "{address}/predict{q}"' for q in queries)
    return (
        f"A picture of any size is converted to {sizes(runs)}. The response is JSON, as from "
        f"`normlab predict --json`:\n\n```\n{text}\n```"
    )


def _values(result: PredictionWithHeatMap, heat_map: str | None) -> list[Any]:
    """The values of a run's components, in the order of `_column`."""
    prediction = result.prediction
    probabilities = dict(zip(prediction.classes, map(float, prediction.probabilities), strict=True))
    notes = " ".join(f"{note[0].upper()}{note[1:]}." for note in prediction.notes)
    return [probabilities, notes, heat_map]
