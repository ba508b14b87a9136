"""Many rows, few columns: what fits on a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gradwatch.tensorboard_plugin.reading import Rows


def within(rows: Rows, begin: int | None, end: int | None) -> Rows:
    """Return the rows that stand for some of the log steps from ``begin`` to ``end``, both included."""
    keep = np.ones(len(rows.last), dtype=bool)
    if begin is not None:
        keep &= rows.last >= begin
    if end is not None:
        keep &= rows.first <= end
    return rows._replace(first=rows.first[keep], last=rows.last[keep], values=rows.values[keep])


def pooled(rows: Rows, columns: int, begin: int | None = None, end: int | None = None) -> Rows:
    """Return at most ``columns`` rows: those that end in the same of so many equal parts of the range become one.

    Entry by entry the largest value wins, and NaN wins over all, so that one bad step of a million is still there.

    Args:
        rows: not empty where there is something to pool.
        columns: how many there may be.
        begin: first log step of the range, by default that of the first row.
        end: last log step of the range, by default that of the last row.
    """
    if len(rows.last) <= columns:
        return rows
    begin = int(rows.first[0]) if begin is None else begin
    end = int(rows.last[-1]) if end is None else end
    part = (np.clip(rows.last, begin, end) - begin) * columns // (end - begin + 1)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    return rows._replace(
        first=rows.first[starts],
        last=rows.last[np.append(starts[1:], len(part)) - 1],
        values=np.maximum.reduceat(rows.values, starts, axis=0),
    )
