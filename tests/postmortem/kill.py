"""The kill test: trainings that are killed with SIGKILL, and what their folders tell afterwards.

``make score-kill`` kills 200 and writes ``docs/postmortem_figures.md``; ``python -m tests.postmortem.kill --runs 20
--seed 7 --verbose`` shows some others. A training dies in one of three ways: at a random moment; at a random moment
inside of something (an event being written, the log being thinned, an incident, a gradient check); or by its own hand
at a chosen call: before, in the middle of, or after the n-th write, fsync or rename of a chosen file.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import Progress

from tests.postmortem import figures
from tests.postmortem.dying import Fate, Told, run
from tests.postmortem.inspection import Findings, inspect, known_commands
from tests.postmortem.journal import PHASES, CrashPoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RUNS = 200
LONGEST_DELAY = 0.02  # seconds: some steps, or a part of a gradient check
RANDOM, AIMED, POINT = "at a random moment", "inside of", "by its own hand"


class Death(NamedTuple):
    """One training: how it was to die, what it had told, and what was found."""

    fate: Fate
    told: Told
    found: Findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, look, print the table; exit status 1 if anything is wrong."""
    chosen = _arguments(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    commands = known_commands()
    with tempfile.TemporaryDirectory(prefix="gradwatch-kill-") as place:
        model = _whole_run(Path(place) / "whole")
        fates = fates_of(chosen.runs, model, random.Random(chosen.seed))
        deaths = list(_deaths(Path(place), fates, commands))
    console.print(figures.table(deaths, commands))
    wrong = [death for death in deaths if death.found.wrong]
    for death in deaths if chosen.verbose else wrong:
        console.print(_described(death), markup=False)
    console.print(f"{len(deaths) - len(wrong)} of {len(deaths)} runs left all that they had written")
    if chosen.write:
        figures.PAGE.write_text(figures.page(deaths, model, commands), encoding="utf-8")
        console.print(f"wrote {figures.PAGE.relative_to(figures.ROOT)}")
    return int(bool(wrong))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill trainings, and see what is left of them.")
    parser.add_argument("--runs", type=int, default=RUNS, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which they are killed")
    parser.add_argument("--verbose", action="store_true", help="show every run, not only what is wrong")
    parser.add_argument("--write", action="store_true", help="write the page of figures")
    return parser.parse_args(arguments)


def _whole_run(folder: Path) -> Told:
    """A run that nobody kills: how long it takes, and how often each call comes; it must be all right itself."""
    told = run(folder, Fate("not at all"))
    found = inspect(folder, told)
    if told.killed or found.wrong or not found.thinned:
        message = f"the run that is not killed is not all right: {found}"
        raise RuntimeError(message)
    return told


def fates_of(runs: int, whole: Told, rng: random.Random) -> list[Fate]:
    """Return how so many shall die: two of five at a random moment, one inside of something, two at a call."""
    fates = []
    for number in range(runs):
        if number % 5 < 2:
            fates.append(Fate(RANDOM, frames=rng.randrange(whole.frames), delay=rng.uniform(0, LONGEST_DELAY)))
        elif number % 5 == 2:
            phase = list(PHASES)[number // 5 % len(PHASES)]
            # In the last fifth there may be no more of it.
            fates.append(Fate(f"{AIMED}: {phase}", frames=rng.randrange(whole.frames * 4 // 5), phase=phase))
        else:
            fates.append(_crash_point(number, whole, rng))
    return fates


def _crash_point(number: int, whole: Told, rng: random.Random) -> Fate:
    kinds = sorted(whole.calls)
    call, kind = kinds[number % len(kinds)]
    moments = ["before", "middle", "after"] if "write" in call else ["before", "after"]
    point = CrashPoint(call, kind, rng.choice(moments), rng.randint(1, whole.calls[call, kind]))
    return Fate(f"{POINT}: {call} of the {kind}", point=point)


def _deaths(place: Path, fates: Sequence[Fate], commands: Sequence[str]) -> Iterator[Death]:
    # No thread that refreshes the bar: a process that forks has better none.
    with Progress(console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task("killing", total=len(fates))
        for number, fate in enumerate(fates):
            yield _death(place / str(number), fate, commands)
            bar.update(task, advance=1, refresh=True)


def _death(folder: Path, fate: Fate, commands: Sequence[str]) -> Death:
    told = run(folder, fate)
    while not told.killed and fate.frames:  # it was quicker than its death: one moment earlier, then
        shutil.rmtree(folder)
        fate = fate._replace(frames=fate.frames * 4 // 5, delay=0.0)
        told = run(folder, fate)
    death = Death(fate, told, inspect(folder, told, commands))
    if not death.found.wrong:
        shutil.rmtree(folder, ignore_errors=True)
    return death


def _described(death: Death) -> str:
    told, found = death.told, death.found
    how = f"killed in {told.phase}" if told.killed else "came to its end"
    lines = [f"{death.fate}: {how} after {len(told.steps)} steps and {len(told.lines)} lines"]
    return "\n".join([*lines, *(f"  WRONG: {what}" for what in found.wrong)])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
