"""A comparison as one JSON object, for machines: ``gradwatch compare --json``."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from gradwatch.report.compare.comparison import LEVEL
from gradwatch.report.compare.conclusions import conclusions

if TYPE_CHECKING:
    from gradwatch.report.compare.comparison import Comparison
    from gradwatch.report.compare.members import Group, Member
    from gradwatch.report.compare.outcomes import CurveComparison
    from gradwatch.report.compare.strays import Stray

VERSION = 1


def to_json(comparison: Comparison) -> str:
    """Return a comparison as one line of ASCII JSON; ``docs/compare.md`` explains the keys.

    Numbers that JSON cannot express are the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, as in event logs.
    """
    return json.dumps(_plain(as_dict(comparison)), allow_nan=False)


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain values."""
    return {
        "compare_version": VERSION,
        "level": LEVEL,
        "conclusions": [conclusion._asdict() for conclusion in conclusions(comparison)],
        "groups": [_group(group) for group in comparison.groups],
        "settings": [row._asdict() for row in comparison.settings],
        "parameters": [None if found is None else found._asdict() for found in comparison.parameters],
        "aligned": {
            str(optimizer): {"steps": len(alignment.steps), "bin": alignment.bin, "text": alignment.described()}
            for optimizer, alignment in comparison.aligned.items()
        },
        "curves": [{**_curve(curve), **_bands(curve)} for curve in comparison.curves],
        "layers": [_curve(curve) for curve in comparison.layers],
        "strays": [_stray(stray) for stray in comparison.strays],
        "happenings": [{**asdict(each), "differs": each.differs} for each in comparison.happenings],
        "notes": list(comparison.notes),
    }


def _group(group: Group) -> dict[str, Any]:
    return {"name": group.name, "runs": [_run(member) for member in group.members]}


def _run(member: Member) -> dict[str, Any]:
    return {
        "label": member.label,
        "folder": str(member.folder),
        "run_id": member.run_id,
        "seed": member.seed,
        "end": member.ended,
        "last_step": member.last_step,
        "lost_at": member.lost_at,
    }


def _curve(curve: CurveComparison) -> dict[str, Any]:
    return {
        "quantity": curve.quantity,
        "layer": curve.layer,
        "optimizer": curve.optimizer,
        "logarithmic": curve.domain.logarithmic,
        "step": curve.step,
        "endings": [ending._asdict() for ending in curve.endings()],
        "ratios": curve.ratios(),
        "outcomes": [_outcome(outcome) for outcome in curve.outcomes],
    }


def _outcome(outcome: Any) -> Any:
    if not is_dataclass(outcome) or isinstance(outcome, type):
        return None
    stretches = getattr(outcome, "stretches", None)
    found = {**asdict(outcome), "step": outcome.step}  # type: ignore[attr-defined]  # both kinds of outcome have one
    return found if stretches is None else {**found, "stretches": [stretch._asdict() for stretch in stretches]}


def _stray(stray: Stray) -> dict[str, Any]:
    return {**stray._asdict(), "stretches": [stretch._asdict() for stretch in stray.stretches]}


def _bands(curve: CurveComparison) -> dict[str, Any]:
    return {
        "steps": curve.steps.tolist(),
        "bands": [{name: values.tolist() for name, values in band._asdict().items()} for band in curve.bands()],
    }


def _plain(value: Any) -> Any:
    """Return a value with what JSON cannot express as the contract's strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
