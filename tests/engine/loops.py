"""A training loop as a user writes it by hand, and models that break when told to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradwatch import HealthMonitor, load_events
from gradwatch.engine.context import RunContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from gradwatch.records import Event

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """A perceptron with batch normalisation."""

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.body(x))))


class Setup(NamedTuple):
    model: Net
    optimizer: torch.optim.Optimizer
    batches: list[Batch]


def setup(
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None, *, batches: int = 6, norm: bool = True
) -> Setup:
    torch.manual_seed(0)
    model = Net(norm=norm)
    make = optimizer or (lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1))
    data = [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(batches)]
    return Setup(model, make(model.parameters()), data)


def spoiled(batches: list[Batch], index: int, value: float = float("nan")) -> list[Batch]:
    """The batches with one bad number in one of them."""
    x, y = batches[index]
    x = x.clone()
    x[3, 1] = value
    return [*batches[:index], (x, y), *batches[index + 1 :]]


def train(
    monitor: HealthMonitor,
    parts: Setup,
    batches: Iterable[Batch] | None = None,
    *,
    loss: Callable[[Tensor, int], Tensor] = lambda loss, _: loss,
    gradients: Callable[[nn.Module, int], object] = lambda _model, _batch: None,
    after_step: Callable[[int], None] = lambda _: None,
    accumulate: int = 1,
    epoch: int = 0,
) -> None:
    """Train for one epoch; ``loss`` and ``gradients`` may break what they are given."""
    model, optimizer = parts.model, parts.optimizer
    for index, (x, y) in enumerate(parts.batches if batches is None else batches):
        monitor.begin_batch((x, y), index, epoch=epoch)
        value: Any = loss(functional.cross_entropy(model(x), y), index)
        monitor.observe_loss(value)
        value.backward()
        gradients(model, index)
        if (index + 1) % accumulate == 0:
            monitor.before_step(optimizer)
            optimizer.step()
            monitor.after_step(optimizer)
            optimizer.zero_grad()
        after_step(index)
        monitor.end_batch()
        if monitor.stop_requested:
            break


def one_step(monitor: HealthMonitor, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """An optimizer step on a loss, with all that a loop tells the monitor of it within its batch."""
    monitor.observe_loss(loss)
    loss.backward()  # type: ignore[no-untyped-call]
    monitor.before_step(optimizer)
    optimizer.step()
    monitor.after_step(optimizer)
    optimizer.zero_grad()


def context(path: Path, **changes: Any) -> RunContext:
    return RunContext(**{"dirpath": str(path), "log_every_n_steps": 1, **changes})


def watch(path: Path, parts: Setup, *, run: dict[str, Any] | None = None, **arguments: Any) -> HealthMonitor:
    """A monitor that has started; ``run`` holds what the loop tells it of itself."""
    monitor = HealthMonitor(**{"clip": None, **arguments})
    monitor.start(parts.model, parts.optimizer, context(path, **(run or {})))
    return monitor


def events(path: Path, kind: str | None = None) -> list[Any]:
    found: list[Event] = load_events(path)
    return [event for event in found if kind is None or event.type == kind]


def state(parts: Setup) -> dict[str, Any]:
    """Everything that training changes, copied."""
    kept = {name: tensor.clone() for name, tensor in parts.model.state_dict().items()}
    for i, values in enumerate(parts.optimizer.state.values()):
        for key, value in values.items():
            kept[f"{i}.{key}"] = value.clone() if isinstance(value, Tensor) else value
    return kept


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two states are bitwise equal."""
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], Tensor) else a[key] == b[key] for key in a
    )
