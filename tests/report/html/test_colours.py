"""Scales that every eye can read: lightness orders them, and what is on no scale is far from all of it."""

from __future__ import annotations

import numpy as np
import pytest

from gradwatch.report.html import colours

# What each kind of colour blindness makes of linear RGB, at full strength. Machado, Oliveira, Fernandes, "A
# physiologically-based model for simulation of color vision deficiency", IEEE TVCG 15 (2009), table 1.
SEEING = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# Ottosson's own direction, from linear sRGB; the module under test has the other one.
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]
SCALES = {"sequential": colours.sequential, "diverging": colours.diverging}


def lab(srgb: object, seeing: str = "normal") -> np.ndarray:
    """OKLab of 8-bit sRGB, as seen by such eyes."""
    part = np.asarray(srgb, dtype=np.float64) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.asarray(SEEING[seeing]).T, 0.0, 1.0)
    return np.cbrt(seen @ np.array(TO_CONES).T) @ np.array(TO_LAB).T


def test_a_scale_has_the_colours_that_it_was_asked_for() -> None:
    scale = lab(colours.sequential())
    for end, asked in zip((scale[0], scale[-1]), colours.SEQUENTIAL, strict=True):
        assert end[0] == pytest.approx(asked.lightness, abs=0.01)
        assert np.hypot(end[1], end[2]) == pytest.approx(asked.chroma, abs=0.01)
        assert np.degrees(np.arctan2(end[2], end[1])) % 360 == pytest.approx(asked.hue, abs=3.0)


@pytest.mark.parametrize("seeing", SEEING)
def test_lightness_orders_the_sequential_scale(seeing: str) -> None:
    lightness = lab(colours.sequential(), seeing)[:, 0]
    assert np.all(np.diff(lightness[::5]) > 0)
    assert lightness[-1] - lightness[0] > 0.5


@pytest.mark.parametrize("seeing", SEEING)
def test_the_ends_of_the_diverging_scale_differ(seeing: str) -> None:
    scale = lab(colours.diverging(), seeing)
    assert np.linalg.norm(scale[0] - scale[-1]) > (0.1 if seeing == "tritan" else 0.15)
    assert scale[:, 0].argmax() in (124, 125)


@pytest.mark.parametrize("seeing", SEEING)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("special", [colours.NONFINITE_COLOUR, colours.ZERO_COLOUR])
def test_what_is_on_no_scale_is_far_from_it(scale: str, special: tuple[int, int, int], seeing: str) -> None:
    """0.02 is what people just notice."""
    distance = np.linalg.norm(lab(SCALES[scale](), seeing) - lab(special, seeing), axis=1)
    assert distance.min() > 0.09


def test_neighbours_cannot_be_told_apart_and_tenths_can() -> None:
    scale = lab(colours.sequential())
    assert np.linalg.norm(np.diff(scale, axis=0), axis=1).max() < 0.02
    assert np.linalg.norm(scale[25:] - scale[:-25], axis=1).min() > 0.04


def test_a_palette_has_the_special_entries_behind_the_scale() -> None:
    entries = np.array(colours.palette(colours.sequential())).reshape(-1, 3)
    assert entries[: colours.LEVELS].tolist() == colours.sequential().tolist()
    assert tuple(entries[colours.ZERO]) == colours.ZERO_COLOUR
    assert tuple(entries[colours.NONFINITE]) == colours.NONFINITE_COLOUR
    assert len(entries) == colours.UNKNOWN + 1
