"""Plausible records, for the tests of what is done with records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradwatch.records import (
    ClipRule,
    ClipState,
    Finding,
    Incident,
    LastSteps,
    LayerNorms,
    LayerTable,
    Origin,
    ParameterRow,
    RunEnd,
    RunStart,
    SourceLine,
    StepRecord,
    TensorSummary,
    Window,
)

AT: dict[str, Any] = {"time": 1700000000.25, "step": 12, "epoch": 1, "batch_idx": 2, "rank": 0}


def step_record(count: int = 2, **changes: Any) -> StepRecord:
    record = StepRecord(
        **AT,
        optimizer=0,
        log_step=12,
        loss=0.5,
        grad_norm=2.0,
        clip=ClipState(max_norm=1.0, coefficient=0.5, clipped=True, rate=0.25, largest_layer="block.0"),
        lr=1e-3,
        lr_groups=[1e-3],
        loss_scale=None,
        skipped_steps=0,
        nonfinite_steps=0,
        window=Window(
            steps=10,
            grad_norm_max=2.5,
            grad_norm_max_step=7,
            loss_max=0.75,
            clipped_steps=3,
            skipped_steps=0,
            nonfinite_steps=0,
        ),
        layers=LayerTable.of(
            {
                f"block.{i}": LayerNorms(grad_norm=0.1 + i, weight_norm=3.0 + i, update_ratio=1e-3, nonfinite=0)
                for i in range(count)
            }
        ),
    )
    return replace(record, **changes)


def with_layer(record: StepRecord, name: str, **changes: Any) -> StepRecord:
    layers = {**record.layers, name: replace(record.layers[name], **changes)}
    return replace(record, layers=LayerTable.of(layers))


def run_start(**changes: Any) -> RunStart:
    rows = [
        ParameterRow(
            name=f"block.{i}.weight",
            layer=f"block.{i}",
            shape=(4, 3),
            dtype="float32",
            device="cpu",
            requires_grad=True,
            optimizer=0,
        )
        for i in range(2)
    ]
    event = RunStart(
        **AT,
        run_id="run-a",
        resumed_from=None,
        versions={"torch": "2.13.0"},
        hardware={"cpu": "x86_64", "threads": 2},
        precision={"trainer": "32-true"},
        strategy="single process",
        world_size=1,
        optimizers=[{"class": "AdamW", "betas": [0.9, 0.999]}],
        seeds={"torch": 1},
        determinism={"cudnn_benchmark": False},
        clip=ClipRule(max_norm=1.0, family="transformer", reason="12 MultiheadAttention modules", source="GPT-3, 2020"),
        settings={"clip": "auto"},
        parameters=rows,
    )
    return replace(event, **changes)


def run_end(**changes: Any) -> RunEnd:
    event = RunEnd(**AT, run_id="run-a", status="finished", reason=None, steps=1234, skipped_steps=3, incidents=1)
    return replace(event, **changes)


def finding(**changes: Any) -> Finding:
    event = Finding(
        **AT,
        code="exploding-gradient",
        status="opened",
        since_step=10,
        severity="warning",
        layer="block.0",
        message="The gradient of block.0 grows.",
        evidence={"growth": 12.5},
        advice="Lower the learning rate.",
    )
    return replace(event, **changes)


def incident(**changes: Any) -> Incident:
    summary = TensorSummary(shape=(8, 4), dtype="float32", min=0.0, max=1.0, nan=0, posinf=0, neginf=0, zeros=3)
    event = Incident(
        **AT,
        world_size=2,
        first_seen="gradient",
        origin=Origin(
            phase="backward",
            op="sqrt",
            module="encoder.norm",
            module_type="LayerNorm",
            tensor=None,
            source=SourceLine(file="/home/me/model.py", line=42, function="forward", code="y = x.sqrt()"),
            transition="finite->inf",
            ranks=[0],
            inputs=[summary],
            output=None,
        ),
        reproduced=True,
        affected=["head.weight", "head.bias"],
        explanation="The slope of sqrt at zero is infinite, and 3 of 32 inputs are zero.",
        advice="Add a small constant under the root.",
        anomaly_traceback=None,
        action="skipped",
    )
    return replace(event, **changes)


def last_steps(**changes: Any) -> LastSteps:
    event = LastSteps(
        **AT,
        optimizer=0,
        reason="end",
        steps=[11, 12],
        epochs=[1, 1],
        batches=[1, 2],
        loss=[0.5, None],
        grad_norm=[2.0, float("inf")],
        coefficient=[0.5, 1.0],
        lr=[1e-3, None],
        loss_scale=[None, None],
        skipped=[False, True],
        layers={"block.0": [1.5, float("inf")], "block.1": [0.5, None]},
    )
    return replace(event, **changes)


def known(norms: LayerNorms, metric: str) -> list[float | None]:
    """What a record tells of a layer: of the gradient norm, the largest since the record before, too."""
    between = [norms.grad_norm_max or None] if metric == "grad_norm" else []
    return [getattr(norms, metric), *between]
