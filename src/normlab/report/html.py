"""What the pages share: the templates, and the small things they are filled with."""

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from normlab.version import __version__

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("normlab.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Picture:
    """A picture of a gallery, with its caption."""

    source: str
    alt: str
    title: str
    lines: Sequence[str] = ()


def fill(template: str, **values: object) -> str:
    """A template of this package, filled in; every text is escaped."""
    page = _TEMPLATES.get_template(template).render(version=__version__, **values)
    return page.encode(errors="replace").decode()  # a folder's name need not be UTF-8
