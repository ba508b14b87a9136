"""From points to the path of a curve or a band in SVG; a curve of very many points keeps its extremes."""

from __future__ import annotations

import numpy as np

BUCKETS = 1000  # a curve of more points than two in each is drawn by the extremes of each


def path(x: np.ndarray, y: np.ndarray) -> str:
    """Return a path through the points, interrupted where one is NaN."""
    known = np.isfinite(x) & np.isfinite(y)
    pieces = []
    for run in runs(known):
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[run].tolist(), y[run].tolist(), strict=True))
        pieces.append(f"M{points}" + ("h0.01" if " " not in points else ""))  # a single point shows as a dot
    return "".join(pieces)


def runs(known: np.ndarray) -> list[slice]:
    """Return the stretches in which all is known."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    return [slice(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most two points for each of ``BUCKETS`` stretches: its least and its largest value, in their order."""
    if x.size <= 2 * BUCKETS:
        return x, y
    edges = np.linspace(0, x.size, BUCKETS + 1).astype(int)
    chosen: list[int] = []
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = y[start:end]
        finite = np.flatnonzero(np.isfinite(part))
        if not finite.size:
            chosen.append(start)  # keeps the gap
            continue
        extremes = {int(finite[np.argmin(part[finite])]), int(finite[np.argmax(part[finite])])}
        chosen.extend(start + index for index in sorted(extremes))
    return x[chosen], y[chosen]


def thinned_band(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a band of at most ``BUCKETS`` stretches: the least of its lows and the largest of its highs in each."""
    if x.size <= 2 * BUCKETS:
        return x, low, high
    starts = np.linspace(0, x.size, BUCKETS + 1).astype(int)[:-1]
    return x[starts], np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts)


def ring(across: np.ndarray, bottom: np.ndarray, top: np.ndarray) -> str:
    """Return a closed path around a band between ``bottom`` and ``top``."""
    return path(np.concatenate([across, across[::-1]]), np.concatenate([top, bottom[::-1]])) + "Z"
