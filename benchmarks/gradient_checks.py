"""What the gradient check detects, what it says and what it costs. Writes ``docs/gradient_check_figures.md``.

``make gradient-checks``: about fifteen minutes on an otherwise idle machine. With ``--quick``, a first look at all of
it in two minutes that writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import finite_differences, gradient_check_cost, gradient_detection, gradient_precision
from benchmarks.overhead import machine
from gradwatch.engine.gradient_checks import SAMPLES
from tests.probes.wrong_backwards import WRONG_BACKWARDS

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "gradient_check_figures.md"
PICTURE = DOCS / "images" / "finite_differences.svg"
WORKERS = 2
COST_LIMIT = 6.0
BUDGET_LIMIT = 0.01


def page(*, quick: bool) -> str:
    """Measure everything; return the page."""
    return f"""\
# The gradient check in figures

Measured with `make gradient-checks` ({machine()}).

## By hand and by gradwatch

{question(draw=not quick)}

![error against step](images/finite_differences.svg)

## Wrong backwards

{detection(quick=quick)}

## Precision

‖g - r‖ / ‖r‖ of the gradient g at the precision of the training against r in float64, after
{gradient_precision.TRAINED_STEPS} steps of training; noise: the same of one batch's gradient against the mean over
{gradient_precision.NOISE_BATCHES} batches.

{precision()}

## Cost

{cost(quick=quick)}
"""


def question(*, draw: bool) -> str:
    """Answer what a check by hand says of a right gradient."""
    series, habit, report = finite_differences.measure()
    if draw:
        finite_differences.draw(series, PICTURE)
    return finite_differences.as_text(series, habit, report)


def detection(*, quick: bool) -> str:
    """Return how many seeds of each wrong backward are caught, and the alarms on clean ones."""
    seeds = 1 if quick else gradient_detection.SEEDS
    clean = 1 if quick else gradient_detection.CLEAN_SEEDS
    cases = range(len(WRONG_BACKWARDS))
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("wrong backwards", total=2 * len(cases))
        found = [pool.submit(gradient_detection.detect, index, seeds) for index in cases]
        alarms = [pool.submit(gradient_detection.false_alarms, index, clean) for index in cases]
        running: list[Future[Any]] = [*found, *alarms]
        for _ in as_completed(running):
            progress.advance(task)
    return _detection_text([future.result() for future in found], sum(future.result() for future in alarms), clean)


def _detection_text(found: list[gradient_detection.Detection], alarms: int, clean: int) -> str:
    caught, asked = sum(one.caught for one in found), sum(one.seeds for one in found)
    return (
        f"{len(found)} wrong backwards in {found[0].seeds} seeds each: {caught} of {asked} caught. Their clean twins:"
        f" {alarms} alarms in {clean * len(found)} checks.\n\n{gradient_detection.as_table(found)}"
    )


def precision() -> str:
    """Return a table for each network."""
    parts = []
    for name, network, batches, loss in gradient_precision.networks():
        parts.append(f"### {name}\n\n{gradient_precision.as_table(gradient_precision.measure(network, batches, loss))}")
    return "\n\n".join(parts)


def cost(*, quick: bool) -> str:
    """Return the cost of one check, and that of a run whose schedule is automatic."""
    lines = ["| network | ms a step | a full check, in steps (quartiles) | goal |", "|---|---|---|---|"]
    for name in gradient_check_cost.workloads():
        one = gradient_check_cost.measure(name, 3 if quick else gradient_check_cost.ROUNDS)
        spread = f"{one.ratio:.1f} ({one.low:.1f} to {one.high:.1f})"
        lines.append(f"| {one.name} | {one.milliseconds:.0f} | {spread} | at most {COST_LIMIT:.0f} |")
    run = gradient_check_cost.run_of(200 if quick else gradient_check_cost.RUN_STEPS)
    first = "none" if run.first is None else f"the first at step {run.first}"
    table = "\n".join(lines)
    return (
        f"A full check asks all three questions, with {SAMPLES} samples.\n\n{table}\n\n"
        f'A run of {run.steps} steps with `gradient_check_every_n_steps="auto"`: {run.checks} checks ({first}),'
        f" {run.share:.2%} of the time of the training (goal: at most {BUDGET_LIMIT:.0%})."
    )


def main() -> None:
    """Measure, and write the page unless only a quick look was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a first look that writes nothing")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    text = page(quick=arguments.quick)
    if not arguments.quick:
        PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
