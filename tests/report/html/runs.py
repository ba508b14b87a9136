"""Runs for the tests of pages: one with everything in it, and one whose every word is hostile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradwatch.records import (
    Culprit,
    Explanation,
    GradientCheck,
    LastSteps,
    ParameterCheck,
    SourceLine,
    TensorSummary,
)
from gradwatch.report.run import Run, read_runs
from tests.report.logs import incident, run_end, told, write_incident
from tests.report.synthetic import LAST, Spike, write_run
from tests.sinks.samples import AT

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.records import Event, Incident

HOSTILE = (
    "</script></title></textarea><img src=x onerror=\"alert(1);document.title='owned'\">'`${1}&lt;\x1b[31m[bold]\u202e"
)
HALF = "\ud800"


def check(step: int, verdict: str = "pass", **changes: Any) -> GradientCheck:
    values: dict[str, Any] = {
        "verdict": verdict,
        "reason": "all directions agree",
        "parameters": {"head.weight": ParameterCheck(correct="pass", relative_error=1e-9, norm_error=2e-9)},
        "log_step": step,
        "seconds": 0.25,
        "samples": 8,
        "precision": "float32",
        **changes,
    }
    return GradientCheck(**{**AT, "step": step}, **values)


def full_run(folder: Path) -> Run:
    """A run with findings, incidents, checks, a loss scale, a spike and a NaN, of 20 layers."""
    write_incident(folder, happened())
    write_run(
        folder,
        records=100,
        steps=1000,
        loss_scale=True,
        spikes=[Spike(record=60, layer=7, factor=300.0)],
        bad=[(80, 3)],
        events=[
            told(100, layer="head", code="vanishing-gradient", message="It is small."),
            told(150, layer="head", code="vanishing-gradient", status="closed"),
            *(told(200 + at, layer=f"blocks.0.{at}", code="dead-units", severity="error") for at in range(30)),
            told(300, layer=None, code="loss-plateau", severity="info"),
            check(50),
            WRONG,
            happened(),
        ],
    )
    (run,) = read_runs(folder)
    return run


WRONG = check(
    500,
    "mismatch",
    reason="head.weight differs",
    parameters={"head.weight": ParameterCheck(correct="mismatch", relative_error=0.25)},
)


def happened(**changes: Any) -> Incident:
    return incident(**{"step": 809, "time": AT["time"], "rank": 0, "world_size": 1, **changes})


def hostile_run(folder: Path, text: str = HOSTILE) -> Run:
    """A run in which every text is ``text``, as far as the records let it be."""
    source = SourceLine(file=text, line=1, function=text, code=text)
    summary = TensorSummary(shape=(2,), dtype=text, min=0.0, max=1.0, nan=1, posinf=0, neginf=0, zeros=0)
    named: dict[str, Any] = {"op": text, "module": text, "module_type": text, "tensor": text}
    origin = replace(happened().origin, source=source, inputs=[summary], output=summary, **named)
    said: dict[str, Any] = {
        "explanation": text,
        "advice": text,
        "anomaly_traceback": text,
        "first_seen": text,
        "action": text,
    }
    evidence = {text: text, "source": {"file": text, "line": text}}
    events: list[Event] = [
        told(100, layer=text, code=text, message=text, advice=text, evidence=evidence),
        told(100, layer=text + HALF, code=text, severity=text),
        check(
            50,
            "mismatch",
            reason=text,
            parameters={text: ParameterCheck(correct="mismatch")},
            culprit=Culprit(module=text, module_type=text, function=text, source=source),
            explanations=[Explanation(kind="detach", source=source, message=text)],
            notes=[text],
            precision=text,
        ),
        happened(origin=origin, affected=[text, text + HALF], **said),
        _last_steps(text),
    ]
    names = [text, text + HALF, "x" * 5000, text + "\n2", "", " "]
    write_run(folder, records=100, steps=1000, layers=6, names=names, run_id=text, events=events, bad=[(80, 3)])
    (run,) = read_runs(folder)
    assert run.start is not None
    assert run.end is not None
    start = replace(
        run.start,
        versions={text: text},
        hardware={text: [text, {text: text}], "device": text},
        precision={"precision": text},
        strategy=text,
        settings={text: {text: text}},
        optimizers=[{"class": text, "defaults": {"lr": 0.1, text: text}}],
        clip=replace(run.start.clip, reason=text, family=text, source=text),
    )
    return replace(run, start=start, end=replace(run.end, reason=text), notes=[text])


def _last_steps(reason: str) -> LastSteps:
    columns: dict[str, Any] = {
        "steps": list(range(936, 1000)),
        "epochs": [0] * LAST,
        "batches": [None] * LAST,
        "loss": [None, float("nan"), *[1.0] * (LAST - 2)],
        "grad_norm": [None, float("inf"), *[1.0] * (LAST - 2)],
        "coefficient": [1.0] * LAST,
        "lr": [None] * LAST,
        "loss_scale": [2.0] * LAST,
        "skipped": [False] * (LAST - 1) + [True],
        "layers": {HOSTILE: [float("nan")] * LAST},
    }
    return LastSteps(**{**AT, "step": 999}, optimizer=0, reason=reason, **columns)


__all__ = ["HOSTILE", "check", "full_run", "hostile_run", "run_end"]
