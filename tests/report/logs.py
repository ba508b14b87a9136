"""Logs for the tests of what reads them: a run's folder from records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradwatch.records import LastSteps, Pooled
from gradwatch.serialization import log_name, to_json_line
from tests.sinks.samples import AT, finding, incident, run_end, run_start, step_record

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.records import Event, Finding, Incident, StepRecord

__all__ = ["at", "finding", "incident", "run_end", "run_start", "step_record"]


def write_log(folder: Path, *events: Event, rank: int = 0, number: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / log_name(rank, number)
    path.write_text("".join(map(to_json_line, events)), encoding="ascii")
    return path


def at(step: int, **changes: Any) -> StepRecord:
    return step_record(**{"step": step, "log_step": step, "time": AT["time"] + step, **changes})


def told(step: int, status: str = "opened", **changes: Any) -> Finding:
    return finding(**{"step": step, "since_step": step, "status": status, "time": AT["time"] + step, **changes})


def pooled_record(step: int, **changes: Any) -> StepRecord:
    """The last of four log steps, with ranges that are wider than its own values; one layer had a NaN on the way."""
    pooled = Pooled(
        records=4,
        first_step=step - 3,
        first_log_step=step - 3,
        loss=[0.25, 0.75],
        grad_norm=[1.0, 50.0],
        layer_nonfinite=[0, 7],
        layer_grad_norm=[[0.05, 9.0], None],
        layer_weight_norm=[[3.0, 3.5], [4.0, 4.5]],
        layer_update_ratio=[[1e-4, 1e-2], None],
    )
    return at(step, pooled=pooled, **changes)


def last_steps(first: int, count: int = 3, **changes: Any) -> LastSteps:
    values: dict[str, Any] = {
        "optimizer": 0,
        "reason": "end",
        "steps": list(range(first, first + count)),
        "epochs": [0] * count,
        "batches": list(range(count)),
        "loss": [0.5] * count,
        "grad_norm": [2.0] * count,
        "coefficient": [1.0] * count,
        "lr": [1e-3] * count,
        "loss_scale": [None] * count,
        "skipped": [False] * count,
        "layers": {"block.0": [0.1] * count, "block.1": [None] * count},
    }
    return LastSteps(**{**AT, "step": first + count - 1, **values, **changes})


def write_incident(folder: Path, event: Incident, number: int = 0) -> Path:
    suffix = f".rank{event.rank}" if event.rank else ""
    directory = folder / "incidents" / f"step={event.step:08d}-{number}{suffix}"
    directory.mkdir(parents=True)
    (directory / "incident.json").write_text(to_json_line(event), encoding="ascii")
    return directory
