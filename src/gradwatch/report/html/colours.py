"""The colours of the heatmaps: scales that read the same to every eye, computed from a published formula.

Both scales are straight lines in OKLab, whose lightness and distances are close to what people see. Blue and yellow,
or blue and brown, are told apart by nearly everybody, and lightness alone orders the first scale. What is not on a
scale has a colour far from all of it, for normal vision and for the three kinds of colour blindness (a test measures).

Reference:
    Björn Ottosson, "A perceptual color space for image processing" (2020),
    https://bottosson.github.io/posts/oklab/
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

LEVELS = 250  # of a scale; the other entries of a palette are for what is on none
ZERO, NONFINITE, UNKNOWN = LEVELS, LEVELS + 1, LEVELS + 2

NONFINITE_COLOUR = (255, 0, 255)
ZERO_COLOUR = (0, 0, 0)


class Lch(NamedTuple):
    """A colour by lightness (0 to 1), chroma (0 is grey) and hue (degrees)."""

    lightness: float
    chroma: float
    hue: float


# Dark blue, grey, light yellow, as cividis; starts light enough for black to differ.
SEQUENTIAL = (Lch(0.27, 0.10, 262.0), Lch(0.93, 0.15, 100.0))
# Blue below, brown above, and in the middle the paper.
BELOW, MIDDLE, ABOVE = Lch(0.38, 0.12, 250.0), Lch(0.96, 0.0, 0.0), Lch(0.42, 0.10, 60.0)

# From OKLab to linear sRGB, by Ottosson: first to the cube roots of cone responses, then, cubed, to red, green, blue.
_TO_CONES = np.array(
    [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480]]
)
_STRAIGHT_BELOW = 0.0031308  # where the curve of sRGB begins
_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def _lab(colour: Lch) -> np.ndarray:
    angle = np.radians(colour.hue)
    return np.array([colour.lightness, colour.chroma * np.cos(angle), colour.chroma * np.sin(angle)])


def _line(start: Lch, end: Lch, levels: int) -> np.ndarray:
    """Return ``levels`` colours on the straight line from ``start`` to ``end``, in OKLab."""
    part = np.linspace(0.0, 1.0, levels)[:, None]
    return np.asarray(_lab(start) + part * (_lab(end) - _lab(start)))


def _srgb(lab: np.ndarray) -> np.ndarray:
    """Return 8-bit sRGB, cut where the screen has no such colour."""
    linear = np.clip((lab @ _TO_CONES.T) ** 3 @ _TO_RGB.T, 0.0, 1.0)
    encoded = np.where(linear <= _STRAIGHT_BELOW, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255.0 * encoded), dtype=np.uint8)


@cache
def sequential() -> np.ndarray:
    """Return the scale for quantities without a middle: [LEVELS, 3], from low to high."""
    return _srgb(_line(*SEQUENTIAL, LEVELS))


@cache
def diverging() -> np.ndarray:
    """Return the scale for ratios: [LEVELS, 3]; the two levels in the middle stand for 1."""
    half = LEVELS // 2
    return _srgb(np.concatenate([_line(BELOW, MIDDLE, half), _line(MIDDLE, ABOVE, half)]))


def palette(scale: np.ndarray) -> list[int]:
    """Return a palette for an indexed picture: the scale, zero, non-finite, and not known (to be transparent)."""
    entries = [*scale.tolist(), ZERO_COLOUR, NONFINITE_COLOUR, (0, 0, 0)]
    return [int(part) for entry in entries for part in entry]


def css(colour: object) -> str:
    """Return a colour as a style sheet writes it.

    >>> css((255, 0, 16))
    '#ff0010'
    """
    red, green, blue = (int(part) for part in colour)  # type: ignore[attr-defined]
    return f"#{red:02x}{green:02x}{blue:02x}"
