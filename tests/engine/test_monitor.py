"""The engine in a loop that a user has written by hand."""

from __future__ import annotations

import gc
import json
import logging
import math
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch import HealthMonitor, NonFiniteError, load_incident
from tests.engine.loops import Setup, context, events, same, setup, spoiled, state, train, watch

if TYPE_CHECKING:
    from pathlib import Path

BAD = [math.nan, math.inf, -math.inf]


# -- the life of a run -----------------------------------------------------------------------------------------------


def test_a_healthy_run_leaves_start_steps_and_end(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    train(monitor, parts)
    monitor.end("finished")
    assert [event.type for event in events(tmp_path)] == ["run_start", *["step"] * 6, "run_end"]
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
            monkeypatch.setattr("gradwatch.engine.recording.layer_update_ratios", fail)
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


# -- clipping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.01, 0.3, 1e3])
def test_clipping_is_that_of_clip_grad_norm(limit: float, tmp_path: Path) -> None:
    ours, theirs = setup(norm=False), setup(norm=False)
    monitor = watch(tmp_path, ours, clip=limit)
    train(monitor, ours)
    plain = watch(tmp_path / "plain", theirs)
    train(plain, theirs, gradients=lambda model, _: nn.utils.clip_grad_norm_(model.parameters(), limit))
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    for event in events(tmp_path, "step"):
        assert event.clip.max_norm == limit
        assert event.clip.clipped == (event.grad_norm > limit)
        assert event.clip.coefficient == pytest.approx(min(1.0, limit / (event.grad_norm + 1e-6)), rel=1e-6)
    clipped = sum(event.clip.clipped for event in events(tmp_path, "step"))
    assert clipped == {0.01: 6, 1e3: 0}.get(limit, clipped)
    assert monitor.counters.clip_rate == clipped / 6


def test_a_gradient_within_the_limit_is_not_touched(tmp_path: Path) -> None:
    plain, watched = setup(), setup()
    train(watch(tmp_path / "plain", plain), plain)
    train(watch(tmp_path, watched, clip=1e3), watched)
    assert same(state(plain), state(watched))


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_huge_gradient_is_clipped_and_reported_not_dropped(
    clip: float | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = setup(lambda parameters: torch.optim.SGD(parameters, lr=0.1), norm=False)

    def explode(model: Any, batch: int) -> None:
        if batch == 2:
            model.head.weight.grad.fill_(1e30)
            before.update(state(parts))

    before: dict[str, Tensor] = {}
    train(watch(tmp_path, parts, clip=clip, on_nonfinite="warn"), parts, parts.batches[:3], gradients=explode)
    finding = events(tmp_path, "finding")[0]
    assert (finding.code, finding.layer, finding.step) == ("huge-gradient", "head", 2)
    record = events(tmp_path, "step")[2]
    assert record.grad_norm == pytest.approx(math.sqrt(12) * 1e30, rel=1e-5)
    assert record.layers["head"].grad_norm == pytest.approx(math.sqrt(12) * 1e30, rel=1e-5)
    moved = parts.model.head.weight.detach() - before["head.weight"]
    assert float(moved.double().norm()) == pytest.approx(0.1 if clip else 0.1 * math.sqrt(12) * 1e30, rel=1e-4)
    assert any("huge" in record.message or "overflows float32" in record.message for record in caplog.records)
    assert events(tmp_path, "incident") == []


def test_a_huge_gradient_that_ruins_adam_is_caught_in_the_same_batch(tmp_path: Path) -> None:
    """Its square is infinite in the second moment: the scan after such a step does not wait for a log step."""
    parts = setup(norm=False)

    def explode(model: Any, batch: int) -> None:
        if batch == 2:
            model.head.weight.grad.fill_(1e30)

    with pytest.raises(NonFiniteError) as caught:
        train(watch(tmp_path, parts, log_every_n_steps=100), parts, gradients=explode)
    incident = caught.value.incident
    assert (incident.first_seen, incident.step, incident.batch_idx) == ("optimizer", 2, 2)
    assert "head.weight.exp_avg_sq" in incident.affected


# -- on_nonfinite ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("kind", ["batch", "loss", "gradient"])
def test_raise_ends_the_loop_before_anything_has_changed(kind: str, value: float, tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    kept: list[dict[str, Any]] = [state(parts)]
    faults: dict[str, Any] = {
        "batch": {"batches": spoiled(parts.batches, 2, value)},
        "loss": {"loss": lambda loss, batch: loss * value if batch == 2 else loss},
        "gradient": {"gradients": lambda model, batch: model.head.weight.grad[0].fill_(value) if batch == 2 else None},
    }
    with pytest.raises(NonFiniteError) as caught:
        train(monitor, parts, after_step=lambda _: kept.append(state(parts)), **faults[kind])
    assert same(state(parts), kept[2])
    assert [parameter.grad for parameter in parts.model.parameters()] == [None] * 6
    incident = caught.value.incident
    assert (incident.step, incident.batch_idx, incident.epoch) == (2, 2, 0)
    assert (incident.first_seen, incident.action, incident.rank) == (kind, "raised", 0)
    assert incident.origin.ranks == [0]
    assert "head.weight" in incident.affected
    monitor.end("nonfinite", str(caught.value))
    directory = tmp_path / "incidents" / "step=00000002-0"
    assert load_incident(directory) == incident
    assert events(tmp_path, "incident") == [incident]
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize("bad", [0, 2, 5])
def test_skip_drops_the_update_and_nothing_else(bad: int, tmp_path: Path) -> None:
    """The same as a run that never saw the batch; AdamW would move weights with gradients of zero."""
    parts, without = setup(), setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip")
    train(monitor, parts, spoiled(parts.batches, bad))
    monitor.end("finished")
    train(watch(tmp_path / "without", without), without, [b for i, b in enumerate(without.batches) if i != bad])
    assert same(state(parts), state(without))
    end = events(tmp_path, "run_end")[0]
    assert (end.skipped_steps, end.incidents, end.steps) == (1, 1, 6)
    assert [event.action for event in events(tmp_path, "incident")] == ["skipped"]
    record = events(tmp_path, "step")[bad]
    assert record.window.skipped_steps == record.window.nonfinite_steps == 1
    assert {layer.update_ratio for layer in record.layers.values()} <= {0.0, None}
    assert record.layers["head"].nonfinite > 0


@pytest.mark.parametrize("max_skips", [0, 1, 3])
def test_skip_gives_up_after_so_many_in_a_row(max_skips: int, tmp_path: Path) -> None:
    parts = setup(batches=12)
    monitor = watch(tmp_path, parts, on_nonfinite="skip", max_skips=max_skips)
    good = [True, *[False] * max_skips, True, *[False] * (max_skips + 1), True]
    with pytest.raises(NonFiniteError) as caught:
        train(monitor, parts, loss=lambda loss, batch: loss if good[batch] else loss * math.nan)
    assert caught.value.incident.step == len(good) - 2
    assert [event.action for event in events(tmp_path, "incident")] == ["skipped"] * (2 * max_skips) + ["raised"]
    assert monitor.counters.skipped == 2 * max_skips


def test_stop_asks_the_loop_to_end_and_drops_until_it_has(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="stop", max_skips=1)
    assert not monitor.stop_requested
    kept: list[dict[str, Any]] = []

    def stubborn(loss: Tensor, batch: int) -> Tensor:
        if batch >= 2:
            kept.append(state(parts))
        return loss * math.nan if batch >= 2 else loss

    train(monitor, parts, loss=stubborn)
    assert monitor.stop_requested
    assert len(kept) == 1
    before = state(parts)
    for _ in range(4):  # a loop with a minimum of steps goes on
        train(monitor, parts, parts.batches[2:], loss=lambda loss, _: loss * math.nan)
        assert same(state(parts), before)
    assert {event.action for event in events(tmp_path, "incident")} == {"stopped"}
    monitor.end("stopped")
    assert not monitor.stop_requested


def test_warn_changes_nothing(tmp_path: Path) -> None:
    parts, plain = setup(), setup()
    batches = spoiled(parts.batches, 2)
    train(watch(tmp_path, parts, on_nonfinite="warn"), parts, batches)
    for x, y in batches:
        torch.autograd.backward(nn.functional.cross_entropy(plain.model(x), y))
        plain.optimizer.step()
        plain.optimizer.zero_grad()
    assert {name for name, value in state(parts).items() if not same({name: value}, {name: state(plain)[name]})} == {
        name for name, value in state(plain).items() if isinstance(value, Tensor) and bool(value.isnan().any())
    }
    assert bool(parts.model.head.weight.isnan().any())


def test_warn_reports_a_streak_once_and_counts_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="warn")
    train(monitor, parts, spoiled(parts.batches, 2))
    monitor.scan()
    assert [(event.step, event.action) for event in events(tmp_path, "incident")] == [(2, "warned")]
    assert monitor.counters.nonfinite == 4
    assert len([record for record in caplog.records if "Non-finite" in record.message]) == 1


def test_every_skipped_batch_has_its_incident_also_at_the_same_place_of_the_next_epoch(tmp_path: Path) -> None:
    """A loop that does not tell its epoch, over data with one bad sample: each pass meets it again."""
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip")
    for _ in range(3):
        train(monitor, parts, spoiled(parts.batches, 2))
    assert [event.step for event in events(tmp_path, "incident")] == [2, 8, 14]


# -- the micro-batch of the birth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("guilty", [3, 4, 5])
@pytest.mark.parametrize("kind", ["batch", "loss", "gradient"])
def test_accumulation_names_the_micro_batch_and_returns_the_buffers_to_it(
    guilty: int, kind: str, tmp_path: Path
) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip")
    buffers: list[dict[str, Tensor]] = []

    def note(loss: Tensor, batch: int) -> Tensor:
        return loss * math.nan if kind == "loss" and batch == guilty else loss

    def spoil(model: Any, batch: int) -> None:
        if kind == "gradient" and batch == guilty:
            model.head.weight.grad[0, 0] = math.nan

    keep = lambda _: buffers.append({k: v.clone() for k, v in parts.model.named_buffers()})  # noqa: E731
    batches = spoiled(parts.batches, guilty) if kind == "batch" else parts.batches
    train(monitor, parts, batches, loss=note, gradients=spoil, after_step=keep, accumulate=3)
    incident = events(tmp_path, "incident")[0]
    assert (incident.step, incident.batch_idx, incident.first_seen) == (1, guilty, kind)
    expected = buffers[guilty - 1]
    found = dict(parts.model.named_buffers())
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# -- several optimizers ----------------------------------------------------------------------------------------------


def two_optimizers() -> tuple[nn.ModuleDict, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    module = nn.ModuleDict({"critic": nn.Linear(3, 1), "generator": nn.Linear(3, 1)})
    return module, [torch.optim.Adam(module[name].parameters(), lr=1e-2) for name in ("critic", "generator")]


def alternate(monitor: HealthMonitor, module: nn.ModuleDict, optimizers: Any, *, bad: tuple[int, str] | None) -> None:
    """Two backward passes and two steps in every batch."""
    for batch in range(4):
        monitor.begin_batch(None, batch)
        for name, optimizer in zip(module, optimizers, strict=True):
            loss = module[name](torch.ones(2, 3)).square().mean()
            if bad == (batch, name):
                loss = loss * math.nan
            monitor.observe_loss(loss)
            loss.backward()
            monitor.before_step(optimizer)
            optimizer.step()
            monitor.after_step(optimizer)
            optimizer.zero_grad()
        monitor.end_batch()


def test_every_optimizer_has_its_own_records(tmp_path: Path) -> None:
    module, optimizers = two_optimizers()
    monitor = HealthMonitor(clip=None)
    monitor.start(module, optimizers, context(tmp_path))
    alternate(monitor, module, optimizers, bad=None)
    found = events(tmp_path, "step")
    assert [(event.optimizer, list(event.layers)) for event in found[:2]] == [(0, ["critic"]), (1, ["generator"])]
    assert len({event.loss for event in found}) == 8
    assert {"health/grad_norm", "health/grad_norm/optimizer_1"} <= set(monitor.health())


@pytest.mark.parametrize(("name", "spared"), [("critic", []), ("generator", ["critic"])])
def test_a_bad_loss_counts_for_the_steps_that_follow_in_its_batch(name: str, spared: list[str], tmp_path: Path) -> None:
    module, optimizers = two_optimizers()
    monitor = HealthMonitor(clip=None, on_nonfinite="skip")
    monitor.start(module, optimizers, context(tmp_path))
    alternate(monitor, module, optimizers, bad=(1, name))
    steps = [int(optimizer.state[optimizer.param_groups[0]["params"][0]]["step"]) for optimizer in optimizers]
    assert steps == [4 if "critic" in spared else 3, 3]
    assert monitor.counters.skipped == 2 - len(spared)
    assert len(events(tmp_path, "incident")) == 1  # one incident a batch, whatever follows from it


def test_an_optimizer_that_nobody_announced_joins(tmp_path: Path) -> None:
    module, optimizers = two_optimizers()
    monitor = HealthMonitor(clip=None)
    monitor.start(module, optimizers[:1], context(tmp_path))
    alternate(monitor, module, optimizers, bad=None)
    assert [event.optimizer for event in events(tmp_path, "step")[:2]] == [0, 1]


def test_parameters_that_join_an_optimizer_are_watched(tmp_path: Path) -> None:
    parts = setup(lambda parameters: torch.optim.Adam(list(parameters)[4:], lr=1e-2))
    monitor = watch(tmp_path, parts)

    def unfreeze(batch: int) -> None:
        if batch == 2:
            parts.optimizer.add_param_group({"params": list(parts.model.body.parameters())})

    train(monitor, parts, after_step=unfreeze)
    layers = [set(event.layers) for event in events(tmp_path, "step")]
    assert layers == [{"head"}] * 3 + [{"body", "head"}] * 3
    with torch.no_grad():
        parts.model.body.bias[0] = math.nan
    with pytest.raises(NonFiniteError) as caught:
        train(monitor, parts, parts.batches[:1])
    assert caught.value.incident.affected == ["body.bias"]


def test_a_parameter_that_joins_and_is_spoiled_before_its_first_step_is_named(tmp_path: Path) -> None:
    """The history of its optimizer has no row for it yet."""
    parts = setup(lambda parameters: torch.optim.Adam(list(parameters)[4:], lr=1e-2))
    monitor = watch(tmp_path, parts)
    train(monitor, parts, parts.batches[:2])
    parts.optimizer.add_param_group({"params": list(parts.model.body.parameters())})
    with torch.no_grad():
        parts.model.norm.weight[0] = math.nan  # type: ignore[operator]
        parts.model.body.bias[0] = math.nan
    with pytest.raises(NonFiniteError) as caught:
        train(monitor, parts, parts.batches[:1])
    assert (caught.value.incident.first_seen, caught.value.incident.step) == ("parameter", 2)
    assert {"body.bias", "norm.weight"} <= set(caught.value.incident.affected)


# -- what the optimizer makes ----------------------------------------------------------------------------------------


def overflowing(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize("logged", [1, 100], ids=["at-a-log-step", "at-the-next-batch"])
def test_weights_that_the_optimizer_spoils_are_its_fault_at_the_step_of_their_birth(
    logged: int, tmp_path: Path
) -> None:
    parts = setup(overflowing, norm=False)
    monitor = watch(tmp_path, parts, log_every_n_steps=logged)

    def warm_up(batch: int) -> None:
        if batch == 1:
            parts.optimizer.param_groups[0]["lr"] = 1e38

    def enlarge(loss: Tensor, _: int) -> Tensor:
        return 1e4 * loss

    with pytest.raises(NonFiniteError) as caught:
        train(monitor, parts, loss=enlarge, after_step=warm_up)
    incident = caught.value.incident
    assert (incident.first_seen, incident.origin.phase) == ("optimizer", "optimizer")
    assert (incident.step, incident.batch_idx) == (2, 2)


def test_adam_in_float16_is_blamed_at_the_step_at_which_it_lost_its_eps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 1).half()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    monitor = HealthMonitor(clip=None)
    monitor.start(module, optimizer, context(tmp_path, log_every_n_steps=100))

    def train_in_half_precision() -> None:
        for batch in range(3):
            monitor.begin_batch(None, batch)
            loss = module(torch.full((2, 4), 1e-4).half()).float().mean()
            monitor.observe_loss(loss)
            loss.backward()
            monitor.before_step(optimizer)
            optimizer.step()
            monitor.after_step(optimizer)
            optimizer.zero_grad()
            monitor.end_batch()

    with pytest.raises(NonFiniteError) as caught:
        train_in_half_precision()
    incident = caught.value.incident
    assert (incident.step, incident.batch_idx, incident.first_seen) == (0, 0, "optimizer")
    assert "float16" in incident.advice


@pytest.mark.parametrize("logged", [1, 100], ids=["at-a-log-step", "at-the-next-batch"])
@pytest.mark.parametrize("name", ["head.weight", "norm.running_mean"])
def test_code_that_spoils_weights_or_buffers_is_not_the_optimizers_fault(
    name: str, logged: int, tmp_path: Path
) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=logged)

    def spoil(batch: int) -> None:
        if batch == 2:
            parts.model.state_dict()[name].view(-1)[0] = math.nan

    def train_and_look() -> None:
        train(monitor, parts, after_step=spoil)
        monitor.scan()

    kind = "parameter" if name == "head.weight" else "buffer"
    with pytest.raises(NonFiniteError) as caught:
        train_and_look()
    incident = caught.value.incident
    assert (incident.first_seen, incident.affected, incident.origin.tensor) == (kind, [name], name)
    assert incident.origin.module == name.rpartition(".")[0]


def test_a_batch_that_spoils_running_statistics_is_not_blamed_on_them(tmp_path: Path) -> None:
    parts = setup()
    with pytest.raises(NonFiniteError) as caught:
        train(watch(tmp_path, parts), parts, spoiled(parts.batches, 2))
    assert caught.value.incident.first_seen == "batch"
    assert caught.value.incident.origin.tensor == "batch[0]"
    assert caught.value.incident.origin.inputs[0].nan == 1


@pytest.mark.parametrize("mode", ["skip", "warn"])
def test_a_forward_that_spoils_running_statistics_is_not_blamed_on_them(mode: str, tmp_path: Path) -> None:
    """The buffers are looked at as they were before the batch."""
    parts = setup()
    calls: list[Any] = []

    def spoil(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        calls.append(output)
        return output * math.nan if len(calls) == 3 else output

    parts.model.body.register_forward_hook(spoil)
    train(watch(tmp_path, parts, on_nonfinite=mode), parts)
    incident = events(tmp_path, "incident")[0]
    assert (incident.first_seen, incident.step) == ("loss", 2)
    assert bool(parts.model.state_dict()["norm.running_mean"].isfinite().all()) == (mode == "skip")


def test_a_bad_number_in_a_batch_that_does_no_harm_is_no_incident(tmp_path: Path) -> None:
    """NaN labels masked with where: only what loss or gradients become bad by counts."""
    parts = setup()
    monitor = watch(tmp_path, parts)
    monitor.begin_batch({"x": parts.batches[0][0], "unused": torch.full((3,), math.nan)}, 0)
    loss: Any = nn.functional.cross_entropy(parts.model(parts.batches[0][0]), parts.batches[0][1])
    monitor.observe_loss(loss)
    loss.backward()
    assert monitor.before_step(parts.optimizer)
    monitor.end_batch()
    assert events(tmp_path, "incident") == []


def test_scan_in_a_run_that_goes_on_names_without_repair(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip")
    train(monitor, parts, parts.batches[:2])
    with torch.no_grad():
        parts.model.state_dict()["norm.running_var"][0] = math.inf
    monitor.scan()
    assert [(event.first_seen, event.action) for event in events(tmp_path, "incident")] == [("buffer", "warned")]
    assert math.isinf(float(parts.model.state_dict()["norm.running_var"][0]))


def test_weights_that_are_bad_before_the_first_step_are_told_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = setup()
    with torch.no_grad():
        parts.model.head.weight[0] = math.nan
    monitor = watch(tmp_path, parts)
    assert "The parameter head.weight is non-finite before the first step." in caplog.messages
    with pytest.raises(NonFiniteError) as caught:
        train(monitor, parts)
    assert (caught.value.incident.first_seen, caught.value.incident.affected) == ("parameter", ["head.weight"])


# -- LBFGS -----------------------------------------------------------------------------------------------------------


def lbfgs_step(monitor: HealthMonitor, parts: Setup, batch: int, *, bad_at: int | None = None) -> None:
    x, y = parts.batches[batch]
    evaluations = 0

    def closure() -> Any:
        nonlocal evaluations
        parts.optimizer.zero_grad()
        loss: Any = nn.functional.cross_entropy(parts.model(x), y)
        if evaluations == bad_at:
            loss = loss * math.nan
        evaluations += 1
        monitor.observe_loss(loss)
        loss.backward()
        monitor.before_step(parts.optimizer)
        return loss

    monitor.begin_batch((x, y), batch)
    parts.optimizer.step(closure)
    monitor.after_step(parts.optimizer)
    monitor.end_batch()


def lbfgs(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, lr=0.1, max_iter=4)


@pytest.mark.parametrize("mode", ["raise", "stop", "skip"])
@pytest.mark.parametrize("bad_at", [0, 2])
def test_lbfgs_cannot_skip_and_goes_back(mode: str, bad_at: int, tmp_path: Path) -> None:
    parts = setup(lbfgs, norm=False)
    monitor = watch(tmp_path, parts, on_nonfinite=mode)
    lbfgs_step(monitor, parts, 0)
    before = str(state(parts))
    with pytest.raises(NonFiniteError) as caught:
        lbfgs_step(monitor, parts, 1, bad_at=bad_at)
    assert caught.value.incident.action == "raised"
    assert str(state(parts)) == before


def test_lbfgs_says_at_the_start_that_it_cannot_skip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for mode in ("raise", "warn"):
        watch(tmp_path / mode, setup(lbfgs), on_nonfinite=mode)
    assert [record for record in caplog.records if "LBFGS" in record.message] == []
    for mode in ("skip", "stop"):
        caplog.clear()
        watch(tmp_path / mode, setup(lbfgs), on_nonfinite=mode)
        assert [record.levelno for record in caplog.records if "LBFGS" in record.message] == [logging.WARNING]


def test_lbfgs_counts_a_step_once(tmp_path: Path) -> None:
    parts = setup(lbfgs, norm=False)
    monitor = watch(tmp_path, parts)
    for batch in range(3):
        lbfgs_step(monitor, parts, batch)
    assert monitor.counters.steps == 3
    assert len(events(tmp_path, "step")) == 3


# -- a GradScaler ----------------------------------------------------------------------------------------------------


def scaled_steps(monitor: HealthMonitor, parts: Setup, scaler: Any, *, bad: dict[int, str], fused: bool) -> None:
    for batch, (x, y) in enumerate(parts.batches):
        monitor.begin_batch((x, y), batch)
        loss: Any = nn.functional.cross_entropy(parts.model(x), y)
        if bad.get(batch) in ("loss", "loss-alone"):
            loss = loss * math.nan
        scaled = scaler.scale(loss)
        monitor.observe_loss(scaled)
        scaled.backward()
        for parameter in parts.model.parameters():
            if parameter.grad is not None and bad.get(batch) == "loss-alone":
                parameter.grad.zero_()
            if parameter.grad is not None and bad.get(batch) == "gradient":
                parameter.grad.fill_(math.inf)
        if not fused:
            scaler.unscale_(parts.optimizer)
        monitor.before_step(parts.optimizer)
        scaler.step(parts.optimizer)
        scaler.update()
        parts.optimizer.zero_grad()
        monitor.end_batch()


def scaled_run(path: Path, *, bad: dict[int, str], fused: bool, **arguments: Any) -> tuple[HealthMonitor, Setup, Any]:
    parts = setup(lambda parameters: torch.optim.Adam(parameters, lr=1e-2, fused=fused), norm=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monitor = watch(path, parts, run={"scaler": scaler}, **arguments)
    parts.optimizer.register_step_post_hook(lambda optimizer, *_: monitor.after_step(optimizer))
    scaled_steps(monitor, parts, scaler, bad=bad, fused=fused)
    return monitor, parts, scaler


@pytest.mark.parametrize("fused", [False, True])
def test_loss_and_norms_are_without_the_scale(tmp_path: Path, *, fused: bool) -> None:
    scaled_run(tmp_path / "scaled", bad={}, fused=fused)
    parts = setup(lambda parameters: torch.optim.Adam(parameters, lr=1e-2), norm=False)
    train(watch(tmp_path / "plain", parts), parts)
    for scaled, plain in zip(events(tmp_path / "scaled", "step"), events(tmp_path / "plain", "step"), strict=True):
        assert scaled.loss == pytest.approx(plain.loss, rel=1e-4)
        assert scaled.grad_norm == pytest.approx(plain.grad_norm, rel=1e-3)
        assert (scaled.loss_scale, plain.loss_scale) == (1024.0, None)


@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_is_routine(tmp_path: Path, *, fused: bool) -> None:
    monitor, parts, scaler = scaled_run(tmp_path, bad={2: "gradient"}, fused=fused)
    assert events(tmp_path, "incident") == []
    assert (monitor.counters.overflows, monitor.counters.skipped, monitor.counters.nonfinite) == (1, 1, 1)
    assert scaler.get_scale() == 512.0
    assert all(bool(parameter.isfinite().all()) for parameter in parts.model.parameters())
    record = events(tmp_path, "step")[2]
    assert {layer.update_ratio for layer in record.layers.values()} == {0.0}
    assert record.skipped_steps == 1


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["loss", "loss-alone"])
def test_a_bad_loss_is_none_even_under_a_scaler(kind: str, tmp_path: Path, *, fused: bool) -> None:
    monitor, parts, _ = scaled_run(tmp_path, bad={2: kind}, fused=fused, on_nonfinite="skip")
    assert [(event.step, event.first_seen) for event in events(tmp_path, "incident")] == [(2, "loss")]
    assert monitor.counters.skipped == 1
    steps = {int(values["step"]) for values in parts.optimizer.state.values()}
    assert steps == {5}


def test_an_overflow_with_no_scale_left_is_an_incident(tmp_path: Path) -> None:
    parts = setup(norm=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    monitor = watch(tmp_path, parts, run={"scaler": scaler})
    with pytest.raises(NonFiniteError):
        scaled_steps(monitor, parts, scaler, bad={1: "gradient"}, fused=False)


def test_clipping_under_a_scaler_limits_the_true_norm(tmp_path: Path) -> None:
    limited: list[float] = []
    for fused in (False, True):
        monitor, _, _ = scaled_run(tmp_path / str(fused), bad={}, fused=fused, clip=0.01)
        assert monitor.counters.clipped == 6
        limited.append(events(tmp_path / str(fused), "step")[3].clip.coefficient)
    assert limited[0] == pytest.approx(limited[1], rel=1e-2)


# -- anomaly mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "steps"), [("skip", 2), ("warn", 2), ("skip", 0), ("stop", 2)])
def test_anomaly_mode_is_on_for_the_batches_after_an_incident_only(mode: str, steps: int, tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite=mode, anomaly_steps=steps)
    seen: list[bool] = []

    def note(loss: Tensor, batch: int) -> Tensor:
        seen.append(torch.is_anomaly_enabled())
        return loss * math.nan if batch == 1 and len(seen) == 2 else loss

    train(monitor, parts, loss=note)
    if mode == "warn":  # the weights are spoilt, every further step is bad, and that is one incident
        assert seen == [False, False, True, True, False, False]
    elif mode == "stop":
        assert seen == [False, False]
    else:
        assert seen == [False, False] + [True] * steps + [False] * (4 - steps)
    assert not torch.is_anomaly_enabled()


def test_anomaly_mode_ends_with_the_run(tmp_path: Path) -> None:
    """An exception in the loop: ``end`` is all that is called."""
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip")
    train(monitor, parts, spoiled(parts.batches, 1)[:2])
    monitor.begin_batch(None, 0)
    assert torch.is_anomaly_enabled()
    monitor.end("exception")
    assert not torch.is_anomaly_enabled()


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


# -- memory ----------------------------------------------------------------------------------------------------------


def test_batches_are_given_up_with_the_step_that_used_them(tmp_path: Path) -> None:
    class Images(list[Tensor]):
        """A batch that can be referred to weakly."""

    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=2)
    alive = []
    for index, (x, y) in enumerate(parts.batches):
        batch = Images([x, y])
        alive.append(weakref.ref(batch))
        monitor.begin_batch(batch, index)
        loss: Any = nn.functional.cross_entropy(parts.model(x), y)
        monitor.observe_loss(loss)
        loss.backward()
        monitor.before_step(parts.optimizer)
        parts.optimizer.step()
        monitor.after_step(parts.optimizer)
        monitor.end_batch()
    del batch
    gc.collect()
    assert [ref() is not None for ref in alive] == [False] * 5 + [True]


# -- a monitor that fails --------------------------------------------------------------------------------------------


def test_a_failure_to_read_still_takes_part_in_the_ranks_decision_and_closes_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = setup()
    asked: list[int] = []

    def agree(value: int) -> int:
        asked.append(value)
        return value

    monitor = watch(tmp_path, parts, run={"agree": agree})

    def fail(*_: Any) -> None:
        message = "broken"
        raise RuntimeError(message)

    train(monitor, parts, parts.batches[:1])
    for place in ("gradwatch.engine.monitor.read_gradients", "gradwatch.engine.watched.Watched.group_of"):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            asked.clear()
            monitor.begin_batch(None, 1)
            with pytest.raises(RuntimeError, match="broken"):
                monitor.before_step(parts.optimizer)
            assert asked == [0], place
            assert monitor._window.starts_anew, place


def test_buffers_that_cannot_be_copied_do_not_keep_the_monitor_from_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        message = "broken"
        raise RuntimeError(message)

    parts = setup()
    monitor = watch(tmp_path, parts)
    monkeypatch.setattr("gradwatch.capture.buffers.BufferGuard.before_batch", fail)
    for index, (x, y) in enumerate(parts.batches[:3]):
        with pytest.raises(RuntimeError, match="broken"):
            monitor.begin_batch((x, y), index)
        loss: Any = nn.functional.cross_entropy(parts.model(x), y) * (math.nan if index == 2 else 1.0)
        monitor.observe_loss(loss)
        loss.backward()
        if index == 2:
            with pytest.raises(NonFiniteError) as caught:
                monitor.before_step(parts.optimizer)
            assert (caught.value.incident.batch_idx, caught.value.incident.step) == (2, 2)
        else:
            monitor.before_step(parts.optimizer)
            parts.optimizer.step()


def test_a_failure_to_announce_still_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lazy modules are announced at the first step, where the other ranks wait."""
    module = nn.LazyLinear(2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    asked: list[int] = []

    def agree(value: int) -> int:
        asked.append(value)
        return value

    monitor = HealthMonitor(clip=None)
    monitor.start(module, optimizer, context(tmp_path, agree=agree))
    monitor.begin_batch(None, 0)
    module(torch.ones(1, 3)).sum().backward()

    def fail(*_: Any, **__: Any) -> None:
        message = "broken"
        raise RuntimeError(message)

    monkeypatch.setattr("gradwatch.engine.monitor.run_start", fail)
    with pytest.raises(RuntimeError, match="broken"):
        monitor.before_step(optimizer)
    assert asked == [0]


def test_a_cause_that_cannot_be_looked_for_leaves_the_incident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        message = "broken"
        raise RuntimeError(message)

    parts = setup()
    monitor = watch(tmp_path, parts)
    monkeypatch.setattr("gradwatch.engine.response.evidence_of_batch", fail)
    with pytest.raises(NonFiniteError) as caught:
        train(monitor, parts, spoiled(parts.batches, 1))
    assert caught.value.incident.first_seen == "loss"
    assert any("could not look for the cause: RuntimeError: broken" in message for message in caplog.messages)


# -- lazy modules ----------------------------------------------------------------------------------------------------


def test_lazy_modules_are_announced_with_their_first_step(tmp_path: Path) -> None:
    module = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    monitor = HealthMonitor(clip=None)
    monitor.start(module, optimizer, context(tmp_path))
    assert not (tmp_path / "events.jsonl").exists()
    for batch in range(3):
        monitor.begin_batch(None, batch)
        loss = module(torch.randn(4, 5)).square().mean()
        monitor.observe_loss(loss)
        loss.backward()
        monitor.before_step(optimizer)
        optimizer.step()
        monitor.after_step(optimizer)
        monitor.end_batch()
    assert [event.type for event in events(tmp_path)] == ["run_start", "step", "step", "step"]
    shapes = {row.name: row.shape for row in events(tmp_path, "run_start")[0].parameters}
    assert shapes["0.weight"] == (3, 5)


def test_parameters_that_no_optimizer_steps_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = setup(lambda parameters: torch.optim.SGD(list(parameters)[2:], lr=0.1))
    train(watch(tmp_path, parts), parts)
    told = [record for record in caplog.records if "body.weight" in record.message]
    assert len(told) == 1
