"""What the records have in common: the head of every event, and the place in a user's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every line of ``events.jsonl`` has: when, and at which step of which rank."""

    type: ClassVar[str]

    time: float
    step: int
    epoch: int
    batch_idx: int | None
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLine:
    """The innermost frame of the user's own code."""

    file: str
    line: int
    function: str
    code: str
