"""The score of the healthy trainings: whatever is found above info in one of them is a false alarm."""

from __future__ import annotations

import logging
import multiprocessing
import warnings
from collections import Counter
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


def healthy(names: Sequence[str] | None, *, seed: int, processes: int) -> list[Outcome]:
    """Train those of these names, or all, in so many processes, and return what came of them in their order."""
    cases = [BY_NAME[name] for name in names or BY_NAME]
    done = track(_outcomes(cases, seed, processes), "healthy", total=len(cases), console=Console(stderr=True))
    outcomes = {outcome.name: outcome for outcome in done}
    return [outcomes[case.name] for case in cases]


def print_healthy(console: Console, outcomes: Sequence[Outcome], *, verbose: bool) -> None:
    """Print the table, and under it what should not have been found; with ``verbose`` what was found at all."""
    console.print(_table(outcomes))
    for outcome in outcomes:
        for line in outcome.alarms + outcome.failures + (outcome.remarks if verbose else []):
            console.print(f"{outcome.name}: {line}", markup=False)
    right = sum(outcome.right for outcome in outcomes)
    console.print(f"{right} of {len(outcomes)} healthy trainings are silent and have learned")


def codes(texts: Iterable[str]) -> str:
    """Return the codes of findings as they are described, each once; "2x" where two layers have it."""
    counts = Counter(text.split(" ")[0].rstrip(",:") for text in texts)
    return ", ".join(code if count == 1 else f"{code} {count}x" for code, count in counts.items())


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


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="Healthy trainings under gradwatch", caption="Above info there must be none.")
    for column in ("training", "steps", "s", "goal", "reached", "learned", "above info", "info"):
        table.add_column(column, justify="right" if column in {"steps", "s", "reached"} else "left")
    for outcome in outcomes:
        learned = "yes" if outcome.learned else "[red]NO[/]"
        wrong = codes(outcome.alarms + outcome.failures)
        goal = BY_NAME[outcome.name].learned.words
        numbers = (str(outcome.steps), f"{outcome.seconds:.1f}", goal, f"{outcome.value:.4g}")
        table.add_row(outcome.name, *numbers, learned, f"[red]{wrong}[/]" if wrong else "", codes(outcome.remarks))
    return table
