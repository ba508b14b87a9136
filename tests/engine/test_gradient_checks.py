"""When gradients are checked in a run, what that may cost, and what becomes of the result."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from gradwatch import HealthMonitor
from gradwatch.engine.gradient_checks import BUDGET, EXPECTED_STEPS, CheckSchedule, GradientChecks
from gradwatch.observations import BatchMixing
from gradwatch.probes.check import GradientProbe
from gradwatch.probes.localise import find_culprit
from gradwatch.records import GradientCheck
from gradwatch.replica import memory
from tests.engine.loops import Batch, Setup, context, events, same, setup, state, train
from tests.numerics.tensors import PROPERTY
from tests.probes.doubled import Doubled, Wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

# -- the schedule ------------------------------------------------------------------------------------------------------

_step_times = st.lists(st.floats(1e-4, 10), min_size=1, max_size=40)
_costs = st.lists(st.floats(1e-3, 100), min_size=1, max_size=10)


def played(schedule: CheckSchedule, steps: int, times: Sequence[float], costs: Sequence[float]) -> list[dict[str, Any]]:
    """Train for some steps by a clock of our own; return what each check found: step, time trained, cost, spent."""
    now, trained = 17.0, 0.0
    checks: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        now += times[step % len(times)]
        trained += times[step % len(times)] if step > 1 else 0.0  # the clock of the schedule starts after the first
        if schedule.due(step, now):
            cost = costs[len(checks) % len(costs)]
            now += cost
            checks.append({"step": step, "trained": trained, "cost": cost, "before": schedule.spent})
            schedule.took(cost)
    return checks


@PROPERTY
@given(_step_times, _costs)
def test_every_check_can_be_paid_if_it_costs_no_more_than_those_before(times: list[float], costs: list[float]) -> None:
    dearest = 0.0
    for check in played(CheckSchedule("auto"), 6000, times, costs):
        assert check["before"] + dearest <= BUDGET * check["trained"] * (1 + 1e-9)
        dearest = max(dearest, check["cost"])


@PROPERTY
@given(st.floats(1e-4, 10), st.floats(0.05, EXPECTED_STEPS))
def test_checks_of_one_cost_take_a_hundredth_of_the_time_and_no_less_than_they_could(
    step_time: float, cost: float
) -> None:
    steps = 8000
    checks = played(CheckSchedule("auto"), steps, [step_time], [cost * step_time])
    spent, earned = sum(check["cost"] for check in checks), BUDGET * step_time * (steps - 1)
    assert spent <= earned
    assert spent + cost * step_time > earned - 0.01 * step_time


def test_the_first_check_waits_until_the_dearest_known_one_can_be_paid() -> None:
    checks = played(CheckSchedule("auto"), 3000, [0.5], [0.5])
    assert checks[0]["step"] == EXPECTED_STEPS / BUDGET + 1
    assert checks[1]["step"] == checks[0]["step"] + 1  # it was cheap: there is money left
    assert checks[-1]["before"] + 0.5 <= BUDGET * 1500


def test_a_dear_check_is_the_last_for_long() -> None:
    checks = played(CheckSchedule("auto"), 50_000, [1.0], [300.0])
    assert [check["step"] for check in checks] == [EXPECTED_STEPS / BUDGET + 1]


def test_slow_first_steps_do_not_count_as_training() -> None:
    schedule = CheckSchedule("auto")
    assert not schedule.due(1, 1e6)  # compiling took ages
    assert not schedule.due(101, 1e6 + 1.0)


@PROPERTY
@given(st.integers(1, 50), _step_times, _costs)
def test_a_number_of_steps_is_kept_whatever_it_costs(every: int, times: list[float], costs: list[float]) -> None:
    checks = played(CheckSchedule(every), 200, times, costs)
    assert [check["step"] for check in checks] == list(range(every, 201, every))


def test_none_never_checks() -> None:
    assert played(CheckSchedule(None), 10_000, [1.0], [0.0]) == []


@pytest.mark.parametrize("single", range(4))
def test_several_steps_in_a_batch_are_no_reason_never_to_look_at_the_clock(
    single: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GAN whose second optimizer joins after some batches: its count of steps has one parity for ever."""
    parts = setup()
    monitor = HealthMonitor(clip=None, graph_lint=False)
    monitor.start(parts.model, parts.optimizer, context(tmp_path), loss_function=loss_function)
    checks = monitor._run.checks
    asked: list[int] = []
    checks._looks_for_mixing = False

    def ask(step: int, now: float) -> bool:
        asked.append(step)
        return False

    monkeypatch.setattr(checks._schedule, "due", ask)
    for batch in range(100):
        checks.due(single + 2 * batch + 1)
    assert len(asked) == pytest.approx(200 / 16, abs=1)


# -- in a loop written by hand -----------------------------------------------------------------------------------------


def loss_function(module: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(module(batch[0]), batch[1])


def watched(
    path: Path, parts: Setup, loss: Callable[[nn.Module, Any], Any] = loss_function, **run: Any
) -> HealthMonitor:
    """A monitor that checks every second step."""
    monitor = HealthMonitor(clip=None, gradient_check_every_n_steps=2)
    monitor.start(parts.model, parts.optimizer, context(path, **run), loss_function=loss)
    return monitor


def faulty() -> Setup:
    parts = setup()
    parts.model.norm = Doubled()  # type: ignore[assignment]
    return parts


def test_a_healthy_loop_passes_and_its_error_is_a_metric(tmp_path: Path) -> None:
    parts = setup()
    monitor = watched(tmp_path, parts)
    assert "health/gradient_check_error" not in monitor.health()
    train(monitor, parts)
    checks = events(tmp_path, "gradient_check")
    assert [(check.step, check.log_step, check.verdict) for check in checks] == [
        (1, 1, "pass"),
        (3, 3, "pass"),
        (5, 5, "pass"),
    ]
    assert [check.samples for check in checks] == [2, 2, 2]
    errors = [checks[-1].relative_error, *(found.relative_error for found in checks[-1].parameters.values())]
    assert monitor.health()["health/gradient_check_error"] == max(error for error in errors if error is not None)
    assert events(tmp_path, "finding") == []


def test_tensors_are_asked_one_by_one_in_turn(tmp_path: Path) -> None:
    parts = setup(norm=False)
    train(watched(tmp_path, parts), parts)
    asked = [[n for n, found in check.parameters.items() if found.h] for check in events(tmp_path, "gradient_check")]
    assert asked == [["body.weight"], ["body.bias"], ["head.weight"]]


def test_training_ends_as_without_checks(tmp_path: Path) -> None:
    plain, checked = setup(), setup()
    unwatched = HealthMonitor(clip=None, gradient_check_every_n_steps=None)
    unwatched.start(plain.model, plain.optimizer, context(tmp_path / "plain"), loss_function=loss_function)
    train(unwatched, plain)
    random_state = torch.get_rng_state()
    train(watched(tmp_path / "checked", checked), checked)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert same(state(plain), state(checked))
    assert events(tmp_path / "plain", "gradient_check") == []
    assert len(events(tmp_path / "checked", "gradient_check")) == 3


def test_a_wrong_backward_is_said_once_and_looked_for_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []

    def looking(evaluator: Any) -> Any:
        looked.append(evaluator)
        return find_culprit(evaluator)

    monkeypatch.setattr("gradwatch.probes.check.find_culprit", looking)
    parts = faulty()
    monitor = watched(tmp_path, parts)
    train(monitor, parts)
    checks, findings = events(tmp_path, "gradient_check"), events(tmp_path, "finding")
    assert [check.verdict for check in checks] == ["mismatch"] * 3
    assert [(finding.code, finding.status, finding.since_step) for finding in findings] == [
        ("gradient-mismatch", "opened", 1),
    ]
    assert {check.culprit.module for check in checks} == {"norm"}
    assert {check.culprit.function for check in checks} == {"Wrong"}
    assert len(looked) == 1
    tables = [message for message in caplog.messages if message.startswith("Gradient check: a gradient is WRONG.")]
    assert len(tables) == 1
    assert "Wrong in norm (Doubled)" in tables[0]
    assert monitor.health()["health/gradient_check_error"] > 0.1


def test_without_a_loss_function_nothing_is_checked(tmp_path: Path) -> None:
    parts = setup()
    monitor = HealthMonitor(clip=None, gradient_check_every_n_steps=1)
    monitor.start(parts.model, parts.optimizer, context(tmp_path))
    train(monitor, parts)
    assert events(tmp_path, "gradient_check") == []


def test_one_rank_checks_for_all(tmp_path: Path) -> None:
    parts = setup()
    train(watched(tmp_path, parts, rank=1, world_size=2), parts)
    assert events(tmp_path, "gradient_check") == []


def test_a_step_that_was_skipped_is_not_checked(tmp_path: Path) -> None:
    parts = setup(norm=False)
    monitor = HealthMonitor(clip=None, gradient_check_every_n_steps=1, on_nonfinite="skip")
    monitor.start(parts.model, parts.optimizer, context(tmp_path), loss_function=loss_function)
    train(monitor, parts, loss=lambda loss, index: loss * float("nan") if index == 2 else loss)
    assert [check.batch_idx for check in events(tmp_path, "gradient_check")] == [0, 1, 3, 4, 5]


def test_what_cannot_be_checked_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 100)
    caplog.set_level(logging.INFO, "gradwatch")
    parts = setup()
    monitor = watched(tmp_path, parts)
    train(monitor, parts)
    checks = events(tmp_path, "gradient_check")
    reason = "memory: a copy in float64 would take more than half of what is free"
    assert {(check.verdict, check.reason) for check in checks} == {("not_checkable", reason)}
    said = [m for m in caplog.messages if "cannot be checked" in m]
    assert said == [f"gradwatch: the gradients of this step cannot be checked: {reason}."]
    assert "health/gradient_check_error" not in monitor.health()
    assert events(tmp_path, "finding") == []


def test_a_loss_function_that_fails_on_the_copy_ends_nothing(tmp_path: Path) -> None:
    def only_float32(module: nn.Module, batch: Batch) -> Tensor:
        if next(module.parameters()).dtype != torch.float32:
            raise TypeError("float32 only\nsecond line")
        return loss_function(module, batch)

    parts = setup()
    train(watched(tmp_path, parts, only_float32), parts)
    assert {check.reason for check in events(tmp_path, "gradient_check")} == {
        "the step failed on a copy in float64 with TypeError: float32 only"
    }


def test_terms_that_a_loss_function_returns_are_judged_too(tmp_path: Path) -> None:
    def with_terms(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        out = module(batch[0])
        main = functional.cross_entropy(out, batch[1])
        return {"loss": main, "size": out.square().mean(), "doubled": Wrong.apply(out).square().mean()}  # type: ignore[no-untyped-call]

    parts = setup()
    train(watched(tmp_path, parts, with_terms), parts)
    check = events(tmp_path, "gradient_check")[0]
    assert check.terms == {"size": "pass", "doubled": "mismatch"}
    assert check.verdict == "mismatch"


def test_a_check_that_fails_ends_no_training_and_its_cost_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gradwatch")
    learnt: list[float] = []
    monkeypatch.setattr(CheckSchedule, "took", lambda _self, seconds: learnt.append(seconds))
    monkeypatch.setattr(GradientProbe, "run", lambda _self, _request: 1 / 0)
    parts = setup()
    monitor = watched(tmp_path, parts)
    train(monitor, parts)
    assert learnt
    said = [message for message in caplog.messages if "a gradient check failed" in message]
    assert said == ["gradwatch: a gradient check failed with ZeroDivisionError: division by zero."]


@pytest.mark.parametrize("seed", ["0", None])
def test_a_run_without_a_seed_is_noted(seed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    if seed is not None:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
    parts = setup()
    train(watched(tmp_path, parts), parts)
    note = "the run is not seeded by seed_everything: another run of it may differ"
    assert events(tmp_path, "gradient_check")[0].notes == ([] if seed else [note])


# -- samples that are mixed --------------------------------------------------------------------------------------------


class MixedSamples(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h - h.mean(0)


def mixing(path: Path, *, every: int | None = 100, rank: int = 0, **settings: Any) -> list[Any]:
    """The findings of a training in which a module mixes samples."""
    parts = setup()
    parts.model.norm = MixedSamples()  # type: ignore[assignment]
    monitor = HealthMonitor(clip=None, gradient_check_every_n_steps=every, **settings)
    monitor.start(
        parts.model, parts.optimizer, context(path, rank=rank, world_size=rank + 1), loss_function=loss_function
    )
    train(monitor, parts)
    return [found for found in events(path, "finding") if found.code == "batch-mixing"]


@pytest.mark.parametrize("graph_lint", [True, False])
def test_mixed_samples_are_found_once_at_the_first_step(graph_lint: bool, tmp_path: Path) -> None:  # noqa: FBT001 - one row of a table
    (finding,) = mixing(tmp_path, graph_lint=graph_lint)
    assert (finding.status, finding.severity, finding.layer, finding.step) == ("opened", "warning", "norm", 0)
    assert finding.evidence["code"] == "return h - h.mean(0)"


def test_mixed_samples_are_looked_for_where_gradients_are_checked(tmp_path: Path) -> None:
    assert mixing(tmp_path / "none", every=None) == []
    assert mixing(tmp_path / "other rank", rank=1) == []


def test_checks_are_handed_to_who_asks_for_them(tmp_path: Path) -> None:
    parts = setup()
    seen: list[Any] = []
    monitor = watched(tmp_path, parts)
    old: Any = monitor._run.checks
    monitor._run.checks = GradientChecks(monitor.settings, old._context, old._watched, old._reporter, seen.append)
    train(monitor, parts)
    assert [type(record) for record in seen] == [BatchMixing, *[GradientCheck] * 3]
    assert (seen[0].module, seen[0].reason, seen[0].samples, seen[0].step) == (None, None, 4, 0)
    assert seen[1:] == events(tmp_path, "gradient_check")


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_check_says_whether_determinism_was_asked_for(deterministic: bool, tmp_path: Path) -> None:  # noqa: FBT001 - one row of a table
    parts = setup()
    torch.use_deterministic_algorithms(deterministic)
    try:
        train(watched(tmp_path, parts), parts)
    finally:
        torch.use_deterministic_algorithms(False)
    assert {check.deterministic for check in events(tmp_path, "gradient_check")} == {deterministic}
