"""Runs made up for the page: what the back end would answer, held in arrays."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradwatch.serialization.tensorboard_rows import CURVE_NAMES, METRICS, UNKNOWN, VERSION

Array = np.ndarray


@dataclass(kw_only=True)
class SampleRun:
    """A run: ``values`` is [metrics, rows, layers], ``curves`` [columns, rows], the same for all its optimizers."""

    name: str
    layers: list[str]
    first: Array
    last: Array
    values: Array
    curves: Array
    note: str | None = None
    version: int | None = VERSION
    optimizers: tuple[int, ...] = (0,)
    findings: list[dict[str, Any]] = field(default_factory=list)
    incidents: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return int(self.last.size)

    def listed(self) -> dict[str, Any]:
        """Return the run as ``runs`` lists it."""
        counts = {
            level: sum(one["severity"] == level for one in self.findings) for level in ("info", "warning", "error")
        }
        told = {
            "name": self.name,
            "version": self.version,
            "note": self.note,
            "optimizers": [each for each in self._described() if self.rows],
            "rows": self.rows,
            "first": int(self.first[0]) if self.rows else None,
            "last": int(self.last[-1]) if self.rows else None,
            "findings": counts,
            "incidents": len(self.incidents),
            "checks": len(self.checks),
        }
        return {**told, "key": str(hash(json.dumps([told, len(self.ends)])))}

    def _described(self) -> list[dict[str, Any]]:
        return [{"optimizer": each, "layers": self.layers, "metrics": list(METRICS)} for each in self.optimizers]

    def grow(self, rows: int) -> None:
        """Write more rows like the last one."""
        span = int(self.last[-1] - self.first[-1]) + 1
        new = self.last[-1] + span * np.arange(1, rows + 1)
        self.first = np.concatenate([self.first, new - span + 1])
        self.last = np.concatenate([self.last, new])
        self.values = np.concatenate([self.values, np.repeat(self.values[:, -1:], rows, axis=1)], axis=1)
        self.curves = np.concatenate([self.curves, np.repeat(self.curves[:, -1:], rows, axis=1)], axis=1)


def sample_run(name: str, layers: list[str], rows: int, *, each: int = 10, seed: int = 0) -> SampleRun:
    """Return a quiet run: every layer on its own level, with some noise."""
    random = np.random.default_rng(seed)
    last = each * np.arange(1, rows + 1)
    level = 10.0 ** random.uniform(-2.5, 0.5, len(layers))
    fall = 1.0 / (1.0 + 4.0 * np.linspace(0.0, 1.0, rows))
    noise = np.exp(0.15 * random.standard_normal((rows, len(layers))))
    grad = level * noise * fall[:, None]
    weight = 10.0 ** random.uniform(-0.3, 1.2, len(layers)) * (1.0 + 0.2 * np.linspace(0.0, 1.0, rows)[:, None])
    ratio = 1e-3 * noise * fall[:, None]
    values = np.stack([grad, weight * np.ones_like(grad), ratio, np.zeros_like(grad)]).astype(np.float32)
    total = np.sqrt((grad**2).sum(axis=1))
    loss = 2.3 * fall * np.exp(0.05 * random.standard_normal(rows)) + 0.2
    known = {
        "first": last - each + 1,
        "records": np.ones(rows),
        "steps": np.full(rows, each),
        "step": last,
        "loss": loss,
        "loss_max": loss * 1.3,
        "grad_norm": total,
        "grad_norm_max": total * 1.5,
        "grad_norm_max_step": last,
        "clip_coefficient": np.minimum(1.0, 1.0 / total),
        "clipped_steps": (total > 1.0) * each,
        "max_norm": np.ones(rows),
        "lr": 1e-3 * np.minimum(1.0, np.arange(1, rows + 1) / (0.1 * rows)),
        "nonfinite_steps": np.zeros(rows),
        "skipped_steps": np.zeros(rows),
        "row": np.arange(rows),
    }
    curves = np.stack([np.asarray(known.get(each_, np.full(rows, UNKNOWN)), dtype=float) for each_ in CURVE_NAMES])
    return SampleRun(name=name, layers=layers, first=last - each + 1, last=last, values=values, curves=curves)


def transformer_layers(blocks: int) -> list[str]:
    """Return the names of the layers of a small transformer, in model order: 8 a block and 4 around them."""
    inside = (
        "norm1",
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.out",
        "norm2",
        "mlp.up",
        "mlp.down",
    )
    around = [f"model.blocks.{block}.{name}" for block in range(blocks) for name in inside]
    return ["model.embed.tokens", "model.embed.positions", *around, "model.norm", "head"]


def put(run: SampleRun, metric: str, layer: str, row: int, value: float) -> None:
    """Put one value into a run."""
    run.values[METRICS.index(metric), row, run.layers.index(layer)] = value


def finding(code: str, **changes: Any) -> dict[str, Any]:
    """Return an episode."""
    told = {
        "code": code,
        "layer": None,
        "severity": "warning",
        "opened": 200,
        "last": 260,
        "closed": 300,
        "since_step": 190,
        "updates": 3,
        "message": "The gradient norm is 41.2, 120 times its usual 0.343. head has grown most.",
        "evidence": {"norm": 41.2, "factor": 120.1, "usual": 0.343},
        "advice": "Lower the learning rate, by 10 times to begin with, or warm it up; clip the gradient norm.",
        "closing": None,
    }
    return {**told, **changes}


def incident(step: int, **changes: Any) -> dict[str, Any]:
    """Return an incident: a division by zero in the loss."""
    summary = {
        "shape": [10],
        "dtype": "float32",
        "min": 0.0,
        "max": 9.0,
        "nan": 0,
        "posinf": 0,
        "neginf": 0,
        "zeros": 1,
    }
    source = {
        "file": "train.py",
        "line": 75,
        "function": "loss",
        "code": "return (losses @ one_hot / one_hot.sum(0)).mean()",
    }
    told: dict[str, Any] = {
        "schema_version": 1,
        "type": "incident",
        "time": 1763740800.0,
        "step": step,
        "log_step": step,
        "epoch": 1,
        "batch_idx": 17,
        "rank": 0,
        "world_size": 1,
        "first_seen": "loss",
        "origin": {
            "phase": "forward",
            "op": "div",
            "module": "",
            "module_type": "ClassBalancedCNN",
            "tensor": None,
            "index": [7],
            "sample": None,
            "source": source,
            "transition": "finite->nan",
            "ranks": [0],
            "cause": None,
            "inputs": [summary, summary],
            "output": {**summary, "nan": 1},
        },
        "reproduced": True,
        "affected": ["head.weight", "head.bias"],
        "explanation": "div made NaN of finite inputs: 0 / 0 at element [7].",
        "advice": "Keep the divisor away from zero: clamp it, or leave out classes without a sample.",
        "anomaly_traceback": None,
        "action": "raised",
        "folder": f"/runs/gradwatch/incidents/step={step:08d}-0",
    }
    return {**told, **changes}


def gradient_check(step: int, verdict: str = "pass") -> dict[str, Any]:
    """Return a gradient check of three tensors, of which one is too small to say anything."""
    one = {
        "norm_error": 1e-9,
        "sign_agrees": True,
        "h": {},
        "precision_error": 2e-4,
        "cosine": 1.0,
        "reproducible": True,
    }
    parameters = {
        "head.weight": {"correct": verdict, "relative_error": 0.31 if verdict == "mismatch" else 2e-8, **one},
        "head.bias": {"correct": "pass", "relative_error": 1e-9, **one},
        "head.scale": {"correct": "not_resolvable", "relative_error": 7.0, **one},
    }
    return {
        "type": "gradient_check",
        "time": 1763740800.0 + step,
        "step": step,
        "log_step": step,
        "verdict": verdict,
        "reason": "automatic and numerical derivatives agree" if verdict == "pass" else "head.weight differs by 31 %",
        "relative_error": 2e-8,
        "parameters": parameters,
    }
