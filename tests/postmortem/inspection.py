"""What is found in the folder of a run that was killed, against what its process had told before."""

from __future__ import annotations

import contextlib
import io
import json
import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gradwatch import load_events, load_incident, load_last_steps
from gradwatch.cli import main
from gradwatch.engine.flight_recorder import AT_ONCE
from gradwatch.records import StepRecord
from gradwatch.serialization import from_dict
from gradwatch.serialization.ring_layout import STEPS
from gradwatch.sinks.event_log import EventLog
from gradwatch.sinks.thinning_plan import KEPT_CHECKS, KEPT_INCIDENTS, KEPT_LAST
from tests.sinks.samples import run_start
from tests.sinks.test_thinning import assert_nothing_is_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.postmortem.dying import Told

COMMANDS = {"show": [], "report": ["-o"]}


@dataclass
class Findings:
    """What is wrong with a folder, and what was seen of it."""

    wrong: list[str] = field(default_factory=list)
    torn: int = 0
    thinned: bool = False
    commands: dict[str, bool] = field(default_factory=dict)


def inspect(folder: Path, told: Told, commands: Sequence[str] = ()) -> Findings:
    """Look at everything; an exception is something wrong, too."""
    found = Findings()
    for look in (_events, _last_steps, _incidents, _next_run):
        _collect(found, look.__name__.strip("_"), lambda look=look: look(folder, told, found))  # type: ignore[misc]
    for command in commands:
        output = [str(folder.parent / f"{folder.name}.html")] if COMMANDS[command] else []
        arguments = [command, str(folder), *COMMANDS[command], *output]
        _collect(found, command, lambda arguments=arguments: _command(arguments, told, found))  # type: ignore[misc]
    return found


def known_commands() -> list[str]:
    """Return those of the commands that this version has."""
    known = []
    for command in COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                main([command, "--help"])
            except SystemExit as ended:
                known += [command] if ended.code == 0 else []
    return known


def _collect(found: Findings, what: str, look: Callable[[], None]) -> None:
    try:
        look()
    except Exception as error:  # noqa: BLE001 - whatever it is, the next run is looked at, too
        found.wrong.append(f"{what}: {type(error).__name__}: {str(error).partition(chr(10))[0][:300]}")


def _events(folder: Path, told: Told, found: Findings) -> None:
    """Every line that was told is there, or a record that stands for it; one more line may be, whole or torn."""
    if not told.lines and not (folder / "events.jsonl").exists():
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        load_events(folder)
    found.torn = len(said)
    assert len(said) <= 1, [str(entry.message) for entry in said]
    content = (folder / "events.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    if said:
        assert not content.endswith(b"\n"), "a line was cut off that is not the last"
        lines.pop()
    here, there = _by_type(lines), _by_type(told.lines)
    found.thinned = b'"pooled": {' in content
    for kind in ("run_start", "finding", "incident", "run_end"):
        _assert_same(here.get(kind, []), there.get(kind, []), kind)
    _assert_steps(here.get("step", []), there.get("step", []))
    _assert_checks(here.get("gradient_check", []), there.get("gradient_check", []))
    last = there.get("last_steps", [])
    of_incidents = [line for line in last if json.loads(line)["reason"] == "incident"]
    for line in [*of_incidents[:KEPT_INCIDENTS], *last[-KEPT_LAST:]]:
        assert line in here["last_steps"], "last steps are lost"


def _by_type(lines: Sequence[bytes]) -> dict[str, list[bytes]]:
    sorted_: dict[str, list[bytes]] = {}
    for line in lines:
        sorted_.setdefault(json.loads(line)["type"], []).append(line)
    return sorted_


def _assert_same(here: list[bytes], there: list[bytes], kind: str) -> None:
    assert here[: len(there)] == there, f"{kind} lines are lost or changed"
    assert len(here) <= len(there) + 1, f"{kind} lines are there that were not told"


def _assert_steps(here: list[bytes], there: list[bytes]) -> None:
    kept, written = ([_step(line) for line in lines] for lines in (here, there))
    covered = sum(1 if record.pooled is None else record.pooled.records for record in kept)
    if covered == len(written) + 1:  # written, and not told any more
        assert kept.pop().pooled is None
    assert_nothing_is_lost(kept, written)


def _step(line: bytes) -> StepRecord:
    event = from_dict(json.loads(line))
    assert isinstance(event, StepRecord)
    return event


def _assert_checks(here: list[bytes], there: list[bytes]) -> None:
    bad = [line for line in there if json.loads(line)["verdict"] != "pass"]
    for line in [*there[:1], *there[-1:], *bad[:KEPT_CHECKS], *bad[-KEPT_CHECKS:]]:
        assert line in here, "gradient checks are lost"


def _last_steps(folder: Path, told: Told, found: Findings) -> None:
    """The last 64 steps that were told are there; those that were just being written may be."""
    if not told.steps:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [event] = load_last_steps(folder)
    rows = [
        (step, math.nan if loss is None else loss, math.nan if norm is None else norm)
        for step, loss, norm in zip(event.steps, event.loss, event.grad_norm, strict=True)
    ]
    assert len(rows) >= min(STEPS, len(told.steps)), f"only {len(rows)} of the last steps are there"
    untold = range(min(AT_ONCE, len(rows) - 1) + 1)
    assert any(_agree(rows[: len(rows) - more], told.steps) for more in untold), "other last steps than were told"
    assert list(event.layers) == ["body", "norm", "head"]


def _agree(rows: Sequence[Any], told: Sequence[Any]) -> bool:
    return not rows or repr(list(rows)) == repr(list(told[-len(rows) :]))


def _incidents(folder: Path, told: Told, found: Findings) -> None:
    """An incident's folder holds a whole incident, or none yet."""
    logged = [json.loads(line) for line in told.lines if b'"type": "incident"' in line[:64]]
    loaded = 0
    for directory in sorted(folder.glob("incidents/*")):
        if (directory / "incident.json").exists():
            load_incident(directory)
            loaded += 1
    assert loaded >= len(logged), "an incident that is in the log has no folder"


def _next_run(folder: Path, told: Told, found: Findings) -> None:
    """A later run in the folder has a file of its own and cleans up; the log of the dead one stays as it is."""
    if not folder.exists():
        return
    before = {path.name: path.read_bytes() for path in folder.glob("events*.jsonl")}
    log = EventLog(folder)
    log.write(run_start())
    log.close()
    after = {path.name: path.read_bytes() for path in folder.glob("events*.jsonl")}
    assert log.path is not None
    assert set(after) == {*before, log.path.name}
    assert {name: after[name] for name in before} == before
    assert list(folder.glob("*.tmp")) == []
    log.path.unlink()


def _command(arguments: list[str], told: Told, found: Findings) -> None:
    """The command says what it can, and never fails on a run that has written something."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = main(arguments)
    found.commands[arguments[0]] = status in ((0, 1) if told.lines else (0, 1, 2))
    assert found.commands[arguments[0]], f"exit status {status}: {err.getvalue().strip()}"
