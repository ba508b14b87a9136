"""The score: every healthy training under gradwatch, as a table; whatever it finds above info is a false alarm.

``python -m tests.rules.healthy.score`` runs them all (about ten minutes, half of that with ``--jobs 2``), ``--names gan
vae`` only some.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.rules.healthy.families import CASES
from tests.rules.healthy.trial import Outcome, failed, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.rules.healthy.case import Case

BY_NAME = {case.name: case for case in CASES}


def main() -> int:
    """Print the table; exit status 1 if anything is wrong."""
    chosen = _arguments()
    cases = [BY_NAME[name] for name in chosen.names or BY_NAME]
    bar = Console(stderr=True)
    done = _outcomes(cases, chosen.seed, chosen.jobs)
    outcomes = {outcome.name: outcome for outcome in track(done, "healthy", total=len(cases), console=bar)}
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(_table(cases, outcomes))
    for outcome in outcomes.values():
        for line in outcome.alarms + outcome.failures + (outcome.remarks if chosen.verbose else []):
            console.print(f"{outcome.name}: {line}", markup=False)
    wrong = sum(not outcome.right for outcome in outcomes.values())
    console.print(f"{len(outcomes) - wrong} of {len(cases)} are silent and have learned.")
    return int(wrong > 0 or len(outcomes) < len(cases))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score gradwatch on healthy trainings.")
    parser.add_argument("--names", nargs="*", metavar="NAME", choices=list(BY_NAME), help="only these")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, of one thread each")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--verbose", action="store_true", help="show the findings at info as well")
    return parser.parse_args()


def _outcomes(cases: Iterable[Case], seed: int, jobs: int) -> Iterator[Outcome]:
    """Run the cases in processes of their own; one that raises has failed, and the others go on."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_quiet) as pool:
        names = {pool.submit(_run, case.name, seed): case.name for case in cases}
        for future in as_completed(names):
            error = future.exception()
            yield future.result() if error is None else failed(names[future], error)


def _quiet() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    logging.getLogger("gradwatch").propagate = False
    warnings.simplefilter("ignore")


def _run(name: str, seed: int) -> Outcome:
    return run(BY_NAME[name], seed)


def _table(cases: Sequence[Case], outcomes: dict[str, Outcome]) -> Table:
    table = Table(title="Healthy trainings under gradwatch", caption="Above info there must be none.")
    for column in ("training", "steps", "s", "goal", "reached", "learned", "above info", "info"):
        table.add_column(column, justify="right" if column in {"steps", "s", "reached"} else "left")
    for case in cases:
        outcome = outcomes[case.name]
        learned = "yes" if outcome.learned else "[red]NO[/]"
        alarms = f"[red]{_codes(outcome.alarms + outcome.failures)}[/]" if outcome.alarms + outcome.failures else ""
        numbers = (str(outcome.steps), f"{outcome.seconds:.1f}", case.learned.words, f"{outcome.value:.4g}")
        table.add_row(case.name, *numbers, learned, alarms, _codes(outcome.remarks))
    return table


def _codes(texts: Iterable[str]) -> str:
    return ", ".join(text.split(",")[0].split(":")[0] for text in texts)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
