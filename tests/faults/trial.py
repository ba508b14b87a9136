"""One seeded fault, planted twice: without the monitor for the truth, and under the monitor for the verdict."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests import cases
from tests.faults.expectation import Expectation, expected
from tests.faults.observer import Observer, Seen, buffers_of, weights_of
from tests.faults.plan import MODELS, FaultPlan, draw
from tests.faults.planting import Planter, planted_case, trainer_settings
from tests.noninterference.fingerprint import Fingerprint, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = ("weights/", "buffers/", "optimizers/", "random/", "scaler", "progress/global_step")


class Run(NamedTuple):
    """A training of a plan: what was observed, how it ended and what was written."""

    seen: Seen
    trained: cases.Trained
    end: Fingerprint
    events: list[dict[str, Any]]
    files: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a monitored run compares with what was expected.

    ``aspects`` holds True or False for each aspect that the expectation speaks of; ``problems`` says what is wrong.
    """

    plan: FaultPlan
    expectation: Expectation
    problems: list[str] = field(default_factory=list)
    aspects: dict[str, bool] = field(default_factory=dict)

    def require(self, aspect: str, holds: bool, problem: str) -> None:  # noqa: FBT001 - the condition of an assertion
        """Note whether something holds, and what was seen where it does not."""
        self.aspects[aspect] = self.aspects.get(aspect, True) and holds
        if not holds:
            self.problems.append(f"{aspect}: {problem}")

    def __str__(self) -> str:
        return "\n  ".join([f"seed {self.plan.seed}", f"{self.plan}", f"{self.expectation}", *self.problems])


def trial(seed: int, monitor: Callable[..., Any]) -> Verdict:
    """Run the plan of a seed without and with the monitor and compare with the contract.

    Args:
        seed: The seed of the plan.
        monitor: Makes the callback from the keyword arguments of ``NumericalHealthMonitor``; may return None.
    """
    plan = draw(seed)
    with tempfile.TemporaryDirectory() as folder:
        truth = run(plan, Path(folder) / "truth", None)
        if truth.trained.error is not None:
            raise truth.trained.error
        verdict = Verdict(plan, expected(plan, truth.seen))
        judge(verdict, truth, run(plan, Path(folder) / "watched", monitor))
    return verdict


def run(plan: FaultPlan, root: Path, monitor: Callable[..., Any] | None) -> Run:
    """Train the plan; the observer stands after planter and monitor."""
    observer = Observer(
        MODELS[plan.model], root / "health" / "incidents", log_every_n_steps=plan.log_every_n_steps
    )  # fmt: skip

    def callbacks() -> list[Any]:
        keep = [ModelCheckpoint(root / "kept", every_n_train_steps=2, save_top_k=-1)] if plan.checkpoint else []
        clip = 1.0 if plan.clip == "own" else None
        made = None if monitor is None else monitor(dirpath=root / "health", on_nonfinite=plan.mode, clip=clip)
        between = [made, Planter(plan)] if plan.planted_after else [Planter(plan), made]
        return [*(callback for callback in between if callback is not None), observer, *keep]

    settings = trainer_settings(plan) | {"enable_checkpointing": plan.checkpoint}
    if monitor is None and plan.clip == "own" and not MODELS[plan.model].manual:
        settings["gradient_clip_val"] = 1.0  # the same rule without a monitor
    trained = cases.train(planted_case(plan), root, callbacks, **settings)
    end = {k: v for k, v in fingerprint(trained.trainer, trained.module).items() if k.startswith(KEPT)}
    return Run(observer.seen, trained, end, _lines(root), _incident_files(root))


def judge(verdict: Verdict, truth: Run, watched: Run) -> None:
    """Hold the monitored run against the expectation, aspect by aspect."""
    _judge_end(verdict, truth, watched)
    _judge_finding(verdict, watched)
    incidents = [event for event in watched.events if event["type"] == "incident"]
    want = verdict.expectation
    if want.steps is None:
        verdict.require("quiet", not incidents, f"incident {_brief(incidents[:1])}")
        return
    verdict.require("caught", bool(incidents), f"no incident; the run ended with {watched.trained.error!r}")
    if not incidents:
        return
    _judge_incident(verdict, watched, incidents)
    if want.restored and not _found_by_scan(verdict, watched):
        _judge_action(verdict, watched, incidents[0])
        if verdict.plan.mode != "warn":
            _judge_state(verdict, truth, watched)


def _judge_incident(verdict: Verdict, watched: Run, incidents: list[dict[str, Any]]) -> None:
    want, first = verdict.expectation, incidents[0]
    low, high = want.steps or (0, 0)
    verdict.require("step", low <= first["step"] <= high, f"{first['step']}, expected {low} to {high}")
    caught = caught_at(watched)
    verdict.require("deadline", caught <= (want.deadline or 0), f"known at moment {caught}, latest {want.deadline}")
    verdict.require(
        "first_seen", first["first_seen"] in want.first_seen, f"{first['first_seen']!r}, not {set(want.first_seen)}"
    )
    if want.phase:
        phase = first["origin"]["phase"]
        verdict.require("phase", phase == want.phase, f"{phase!r}, expected {want.phase!r}")
    if want.position:
        got = (first["epoch"], first["batch_idx"])
        verdict.require("batch_idx", got == want.position, f"(epoch, batch_idx) {got}, expected {want.position}")
    layers = affected_layers(watched.trained.module, first["affected"])
    enough = layers == want.layers if want.only else layers >= want.layers
    verdict.require("layer", enough, f"{sorted(layers)} of {first['affected']}, expected {sorted(want.layers)}")
    verdict.require("file", first in watched.files, "incident.json is not the event of the log")
    if want.once:
        verdict.require("once", len(incidents) == 1, f"{len(incidents)} incidents: {_brief(incidents)}")
        skipped = watched.trained.trainer.callback_metrics.get("health/skipped_steps")
        # The contract does not say whose loss a bad one is when two optimizers step in that batch.
        most = 2 if MODELS[verdict.plan.model].manual else 1
        counted = skipped is not None and 1 <= int(skipped) <= most
        verdict.require("counted", counted, f"health/skipped_steps is {skipped}, expected 1 to {most}")
    verdict.require("rank", (first["rank"], first["world_size"]) == (0, 1), f"{first['rank']}")


def _found_by_scan(verdict: Verdict, watched: Run) -> bool:
    """Whether a scan between two micro-batches found what sits in the model before the step could be judged.

    The promise to leave everything as before the step is about faults in batch, loss and gradients; what a scan finds
    is named, not repaired, and there is no update to drop.
    """
    deadline = verdict.expectation.deadline or 0
    return verdict.plan.kind in ("weight", "buffer") and caught_at(watched) < deadline


def _judge_action(verdict: Verdict, watched: Run, first: dict[str, Any]) -> None:
    """What the mode does about a bad loss or gradient."""
    mode, error = verdict.plan.mode, watched.trained.error
    action = {"raise": "raised", "stop": "stopped", "skip": "skipped", "warn": "warned"}[mode]
    verdict.require("action", first["action"] == action, f"{first['action']!r}, expected {action!r}")
    if mode == "raise":
        step = getattr(getattr(error, "incident", None), "step", None)
        named = type(error).__name__ == "NonFiniteError" and step == first["step"]
        verdict.require("action", named, f"fit raised {error!r} with an incident at step {step}")
    elif mode == "skip" and not verdict.expectation.once:
        patience = error is None or type(error).__name__ == "NonFiniteError"  # max_skips: what sits there stays bad
        verdict.require("action", patience, f"fit raised {error!r}")
    else:
        verdict.require("action", error is None, f"fit raised {error!r}")
    if mode == "stop":
        started = [index for index, moment in enumerate(watched.seen.moments) if moment.name == "batch_start"]
        late = [i for i in started if i > (verdict.expectation.deadline or 0)]
        verdict.require("action", not late, f"{len(late)} batches were started after the stop")


def _judge_state(verdict: Verdict, truth: Run, watched: Run) -> None:
    """Weights, optimizer state and buffers as before the step, bitwise.

    The reference is the truth, a run without a monitor; with clipping of the monitor's own it is what the observer saw
    in the monitored run before the step.
    """
    plan = verdict.plan
    step, position = verdict.expectation.restored or (0, (0, 0))
    source = watched.seen if plan.clip == "own" else truth.seen
    want = {**source.weights[step], **source.buffers[position]}
    if plan.mode == "raise" or (plan.mode == "stop" and not MODELS[plan.model].manual):
        got = _snapshot(watched)
    else:
        ends = [moment for moment in watched.seen.moments if moment.name == "batch_end" and moment.step > step]
        got = dict(watched.seen.after[ends[0].epoch, ends[0].batch_idx])
        if MODELS[plan.model].manual:
            own = ("discriminator", "generator")[step % 2]  # the other one may step in the same batch
            want = {k: v for k, v in want.items() if f"/{own}." in k}
            got = {k: v for k, v in got.items() if f"/{own}." in k}
    if plan.model == "scaled_fused":  # a fused optimizer makes its empty state before it learns that it is to skip
        got = {k: v for k, v in got.items() if k in want or not k.startswith("state/")}
    wrong = sorted(k for k in want.keys() | got.keys() if want.get(k) != got.get(k))
    verdict.require("untouched", not wrong, f"{len(wrong)} tensors differ from before the step: {wrong[:4]}")


def _judge_end(verdict: Verdict, truth: Run, watched: Run) -> None:
    plan, want = verdict.plan, verdict.expectation
    same = want.same_end or (plan.mode == "warn" and plan.clip != "own")
    if same:
        wrong = sorted(k for k in truth.end.keys() | watched.end.keys() if truth.end.get(k) != watched.end.get(k))
        verdict.require("same_end", not wrong, f"the end differs from that without the monitor in {wrong[:4]}")
    if want.finite_end:
        bad = [n for n, p in watched.trained.module.named_parameters() if not torch.isfinite(p).all()]
        verdict.require("finite_end", not bad, f"non-finite at the end: {bad[:4]}")
        verdict.require("finite_end", watched.trained.error is None, f"fit raised {watched.trained.error!r}")
    verdict.require("clean", not watched.trained.failures, f"the monitor failed: {watched.trained.failures}")
    verdict.require("clean", not torch.is_anomaly_enabled(), "anomaly mode is still on")
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in watched.trained.module.modules())
    verdict.require("clean", hooks == 0, f"{hooks} forward hooks were left behind")


def _judge_finding(verdict: Verdict, watched: Run) -> None:
    want = verdict.expectation
    if want.reported:
        findings = [e for e in watched.events if e["type"] == "finding" and e["severity"] in ("warning", "error")]
        fits = [
            event
            for event in findings
            if want.finding_layer in (None, event["layer"]) and want.finding_step in (None, event["since_step"])
        ]
        seen = [(event["code"], event["layer"], event["since_step"]) for event in findings]
        verdict.require(
            "reported", bool(fits), f"findings {seen}, expected one on {want.finding_layer} at {want.finding_step}"
        )  # fmt: skip
    if want.norm is not None:
        for event in watched.events:
            if event["type"] == "step" and event["step"] == want.finding_step:
                got = event["grad_norm"]
                good = isinstance(got, float) and math.isclose(got, want.norm, rel_tol=1e-5)
                verdict.require("norm", good, f"{got}, expected {want.norm}")


def caught_at(watched: Run) -> int:
    """Return the index of the first moment at which the incident lay on disk; after the last one if it came later."""
    known = (index for index, moment in enumerate(watched.seen.moments) if moment.known)
    return next(known, len(watched.seen.moments))


def affected_layers(module: Any, affected: list[str]) -> frozenset[str]:
    """Translate tensor or layer names to layers: the innermost module that a name begins with."""
    modules = sorted((name for name, _ in module.named_modules() if name), key=len, reverse=True)
    found = (next((m for m in modules if name == m or name.startswith(f"{m}.")), name) for name in affected)
    return frozenset(found)


def _snapshot(watched: Run) -> dict[str, Any]:
    trained = watched.trained
    return {**weights_of(trained.trainer, trained.module), **buffers_of(trained.module)}


def _lines(root: Path) -> list[dict[str, Any]]:
    path = root / "health" / "events.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def _incident_files(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(root.glob("health/incidents/*/incident.json"))]


def _brief(incidents: list[dict[str, Any]]) -> str:
    return "; ".join(f"step {i['step']} {i['first_seen']} {i['affected']} {i['action']}" for i in incidents)
