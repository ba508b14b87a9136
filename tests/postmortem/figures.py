"""The page of figures of the kill test."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.postmortem.dying import Told
    from tests.postmortem.kill import Death

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "postmortem_figures.md"
HEADINGS = (
    "how they died",
    "runs",
    "killed",
    "all as it was told",
    "last line torn",
    "log had been thinned",
    "64 last steps",
)


def table(deaths: Sequence[Death], commands: Sequence[str]) -> Table:
    """Return the table for the terminal."""
    made = Table(*HEADINGS, *commands, title="Trainings killed with SIGKILL")
    for row in _rows(deaths, commands):
        made.add_row(*row)
    return made


def page(deaths: Sequence[Death], whole: Told, commands: Sequence[str]) -> str:
    """Return the page."""
    killed = [death for death in deaths if death.told.killed]
    wrong = sum(bool(death.found.wrong) for death in deaths)
    steps = [len(death.told.steps) for death in killed]
    intro = (
        f"{len(deaths)} short trainings, each in a process of its own: {len(killed)} died by SIGKILL,"
        f" {len(deaths) - len(killed)} came to their end before it. They write a record at every step, findings,"
        ' gradient checks and incidents (`on_nonfinite="skip"`), into a log whose budget is so small that it is thinned'
        " again and again."
        f" Left alone, a run makes {len(whole.steps)} steps and writes {len(whole.lines)} lines; the killed ones had"
        f" made {min(steps)} to {max(steps)} steps. Every process tells over a pipe what it has written, call by call,"
        " once the call has returned; all of that is looked for in the folder that it has left."
    )
    points = (
        f"**{len(deaths) - wrong} of {len(deaths)}** folders had everything: every finding, incident, `run_start` and"
        " `run_end` byte for byte, every step record itself or in a record that stands for it with its extremes, the"
        " last 64 steps number by number, every incident's folder whole; and a later run in the same folder found"
        " its way, and cleaned up. At most the last line was cut off."
    )
    return (
        "\n\n".join(
            [
                "# Post-mortem: figures",
                "Written by `make score-kill`; it also prints each run that is not as it should be.",
                _paragraph(intro),
                _paragraph(points),
                "\n".join(_markdown([(*HEADINGS, *commands), *_rows(deaths, commands)])),
                "## Where they were when a random moment killed them",
                "\n".join(_markdown([("in", "runs"), *_places(killed)])),
            ]
        )
        + "\n"
    )


def _rows(deaths: Sequence[Death], commands: Sequence[str]) -> list[tuple[str, ...]]:
    ways = sorted({death.fate.way for death in deaths})
    groups = [(way, [death for death in deaths if death.fate.way == way]) for way in ways]
    return [_row(way, own, commands) for way, own in [*groups, ("all", list(deaths))]]


def _row(way: str, deaths: Sequence[Death], commands: Sequence[str]) -> tuple[str, ...]:
    def count(values: Iterable[bool]) -> str:
        return str(sum(values))

    def share(name: str) -> str:
        right = sum(not any(what.startswith(f"{name}: ") for what in death.found.wrong) for death in deaths)
        return f"{right}/{len(deaths)}"

    return (
        way,
        str(len(deaths)),
        count(death.told.killed for death in deaths),
        share("events"),
        count(death.found.torn > 0 for death in deaths),
        count(death.found.thinned for death in deaths),
        share("last_steps"),
        *(share(command) for command in commands),
    )


def _places(killed: Sequence[Death]) -> list[tuple[str, str]]:
    random_ones = [death for death in killed if death.fate.point is None and death.fate.phase is None]
    names = sorted({death.told.phase for death in random_ones})
    return [(name, str(sum(death.told.phase == name for death in random_ones))) for name in names]


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False)
