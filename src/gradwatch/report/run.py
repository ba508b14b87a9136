"""A run as its files tell it: the one model of a run that everything in ``report`` looks at."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING, Any

from gradwatch.records import Finding, GradientCheck, Incident, LastSteps, RunEnd, RunStart
from gradwatch.report.columns import StepTable
from gradwatch.report.endings import by_rank, loss_notes, telling_end
from gradwatch.report.episodes import Episode, Episodes
from gradwatch.report.folder import find
from gradwatch.report.incidents import FiledIncident, read_folders, with_folders
from gradwatch.report.lines import read_log
from gradwatch.serialization import SchemaError, UnknownEvent, from_dict, ring_beside, ring_of
from gradwatch.serialization.files import logs_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from pathlib import Path

    from gradwatch.records import Event
    from gradwatch.report.steps import Steps
    from gradwatch.serialization.files import Log

# Far beyond any training; each costs a table of its own.
MAX_OPTIMIZERS = 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One run, all of its ranks.

    ``run_id`` is the name of the log where its ``run_start`` was lost; ``folder`` is the directory of the logs.
    ``start`` is that of the lowest rank, ``end`` that of the rank that tells why the run ended; ``starts`` and ``ends``
    have those of all ranks that have written one.
    ``steps`` has one table for each optimizer, of the lowest rank that left a log. ``episodes`` are findings put
    together, in the order in which they began; ``incidents`` are in the order of steps, ``checks`` and ``last_steps``
    as written; those of a ring file that knows of later steps (``reason="killed"`` unless the log has an end) follow
    those of its log.
    ``notes`` say what a reader should know of the files. ``last_time`` (Unix seconds, NaN if nothing has one) and
    ``last_step`` are those of the last thing that was written.
    """

    run_id: str
    folder: Path
    start: RunStart | None
    end: RunEnd | None
    starts: dict[int, RunStart]
    ends: dict[int, RunEnd]
    steps: list[Steps]
    episodes: list[Episode]
    incidents: list[FiledIncident]
    checks: list[GradientCheck]
    last_steps: list[LastSteps]
    notes: list[str]
    ranks: tuple[int, ...]
    last_time: float
    last_step: int

    @property
    def has_stepped(self) -> bool:
        """Whether any optimizer step was written, be it by what was found there."""
        began = self.start.step if self.start is not None else 0
        written = any(map(len, self.steps)) or any(one.steps for one in self.last_steps)
        return written or bool(self.episodes or self.incidents) or self.last_step > began


def read_runs(path: str | os.PathLike[str]) -> list[Run]:
    """Return the runs of a folder in the order in which they were started.

    Args:
        path: the ``dirpath`` of a run, one of its ``events*.jsonl``, or a folder above (``lightning_logs/version_3``).

    Raises:
        FileNotFoundError: there is no event log.
        SchemaError: a log holds something else than events; the message names file and line.
        ValueError: several folders below ``path`` hold runs.
        OSError: something cannot be read.
    """
    found = find(path)
    folder = found.parent if found.is_file() else found
    logs = logs_of(found)
    readers: dict[str, _Reader] = {}
    for log in logs:
        run_id = log.run_id or _run_of_lost_start(log, logs)
        readers.setdefault(run_id, _Reader(run_id, folder)).read(log)
    incidents, notes = read_folders(folder) if found.is_dir() else _folders_of(folder, readers.values())
    return _runs(list(readers.values()), incidents, notes)


def choose(runs: list[Run], run_id: str | None) -> Run:
    """Return the last run, or the one whose ``run_id`` begins as asked.

    Raises:
        ValueError: none or several begin so; the message lists what there is.
    """
    if run_id is None:
        return runs[-1]
    fitting = [run for run in runs if run.run_id.startswith(run_id)]
    exact = [run for run in fitting if run.run_id == run_id]
    if len(exact or fitting) == 1:
        return (exact or fitting)[0]
    there = ", ".join(repr(run.run_id) for run in fitting or runs)
    what = f"{len(fitting)} runs begin with" if fitting else "no run begins with"
    raise ValueError(f"{what} {run_id!r}: {there}")


class _Reader:
    """Reads the logs of one run."""

    def __init__(self, run_id: str, folder: Path) -> None:
        self.run_id, self._folder = run_id, folder
        self.events: dict[type[Event], list[Any]] = {}
        self._tables: dict[int, StepTable] = {}
        self._episodes = Episodes()
        self._unknown: dict[str, int] = {}
        self._notes: list[str] = []
        self._ranks: list[int] = []
        self._last_time, self._last_step = -math.inf, 0

    def read(self, log: Log) -> None:
        """Take in one log; step records of the first one's rank only."""
        self._ranks.append(log.rank)
        before = {kind: len(self._of(kind)) for kind in (RunStart, LastSteps, RunEnd)}
        self._notes += read_log(log.path, self._take, steps=log.rank == self._ranks[0])
        starts, last_steps, ends = (self._of(kind)[count:] for kind, count in before.items())
        self._read_ring(log.path, next(iter(starts), None), last_steps, next(iter(ends), None))

    def began(self) -> float:
        """Return when the run was started, as far as it is known."""
        starts = self._of(RunStart)
        return starts[0].time if starts and math.isfinite(starts[0].time) else math.inf

    def run(self, incidents: list[FiledIncident], notes: Iterable[str]) -> Run:
        """Return what was read.

        Args:
            incidents: those that have a folder; some of them may not have come to be written to a log.
            notes: what else there is to say.
        """
        starts, ends = self._of(RunStart), by_rank(self._of(RunEnd))
        start: RunStart | None = starts[0] if starts else None
        logged = with_folders(self._of(Incident), incidents)
        known = {(incident.time, incident.rank) for incident in logged}
        logged += [incident for incident in incidents if (incident.time, incident.rank) not in known]
        return Run(
            run_id=self.run_id,
            folder=self._folder,
            start=start,
            end=telling_end(list(ends.values())),
            starts=by_rank(starts),
            ends=ends,
            steps=self._steps(start),
            episodes=self._episodes.in_order(),
            incidents=sorted(logged, key=lambda incident: (incident.step, incident.time)),
            checks=self._of(GradientCheck),
            last_steps=self._of(LastSteps),
            notes=[*self._notes, *loss_notes(ends), *self._own_notes(), *notes],
            ranks=tuple(sorted(set(self._ranks))),
            last_time=self._last_time if math.isfinite(self._last_time) else math.nan,
            last_step=self._last_step,
        )

    def _of(self, kind: type[Event]) -> list[Any]:
        return self.events.get(kind, [])

    def _own_notes(self) -> list[str]:
        notes = []
        if any(start.run_id != self.run_id for start in self._of(RunStart)):
            notes.append("one log holds several runs, which are read as one")
        if self._unknown:
            kinds = ", ".join(repr(kind[:40]) for kind in sorted(self._unknown)[:5])
            total = sum(self._unknown.values())
            notes.append(f"{total} events of types that this version does not know are left out: {kinds}")
        return notes

    def _steps(self, start: RunStart | None) -> list[Steps]:
        order: dict[str, int] = {}
        for row in start.parameters if start else []:
            order.setdefault(row.layer, len(order))
        return [self._tables[index].finish(order) for index in sorted(self._tables)]

    def _take(self, data: dict[str, Any]) -> None:
        kind = data.get("type")
        if kind == "step":
            self._table(data).add(data)
            self._saw(float(data["time"]), data["step"])
            return
        event = _last_steps(data) if kind == "last_steps" else from_dict(data)
        self._saw(event.time, event.step)
        if isinstance(event, UnknownEvent):
            self._unknown[str(kind)] = self._unknown.get(str(kind), 0) + 1
        elif isinstance(event, Finding):
            self._episodes.add(event)
        else:
            self.events.setdefault(type(event), []).append(event)

    def _table(self, data: dict[str, Any]) -> StepTable:
        optimizer = data.get("optimizer")
        if type(optimizer) is not int:
            from_dict(data)  # says what is wrong
            raise SchemaError("'optimizer': expected an integer")
        if optimizer not in self._tables:
            if len(self._tables) >= MAX_OPTIMIZERS:
                raise SchemaError(f"records of more than {MAX_OPTIMIZERS} optimizers")
            self._tables[optimizer] = StepTable(optimizer)
        return self._tables[optimizer]

    def _read_ring(self, log: Path, start: RunStart | None, told: list[LastSteps], end: RunEnd | None) -> None:
        """Take in the steps at full rate that the log does not have; it is good without them."""
        try:
            last_steps = ring_beside(log, start, told, end)
        except (OSError, SchemaError) as error:
            self._notes.append(f"{ring_of(log).name}: the last steps could not be read: {error}")
            return
        for event in last_steps:
            self._saw(event.time, event.step)
            self.events.setdefault(LastSteps, []).append(event)

    def _saw(self, time: float, step: int) -> None:
        if math.isfinite(time):
            self._last_time = max(self._last_time, time)
        self._last_step = max(self._last_step, step)


def _last_steps(data: dict[str, Any]) -> LastSteps:
    """Return a ``LastSteps`` event: 64 steps of each layer, so that plain numbers are not looked at one by one."""
    layers = data.get("layers")
    plain = isinstance(layers, dict) and all(
        isinstance(values, list) and {float, NoneType}.issuperset(map(type, values)) for values in layers.values()
    )
    event: Any = from_dict({**data, "layers": {}} if plain else data)
    if plain:
        event = replace(event, layers=layers)
    columns = ("epochs", "batches", "loss", "grad_norm", "coefficient", "lr", "loss_scale", "skipped")
    lengths = {len(getattr(event, name)) for name in columns} | set(map(len, event.layers.values()))
    if lengths != {len(event.steps)}:
        raise SchemaError("last_steps: lists that are not all of the same length")
    steps: LastSteps = event
    return steps


def _run_of_lost_start(log: Log, logs: list[Log]) -> str:
    """Return the run of a log without ``run_start``: that of the lower ranks' log with the same number, if any."""
    for other in logs:
        if log.rank > 0 and other.rank < log.rank and other.number == log.number and other.run_id is not None:
            return other.run_id
    return log.path.name


def _folders_of(folder: Path, readers: Iterable[_Reader]) -> tuple[list[FiledIncident], list[str]]:
    """Return the folders of the incidents in one log alone: what lies beside it may belong to other runs."""
    logged = {(event.time, event.rank) for reader in readers for event in reader.events.get(Incident, [])}
    found, _ = read_folders(folder)
    return [incident for incident in found if (incident.time, incident.rank) in logged], []


def _runs(readers: list[_Reader], incidents: list[FiledIncident], notes: list[str]) -> list[Run]:
    """Return the runs with the incidents that are theirs: by the log, else by the time."""
    readers = sorted(readers, key=_Reader.began)
    mine: dict[str, list[FiledIncident]] = {reader.run_id: [] for reader in readers}
    owners = {
        (event.time, event.rank): reader.run_id for reader in readers for event in reader.events.get(Incident, [])
    }
    for incident in incidents:
        before = [reader.run_id for reader in readers if reader.began() <= incident.time]
        owner = owners.get((incident.time, incident.rank)) or (before or [readers[0].run_id])[-1]
        mine[owner].append(incident)
    # Notes on the folder are told with the last run, which is the one that is looked at unless another is asked for.
    return [reader.run(mine[reader.run_id], notes if reader is readers[-1] else ()) for reader in readers]
