"""What every sink can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from gradwatch.records import Event


@runtime_checkable
class Sink(Protocol):
    """Takes events out of the engine. Neither method raises because of what is outside: a disk, a logger."""

    def write(self, event: Event) -> None:
        """Take one event; a sink ignores the types that it has no use for."""

    def close(self) -> None:
        """Let go of files and loggers. Safe to call twice."""
