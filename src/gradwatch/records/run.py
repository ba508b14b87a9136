"""The run itself: its setting, written once at its start, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from gradwatch.records.shared import Event

RunStatus = Literal["finished", "stopped", "interrupted", "nonfinite", "exception"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRule:
    """The limit on the total gradient norm, and where it comes from.

    ``max_norm`` is None when gradwatch does not clip; ``source`` is a citation or the argument that set it.
    """

    max_norm: float | None
    family: str | None
    reason: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRow:
    """One row of the parameter table. ``optimizer`` is an index, or None for a parameter that no optimizer steps."""

    name: str
    layer: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    requires_grad: bool
    optimizer: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart(Event):
    """The setting of a run, written once at its start.

    ``model`` is the class of the module; ``script`` the name of the program, without its arguments, which may hold
    secrets. ``git`` has commit, branch and whether tracked files were changed (None: not known), of the repository that
    the run was started in. ``steps_before`` is what had been counted until then: counts go on over a resume, and over
    the fits of one monitor, whatever it watches (None in older logs).
    """

    type: ClassVar[str] = "run_start"

    run_id: str
    resumed_from: str | None
    steps_before: int | None = None
    model: str | None = None
    versions: dict[str, str]
    hardware: dict[str, Any]
    precision: dict[str, Any]
    strategy: str
    world_size: int
    optimizers: list[dict[str, Any]]
    schedulers: list[dict[str, Any]] = field(default_factory=list)
    script: str | None = None
    git: dict[str, Any] | None = None
    seeds: dict[str, Any]
    determinism: dict[str, Any]
    clip: ClipRule
    settings: dict[str, Any]
    parameters: list[ParameterRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd(Event):
    """How a run ended: ``status`` is finished, stopped, interrupted, nonfinite or exception.

    ``dropped_events`` counts the events that could not be written to this log, as on a full disk.
    """

    type: ClassVar[str] = "run_end"

    run_id: str
    status: RunStatus
    reason: str | None
    steps: int
    skipped_steps: int
    incidents: int
    dropped_events: int = 0
