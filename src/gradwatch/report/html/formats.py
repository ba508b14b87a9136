"""Numbers, steps, times and sizes as a reader wants them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

_EXPONENT = re.compile(r"e([+-])0*(\d)")
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))
UNKNOWN = "\N{EN DASH}"
PLAIN = 1e6  # numbers below it are written without an exponent


def number(value: float | None, digits: int = 4) -> str:
    """Return ``value`` with ``digits`` significant digits.

    >>> number(0.00001234567), number(1234.5678), number(1234.5678, 2), number(float("inf"))
    ('1.235e-5', '1235', '1200', '∞')
    """
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if 10.0**digits <= abs(value) < PLAIN:
        return f"{float(f'{value:.{digits}g}'):.0f}"
    return _EXPONENT.sub(lambda found: f"e{'-' if found[1] == '-' else ''}{found[2]}", f"{value:.{digits}g}")


def known(value: float) -> str:
    """Return ``value`` as ``number`` does, and a dash for a NaN that stands for "not known"."""
    return UNKNOWN if math.isnan(value) else number(value)


def count(value: int, noun: str = "", plural: str = "") -> str:
    """Return a number of things.

    >>> count(12345), count(1, "step"), count(2, "step")
    ('12,345', '1 step', '2 steps')
    """
    if not noun:
        return f"{value:,}"
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def share(value: float) -> str:
    """Return a fraction as per cent.

    >>> share(0.123), share(1.0), share(0.0004)
    ('12.3 %', '100 %', '0.04 %')
    """
    if math.isnan(value):
        return UNKNOWN
    percent = 100.0 * value
    digits = 3 if percent >= 10.0 else 2  # noqa: PLR2004 - two digits before the point
    return f"{percent:.{digits}g} %"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units.

    >>> duration(3.21), duration(59.9), duration(3725), duration(200000)
    ('3.2 s', '59.9 s', '1 h 2 min', '2 d 7 h')
    """
    if not math.isfinite(seconds) or seconds < 0.0:
        return UNKNOWN
    if seconds < 60.0:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s"
    first = next(index for index, (size, _) in enumerate(_UNITS) if seconds >= size)
    (large, name), (small, second) = _UNITS[first], _UNITS[first + 1]
    return f"{int(seconds // large)} {name} {int(seconds % large // small)} {second}"


def moment(seconds: float) -> str:
    """Return a point in time, in UTC: a report is read elsewhere, too."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):  # a foreign log may claim any time
        return UNKNOWN


def size(length: int) -> str:
    """Return a size in bytes.

    >>> size(900), size(12_345), size(5_242_880)
    ('900 bytes', '12 kB', '5.2 MB')
    """
    if length < 1_000:  # noqa: PLR2004 - a kilobyte
        return count(length, "byte")
    return f"{length / 1e3:.0f} kB" if length < 1_000_000 else f"{length / 1e6:.1f} MB"  # noqa: PLR2004 - a megabyte
