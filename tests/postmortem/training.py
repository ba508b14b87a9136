"""The training that is killed: small, and busy writing all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradwatch import HealthMonitor
from gradwatch.detectors.alarms import Alarm
from gradwatch.engine.context import RunContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gradwatch.records import Event

STEPS = 160
BUDGET = 30_000  # bytes of the event log: it is thinned many times
BAD_EVERY = 35  # batches, one of which has a NaN
CHECK_EVERY = 24  # steps
ALARM_EVERY = 5  # records


class Net(nn.Module):
    """A perceptron with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.body(x))))


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def _alarm(seen: int, _: Event) -> tuple[int, list[Alarm]]:
    """A rule with something to say now and then, and nothing to say after that."""
    return seen + 1, [Alarm(message="an alarm")] if seen % ALARM_EVERY == 0 else []


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for index in range(steps):
        x = torch.randn(8, 4, generator=generator)
        y = torch.randint(2, (8,), generator=generator)
        if index % BAD_EVERY == BAD_EVERY - 1:
            x[3, 1] = float("nan")
        yield x, y


def train(
    folder: Path | None,
    *,
    steps: int = STEPS,
    before: Callable[[int], None] = lambda _batch: None,
    **arguments: Any,
) -> dict[str, Tensor]:
    """Train, and return weights and buffers.

    Args:
        folder: where the monitor writes; None for no monitor: bad batches are left out by hand then.
        steps: how many batches.
        before: called before each batch.
        arguments: of the monitor.
    """
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    monitor = None if folder is None else _monitor(folder, model, optimizer, arguments)
    for index, batch in enumerate(batches(steps)):
        before(index)
        if monitor is None:
            _step_alone(model, optimizer, batch)
            continue
        monitor.begin_batch(batch, index)
        loss = loss_of(model, batch)
        monitor.observe_loss(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        if monitor.before_step(optimizer):
            optimizer.step()
            monitor.after_step(optimizer)
        optimizer.zero_grad()
        monitor.end_batch()
    if monitor is not None:
        monitor.end("finished")
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _monitor(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, arguments: Any) -> HealthMonitor:
    settings: dict[str, Any] = {
        "clip": None,
        "on_nonfinite": "skip",
        "gradient_check_every_n_steps": CHECK_EVERY,
        "detectors": [(lambda: 0, _alarm)],
        "log_every_n_steps": 1,
        **arguments,
    }
    monitor = HealthMonitor(**settings)
    monitor.start(model, optimizer, RunContext(dirpath=str(folder)), loss_function=loss_of)
    return monitor


def _step_alone(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    """Make the step that ``on_nonfinite="skip"`` makes of it: none, and buffers as before, if the batch is bad."""
    if not batch[0].isfinite().all():
        return
    loss_of(model, batch).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
