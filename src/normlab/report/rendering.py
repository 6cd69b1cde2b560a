"""Fills the templates, with the small things that several pages are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from normlab.report.embed import inline_svg
from normlab.table import Table
from normlab.version import __version__

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("normlab.report"),
    autoescape=jinja2.select_autoescape(["html"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

PAGE_MARK = b'<meta name="generator" content="normlab '  # in base.html


@dataclass(frozen=True, kw_only=True)
class PageFigure:
    """A figure of a page with its words.

    Attributes:
        name: Unique in the page.
        draw: Draws the figure.
        alt: What the figure shows, for those who do not see it.
        title: The heading above it; empty if it has none of its own.
        caption: The text below it; empty for none.
        table: A table below that, or None.
    """

    name: str
    draw: Callable[[], Figure]
    alt: str
    title: str = ""
    caption: str = ""
    table: Table | None = None

    @cached_property
    def figure(self) -> Figure:
        """The figure, drawn when it is first used."""
        return self.draw()

    @property
    def svg(self) -> Markup:
        """The figure as an SVG element."""
        return inline_svg(self.figure, self.name, self.alt)


@dataclass(frozen=True)
class Picture:
    """A picture of a gallery, with its caption.

    Attributes:
        source: The picture.
        alt: What it shows.
        title: The first line of its caption.
        lines: The others.
        size: Its height and width in pixels.
        beside: A picture of the same size to the left of it; empty for none.
    """

    source: str
    alt: str
    title: str
    lines: Sequence[str] = ()
    size: int = 32
    beside: str = ""


def render_template(template: str, **values: object) -> str:
    """A template of this package, filled in. In HTML every text is escaped."""
    text = _TEMPLATES.get_template(template).render(version=__version__, **values)
    return text.encode(errors="replace").decode()  # the name of a folder need not be UTF-8
