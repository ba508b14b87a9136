"""Log steps of a healthy training in which every number is the same, with changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwatch.observations import Layers, LossFacts, Observation, Rows, Setting

Column = float | Sequence[float | None]


def column(value: Column, count: int) -> np.ndarray:
    """One number for all, or one each; None for what is not known."""
    values = [value] * count if isinstance(value, (int, float)) else list(value)
    assert len(values) == count
    return np.array(values, dtype=float)


def rows(step: int, count: int, changes: dict[str, Any]) -> Rows:
    """The ``count`` optimizer steps up to ``step``; ``lr`` may be a list of rates, one a row."""
    steps = np.arange(step - count + 1, step + 1)
    floats = {"loss": 1.0, "grad_norm": 1.0, "coefficient": 1.0, "loss_scale": np.nan, "batch_size": 32.0}
    floats |= {name: changes.pop(name) for name in list(changes) if name in floats}
    lr = column(changes.pop("lr", 1e-3), count).reshape(count, 1)
    skipped = column(changes.pop("skipped", 0.0), count).astype(bool)
    columns = {name: column(value, count) for name, value in floats.items()}
    return Rows(
        step=steps, epoch=np.zeros(count, dtype=int), batch_idx=steps.astype(float), skipped=skipped, lr=lr, **columns
    )


def layers(names: Sequence[str], changes: dict[str, Any]) -> Layers:
    """Alike layers that learn."""
    nan = np.nan
    floats: dict[str, Any] = {"elements": 100.0, "weight_norm": 10.0, "update_ratio": 1e-3}
    floats |= {"layer_lr": 1e-3}
    floats |= {"layer_grad_norm": 0.1, "unchanged": nan, "below_epsilon": nan, "subnormal": nan}
    floats |= {name: changes.pop(name) for name in list(changes) if name in floats}
    columns = {name: column(value, len(names)) for name, value in floats.items()}
    grad_norm, rates = columns.pop("layer_grad_norm"), columns.pop("layer_lr")
    largest = column(changes.pop("grad_norm_max", np.nan_to_num(grad_norm).tolist()), len(names))
    is_weight = column(changes.pop("is_weight", 1.0), len(names)).astype(bool)
    return Layers(
        names=tuple(names), lr=rates, grad_norm=grad_norm, grad_norm_max=largest, is_weight=is_weight, **columns
    )


def observation(step: int = 9, count: int = 10, **changes: Any) -> Observation:
    """A log step after ``count`` optimizer steps, the last of them ``step``.

    Changes are fields of ``Rows`` (one number, or one a row), of ``Layers`` (one number, or one a layer; the gradient
    norms there are ``layer_grad_norm``), ``layers`` (their names), ``facts`` (``Observation.loss``), or fields of
    ``Observation`` and ``Setting``.
    """
    names = changes.pop("layers", ["a", "b", "c", "d", "e", "f"])
    optimizer = changes.pop("optimizer", 0)
    setting = Setting(**{name: changes.pop(name) for name in Setting._fields if name in changes})
    return Observation(
        time=float(step),
        step=step,
        epoch=0,
        batch_idx=step,
        rank=0,
        optimizer=optimizer,
        setting=setting,
        rows=rows(step, count, changes),
        layers=layers(names, changes),
        loss=changes.pop("facts", LossFacts()),
        **changes,
    )
