"""Records in lists, for tests and notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gradwatch.records import Event, Finding, Incident, StepRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

_Event = TypeVar("_Event", bound=Event)


class MemorySink:
    """Keeps every event, in the order written.

    Example:
        >>> from gradwatch.records import RunEnd
        >>> sink = MemorySink()
        >>> sink.write(
        ...     RunEnd(
        ...         time=0.0, step=9, epoch=0, batch_idx=None, rank=0,
        ...         run_id="a", status="finished", reason=None, steps=9, skipped_steps=0, incidents=0,
        ...     )
        ... )
        >>> [event.type for event in sink.events], sink.incidents
        (['run_end'], [])
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False

    @property
    def steps(self) -> list[StepRecord]:
        """The step records so far."""
        return _of(StepRecord, self.events)

    @property
    def findings(self) -> list[Finding]:
        """The findings so far."""
        return _of(Finding, self.events)

    @property
    def incidents(self) -> list[Incident]:
        """The incidents so far."""
        return _of(Incident, self.events)

    def write(self, event: Event) -> None:
        """Keep ``event``."""
        self.events.append(event)

    def close(self) -> None:
        """Note that the run is over."""
        self.closed = True


def _of(kind: type[_Event], events: Sequence[Event]) -> list[_Event]:
    return [event for event in events if isinstance(event, kind)]
