"""What a gradient check costs: against a training step, and over a run whose schedule is left to gradwatch."""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.steps import Transformer, Workload, quiet
from gradwatch import NumericalHealthMonitor, load_events
from gradwatch.engine.gradient_checks import SAMPLES
from gradwatch.probes.check import GradientProbe, Request
from gradwatch.probes.investigation import QUICK
from gradwatch.records import GradientCheck
from gradwatch.replica import randomness
from gradwatch.replica.step_runner import LossFunctionRunner, Moment

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 9
RUN_STEPS = 2000


class Cost(NamedTuple):
    """One check, by the time of a step; quartiles over interleaved rounds."""

    name: str
    milliseconds: float
    ratio: float
    low: float
    high: float


class Budget(NamedTuple):
    """A run with ``gradient_check_every_n_steps="auto"``."""

    steps: int
    checks: int
    share: float
    first: int | None


def workloads() -> dict[str, Callable[[], tuple[nn.Module, Any]]]:
    """Return networks whose step takes 20 ms or more, with a batch each."""
    return {"transformer": _transformer, "CNN with BatchNorm": _cnn, "LSTM": _lstm}


def measure(name: str, rounds: int = ROUNDS) -> Cost:
    """Time a step and a full check, one after the other."""
    torch.manual_seed(0)
    network, batch = workloads()[name]()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def loss(module: nn.Module, data: Any) -> Tensor:
        return nn.functional.mse_loss(module(data[0]), data[1])

    def step() -> None:
        optimizer.zero_grad()
        loss(network, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def check() -> None:
        moment = Moment(batch, 0, randomness.capture(), {})
        named = dict(network.named_parameters())
        probe = GradientProbe(network, [optimizer], LossFunctionRunner(loss), moment, named)
        report = probe.run(Request(samples=SAMPLES, effort=QUICK, each=[next(iter(named))]))
        if report.verdict != "pass":
            raise RuntimeError(f"{name}: {report.verdict}: {report.reason}")

    for _ in range(2):
        step()
        check()
    steps, ratios = [], []
    for _ in range(rounds):
        took = statistics.median(_time(step) for _ in range(3))
        steps.append(took)
        ratios.append(_time(check) / took)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Cost(name, statistics.median(steps) * 1e3, middle, low, high)


def run_of(steps: int = RUN_STEPS) -> Budget:
    """Train the transformer under the monitor; return the share of the time that checks took."""
    seed_everything(0, verbose=False)
    x = torch.randn(16 * 50, 32, 128)
    loader = DataLoader(TensorDataset(x, torch.randn(len(x), 32, 128)), batch_size=16)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[NumericalHealthMonitor(dirpath=folder, clip=None)],
        )
        started = time.perf_counter()
        trainer.fit(Workload(Transformer()), loader)
        took = time.perf_counter() - started
        checks = [event for event in load_events(folder) if isinstance(event, GradientCheck)]
    spent = sum(check.seconds for check in checks)
    return Budget(steps, len(checks), spent / (took - spent), checks[0].step if checks else None)


def _time(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _transformer() -> tuple[nn.Module, Any]:
    return Transformer(), (torch.randn(16, 32, 128), torch.randn(16, 32, 128))


def _cnn() -> tuple[nn.Module, Any]:
    blocks = [
        layer
        for index in range(4)
        for layer in (nn.Conv2d(32 if index else 3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
    ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(32 * 256, 10)), (
        torch.randn(64, 3, 16, 16),
        torch.randn(64, 10),
    )


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return one output a sequence."""
        out: Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


def _lstm() -> tuple[nn.Module, Any]:
    return _Recurrent(), (torch.randn(32, 40, 64), torch.randn(32, 10))
