"""What happened in a run, in the order in which it began: findings of one kind together, incidents of one origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradwatch.report.episodes import rank_of
from gradwatch.report.origins import what_was_seen

if TYPE_CHECKING:
    from collections.abc import Hashable

    from gradwatch.report.episodes import Episode
    from gradwatch.report.incidents import FiledIncident
    from gradwatch.report.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the timeline: ``times`` findings of one code in ``layers``, or incidents of one origin.

    ``layers`` leaves out the model itself. ``until_step`` is None while a finding is open. ``severity`` is the worst of
    them, ``incident`` for incidents; ``message`` and ``advice`` are those of the worst. ``ranks`` are those that saw
    it, none in a run of one rank.
    """

    what: str
    severity: str
    since_step: int
    until_step: int | None
    layers: tuple[str, ...]
    times: int
    message: str
    advice: str
    ranks: tuple[int, ...] = ()


def timeline(run: Run) -> list[Entry]:
    """Return findings and incidents in the order in which they began."""
    entries = [_finding(group, _ranks(run, group)) for group in _grouped(run.episodes)] + incident_entries(run)
    return sorted(entries, key=lambda entry: entry.since_step)


def incident_entries(run: Run) -> list[Entry]:
    """Return an entry for each origin of incidents: a run that survives them may have had a hundred of one."""
    origins: dict[Hashable, list[FiledIncident]] = {}
    for incident in run.incidents:
        where = incident.origin
        key = (incident.first_seen, where.phase, where.op, where.module, where.tensor, where.cause)
        origins.setdefault(key, []).append(incident)
    return [_incident(group, _ranks(run, group)) for group in origins.values()]


def _ranks(run: Run, group: list[Episode] | list[FiledIncident]) -> tuple[int, ...]:
    several = len({*run.ranks, *(incident.rank for incident in run.incidents)}) > 1
    return tuple(sorted({one.rank for one in group})) if several else ()


def _grouped(episodes: list[Episode]) -> list[list[Episode]]:
    groups: dict[tuple[str, bool], list[Episode]] = {}
    for episode in episodes:
        groups.setdefault((episode.code, episode.is_trouble), []).append(episode)
    return list(groups.values())


def _finding(group: list[Episode], ranks: tuple[int, ...]) -> Entry:
    worst = max(group, key=lambda episode: (rank_of(episode.severity), episode.is_open))
    layers = [worst.layer, *(episode.layer for episode in group)]
    ends = [episode.closed_step for episode in group]
    return Entry(
        what=worst.code,
        severity=worst.severity,
        since_step=min(episode.since_step for episode in group),
        until_step=None if None in ends else max(end for end in ends if end is not None),
        layers=tuple(dict.fromkeys(layer for layer in layers if layer)),
        times=len(group),
        ranks=ranks,
        message=worst.message,
        advice=worst.advice,
    )


def _incident(group: list[FiledIncident], ranks: tuple[int, ...]) -> Entry:
    first = group[0]
    module = first.origin.module
    return Entry(
        what=f"{what_was_seen(first)}, {first.action}",
        severity="incident",
        since_step=first.step,
        until_step=group[-1].step,
        layers=(module,) if module else (),
        times=len(group),
        ranks=ranks,
        message=first.explanation,
        advice=first.advice,
    )
