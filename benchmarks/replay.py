"""What an incident costs: the replay with its trace against a normal step, its peak memory, and the files it leaves."""

from __future__ import annotations

import ctypes
import gc
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmarks import steps
from gradwatch.engine.failure import Failure
from gradwatch.engine.incident_bundle import bundle_of
from gradwatch.engine.replay import Replayer
from gradwatch.replica import bundle, randomness
from gradwatch.replica.step_runner import LossFunctionRunner, Moment

if TYPE_CHECKING:
    from collections.abc import Callable

Batch = tuple[Tensor, Tensor]

LIMIT = 10.0
ROUNDS = 7
FOLDER_LIMIT = 5.0  # seconds for 100M parameters


@dataclass(frozen=True)
class ReplayCost:
    """Medians over the rounds. Bytes are above what the process holds at rest."""

    workload: str
    bug: str
    parameters: int
    step: float
    replay: float
    ratio: float
    step_bytes: int
    replay_bytes: int
    model_bytes: int


class Recurrent(nn.Module):
    """Many small operations: two LSTM layers written out cell by cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(128, 128), nn.LSTMCell(128, 128)])

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        lower, upper = None, None
        for now in x.unbind(1):
            lower = self.cells[0](now, lower)
            upper = self.cells[1](lower[0], upper)
            outputs.append(upper[0])
        return torch.stack(outputs, 1)


class Elementwise(nn.Module):
    """Twenty elementwise operations on two million numbers: a look at every result costs as much as the operation."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1000))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(10):
            x = torch.relu(x * self.scale)
        return x


class Wide(nn.Module):
    """100M parameters in four layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(5000, 5000) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


WORKLOADS: dict[str, Callable[[], tuple[nn.Module, Batch]]] = {
    "transformer": lambda: _of(steps.transformer()),
    "20 x conv + BatchNorm": lambda: _of(steps.resnet()),
    "LSTM cells, 64 steps": lambda: (Recurrent(), (torch.randn(32, 64, 128), torch.randn(32, 64, 128))),
    "20 elementwise, 2M numbers": lambda: (Elementwise(), (torch.rand(2000, 1000), torch.rand(2000, 1000))),
    "100M parameters": lambda: (Wide(), (torch.randn(64, 5000), torch.randn(64, 5000))),
}


def measure(name: str, bug: str, rounds: int = ROUNDS) -> ReplayCost:
    """Time normal steps and replays of a step that is bad in one of the ways of ``BUGS`` in turn."""
    torch.manual_seed(0)
    network, batch = WORKLOADS[name]()
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    replayer = Replayer(network, [optimizer], LossFunctionRunner(BUGS[bug]))
    failure = Failure([Moment(batch, 0, randomness.capture(), {})], 0)

    def healthy() -> None:
        _train(network, optimizer, batch)

    def replay() -> None:
        _checked(replayer, failure)

    healthy()
    replay()
    pairs = [(_seconds(healthy), _seconds(replay)) for _ in range(rounds)]
    optimizer.zero_grad()
    return ReplayCost(
        workload=name,
        bug=bug,
        parameters=sum(p.numel() for p in network.parameters()),
        step=statistics.median(step for step, _ in pairs),
        replay=statistics.median(again for _, again in pairs),
        ratio=statistics.median(again / step for step, again in pairs),
        step_bytes=_peak(healthy),
        replay_bytes=_peak(replay),
        model_bytes=sum(t.nbytes for t in [*network.parameters(), *network.buffers()]),
    )


def folder_seconds() -> float:
    """Return how long the folder of an incident of 100M parameters takes."""
    network, batch = WORKLOADS["100M parameters"]()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    failure = Failure([Moment(batch, 0, randomness.capture(), {})], 0)
    with tempfile.TemporaryDirectory() as folder:
        return _seconds(
            lambda: bundle.save(Path(folder), bundle_of(network, [optimizer], failure, LossFunctionRunner(bad_loss)))
        )


def table(costs: list[ReplayCost]) -> str:
    """Return the costs as a markdown table."""
    lines = [
        "| workload | bad | parameters | step, ms | replay, ms | ratio | goal | step, MB | replay | model + step |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        goal = f"≤ {LIMIT:g}" if cost.step >= 0.02 else ""  # the goal is for steps of 20 ms or more
        megabytes = (cost.step_bytes, cost.replay_bytes, cost.model_bytes + cost.step_bytes)
        sizes = " | ".join(f"{size / 1e6:.0f}" for size in megabytes)
        lines.append(
            f"| {cost.workload} | {cost.bug} | {cost.parameters:,} | {1e3 * cost.step:.1f} | {1e3 * cost.replay:.1f} |"
            f" {cost.ratio:.1f} | {goal} | {sizes} |"
        )
    return "\n".join(lines)


def bad_loss(network: nn.Module, batch: Any) -> Tensor:
    """Return a loss of NaN: the logarithm of a negative number is added to it."""
    return _error(network, batch) + torch.log(-batch[0].square().sum())


def bad_gradient(network: nn.Module, batch: Any) -> Tensor:
    """Return a finite loss whose gradient is NaN: that of a square root at 0. The whole backward pass is traced."""
    x, y = batch
    out = network(x)
    return (out - y).square().mean() + (out * 0.0).square().sum().sqrt()


def bad_everywhere(network: nn.Module, batch: Any) -> Tensor:
    """Return a loss of infinity: the network is given nothing but infinities, made in the step."""
    x, y = batch
    return _error(network, ((x + 1.0) * 1e30 * 1e30, y))


BUGS = {"loss": bad_loss, "gradient": bad_gradient, "every number": bad_everywhere}
CASES = [(name, bug) for name in WORKLOADS for bug in BUGS if bug != "every number" or "elementwise" in name]


def _error(network: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return (network(x) - y).square().mean()


def _train(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    optimizer.zero_grad()
    _error(network, batch).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _checked(replayer: Replayer, failure: Failure) -> None:
    traced = replayer.trace(failure)
    if traced.root is None:
        raise RuntimeError(f"nothing was found: {traced.reason}")


def _of(pair: tuple[steps.Workload, Batch]) -> tuple[nn.Module, Batch]:
    return pair[0].network, pair[1]


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _peak(call: Callable[[], object]) -> int:
    """Return the high-water mark of resident memory during ``call`` above that before it (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give back what earlier runs have left, or later ones need no new memory
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the mark
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
