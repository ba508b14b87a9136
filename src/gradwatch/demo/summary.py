"""What a run's events say, in a few figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from gradwatch.records import ClipRule, Event, Finding, Incident, RunStart, StepRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class NormRange:
    """The total gradient norm before clipping; the maximum is over every step, the rest over the recorded ones."""

    minimum: float
    median: float
    maximum: float
    maximum_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run. ``largest`` is the layer with the largest gradient most often, and in what share of the records."""

    clip: ClipRule
    grad_norm: NormRange | None
    steps: int
    clipped_steps: int
    largest: tuple[str, float] | None
    findings: tuple[Finding, ...]
    incidents: tuple[Incident, ...]


def summarize(events: Iterable[Event]) -> RunSummary:
    """Sum up the events of one run.

    Raises:
        ValueError: there is no ``run_start`` among them.
    """
    events = list(events)
    starts = [event for event in events if isinstance(event, RunStart)]
    if not starts:
        raise ValueError("the event log holds no run_start")
    records = [event for event in events if isinstance(event, StepRecord)]
    return RunSummary(
        clip=starts[-1].clip,
        grad_norm=_norm_range(records),
        steps=sum(record.window.steps for record in records),
        clipped_steps=sum(record.window.clipped_steps for record in records),
        largest=_largest_layer(records),
        findings=_latest([event for event in events if isinstance(event, Finding)]),
        incidents=tuple(event for event in events if isinstance(event, Incident)),
    )


def _norm_range(records: Sequence[StepRecord]) -> NormRange | None:
    norms = [record.grad_norm for record in records if record.grad_norm is not None]
    peaks = [
        (record.window.grad_norm_max, record.window.grad_norm_max_step)
        for record in records
        if record.window.grad_norm_max is not None and record.window.grad_norm_max_step is not None
    ]
    if not norms or not peaks:
        return None
    maximum, step = max(peaks)
    return NormRange(minimum=min(norms), median=median(norms), maximum=maximum, maximum_step=step)


def _largest_layer(records: Sequence[StepRecord]) -> tuple[str, float] | None:
    layers = Counter(largest for record in records if (largest := _largest_of(record)) is not None)
    if not layers:
        return None
    layer, times = layers.most_common(1)[0]
    return layer, times / layers.total()


def _largest_of(record: StepRecord) -> str | None:
    norms = {name: layer.grad_norm for name, layer in record.layers.items() if layer.grad_norm is not None}
    return max(norms, key=lambda name: norms[name], default=None)


def _latest(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Keep the last word on each finding: the same code on the same layer since the same step."""
    latest = {(finding.code, finding.layer, finding.since_step): finding for finding in findings}
    return tuple(latest.values())
