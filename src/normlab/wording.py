"""Numbers, names and lists as text: the one place that formats them."""

import math
from collections.abc import Sequence


def percent(share: float, images: int) -> str:
    """A share of images, with as many digits as the images allow: `71.41%`, `96.7%`."""
    return f"{share:.{_decimals(images)}%}"


def signed_points(share: float, images: int) -> str:
    """A difference of shares in percentage points, with a true minus sign: `1.25`, `−0.45`."""
    return f"{100 * share:.{_decimals(images)}f}".replace("-", "−")


def points(share: float, images: int) -> str:
    """A difference of shares: `1.25 points`."""
    return f"{signed_points(share, images)} points"


def probability(value: float) -> str:
    """An estimated probability, which is never quite certain: `87%`, `over 99%`."""
    if value > 0.99:
        return "over 99%"
    return "under 1%" if value < 0.01 else f"{value:.0%}"


def p_value(p: float) -> str:
    """A p-value in a sentence: `p = 0.031`."""
    if math.isnan(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def p_cell(p: float | None) -> str:
    """A p-value in a table: `0.0312`; a dash for None."""
    if p is None:
        return "–"
    return "unknown" if math.isnan(p) else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def counted(number: int, noun: str) -> str:
    """A number of things: `1 seed`, `5 seeds`, `10,000 images`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def listed(items: Sequence[str], last: str = "and") -> str:
    """Items in a sentence: `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def spaced(name: str) -> str:
    """A field's name in a sentence: `learning rate` for `learning_rate`."""
    return name.replace("_", " ")


def setting_value(value: object) -> str:
    """A setting's value: `yes`, `none`, `1,000`, `shift then affine`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " then ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def axis_value(value: object) -> str:
    """A value on a study's axis: `1,000`, `0.2`; `all` for None."""
    if isinstance(value, float):
        return f"{value:g}"
    return "all" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def span(first: str, last: str) -> str:
    """A range: `8 to 128`; one value where both ends are equal."""
    return first if first == last else f"{first} to {last}"


def duration(seconds: float) -> str:
    """A measured time: `4.2 s`, `45 s`, `2 min 5 s`, `1 h 3 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def estimated_duration(seconds: float) -> str:
    """An estimated time, coarser than a measured one: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def large_number(number: int) -> str:
    """`12.6 million`, `1.2 billion`, `48,020`."""
    for unit, size in (("billion", 10**9), ("million", 10**6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,}"


def kilobytes(size: int) -> str:
    """Bytes as decimal kilobytes: `73.6 kB`."""
    return f"{size / 1000:,.1f} kB"


def _decimals(images: int) -> int:
    return 2 if images > 1000 else 1
