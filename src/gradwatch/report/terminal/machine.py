"""A run as one JSON object, for programs: ``gradwatch show --json``. Its keys are documented in ``docs/show.md``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gradwatch.records import SCHEMA_VERSION
from gradwatch.report.summary import course, curves, last_states, layer_courses
from gradwatch.serialization import to_dict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.report.run import Run
    from gradwatch.report.verdict import Verdict

LAYERS = 20


def to_json(run: Run, verdict: Verdict, runs: Sequence[Run]) -> str:
    """Return one line of ASCII JSON; floats that JSON cannot express are the strings that events have for them."""
    return json.dumps(_plain(as_dict(run, verdict, runs)), allow_nan=False)


def as_dict(run: Run, verdict: Verdict, runs: Sequence[Run]) -> dict[str, Any]:
    """Return what ``show`` knows of a run."""
    return {
        "schema_version": SCHEMA_VERSION,
        "type": "show",
        "run_id": run.run_id,
        "runs": [one.run_id for one in runs],
        "folder": str(run.folder),
        "healthy": verdict.healthy,
        "state": verdict.state,
        "headline": verdict.headline,
        "reasons": verdict.reasons,
        "advice": verdict.advice,
        "start": None if run.start is None else to_dict(run.start),
        "end": None if run.end is None else to_dict(run.end),
        "ranks": list(run.ranks),
        "last_step": run.last_step,
        "last_time": run.last_time,
        "findings": [asdict(episode) for episode in run.episodes],
        "incidents": [to_dict(incident) for incident in run.incidents],
        "curves": [
            {
                "optimizer": steps.optimizer,
                "records": len(steps),
                **{name: course(steps.step, curve)._asdict() for name, curve in curves(steps).items()},
            }
            for steps in run.steps
        ],
        "layers": [
            {"optimizer": steps.optimizer, **layer._asdict()}
            for steps in run.steps
            for layer in layer_courses(steps)[:LAYERS]
        ],
        "last_states": [state._asdict() for state in last_states(run)],
        "notes": run.notes,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
