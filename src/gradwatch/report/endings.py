"""How the ranks of a run ended, and which of them tells why: the others only lost touch with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from gradwatch.records import Event
from gradwatch.report.process import is_running
from gradwatch.report.text import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gradwatch.records import RunEnd
    from gradwatch.report.run import Run

_Event = TypeVar("_Event", bound=Event)

# What a rank says that waited for another one.
_CONSEQUENCE = re.compile(
    r"connection (closed|reset|refused|was)|broken pipe|distbackenderror|nccl|gloo|watchdog|collective|timed out",
    re.IGNORECASE,
)


def telling_end(ends: Sequence[RunEnd]) -> RunEnd | None:
    """Return the end that explains the run: the first that was no success, and no mere loss of another rank.

    Args:
        ends: one for each rank that has written its end, by rank.
    """
    failed = [end for end in ends if end.status != "finished"]
    if failed:
        return min(failed, key=lambda end: (_is_consequence(end), end.time))
    return ends[0] if ends else None


def lost_ranks(run: Run) -> list[int]:
    """Return the ranks that have not written an end although others have, and whose process is gone."""
    if not run.ends:
        return []
    return [rank for rank in run.ranks if rank not in run.ends and not is_running(run.starts.get(rank))]


def last_step_of(run: Run, rank: int) -> int | None:
    """Return the last step that is known of a rank."""
    return max((steps.steps[-1] for steps in run.last_steps if steps.rank == rank and steps.steps), default=None)


def by_rank(events: Iterable[_Event]) -> dict[int, _Event]:
    """Return the last event of each rank, by rank."""
    found = {event.rank: event for event in events}
    return {rank: found[rank] for rank in sorted(found)}


def loss_notes(ends: Mapping[int, RunEnd]) -> list[str]:
    """Return for each rank how many of its events are missing from its log, where there are any; ``ends`` by rank."""
    notes = []
    for rank, end in ends.items():
        if end.dropped_events > 0:
            whose = f" of rank {rank}" if len(ends) > 1 else ""
            notes.append(f"{count(end.dropped_events, 'event')}{whose} could not be written to the log (a full disk?)")
    return notes


def _is_consequence(end: RunEnd) -> bool:
    return end.status == "exception" and _CONSEQUENCE.search(end.reason or "") is not None
