"""Several optimizers, LBFGS, and a GradScaler, under the engine."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch import HealthMonitor, NonFiniteError
from tests.engine.loops import Setup, context, events, one_step, setup, state, train, watch

if TYPE_CHECKING:
    from pathlib import Path


# -- several optimizers ----------------------------------------------------------------------------------------------


def two_optimizers() -> tuple[nn.ModuleDict, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    module = nn.ModuleDict({"critic": nn.Linear(3, 1), "generator": nn.Linear(3, 1)})
    return module, [torch.optim.Adam(module[name].parameters(), lr=1e-2) for name in ("critic", "generator")]


def loss_of(part: nn.Module) -> Tensor:
    loss: Tensor = part(torch.ones(2, 3)).square().mean()
    return loss


def alternate(monitor: HealthMonitor, module: nn.ModuleDict, optimizers: Any, *, bad: tuple[int, str] | None) -> None:
    """Two backward passes and two steps in every batch."""
    for batch in range(4):
        monitor.begin_batch(None, batch)
        for name, optimizer in zip(module, optimizers, strict=True):
            one_step(monitor, optimizer, loss_of(module[name]) * (math.nan if bad == (batch, name) else 1.0))
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


def take_turns(monitor: HealthMonitor, module: nn.ModuleDict, optimizers: Any, turns: str) -> None:
    """One of the two steps in each batch: ``c`` the critic, ``g`` the generator, ``-`` neither."""
    by_turn = dict(zip("cg", zip(module, optimizers, strict=True), strict=True))
    for batch, turn in enumerate(turns):
        monitor.begin_batch(None, batch)
        if turn in by_turn:
            name, optimizer = by_turn[turn]
            one_step(monitor, optimizer, loss_of(module[name]))
        monitor.end_batch()


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ("cgcgcgcgcg", [(1, 3), (0, 4), (1, 7), (0, 8)]),  # log steps are 3 and 7: the critic is late each time
        ("cccccccccc", [(0, 3), (0, 7)]),
        ("gccccccccc", [(0, 3), (0, 7)]),  # the generator is late, and does not step again
        ("gcccccccgc", [(0, 3), (0, 7), (1, 8)]),
    ],
)
def test_an_optimizer_whose_turn_is_never_a_log_step_has_records(
    turns: str, expected: list[tuple[int, int]], tmp_path: Path
) -> None:
    module, optimizers = two_optimizers()
    monitor = HealthMonitor(clip=None)
    monitor.start(module, optimizers, context(tmp_path, log_every_n_steps=4))
    take_turns(monitor, module, optimizers, turns)
    found = events(tmp_path, "step")
    assert [(event.optimizer, event.batch_idx) for event in found] == expected
    assert sum(event.window.steps for event in found if event.optimizer == 0) == max(
        (turns[: batch + 1].count("c") for optimizer, batch in expected if optimizer == 0), default=0
    )


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


class WritesPastAutograd(torch.optim.SGD):
    """As older optimizers do: no version counter tells of it."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data.add_(parameter.grad, alpha=-group["lr"])


def test_weights_that_a_late_record_has_measured_are_looked_at_before_a_checkpoint(tmp_path: Path) -> None:
    """Optimizers that take turns: the record of the first comes one batch after the log step."""
    torch.manual_seed(0)
    first, second = nn.Linear(4, 4), nn.Linear(4, 2)
    module = nn.Sequential(first, second)
    optimizers = [WritesPastAutograd(part.parameters(), lr=0.01) for part in (first, second)]
    monitor = HealthMonitor(clip=None, on_nonfinite="skip", log_every_n_steps=10)
    monitor.start(module, optimizers, context(tmp_path))
    for index in range(15):
        optimizer, batch = optimizers[index % 2], torch.randn(8, 4)
        monitor.begin_batch((batch,), index)
        module.zero_grad()
        if index == 14:
            optimizer.param_groups[0]["lr"] = math.inf
        one_step(monitor, optimizer, module(batch).square().mean())
        monitor.end_batch()
    monitor.scan(together=False)  # a checkpoint is being written
    [incident] = events(tmp_path, "incident")
    assert incident.step == 14
    assert {layer.partition(".")[0] for layer in incident.affected} == {"0"}
