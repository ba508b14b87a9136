"""Findings put together: one episode from the event that opens it to the one that closes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradwatch.records import Finding

SEVERITIES = ("info", "warning", "error")


@dataclass(slots=True, kw_only=True)
class Episode:
    """One trouble in one layer, from its first sign to its end.

    ``severity`` is the worst seen; ``message``, ``advice`` and ``evidence`` are the last that were told while it was
    open. ``last_step`` is where it was told last; ``closed_step`` is None while it is open.
    """

    code: str
    severity: str
    layer: str | None
    message: str
    advice: str
    evidence: dict[str, Any]
    since_step: int
    opened_step: int
    last_step: int
    closed_step: int | None
    rank: int

    @property
    def is_open(self) -> bool:
        """Whether it has lasted until the end of what was written."""
        return self.closed_step is None

    @property
    def is_trouble(self) -> bool:
        """Whether it says that something is wrong; those of severity ``info`` only say what there is."""
        return self.severity != "info"


class Episodes:
    """Collects findings in the order written."""

    def __init__(self) -> None:
        self._all: list[Episode] = []
        self._open: dict[tuple[str, str | None, int], Episode] = {}

    def add(self, finding: Finding) -> None:
        """Take in one finding.

        A log may have lost the line that opens or closes an episode: what is told of one that is not open opens it,
        and one that begins anew has ended before.
        """
        key = (finding.code, finding.layer, finding.rank)
        episode = self._open.get(key)
        if episode is not None and finding.status == "opened" and finding.since_step > episode.last_step:
            episode.closed_step = finding.since_step
            episode = None
        if episode is None:
            if finding.status == "closed":
                return
            self._open[key] = episode = _opened(finding)
            self._all.append(episode)
        elif finding.status == "closed":
            episode.last_step = episode.closed_step = finding.step
            del self._open[key]
        else:
            _tell(episode, finding)

    def in_order(self) -> list[Episode]:
        """Return them in the order in which they began."""
        return sorted(self._all, key=lambda episode: episode.since_step)


def _opened(finding: Finding) -> Episode:
    return Episode(
        code=finding.code,
        severity=finding.severity,
        layer=finding.layer,
        message=finding.message,
        advice=finding.advice,
        evidence=finding.evidence,
        since_step=finding.since_step,
        opened_step=finding.step,
        last_step=finding.step,
        closed_step=None,
        rank=finding.rank,
    )


def _tell(episode: Episode, finding: Finding) -> None:
    episode.last_step = finding.step
    episode.message, episode.advice, episode.evidence = finding.message, finding.advice, finding.evidence
    if rank_of(finding.severity) > rank_of(episode.severity):
        episode.severity = finding.severity


def rank_of(severity: str) -> int:
    """Return how bad a severity is: 0 for info; one that this version does not know counts as the worst."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
