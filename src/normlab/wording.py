"""Numbers, names and lists as text. All of normlab formats them with these functions."""

import math
from collections.abc import Iterable, Mapping, Sequence


def percent(share: float, images: int) -> str:
    """A share of images, with as many digits as the images allow: `71.41%`, `96.7%`."""
    return f"{share:.{_decimals(images)}%}"


def signed_points(share: float, images: int) -> str:
    """A difference of shares in percentage points, with a true minus sign: `1.25`, `−0.45`."""
    return f"{100 * share:z.{_decimals(images)}f}".replace("-", "−")


def points(share: float, images: int) -> str:
    """A difference of shares: `1.25 points`."""
    return f"{signed_points(share, images)} points"


def points_range(low: float, high: float, images: int) -> str:
    """A range of differences of shares, in percentage points: `−0.45 to 1.25`."""
    return f"{signed_points(low, images)} to {signed_points(high, images)}"


def probability(value: float) -> str:
    """An estimated probability, never 0% or 100%: `87%`, `over 99%`."""
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
    """A number with its noun: `1 seed`, `5 seeds`, `10,000 images`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def listed(items: Sequence[str], last: str = "and") -> str:
    """Items in a sentence: `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def distinct(texts: Iterable[str], between: str = "; ") -> str:
    """Different texts, each once, in the order in which they first come: `0.1.0; 0.2.0`."""
    return between.join(dict.fromkeys(texts))


def by_name(texts: Mapping[str, str]) -> str:
    """A text for each name: `bn 64, gn 128`; if all texts are equal, the text alone: `64`."""
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{name} {text}" for name, text in texts.items())


# The images of a split in a sentence: `held-out images`.
SPLIT_WORDS = {"train": "training", "holdout": "held-out", "test": "test"}


def decimals(values: Iterable[float]) -> str:
    """Numbers with four decimals: `0.4914, 0.4822, 0.4465`."""
    return ", ".join(f"{value:.4f}" for value in values)


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


def rounded_setting(value: object) -> str:
    """A setting's value as in `setting_value`, real numbers with four digits: `0.2828`."""
    return f"{value:.4g}" if isinstance(value, float) else setting_value(value)


def axis_value(value: object) -> str:
    """A value on a study's axis: `1,000`, `0.2`; `all` for None."""
    if isinstance(value, float):
        return f"{value:g}"
    return "all" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def span(first: str, last: str) -> str:
    """A range: `8 to 128`; one value if both ends are equal."""
    return first if first == last else f"{first} to {last}"


def duration(seconds: float) -> str:
    """A measured time: `4.2 s`, `45 s`, `2 min 5 s`, `1 h 3 min`."""
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def estimated_duration(seconds: float) -> str:
    """An estimated time, coarser than a measured one: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def seconds_range(seconds: Sequence[float]) -> str:
    """The range of measured times: `20.1 to 34.5 s`."""
    return f"{span(f'{min(seconds):.1f}', f'{max(seconds):.1f}')} s"


def large_number(number: int) -> str:
    """A number, rounded from a million on: `12.6 million`, `1.2 billion`, `48,020`."""
    if number < 10**6:
        return f"{number:,}"
    millions = round(number / 10**6, 1)
    return f"{millions:.1f} million" if millions < 1000 else f"{number / 10**9:.1f} billion"


def shape_text(shape: Sequence[int]) -> str:
    """A shape: `12 × 32 × 32`."""
    return " × ".join(map(str, shape))


def kilobytes(size: int) -> str:
    """A number of bytes in decimal kilobytes: `73.6 kB`."""
    return f"{size / 1000:,.1f} kB"


def _decimals(images: int) -> int:
    return 2 if images > 1000 else 1
