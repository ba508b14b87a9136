"""Who is blamed: batch, code, buffers or the optimizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch import HealthMonitor, NonFiniteError
from tests.engine.loops import context, events, one_step, setup, spoiled, train, watch

if TYPE_CHECKING:
    from pathlib import Path


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
            one_step(monitor, optimizer, module(torch.full((2, 4), 1e-4).half()).float().mean())
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
