"""Observations for tests of rules: a healthy training, with changes, and panels to feed them to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwatch.detectors.detector import Detector
from gradwatch.detectors.panel import Panel
from gradwatch.observations import Layers, Observation, Rows, Setting

if TYPE_CHECKING:
    from gradwatch.records import Finding

NAMES = ("embedding", "block.0", "block.0.norm", "block.1", "block.1.norm", "head")
PER_EPOCH = 100


def rows(last: int, count: int, *, groups: int = 1, seed: int = 0, **changes: Any) -> Rows:
    """Return the ``count`` steps up to ``last`` (steps count from 1); scalars in ``changes`` stand for every step."""
    random = np.random.default_rng([seed, last])
    step = np.arange(last - count + 1, last + 1)
    norm = 0.8 * np.exp(0.2 * random.standard_normal(count))
    healthy = {
        "step": step,
        "epoch": (step - 1) // PER_EPOCH,
        "batch_idx": (step - 1) % PER_EPOCH,
        "loss": (0.5 + 2.0 / np.sqrt(1 + step / 50)) * np.exp(0.05 * random.standard_normal(count)),
        "grad_norm": norm,
        "coefficient": np.minimum(1.0, 1.0 / norm),
        "loss_scale": np.full(count, np.nan),
        "batch_size": np.full(count, 32.0),
        "skipped": np.zeros(count, dtype=bool),
        "lr": np.full((count, groups), 1e-3),
    }
    return Rows(**{name: _like(value, changes.get(name)) for name, value in healthy.items()})


def layers(step: int, names: Sequence[str] = NAMES, *, seed: int = 0, **changes: Any) -> Layers:
    """Return healthy layers, every third a normalisation; a change is a value for all, or a mapping by name."""
    random = np.random.default_rng([seed, step, 1])
    count, norms = len(names), np.array([name.endswith("norm") for name in names])
    grad_norm = np.exp(0.3 * random.standard_normal(count)) / np.sqrt(max(count, 1))
    healthy = {
        "elements": np.where(norms, 128.0, 4096.0),
        "is_weight": ~norms,
        "grad_norm": grad_norm,
        "grad_norm_max": 1.5 * grad_norm,
        "weight_norm": np.where(norms, 8.0, 4.6) * (1 + 1e-4 * step),
        "update_ratio": 2e-3 * np.exp(0.2 * random.standard_normal(count)),
        "lr": np.full(count, 1e-3),
        "unchanged": np.full(count, np.nan),
        "below_epsilon": 0.02 * random.random(count),
        "subnormal": np.full(count, np.nan),
    }
    changed = {
        name: _by_name(value, names, changes[name]) if name in changes else value for name, value in healthy.items()
    }
    return Layers(names=tuple(names), **changed)


def observation(
    step: int,
    count: int = 10,
    *,
    rows_changed: Mapping[str, Any] | None = None,
    layers_changed: Mapping[str, Any] | None = None,
    names: Sequence[str] = NAMES,
    groups: int = 1,
    **changes: Any,
) -> Observation:
    """Return the record of ``step``, with the ``count`` steps up to it; ``changes`` are fields of Observation."""
    fields: dict[str, Any] = {
        "time": float(step),
        "step": step,
        "epoch": (step - 1) // PER_EPOCH,
        "batch_idx": (step - 1) % PER_EPOCH,
        "rank": 0,
        "optimizer": 0,
        "setting": Setting(optimizer="Adam", max_norm=1.0),
        "rows": rows(step, count, groups=groups, **(rows_changed or {})),
        "layers": layers(step, names, **(layers_changed or {})),
    }
    return Observation(**{**fields, **changes})


def unknown(step: int, count: int = 10, names: Sequence[str] = NAMES, **changes: Any) -> Observation:
    """Return a record of which nothing is known."""
    numbers = ("loss", "grad_norm", "coefficient", "loss_scale", "batch_size", "lr")
    measured = ("grad_norm", "grad_norm_max", "weight_norm", "update_ratio", "unchanged", "below_epsilon", "subnormal")
    return observation(
        step,
        count,
        rows_changed=dict.fromkeys(numbers, np.nan),
        layers_changed=dict.fromkeys(measured, np.nan),
        names=names,
        **changes,
    )


def findings(detectors: Sequence[Detector] | Detector, records: Iterable[Any]) -> list[Finding]:
    """Return all that the detectors tell of the records, one after the other."""
    panel = Panel([detectors] if isinstance(detectors, Detector) else detectors)
    told = [finding for record in records for finding in panel.observe(record)]
    # A panel leaves out a rule that fails and goes on; a test should not.
    assert len(panel._detectors) == len([detectors] if isinstance(detectors, Detector) else detectors)
    return told


def opened(detectors: Sequence[Detector] | Detector, records: Iterable[Any]) -> list[tuple[str, str | None]]:
    """Return code and layer of the findings that the records open."""
    return [(told.code, told.layer) for told in findings(detectors, records) if told.status == "opened"]


def by_code(detectors: Sequence[Detector], code: str) -> Detector:
    """Return the detector of a rule."""
    return next(detector for detector in detectors if detector.rule.code == code)


def _like(healthy: np.ndarray, change: Any) -> np.ndarray:
    if change is None:
        return healthy
    values = np.asarray(change).astype(bool if healthy.dtype == bool else float)
    if healthy.ndim > 1 and values.ndim == 1:
        values = values[:, None]
    return values if values.ndim == healthy.ndim > 1 else np.broadcast_to(values, healthy.shape).copy()


def _by_name(healthy: np.ndarray, names: Sequence[str], change: Any) -> np.ndarray:
    if isinstance(change, Mapping):
        return np.array([change.get(name, value) for name, value in zip(names, healthy.tolist(), strict=True)])
    return np.broadcast_to(np.asarray(change), healthy.shape).astype(healthy.dtype)
