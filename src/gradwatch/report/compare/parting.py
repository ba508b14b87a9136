r"""Where two groups of curves part: beyond what the spread of their runs explains, and not for a moment only.

Each run is one observation, however many records it has: neighbouring records of a training resemble each other, but
runs with different seeds are independent. So a window of w records is reduced to one number a run, its median, and two
groups are compared there by the two-sample t statistic

.. math:: t = \frac{\bar a - \bar b}{s \sqrt{1 / n_a + 1 / n_b}}, \quad
          s^2 = \frac{\sum (a_i - \bar a)^2 + \sum (b_i - \bar b)^2}{n_a + n_b - 2}

which for two groups of one setting follows Student's distribution whatever the correlation within a run. Windows
begin at every record, and a difference counts when w windows in a row exceed the limit in the same direction (or all
to the last one). Any w windows in a row include one that begins at a multiple of w, so the chance that two groups of
one setting are told apart anywhere on the curve is at most the sum over those windows alone, and the last: with K of
them and the limit at level / K, at most ``level`` (Bonferroni). ``docs/compare.md`` has the derivation and the
measured rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.report.compare.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.report.compare.arrays import Floats
    from gradwatch.report.compare.windows import Run

# How often the place of a difference that is real may be put too early.
PLACE_LEVEL = 0.05
_LEAST_IN_A_ROW = 3  # of windows so small that they hold one record


class Stretch(NamedTuple):
    """Records over which two groups differ: from ``first`` to ``last`` (None: to the end).

    ``sign`` is 1 where the first group is the larger one, else -1.
    """

    first: int
    last: int | None
    sign: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What two groups of curves have in common.

    ``stretches`` are in order of time. ``resolution`` is the difference of the means that would just have been seen,
    typically (median over the windows): infinite where there are too few runs to tell anything.
    """

    stretches: tuple[Stretch, ...]
    resolution: float


def compare_groups(one: Floats, other: Floats, level: float) -> Verdict:
    """Compare two groups of curves, arrays [runs, records] over the same records.

    Args:
        one: the curves of a group; NaN where a run has no value.
        other: those of the other group.
        level: how often two groups of one setting may be told apart by mistake.
    """
    return judge(Windows(one, other), level) if one.shape[-1] else Verdict(stretches=(), resolution=math.inf)


def judge(windows: Windows, level: float) -> Verdict:
    """Return the verdict on two groups; ``level`` as for ``compare_groups``."""
    visible = windows.visible(level / windows.tests)
    return Verdict(
        stretches=tuple(
            Stretch(_place(windows, run), None if run.end == len(windows) - 1 else run.end * windows.bin, run.sign)
            for run in _differences(windows, level)
        ),
        resolution=float(np.median(np.where(np.isnan(visible), np.inf, visible))),
    )


def level_of_each(curves: Sequence[Windows], level: float) -> float:
    """Return the level at which each of many curves is compared, such as those of all layers.

    With the step-up procedure of Benjamini and Hochberg, at most the share ``level`` of the curves that are told apart
    are told so by mistake, on average; where nothing differs at all, that is how often any is. Dividing the level by
    the number of curves would promise more than anybody needs of 2,000 layers, and find nothing with five seeds.

    Reference: Benjamini and Hochberg, "Controlling the false discovery rate", J. R. Stat. Soc. B 57 (1995).
    """
    found = len(curves)
    while found:
        each = level * found / len(curves)
        fewer = sum(bool(windows.runs(each / windows.tests, windows.width)) for windows in curves)
        if fewer == found:
            return each
        found = fewer
    return level / max(len(curves), 1)


def _differences(windows: Windows, level: float) -> list[Run]:
    """Return the runs of windows over which the groups differ.

    Once they have parted they are together again when, for as long as a window, not even one window alone would tell
    them apart: else a difference near the limit would come and go.
    """
    leaning = windows.directions(level)
    found: list[Run] = []
    for run in windows.runs(level / windows.tests, windows.width):
        if not found or run.start > found[-1].end:
            found.append(run._replace(end=_together_again(leaning, run, windows.width)))
    return found


def _together_again(leaning: Floats, run: Run, width: int) -> int:
    """Return the last window of a difference that is beyond the limit in ``run``."""
    end = run.end
    for window in (end + 1 + np.flatnonzero(leaning[end + 1 :] == run.sign)).tolist():
        if window - end > width:
            break
        end = window
    return end


def _place(windows: Windows, run: Run) -> int:
    """Return the first record from which the groups differ, given the first windows in which they do.

    At the end of the first of them the evidence is there at the latest. Often it is there before: the same is asked
    again, in smaller windows, of the records of this window and the next alone.
    """
    start, width = run.start * windows.bin, windows.width * windows.bin
    latest = min(start + width, windows.records) - 1
    if width == 1:
        return latest
    closer = windows.part(slice(start, start + 2 * width))
    for first in closer.runs(PLACE_LEVEL / closer.tests, max(closer.width, _LEAST_IN_A_ROW)):
        if first.sign == run.sign:
            return min(latest, start + _place(closer, first))
    return latest
