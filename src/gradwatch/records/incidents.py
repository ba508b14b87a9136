"""Incidents: the first sight of a non-finite value, and where it was born."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from gradwatch.records.shared import Event, SourceLine

Action = Literal["raised", "stopped", "skipped", "warned"]
Cause = Literal["dynamics"]
FirstSeen = Literal["batch", "loss", "gradient", "parameter", "buffer", "optimizer"]
Phase = Literal["input", "parameter", "buffer", "forward", "backward", "optimizer", "not_reproduced"]
Transition = Literal["finite->nan", "finite->inf", "inf->nan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSummary:
    """Range and special values of a tensor; ``min`` and ``max`` are over its finite elements."""

    shape: tuple[int, ...]
    dtype: str
    min: float | None
    max: float | None
    nan: int
    posinf: int
    neginf: int
    zeros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a non-finite value was born, as far as it is known.

    ``index`` is that of the first bad element of ``output``, or of the tensor that ``tensor`` names; ``sample`` its
    position along dimension 0 of the batch.
    """

    phase: Phase
    op: str | None = None
    module: str | None = None
    module_type: str | None = None
    tensor: str | None = None
    index: list[int] | None = None
    sample: int | None = None
    source: SourceLine | None = None
    transition: Transition | None = None
    ranks: list[int] = field(default_factory=list)
    cause: Cause | None = None
    inputs: list[TensorSummary] = field(default_factory=list)
    output: TensorSummary | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident(Event):
    """The first sight of a non-finite value, and what was done about it."""

    type: ClassVar[str] = "incident"

    world_size: int
    first_seen: FirstSeen
    origin: Origin
    reproduced: bool
    affected: list[str]
    explanation: str
    advice: str
    anomaly_traceback: str | None
    action: Action
