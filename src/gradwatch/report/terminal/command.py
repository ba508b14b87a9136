"""The command ``gradwatch show``: reads a run and writes one screen, or one JSON object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.report.run import choose, read_runs
from gradwatch.report.stdout import PatientConsole, write
from gradwatch.report.terminal.layout import MAX_WIDTH, MIN_WIDTH, Layout
from gradwatch.report.terminal.screen import screen
from gradwatch.report.terminal.sparkline import ASCII, BLOCKS
from gradwatch.report.verdict import verdict_of

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.report.run import Run
    from gradwatch.report.verdict import Verdict


def show(path: Path, *, run_id: str | None = None, as_json: bool = False) -> bool:
    """Print a run on standard output.

    Args:
        path: what ``read_runs`` takes.
        run_id: the beginning of a run's id. Default: the last run.
        as_json: one JSON object instead of a screen.

    Returns:
        Whether the run was healthy.

    Raises:
        OSError: nothing can be read.
        ValueError: what is there is no run, or not the one asked for.
    """
    runs = read_runs(path)
    run = choose(runs, run_id)
    verdict = verdict_of(run)
    if as_json:
        from gradwatch.report.terminal.machine import to_json  # noqa: PLC0415 - the other form

        write(to_json(run, verdict, runs) + "\n")
    else:
        _print(run, verdict, [other for other in runs if other is not run])
    return verdict.healthy


def _print(run: Run, verdict: Verdict, others: list[Run]) -> None:
    console = PatientConsole()
    ramp = BLOCKS if console.encoding.lower().startswith("utf") else ASCII
    width = max(MIN_WIDTH, min(console.width, MAX_WIDTH))
    for line in screen(run, verdict, others, Layout(console, width, ramp)):
        console.print(line, soft_wrap=True)
