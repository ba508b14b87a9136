"""The runs that are compared, and which of them are seeds of one experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gradwatch.report.compare.curves import Curves, curves_of, joined
from gradwatch.report.compare.differences import differing
from gradwatch.report.compare.labels import common_label, labels_of
from gradwatch.report.compare.settings import TABLE, Flat, experiment_of, flatten, seed_of
from gradwatch.report.lost import lost_at
from gradwatch.report.run import Run, read_runs
from gradwatch.report.verdict import verdict_of

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from gradwatch.records import Incident, RunStart
    from gradwatch.report.episodes import Episode

_MOST_NAMED = 3  # settings that a group is named after
_ENDED = {"healthy": "finished", "findings": "finished"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """One run, as far as it is compared.

    ``curves`` has one entry an optimizer; ``ended`` is finished, or how else a run ends: nonfinite, exception, stopped,
    interrupted, killed, or running. ``lost_at`` is the step at which it became NaN or infinite for good.
    """

    label: str
    folder: Path
    run_id: str
    start: RunStart | None
    ended: str
    last_step: int
    lost_at: int | None
    flat: Flat
    curves: dict[int, Curves]
    episodes: list[Episode]
    incidents: list[Incident]
    notes: list[str]

    @property
    def seed(self) -> str | None:
        """The seed of the run, if it is known."""
        return seed_of(self.start) if self.start else None

    @property
    def layers(self) -> frozenset[str] | None:
        """What was called a layer, if it is known: modules or single parameters, as ``granularity`` says."""
        return frozenset(row.layer for row in self.start.parameters) or None if self.start else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Runs of one experiment."""

    name: str
    members: list[Member] = field(default_factory=list)

    @property
    def has_records(self) -> bool:
        """Whether any step of any run was recorded."""
        return any(len(curves.steps) for member in self.members for curves in member.curves.values())


def read_members(paths: Sequence[str | os.PathLike[str]]) -> list[Member]:
    """Return the runs at several paths: the last of each folder, or all of a folder that is the only one.

    Raises:
        FileNotFoundError: there is no event log at a path.
        SchemaError: a log holds something else than events.
        ValueError: several folders below a path hold runs.
        OSError: something cannot be read.
    """
    found = []
    for path, label in zip(paths, labels_of(paths), strict=True):
        runs = read_runs(path)
        if len(paths) > 1:
            found.append(_member(runs[-1], runs, label))
            continue
        resumed = {run.start.resumed_from for run in runs if run.start}
        last = [run for run in runs if run.run_id not in resumed]
        found += [_member(run, runs, f"{label}#{number}") for number, run in enumerate(last)]
    return found


def grouped(members: Sequence[Member]) -> list[Group]:
    """Return the runs by experiment: those that agree in all settings but the seed belong together.

    A run that has lost its ``run_start`` is a group of its own: nobody can say what it belongs to.
    """
    by_experiment: dict[str, list[Member]] = {}
    for member in members:
        key = experiment_of(member.flat) if member.start else f"unknown {id(member)}"
        by_experiment.setdefault(key, []).append(member)
    return named(list(by_experiment.values()))


def named(groups: Sequence[list[Member]]) -> list[Group]:
    """Return groups with names: after the settings that tell them apart, else after their folders."""
    names = _names_by_setting(groups)
    if len(set(names)) < len(groups) or "" in names:
        names = [
            common_label([member.label for member in group], [member.folder for member in group]) for group in groups
        ]
    if len(set(names)) < len(groups):
        names = [f"group {number}" for number in range(1, len(groups) + 1)]
    return [Group(name=name, members=members) for name, members in zip(names, groups, strict=True)]


def _member(run: Run, runs: Sequence[Run], label: str) -> Member:
    curves = {table.optimizer: curves_of(table) for table in run.steps}
    notes = list(run.notes)
    known = {other.run_id: other for other in runs}
    ancestor, seen = run, {run.run_id}
    while ancestor.start and ancestor.start.resumed_from in known and ancestor.start.resumed_from not in seen:
        ancestor = known[ancestor.start.resumed_from]
        seen.add(ancestor.run_id)
        for table in ancestor.steps:
            earlier = curves_of(table)
            curves[table.optimizer] = joined(earlier, curves.get(table.optimizer, _nothing(earlier)))
    left_out = len(runs) - len(seen)
    if left_out and "#" not in label:
        notes.append(f"{left_out} other runs in the folder are left out: name their events.<n>.jsonl to compare them")
    return Member(
        label=label,
        folder=run.folder,
        run_id=run.run_id,
        start=run.start,
        ended=_ENDED.get(state := verdict_of(run).state, state),
        last_step=run.last_step,
        lost_at=lost_at(run),
        flat=flatten(run.start) if run.start else {},
        curves=curves,
        episodes=list(run.episodes),
        incidents=list(run.incidents),
        notes=notes,
    )


def _nothing(like: Curves) -> Curves:
    return Curves(
        like.steps[:0], {name: value[:0] for name, value in like.values.items()}, like.names, like.layers[:, :0]
    )


def _names_by_setting(groups: Sequence[list[Member]]) -> list[str]:
    rows = [row for row in differing([[member.flat for member in group] for group in groups]) if row.decides]
    rows = [row for row in rows if row.name not in (TABLE, "model.trained")][:_MOST_NAMED]
    names = [row.name.rpartition(".")[2] for row in rows]
    short = [row.name if names.count(name) > 1 else name for row, name in zip(rows, names, strict=True)]
    return [
        ", ".join(f"{name}={row.values[index]}" for name, row in zip(short, rows, strict=True))
        for index in range(len(groups))
    ]
