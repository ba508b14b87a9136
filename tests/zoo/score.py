"""The score: every case under gradwatch, anomaly mode and "the first non-finite operation", as a table.

Run it with ``make score``, or ``python -m tests.zoo.score [--cases NAME ...] [--variants]``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.zoo import baselines
from tests.zoo.case import FP32
from tests.zoo.families import CASES
from tests.zoo.trial import INDUCTOR, PLAIN, VARIANTS, run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.zoo.case import Case
    from tests.zoo.trial import Outcome

FIELDS = ("alarm", "phase", "op", "module", "line", "batch_idx", "tensor", "sample", "transition", "cause")
MARKS = {True: "+", False: "[red]WRONG[/]", None: ""}
ON_INDUCTOR = 5

Row = tuple["Case", str, str, "Outcome"]


def main() -> int:
    """Print the tables; exit status 1 if a case is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="*", help="only these")
    parser.add_argument("--variants", action="store_true", help="also the other ways of training")
    parser.add_argument("--verbose", action="store_true", help="show what was said of the wrong ones")
    chosen = parser.parse_args()
    logging.disable(logging.INFO)
    cases = [case for case in CASES if not chosen.cases or case.name in chosen.cases]
    console = Console(width=170 if not sys.stdout.isatty() else None)
    rows = [_row(*job) for job in track(_jobs(cases, variants=chosen.variants), console=console, transient=True)]
    console.print(_case_table(rows))
    console.print(_summary(rows))
    wrong = [row for row in rows if not row[3].right]
    for case, precision, variant, outcome in wrong if chosen.verbose else []:
        console.print(f"[bold]{case.name}[/] {precision} {variant}: expected {case.truth[precision]}", markup=True)
        console.print(outcome.incident.origin if outcome.incident else None, outcome.failures, markup=False)
    return int(bool(wrong))


def _jobs(cases: Iterable[Case], *, variants: bool) -> list[tuple[Case, str, str]]:
    cases = list(cases)
    jobs = [(case, precision, PLAIN) for case in cases for precision in case.truth]
    if variants:
        varied = [case for case in cases if case.variants]
        jobs += [(case, FP32, variant) for variant in VARIANTS for case in varied if FP32 in case.truth]
        jobs += [(case, FP32, INDUCTOR) for case in varied[:ON_INDUCTOR]]
    return jobs


def _row(case: Case, precision: str, variant: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        return case, precision, variant, run(case, precision, variant, Path(folder))


def _case_table(rows: list[Row]) -> Table:
    table = Table("case", "precision", "training", *FIELDS, "anomaly mode", "first non-finite op", title="Cases")
    for case, precision, variant, outcome in rows:
        marks = [MARKS[outcome.judged.get(name)] for name in FIELDS]
        others = ["", ""]
        if precision == FP32 and variant == PLAIN:
            others = [_verdict(tool(case), case) for tool in (baselines.anomaly_mode, baselines.first_nonfinite)]
        table.add_row(case.name, precision, variant, *marks, *others)
    return table


def _verdict(said: baselines.Verdict, case: Case) -> str:
    truth = case.truth[FP32]
    if not truth.incident:
        return "false alarm" if said.alarm else "silent"
    if not said.alarm:
        return "silent"
    right_op = truth.op is not None and said.op == truth.op
    right_line = case.marked_line == (said.file, said.line)
    return "op and line" if right_op and right_line else "op" if right_op else "line" if right_line else "wrong"


def _summary(rows: list[Row]) -> Table:
    table = Table("training", "cases", "right", "wrong", "false alarms", title="gradwatch")
    for variant in dict.fromkeys(row[2] for row in rows):
        chosen = [row for row in rows if row[2] == variant]
        count = Counter(row[3].right for row in chosen)
        healthy = [row for row in chosen if not row[0].truth[row[1]].incident]
        false_alarms = sum(row[3].incident is not None for row in healthy)
        table.add_row(
            variant, str(len(chosen)), str(count[True]), str(count[False]), f"{false_alarms} of {len(healthy)}"
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
