"""Joining step records: one takes the place of many, and no extreme of any of them is lost.

Works on the JSON objects of the log, not on records: a line is read and written back, and what this version does not
know stays as it is.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

METRICS = ("grad_norm", "weight_norm", "update_ratio")

Range = tuple[float, float]


class Summary(NamedTuple):
    """What neighbouring records of one optimizer have in common, and what must be kept of them.

    ``low`` and ``high`` have a row a metric and a column a layer, NaN where nothing finite was known; ``nonfinite``
    counts gradient elements by layer. ``window`` covers all their steps.
    """

    optimizer: int
    layers: tuple[str, ...]
    records: int
    first_step: int
    first_log_step: int
    loss: Range | None
    grad_norm: Range | None
    low: np.ndarray
    high: np.ndarray
    nonfinite: np.ndarray
    window: dict[str, Any]


def summary_of(record: dict[str, Any]) -> Summary:
    """Return what must be kept of a step record, which may have been pooled before.

    Raises:
        KeyError: it is no step record; likewise TypeError or ValueError.
    """
    names, pooled = tuple(record["layers"]), record.get("pooled")
    norms = list(record["layers"].values())
    if pooled is None:
        known = _finite([[norm[metric] for norm in norms] for metric in METRICS])
        between = _finite([[norm.get(f"{metric}_max") or None for norm in norms] for metric in METRICS])
        low, high = np.fmin(known, between), np.fmax(known, between)
        first_step, first_log_step, count = record["step"], record["log_step"], 1
        nonfinite = [norm["nonfinite"] for norm in norms]
        loss, grad_norm = _as_range(record["loss"]), _as_range(record["grad_norm"])
    else:
        ranges = [[known or (None, None) for known in pooled[f"layer_{metric}"]] for metric in METRICS]
        low, high = (_finite([[known[side] for known in row] for row in ranges]) for side in (0, 1))
        first_step, first_log_step, count = pooled["first_step"], pooled["first_log_step"], pooled["records"]
        nonfinite = pooled["layer_nonfinite"]
        loss, grad_norm = _known_range(pooled["loss"]), _known_range(pooled["grad_norm"])
    return Summary(
        optimizer=record["optimizer"],
        layers=names,
        records=count,
        first_step=first_step,
        first_log_step=first_log_step,
        loss=loss,
        grad_norm=grad_norm,
        low=low,
        high=high,
        nonfinite=np.array(nonfinite, dtype=np.int64),
        window=dict(record["window"]),
    )


def can_join(first: Summary, second: Summary) -> bool:
    """Whether two are of the same optimizer and the same layers."""
    return first.optimizer == second.optimizer and first.layers == second.layers


def joined(first: Summary, second: Summary) -> Summary:
    """Return two neighbours as one; ``first`` is the older."""
    return first._replace(
        records=first.records + second.records,
        loss=_joined_ranges(first.loss, second.loss),
        grad_norm=_joined_ranges(first.grad_norm, second.grad_norm),
        low=np.fmin(first.low, second.low),
        high=np.fmax(first.high, second.high),
        nonfinite=first.nonfinite + second.nonfinite,
        window=_joined_windows(first.window, second.window),
    )


def pooled_record(last: dict[str, Any], summary: Summary) -> dict[str, Any]:
    """Return the newest record of those that ``summary`` covers as the one that stands for all."""
    pooled = {
        "records": summary.records,
        "first_step": summary.first_step,
        "first_log_step": summary.first_log_step,
        "loss": None if summary.loss is None else list(summary.loss),
        "grad_norm": None if summary.grad_norm is None else list(summary.grad_norm),
        "layer_nonfinite": summary.nonfinite.tolist(),
    }
    for metric, low, high in zip(METRICS, summary.low.tolist(), summary.high.tolist(), strict=True):
        pooled[f"layer_{metric}"] = [
            None if math.isnan(least) else [least, largest] for least, largest in zip(low, high, strict=True)
        ]
    # The layers stay last, as in every line: what looks for a key finds those of the record before their names.
    layers = last["layers"]
    rest = {key: value for key, value in last.items() if key != "layers"}
    return {**rest, "window": summary.window, "pooled": pooled, "layers": layers}


def _finite(rows: list[list[Any]]) -> np.ndarray:
    """Return numbers, None and the names of what is not finite as an array, NaN for all but finite numbers."""
    values = np.array(rows, dtype=np.float64).reshape(len(METRICS), -1)
    values[~np.isfinite(values)] = np.nan
    return values


def _as_range(value: Any) -> Range | None:
    return None if value is None or not math.isfinite(float(value)) else (value, value)


def _known_range(values: Any) -> Range | None:
    return None if values is None else (values[0], values[1])


def _joined_ranges(first: Range | None, second: Range | None) -> Range | None:
    if first is None or second is None:
        return second if first is None else first
    return min(first[0], second[0]), max(first[1], second[1])


def _joined_windows(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    sums = {key: first[key] + second[key] for key in ("steps", "clipped_steps", "skipped_steps", "nonfinite_steps")}
    larger = first if _is_larger(first["grad_norm_max"], second["grad_norm_max"]) else second
    most = first if _is_larger(first["loss_max"], second["loss_max"]) else second
    norm = {key: larger[key] for key in ("grad_norm_max", "grad_norm_max_step")}
    return {**second, **sums, **norm, "loss_max": most["loss_max"]}


def _is_larger(first: float | None, second: float | None) -> bool:
    return first is not None and (second is None or first >= second)
