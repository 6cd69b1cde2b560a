"""Embeds figures and pictures in a page: inline SVG in the page's colours, PNG as data URIs."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from normlab.report import plots

# The page's own colours, so that a figure is readable on a light and on a dark background.
_VARIABLES = {
    plots.INK: "currentColor",
    plots.PAPER: "var(--paper)",
    plots.FAINT: "var(--faint)",
    plots.MUTED: "var(--muted)",
    **{color: f"var(--color-{k})" for k, color in enumerate(plots.COLORS)},
}
_COLOR = re.compile("|".join(_VARIABLES))
_LINK = "{http://www.w3.org/1999/xlink}href"


def inline_svg(figure: Figure, name: str, alt: str) -> Markup:
    """A figure as an SVG element for a page.

    Args:
        figure: A figure in the style of `normlab.plots`.
        name: Unique in the page: the prefix of the figure's ids.
        alt: What the figure shows, for those who do not see it.
    """
    root = ElementTree.fromstring(plots.svg(figure))
    linked = {m for e in root.iter() for v in e.attrib.values() for m in re.findall(r"#(\w+)", v)}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # in HTML, the content of <svg> is SVG
        attributes = element.attrib
        if attributes.get("id") in linked:
            attributes["id"] = f"{name}-{attributes['id']}"
        else:
            attributes.pop("id", None)
        if link := attributes.pop(_LINK, None):
            attributes["href"] = f"#{name}-{link[1:]}"
        if "clip-path" in attributes:
            attributes["clip-path"] = attributes["clip-path"].replace("#", f"#{name}-")
        if fill := attributes.pop("fill", None):  # of a hatch; only a style can have variables
            attributes["style"] = f"fill: {fill}; {attributes.get('style', '')}"
        if "style" in attributes:
            style = attributes["style"].replace("url(#", f"url(#{name}-")
            style = _COLOR.sub(lambda m: _VARIABLES[m.group()], style)
            attributes["style"] = style.replace("'DejaVu Sans'", "system-ui, sans-serif")
    for child in root.findall("metadata"):
        root.remove(child)
    for parent in root.iter("defs"):
        for child in parent.findall("style"):
            parent.remove(child)  # its rule would apply to the whole page
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def picture(image: NDArray[np.uint8]) -> str:
    """An image, uint8, 3 × H × W or 1 × H × W, as a PNG data URI."""
    file = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
