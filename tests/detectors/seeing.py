"""Observations to show to detectors, and what comes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradwatch.observations import Forward, LayerInput, Layers, Observation, Rows, Setting
from tests.detectors.observations import findings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.detectors.detector import Detector

LAYERS = ("a", "b", "c", "d")


def rows(step: int, count: int = 1, **known: Any) -> Rows:
    """Return ``count`` rows up to ``step``; what is not given is not known."""
    steps = np.arange(step - count + 1, step + 1)
    fields = {name: np.full(count, np.nan) for name in Rows._fields}
    fields |= {"step": steps, "skipped": np.zeros(count, dtype=bool), "lr": np.full((count, 1), 0.1)}
    fields |= {name: np.broadcast_to(np.asarray(value, dtype=float), count) for name, value in known.items()}
    return Rows(**fields)


def layers(names: Sequence[str] = LAYERS) -> Layers:
    """Return layers of which nothing but the names is known."""
    unknown = {name: np.full(len(names), np.nan) for name in Layers._fields[1:]}
    return Layers(names=tuple(names), **unknown)


def observation(step: int, **fields: Any) -> Observation:
    """Return an observation of one step with a loss and a gradient."""
    fields.setdefault("rows", rows(step, loss=1.0, grad_norm=1.0))
    fields.setdefault("layers", layers())
    header: dict[str, Any] = {"time": float(step), "step": step, "epoch": 0, "batch_idx": step, "rank": 0}
    return Observation(**header, optimizer=0, setting=Setting(), **fields)


def entering(layer: str, **fields: Any) -> LayerInput:
    """Return an ordinary input of a layer."""
    return LayerInput(**{"layer": layer, "mean": 0.0, "std": 1.0, "largest": 3.0, "is_data": False, **fields})


def forward(*inputs: LayerInput, **fields: Any) -> Forward:
    """Return a forward pass with these inputs."""
    return Forward(inputs=inputs, **fields)


def codes(detectors: Sequence[Detector], observations: Sequence[Any]) -> list[str]:
    """Return the codes of the findings that are opened."""
    return [finding.code for finding in findings(detectors, observations) if finding.status == "opened"]
