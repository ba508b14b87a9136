"""The fault harness can fail: without a monitor, with its check switched off, and for every single false statement."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gradwatch import HealthMonitor, NumericalHealthMonitor
from tests.faults.expectation import expected
from tests.faults.plan import COMBINATIONS, KINDS, MODELS, MODES, SCALED, VALUES, FaultPlan, draw
from tests.faults.trial import Run, Verdict, judge, run, trial
from tests.noninterference.fingerprint import Bits

if TYPE_CHECKING:
    from collections.abc import Callable


def planned(*kinds: str) -> list[int]:
    """Return the first seeds of non-finite values of these kinds that ask for an incident."""
    plans = [draw(seed) for seed in range(2 * COMBINATIONS)]
    return [plan.seed for plan in plans if plan.kind in kinds and not plan.huge and plan.model not in SCALED]


def nobody(**_: Any) -> None:
    """Stand for a run in which the monitor is absent."""


@pytest.mark.parametrize("seed", range(COMBINATIONS))
def test_an_absent_monitor_fails_wherever_something_is_expected(seed: int) -> None:
    verdict = trial(seed, nobody)
    asked = verdict.expectation.steps is not None or verdict.expectation.reported
    assert bool(verdict.problems) == asked, str(verdict)


@pytest.mark.parametrize("seed", planned("gradient", "loss", "batch"))
def test_a_monitor_that_lets_every_step_pass_fails(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HealthMonitor, "before_step", lambda *_args, **_kwargs: True)
    assert trial(seed, NumericalHealthMonitor).problems


def test_a_monitor_that_never_scans_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HealthMonitor, "scan", lambda *_args, **_kwargs: None)
    verdicts = [trial(seed, NumericalHealthMonitor) for seed in planned("buffer", "optimizer")]
    # Where loss or gradients turn bad, at once or after the step, no scan is needed.
    by_scan = [v for v in verdicts if v.expectation.restored is None and v.expectation.phase is None]
    assert by_scan
    assert [str(verdict) for verdict in by_scan if not verdict.problems] == []


def of_kind(kind: str, mode: str, **others: Any) -> FaultPlan:
    """Return the first plan of a non-finite value of that kind and mode."""
    wanted = {"kind": kind, "mode": mode, "clip": "none", **others}
    plans = (draw(seed) for seed in itertools.count())
    return next(
        plan
        for plan in plans
        if not plan.huge and plan.model not in SCALED and all(getattr(plan, k) == v for k, v in wanted.items())
    )


@pytest.fixture(scope="module")
def caught() -> tuple[FaultPlan, Run, Run]:
    """Run a bad gradient under skip, without and with the monitor."""
    plan = of_kind("gradient", "skip", model="accumulation", epoch=0)
    with tempfile.TemporaryDirectory() as folder:
        return (
            plan,
            run(plan, Path(folder) / "truth", None),
            run(plan, Path(folder) / "watched", NumericalHealthMonitor),
        )


def judged(plan: FaultPlan, truth: Run, watched: Run) -> Verdict:
    verdict = Verdict(plan, expected(plan, truth.seen))
    judge(verdict, truth, watched)
    return verdict


def incident_with(**changes: Any) -> Callable[[Run], Run]:
    """Return a change of what the incident says, in the log and in its file alike."""

    def tamper(watched: Run) -> Run:
        events = [{**event, **changes} if event["type"] == "incident" else event for event in watched.events]
        return watched._replace(events=events, files=[{**file, **changes} for file in watched.files])

    return tamper


def without_incidents(watched: Run) -> Run:
    return watched._replace(events=[event for event in watched.events if event["type"] != "incident"])


def twice(watched: Run) -> Run:
    return watched._replace(events=[*watched.events, *(e for e in watched.events if e["type"] == "incident")])


def known_too_late(watched: Run) -> Run:
    moments = [moment._replace(known=False) for moment in watched.seen.moments]
    return watched._replace(seen=dataclasses.replace(watched.seen, moments=moments))


def one_bit_of(group: str) -> Callable[[Run], Run]:
    """Return a change of one bit of one tensor in every state that was seen after a batch."""

    def tamper(watched: Run) -> Run:
        after = {position: dict(state) for position, state in watched.seen.after.items()}
        for state in after.values():
            name = next(name for name, bits in state.items() if name.startswith(group) and isinstance(bits, Bits))
            data = bytes([state[name].data[0] ^ 1]) + state[name].data[1:]
            state[name] = dataclasses.replace(state[name], data=data)
        return watched._replace(seen=dataclasses.replace(watched.seen, after=after))

    return tamper


LIES: dict[str, tuple[Callable[[Run], Run], str]] = {
    "no incident": (without_incidents, "caught"),
    "a later step": (incident_with(step=10**6), "step"),
    "an earlier step": (incident_with(step=-1), "step"),
    "another kind": (incident_with(first_seen="parameter"), "first_seen"),
    "another micro-batch": (incident_with(batch_idx=99), "batch_idx"),
    "another epoch": (incident_with(epoch=1), "batch_idx"),
    "no layer": (incident_with(affected=[]), "layer"),
    "another layer": (incident_with(affected=["network.2"]), "layer"),
    "another action": (incident_with(action="warned"), "action"),
    "another rank": (incident_with(rank=1), "rank"),
    "another file": (lambda watched: watched._replace(files=[]), "file"),
    "one incident too many": (twice, "once"),
    "known too late": (known_too_late, "deadline"),
    "one bit of a weight": (one_bit_of("weights/"), "untouched"),
    "one bit of a buffer": (one_bit_of("buffers/"), "untouched"),
}


@pytest.mark.parametrize("lie", LIES)
def test_every_false_statement_is_seen(lie: str, caught: tuple[FaultPlan, Run, Run]) -> None:
    plan, truth, watched = caught
    tamper, aspect = LIES[lie]
    assert judged(plan, truth, watched).problems == []
    assert [problem.split(":")[0] for problem in judged(plan, truth, tamper(watched)).problems] == [aspect]


def test_a_repaired_weight_is_seen(tmp_path: Path) -> None:
    """ "Named, not repaired": a bad weight that is gone at the end of the step counts as a difference."""
    plan = of_kind("weight", "skip", model="transformer")
    truth = run(plan, tmp_path / "truth", None)
    watched = run(plan, tmp_path / "watched", NumericalHealthMonitor)
    want = expected(plan, truth.seen)
    assert want.restored is not None
    clean = {position: dict(state) for position, state in watched.seen.after.items()}
    for state in clean.values():
        name = f"weights/{plan.tensor}"
        state[name] = dataclasses.replace(state[name], data=bytes(len(state[name].data)))
    repaired = watched._replace(seen=dataclasses.replace(watched.seen, after=clean))
    assert any(problem.startswith("untouched") for problem in judged(plan, truth, repaired).problems)


def test_plans_cover_every_combination() -> None:
    plans = [draw(seed) for seed in range(28 * COMBINATIONS)]
    combinations = Counter((plan.kind, repr(plan.value)) for plan in plans)
    assert len(combinations) == COMBINATIONS == len(KINDS) * len(VALUES)
    assert set(combinations.values()) == {28}
    assert {(plan.model, plan.kind) for plan in plans} == {(n, k) for n, model in MODELS.items() for k in model.kinds}
    assert {(plan.kind, plan.mode) for plan in plans} == {(kind, mode) for kind in KINDS for mode in MODES}


def test_a_seed_always_means_the_same_plan() -> None:
    assert repr([draw(seed) for seed in range(50)]) == repr([draw(seed) for seed in range(50)])
