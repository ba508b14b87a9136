"""Run seeded faults and print a table, kind by value: ``python -m tests.faults.table [RUNS]``."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import sys
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import torch

from gradwatch import NumericalHealthMonitor
from tests.faults.plan import KINDS, VALUES, FaultPlan
from tests.faults.trial import Verdict, trial

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_RUNS = 672
COLUMNS = {
    "caught": ("caught",),
    "right step": ("step", "phase"),
    "in time": ("deadline",),
    "first_seen": ("first_seen",),
    "layer": ("layer",),
    "batch_idx": ("batch_idx",),
    "action": ("action", "once", "counted"),
    "untouched": ("untouched",),
    "quiet": ("quiet",),
    "reported": ("reported", "norm"),
    "end": ("same_end", "finite_end", "clean"),
}


def row_name(plan: FaultPlan) -> tuple[str, str]:
    value = "nan" if math.isnan(plan.value) else f"{plan.value:g}"
    return plan.kind, value


def table(verdicts: Iterable[Verdict]) -> str:
    """Return the table: in each cell, how many runs were right of those in which the contract asks for it."""
    runs: Counter[tuple[str, str]] = Counter()
    good: dict[tuple[tuple[str, str], str], list[int]] = defaultdict(lambda: [0, 0])
    for verdict in verdicts:
        name = row_name(verdict.plan)
        runs[name] += 1
        for column, aspects in COLUMNS.items():
            seen = [verdict.aspects[aspect] for aspect in aspects if aspect in verdict.aspects]
            if seen:
                good[name, column][0] += all(seen)
                good[name, column][1] += 1
    lines = [f"{'kind':10}{'value':>7}{'runs':>6}" + "".join(f"{column:>12}" for column in COLUMNS)]
    for name in sorted(runs, key=_order):
        cells = [good[name, column] for column in COLUMNS]
        shown = [f"{right}/{asked}" if asked else "-" for right, asked in cells]
        lines.append(f"{name[0]:10}{name[1]:>7}{runs[name]:>6}" + "".join(f"{cell:>12}" for cell in shown))
    return "\n".join(lines)


def _order(name: tuple[str, str]) -> tuple[int, int]:
    return [*KINDS].index(name[0]), [f"{value:g}" for value in VALUES].index(name[1])  # type: ignore[arg-type]


def main(arguments: list[str]) -> int:
    """Run, print the failures and the table; return 1 if anything was wrong."""
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    verdicts = []
    for seed in range(int(arguments[0]) if arguments else DEFAULT_RUNS):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            verdicts.append(trial(seed, NumericalHealthMonitor))
        if verdicts[-1].problems:
            print(verdicts[-1], flush=True)  # noqa: T201
    wrong = sum(bool(verdict.problems) for verdict in verdicts)
    print(table(verdicts), f"\n{len(verdicts)} runs, {wrong} not as the contract says")  # noqa: T201
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
