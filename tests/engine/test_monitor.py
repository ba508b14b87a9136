"""The engine in a loop that a user has written by hand: the life of a run, and what is written of it."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch import HealthMonitor
from tests.engine.loops import context, events, one_step, setup, spoiled, train, watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# -- the life of a run -----------------------------------------------------------------------------------------------


def test_a_healthy_run_leaves_start_steps_and_end(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    train(monitor, parts)
    monitor.end("finished")
    assert [event.type for event in events(tmp_path)] == ["run_start", *["step"] * 6, "last_steps", "run_end"]
    assert [event.step for event in events(tmp_path, "step")] == list(range(6))
    end = events(tmp_path, "run_end")[0]
    assert (end.status, end.steps, end.skipped_steps, end.incidents, end.reason) == ("finished", 6, 0, 0, None)


@pytest.mark.parametrize(("argument", "loop", "logged"), [(None, 2, [1, 3, 5]), (3, 2, [2, 5]), (7, 1, [])])
def test_log_steps_are_the_arguments_else_the_loops(
    argument: int | None, loop: int, logged: list[int], tmp_path: Path
) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=argument, run={"log_every_n_steps": loop})
    train(monitor, parts)
    assert [event.step for event in events(tmp_path, "step")] == logged


def test_a_loop_that_never_logs(tmp_path: Path) -> None:
    parts = setup()
    train(watch(tmp_path, parts, run={"log_every_n_steps": 0}), parts)
    assert events(tmp_path, "step") == []


def test_start_without_a_context_writes_to_dirpath(tmp_path: Path) -> None:
    parts = setup()
    monitor = HealthMonitor(dirpath=tmp_path / "here", clip=None, log_every_n_steps=2)
    monitor.start(parts.model, [parts.optimizer])
    train(monitor, parts)
    assert len(events(tmp_path / "here", "step")) == 3


def test_end_is_written_once_and_only_after_a_start(tmp_path: Path) -> None:
    HealthMonitor().end("finished")
    parts = setup()
    monitor = watch(tmp_path, parts)
    assert monitor.active
    monitor.end("interrupted", "by hand")
    monitor.end("finished")
    assert not monitor.active
    assert [(event.status, event.reason) for event in events(tmp_path, "run_end")] == [("interrupted", "by hand")]


def test_the_end_is_written_even_when_the_last_record_cannot_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a device error nothing on the device can be measured any more, but the file can still be closed."""
    parts = setup()
    monitor = watch(tmp_path, parts)

    def fail(*_: Any) -> None:
        message = "device lost"
        raise RuntimeError(message)

    def leave_the_loop(_: nn.Module, batch: int) -> None:
        if batch == 1:
            monkeypatch.setattr("gradwatch.engine.recording.layer_updates", fail)
            monitor.before_step(parts.optimizer)
            raise StopIteration

    with pytest.raises(StopIteration):
        train(monitor, parts, gradients=leave_the_loop)
    with pytest.raises(RuntimeError, match="device lost"):
        monitor.end("exception", "device lost")
    assert [event.status for event in events(tmp_path, "run_end")] == ["exception"]


def test_calls_out_of_order_say_what_comes_first(tmp_path: Path) -> None:
    parts = setup()
    monitor = HealthMonitor(clip=None)
    with pytest.raises(RuntimeError, match=r"call start\(module, optimizers\) first"):
        monitor.begin_batch(None, 0)
    monitor.start(parts.model, parts.optimizer, context(tmp_path))
    with pytest.raises(RuntimeError, match=r"call begin_batch\(batch, batch_idx\) for each"):
        monitor.observe_loss(torch.ones(()))
    monitor.end("finished")
    with pytest.raises(RuntimeError, match="not watching"):
        monitor.begin_batch(None, 0)


def test_nothing_is_written_where_the_loop_wants_none(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip", run={"write": False})
    train(monitor, parts, spoiled(parts.batches, 2))
    monitor.end("finished")
    assert list(tmp_path.iterdir()) == []
    assert monitor.counters.incidents == 1


def test_run_start_has_the_setting(tmp_path: Path) -> None:
    parts = setup()
    run = {"precision": {"precision": "32"}, "strategy": "mine"}
    watch(tmp_path, parts, clip=0.5, granularity="parameter", run=run)
    start = events(tmp_path, "run_start")[0]
    assert start.clip.max_norm == 0.5
    assert start.settings["clip"] == 0.5
    assert start.settings["granularity"] == "parameter"
    assert [row.name for row in start.parameters] == [name for name, _ in parts.model.named_parameters()]
    assert {row.layer for row in start.parameters} == {row.name for row in start.parameters}
    assert start.optimizers[0]["class"] == "AdamW"
    assert (start.precision["precision"], start.strategy) == ("32", "mine")
    assert start.versions["torch"] == torch.__version__
    assert (start.resumed_from, start.batch_idx) == (None, None)


# -- what a record says ----------------------------------------------------------------------------------------------


def test_norms_and_ratios_are_those_of_float64(tmp_path: Path) -> None:
    parts = setup(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    monitor = watch(tmp_path, parts)
    truth: list[dict[str, tuple[float, float, float]]] = []
    before: dict[str, Tensor] = {}

    def norm(name: str, tensors: dict[str, Tensor]) -> float:
        return math.hypot(*(float(v.double().norm()) for k, v in tensors.items() if k.rpartition(".")[0] == name))

    def note(model: nn.Module, _: int) -> None:
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        before.update({name: p.detach().clone() for name, p in model.named_parameters()})
        truth.append({layer: (norm(layer, gradients), norm(layer, before), 0.0) for layer in ("body", "norm", "head")})

    train(monitor, parts, gradients=note)
    for event, layers in zip(events(tmp_path, "step"), truth, strict=True):
        total = math.hypot(*(gradient for gradient, _, _ in layers.values()))
        assert event.grad_norm == pytest.approx(total, rel=1e-5)
        assert event.clip.largest_layer == max(layers, key=lambda layer: layers[layer][0])
        for layer, (gradient, weight, _) in layers.items():
            assert event.layers[layer].grad_norm == pytest.approx(gradient, rel=1e-5)
            assert event.layers[layer].weight_norm == pytest.approx(weight, rel=1e-5)
            assert event.layers[layer].update_ratio == pytest.approx(0.1 * gradient / weight, rel=1e-3)
            assert event.layers[layer].nonfinite == 0


def test_the_loss_is_the_users_mean_over_the_window(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    seen: list[float] = []

    def note(loss: Tensor, _: int) -> Tensor:
        seen.append(float(loss.detach()))
        return loss

    train(monitor, parts, loss=note, accumulate=3)
    losses = [event.loss for event in events(tmp_path, "step")]
    assert losses == pytest.approx([sum(seen[:3]) / 3, sum(seen[3:]) / 3], rel=1e-6)


def test_a_loss_that_the_loop_divides_is_made_whole(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    x, y = parts.batches[0]
    monitor.begin_batch((x, y), 0)
    loss: Any = nn.functional.cross_entropy(parts.model(x), y, reduction="none")
    (loss.mean() / 4).backward()
    monitor.observe_loss(loss / 4, factor=4.0)  # not a scalar: its mean counts
    monitor.before_step(parts.optimizer)
    monitor.after_step(parts.optimizer)
    assert events(tmp_path, "step")[0].loss == pytest.approx(float(loss.detach().mean()), rel=1e-6)


def test_rates_and_windows(tmp_path: Path) -> None:
    parts = setup()
    parts.optimizer.param_groups[0]["lr"] = 0.25
    monitor = watch(tmp_path, parts, log_every_n_steps=3)

    def spike(model: nn.Module, batch: int) -> None:
        if batch == 1:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 7.0)

    train(monitor, parts, gradients=spike)
    first, second = events(tmp_path, "step")
    assert (first.lr, first.lr_groups) == (0.25, [0.25])
    count = sum(parameter.numel() for parameter in parts.model.parameters())
    assert first.window.grad_norm_max == pytest.approx(7 * math.sqrt(count), rel=1e-5)
    assert (first.window.grad_norm_max_step, first.window.steps) == (1, 3)
    assert second.window.grad_norm_max < 7
    assert second.window.steps == 3


def test_a_layer_without_gradient_and_a_step_without_any(tmp_path: Path) -> None:
    parts = setup()

    def drop(model: Any, batch: int) -> None:
        for parameter in model.parameters() if batch == 1 else model.body.parameters():
            parameter.grad = None

    train(watch(tmp_path, parts), parts, gradients=drop)
    first, second = events(tmp_path, "step")[:2]
    assert first.layers["body"].grad_norm is None
    assert first.layers["head"].grad_norm > 0
    assert {layer.grad_norm for layer in second.layers.values()} == {None}
    assert second.grad_norm is None
    assert second.clip.largest_layer is None


def test_tiny_gradients_do_not_read_as_zero(tmp_path: Path) -> None:
    parts = setup(lambda parameters: torch.optim.SGD(parameters, lr=0.1))

    def shrink(model: nn.Module, _: int) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-30)

    train(watch(tmp_path, parts), parts, gradients=shrink)
    event = events(tmp_path, "step")[0]
    count = sum(parameter.numel() for parameter in parts.model.parameters())
    assert event.grad_norm == pytest.approx(math.sqrt(count) * 1e-30, rel=1e-5, abs=0)
    assert event.layers["norm"].grad_norm == pytest.approx(math.sqrt(12) * 1e-30, rel=1e-5, abs=0)


# -- resuming --------------------------------------------------------------------------------------------------------


def test_counters_continue_and_the_new_log_names_the_old_run(tmp_path: Path) -> None:
    parts = setup()
    first = watch(tmp_path / "a", parts, on_nonfinite="skip", clip=0.01)
    train(first, parts, spoiled(parts.batches, 1))
    saved = json.loads(json.dumps(first.state_dict()))
    second = HealthMonitor(clip=0.01)
    second.load_state_dict(saved)
    second.start(parts.model, parts.optimizer, context(tmp_path / "b"))
    train(second, parts)
    second.end("finished")
    start = events(tmp_path / "b", "run_start")[0]
    assert start.resumed_from == events(tmp_path / "a", "run_start")[0].run_id == first.run_id
    assert start.run_id == second.run_id != first.run_id
    assert start.steps_before == 6
    end = events(tmp_path / "b", "run_end")[0]
    assert (end.steps, end.skipped_steps, end.incidents) == (12, 1, 1)
    assert second.counters.clip_rate == 11 / 12


def test_a_second_run_of_the_same_monitor_resumes_the_first(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    train(monitor, parts)
    monitor.end("finished")
    first = monitor.run_id
    monitor.start(parts.model, parts.optimizer, context(tmp_path))
    train(monitor, parts)
    monitor.end("finished")
    starts = events(tmp_path, "run_start")
    assert [start.resumed_from for start in starts] == [None, first]
    assert [event.steps for event in events(tmp_path, "run_end")] == [6, 12]


def test_a_second_run_with_another_module_resumes_nothing_although_it_counts_on(tmp_path: Path) -> None:
    first, second = setup(), setup()
    monitor = watch(tmp_path, first)
    train(monitor, first)
    monitor.end("finished")
    monitor.start(second.model, second.optimizer, context(tmp_path))
    train(monitor, second)
    monitor.end("finished")
    starts = events(tmp_path, "run_start")
    assert [(start.resumed_from, start.steps_before) for start in starts] == [(None, 0), (None, 6)]
    assert [event.steps for event in events(tmp_path, "run_end")] == [6, 12]


def test_a_second_run_that_loads_another_runs_checkpoint_resumes_that_one(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    monitor.end("finished")
    monitor.load_state_dict({"version": 1, "run_id": "other", "counters": {"steps": 40}})
    monitor.start(parts.model, parts.optimizer, context(tmp_path))
    assert monitor.resumed_from == "other"
    monitor.end("finished")
    monitor.start(parts.model, parts.optimizer, context(tmp_path))
    assert monitor.resumed_from == events(tmp_path, "run_start")[1].run_id


@pytest.mark.parametrize("state", [{}, {"run_id": "a"}, {"counters": {"steps": 3}, "run_id": "a", "new": 1}])
def test_states_of_other_versions_load(state: dict[str, Any]) -> None:
    monitor = HealthMonitor()
    monitor.load_state_dict(state)
    assert monitor.resumed_from == state.get("run_id")
    assert monitor.counters.steps == state.get("counters", {}).get("steps", 0)


COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, lambda monitor: pickle.loads(pickle.dumps(monitor))]


@pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])
def test_a_copy_has_the_settings_and_nothing_of_the_run(copied: Callable[[Any], Any], tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, clip=0.5)
    train(monitor, parts, parts.batches[:3])
    other = copied(monitor)
    assert (other.settings, other.counters.steps, other.active) == (monitor.settings, 0, False)
    train(monitor, parts, parts.batches[3:])
    monitor.end("finished")
    other = copied(monitor)
    other.start(parts.model, parts.optimizer, context(tmp_path))
    train(other, parts)
    other.end("finished")
    assert [start.resumed_from for start in events(tmp_path, "run_start")] == [None, None]
    assert [(end.run_id, end.steps) for end in events(tmp_path, "run_end")] == [(monitor.run_id, 6), (other.run_id, 6)]


def test_a_copy_has_what_was_loaded_for_a_run_to_come() -> None:
    monitor = HealthMonitor()
    monitor.load_state_dict({"version": 1, "run_id": "other", "counters": {"steps": 40}, "rules": {"a": 1}})
    twin = copy.deepcopy(monitor)
    assert (twin.resumed_from, twin.counters.steps) == ("other", 40)
    assert twin.state_dict()["rules"] == {"a": 1}


# -- what others may ask ---------------------------------------------------------------------------------------------


def test_health_is_that_of_the_last_step_also_between_log_steps(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=100, clip=0.01, on_nonfinite="skip")
    train(monitor, parts, spoiled(parts.batches, 2))
    health = monitor.health()
    assert health["health/skipped_steps"] == health["health/nonfinite"] == 1
    assert health["health/clip_rate"] == pytest.approx(5 / 6)
    assert health["health/grad_norm_clipped"] == pytest.approx(0.01, rel=1e-3)
    assert health["health/grad_norm"] > 0.01


def test_health_has_no_value_that_is_not_finite(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip")
    train(monitor, parts, spoiled(parts.batches, 5))
    assert all(map(math.isfinite, monitor.health().values()))
    assert monitor.health()["health/nonfinite"] == 1


def test_news_are_told_once(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip")
    train(monitor, parts)
    assert not monitor.has_news()
    train(monitor, parts, spoiled(parts.batches, 2))
    assert monitor.has_news()
    assert not monitor.has_news()


# -- lazy modules ----------------------------------------------------------------------------------------------------


def test_lazy_modules_are_announced_with_their_first_step(tmp_path: Path) -> None:
    module = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    monitor = HealthMonitor(clip=None)
    monitor.start(module, optimizer, context(tmp_path))
    assert not (tmp_path / "events.jsonl").exists()
    for batch in range(3):
        monitor.begin_batch(None, batch)
        one_step(monitor, optimizer, module(torch.randn(4, 5)).square().mean())
        monitor.end_batch()
    assert [event.type for event in events(tmp_path)] == ["run_start", "step", "step", "step"]
    shapes = {row.name: row.shape for row in events(tmp_path, "run_start")[0].parameters}
    assert shapes["0.weight"] == (3, 5)


def test_parameters_that_no_optimizer_steps_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = setup(lambda parameters: torch.optim.SGD(list(parameters)[2:], lr=0.1))
    train(watch(tmp_path, parts), parts)
    told = [record for record in caplog.records if "body.weight" in record.message]
    assert len(told) == 1
