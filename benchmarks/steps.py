"""Whole training steps: the time of a step under each monitor, as a ratio to plain Lightning with clipping.

Workloads of 20 ms a step or more and one of about 1 ms. Each round trains every variant in turn, so that a slow minute
of the machine hits all of them. Time is taken of four log periods at a time, with everything in them that happens at
some steps only; a variant's step time is that of its median stretch, and the figure is the median of the ratios round
by round.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import grad_norm
from torch import Tensor, nn

from gradwatch import NumericalHealthMonitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOG_EVERY = 50
STRETCH = 4 * LOG_EVERY  # steps; after the first 20 log steps, each fourth looks at a forward pass


class Transformer(nn.Module):
    """Four encoder layers, width 128: about 0.8M parameters and 50 tensors."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class Workload(LightningModule):
    """A network, a squared error, AdamW."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002 - the hook's signature
        x, y = batch
        return nn.functional.mse_loss(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-4)


def transformer() -> tuple[Workload, tuple[Tensor, Tensor]]:
    """Return a step of more than 20 ms with 52 parameter tensors."""
    return Workload(Transformer()), (torch.randn(8, 32, 128), torch.randn(8, 32, 128))


def mlp() -> tuple[Workload, tuple[Tensor, Tensor]]:
    """Return a step of about 1 ms: what Lightning itself does is most of it."""
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return Workload(network), (torch.randn(64, 64), torch.randn(64, 10))


def resnet() -> tuple[Workload, tuple[Tensor, Tensor]]:
    """Return a step with the buffers of 20 batch normalisations to keep."""
    blocks: list[nn.Module] = []
    for channels in (3, *[32] * 19):
        blocks += [nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return Workload(nn.Sequential(*blocks)), (torch.randn(8, 3, 16, 16), torch.randn(8, 32, 16, 16))


class TimedBatches:
    """The same batch again and again; notes when each is asked for."""

    def __init__(self, batch: tuple[Tensor, Tensor], steps: int) -> None:
        self.batch, self.steps, self.asked = batch, steps, []  # type: ignore[var-annotated]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.steps):
            self.asked.append(time.perf_counter())
            yield self.batch
        self.asked.append(time.perf_counter())

    def step_time(self, skipped: int) -> float:
        """Seconds a step in the median stretch after the first ``skipped`` steps."""
        bounds = self.asked[skipped::STRETCH]
        stretches = [after - before for before, after in pairwise(bounds)]
        return statistics.median(stretches) / STRETCH


class GradNormEachStep(Callback):
    """What Lightning's documentation shows: ``grad_norm`` and ``log_dict`` before every optimizer step."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:  # noqa: ARG002
        pl_module.log_dict(grad_norm(pl_module, norm_type=2))


class ForwardHookChecker(Callback):
    """A forward hook on every module that looks for NaN and inf in its output."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        def check(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                raise FloatingPointError(type(module).__name__)

        for module in pl_module.modules():
            module.register_forward_hook(check)


VARIANTS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain, gradient_clip_val=1.0": lambda: {"gradient_clip_val": 1.0},
    "gradwatch, default settings": lambda: {"callbacks": [NumericalHealthMonitor()]},
    "detect_anomaly=True": lambda: {"gradient_clip_val": 1.0, "detect_anomaly": True},
    "grad_norm + log_dict each step": lambda: {"gradient_clip_val": 1.0, "callbacks": [GradNormEachStep()]},
    "forward-hook NaN checker": lambda: {"gradient_clip_val": 1.0, "callbacks": [ForwardHookChecker()]},
}


@dataclass(frozen=True)
class Span:
    """What is trained, for how many steps, and how many of them come before time is taken."""

    make: Callable[[], tuple[Workload, tuple[Tensor, Tensor]]]
    skipped: int
    steps: int


# The first 20 log steps are the dearest, as all of them look at a forward pass: they are measured apart.
BEGUN = 20 * LOG_EVERY
WORKLOADS = {
    "transformer": Span(transformer, BEGUN, BEGUN + STRETCH),
    "20 x conv + BatchNorm": Span(resnet, BEGUN, BEGUN + STRETCH),
    "MLP": Span(mlp, BEGUN, BEGUN + 5 * STRETCH),
    "transformer, from the start": Span(transformer, LOG_EVERY, LOG_EVERY + STRETCH),
    "20 x conv + BatchNorm, from the start": Span(resnet, LOG_EVERY, LOG_EVERY + STRETCH),
    "MLP, from the start": Span(mlp, LOG_EVERY, BEGUN),
}


@dataclass(frozen=True)
class StepRatio:
    """``ratio``: a variant's step time by the plain one's, median over rounds; ``low`` and ``high``: its quartiles."""

    workload: str
    variant: str
    milliseconds: float
    ratio: float
    low: float
    high: float


def train(variant: dict[str, Any], span: Span) -> float:
    """Train one variant and return its seconds a step."""
    seed_everything(0, verbose=False)
    module, batch = span.make()
    batches = TimedBatches(batch, span.steps + 1)  # a stretch ends where the next batch is asked for
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_epochs=1,
            logger=CSVLogger(folder),
            log_every_n_steps=LOG_EVERY,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **variant,
        )
        trainer.fit(module, batches)
    return batches.step_time(span.skipped)


def measure(workload: str, rounds: int) -> list[StepRatio]:
    """Train plain and watched in turn, ``rounds`` times.

    The other variants are far from 1 and the same at all steps: from the start only, and every third time.
    """
    span, (plain, watched, *others) = WORKLOADS[workload], VARIANTS
    times: dict[str, dict[int, float]] = {plain: {}, watched: {}}
    for i in range(rounds):
        names = [plain, watched, *(others if i % 3 == 0 and span.skipped < BEGUN else ())]
        for name in names if i % 2 == 0 else reversed(names):
            times.setdefault(name, {})[i] = train(VARIANTS[name](), span)
    return [_row(workload, name, own, times[plain]) for name, own in times.items()]


def _row(workload: str, name: str, own: dict[int, float], plain: dict[int, float]) -> StepRatio:
    ratios = sorted(seconds / plain[i] for i, seconds in own.items())
    quartile = len(ratios) // 4
    milliseconds = 1e3 * statistics.median(own.values())
    return StepRatio(workload, name, milliseconds, statistics.median(ratios), ratios[quartile], ratios[-1 - quartile])


def quiet() -> None:
    """Silence what Lightning says at each of hundreds of trainings."""
    for name in ("lightning.pytorch", "lightning.fabric", "gradwatch"):
        logging.getLogger(name).setLevel(logging.ERROR)
