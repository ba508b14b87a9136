"""Text for people: counts, numbers, durations, and names made safe to show."""

from __future__ import annotations

import math
from datetime import datetime

MINUTE, HOUR, DAY = 60, 3600, 86400


def clean(text: object) -> str:
    """Return ``text`` with every character that a terminal would act upon shown as an escape.

    Names, paths and messages of a run are data: control characters, line ends and half surrogates stay visible.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def shorten(text: str, width: int) -> str:
    """Return at most ``width`` characters: a longer text is cut and ends in an ellipsis."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def shorten_name(name: str, width: int) -> str:
    """Return at most ``width`` characters of a dotted name: its middle is left out, as its ends tell most."""
    if len(name) <= width:
        return name
    tail = max(1, 2 * (width - 1) // 3)
    return name[: max(0, width - 1 - tail)] + "…" + name[len(name) - tail :]


def count(number: int, noun: str) -> str:
    """Return ``1 step``, ``1,200 steps``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def number(value: float | None) -> str:
    """Return a value to four digits, in as few characters as it takes; ``-`` where it is not known."""
    if value is None:
        return "-"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.4g}"


def size(value: float) -> str:
    """Return a large count in thousands, millions or billions: ``124.4M``."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.4g}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Return ``43 s``, ``5 min 12 s``, ``2 h 5 min`` or ``3 d 4 h``."""
    if not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    if seconds < MINUTE:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"  # noqa: PLR2004 - three digits at most
    whole = round(seconds)
    for unit, name, part, part_name in ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "min"), (MINUTE, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // part
            return f"{whole // unit:,} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{whole} s"


def moment(time: float) -> str:
    """Return a Unix time as local date and time; an empty text for what is none."""
    try:
        return datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return ""
