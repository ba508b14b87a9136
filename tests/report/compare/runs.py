"""Runs for the tests of comparing: groups of seeds in folders, and names that nobody should give."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gradwatch.serialization import log_name
from tests.report.synthetic import write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

HOSTILE = "</script><img onerror=alert(1)> [bold]x[/bold] \x1b[31mred\n\udc80" + "long" * 200


def seeds(folder: Path, numbers: Iterable[int], **changes: Any) -> list[Path]:
    """Runs with several seeds, one folder each."""
    paths = [folder / f"seed={seed}" for seed in numbers]
    for seed, path in zip(numbers, paths, strict=True):
        write_run(path, **{"layers": 5, "records": 60, "steps": 600, "seed": seed, **changes})
    return paths


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change the events of a run, or leave out those for which there is None."""
    log = folder / log_name(0)
    events = [change(json.loads(line)) for line in log.read_text(encoding="ascii").splitlines()]
    log.write_text("".join(json.dumps(event) + "\n" for event in events if event is not None), encoding="ascii")


def steps_from(step: int, /, **changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What sets fields of every step record from ``step`` on; a function is given the old value."""

    def change(event: dict[str, Any]) -> dict[str, Any]:
        if event["type"] != "step" or event["step"] < step:
            return event
        return event | {key: value(event[key]) if callable(value) else value for key, value in changes.items()}

    return change


def start_with(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What sets fields of the start of a run."""
    return lambda event: event | changes if event["type"] == "run_start" else event
