"""Findings, incidents and ends: how many runs of each group have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradwatch.report.episodes import rank_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradwatch.records import Incident
    from gradwatch.report.compare.members import Group, Member

# Ends that say nothing bad of a run.
_FINE, _NOTABLE = ("finished", "running"), ("stopped", "interrupted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """What happened in some runs: in how many of each group, and the first step at which it did.

    ``kind`` is finding, incident or end; ``layers`` are those of a finding.
    """

    kind: str
    name: str
    severity: str
    counts: tuple[int, ...]
    sizes: tuple[int, ...]
    first_step: int
    layers: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether one group has it in a larger share of its runs than another."""
        return len({count / size for count, size in zip(self.counts, self.sizes, strict=True)}) > 1


class _Sighting:
    """One thing seen in some runs."""

    def __init__(self, groups: int) -> None:
        self.counts = [0] * groups
        self.severity, self.first_step = "info", -1
        self.layers: dict[str, None] = {}

    def add(self, group: int, severity: str, step: int) -> None:
        self.counts[group] += 1
        self.severity = max(self.severity, severity, key=rank_of)
        self.first_step = step if self.first_step < 0 else min(self.first_step, step)


def happenings(groups: Sequence[Group]) -> list[Happening]:
    """Return everything that happened in any run, first what groups do not share, the worst and the earliest first."""
    seen: dict[tuple[str, str], _Sighting] = {}
    for index, group in enumerate(groups):
        for member in group.members:
            own: set[tuple[str, str]] = set()
            for kind, name, severity, step, layer in _of(member):
                sighting = seen.setdefault((kind, name), _Sighting(len(groups)))
                if (kind, name) not in own:
                    sighting.add(index, severity, step)
                own.add((kind, name))
                if layer:
                    sighting.layers[layer] = None
    sizes = tuple(len(group.members) for group in groups)
    found = [
        Happening(
            kind=kind,
            name=name,
            severity=sighting.severity,
            counts=tuple(sighting.counts),
            sizes=sizes,
            first_step=sighting.first_step,
            layers=tuple(sighting.layers),
        )
        for (kind, name), sighting in seen.items()
    ]
    return sorted(found, key=lambda each: (not each.differs, -rank_of(each.severity), each.first_step))


def _of(member: Member) -> Iterator[tuple[str, str, str, int, str | None]]:
    for episode in member.episodes:
        yield "finding", episode.code, episode.severity, episode.opened_step, episode.layer
    for incident in member.incidents:
        yield "incident", _born(incident), "error", incident.step, None
    if member.ended not in _FINE:
        yield "end", member.ended, "warning" if member.ended in _NOTABLE else "error", member.last_step, None


def _born(incident: Incident) -> str:
    """Return where a non-finite value was born."""
    origin = incident.origin
    what = f"{origin.op} ({origin.phase})" if origin.op else origin.phase
    where = origin.module or origin.tensor
    return f"{what} in {where}" if where else what
