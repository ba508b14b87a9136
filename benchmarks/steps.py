"""Whole training steps: the time of a step under each monitor, as a ratio to plain Lightning with clipping.

Workloads of 20 ms a step or more and one of about 1 ms. The variants train in turns of a fraction of a second, each in
a process of its own, so that a slow moment of the machine hits all of them. Each is compared with the plain steps of
the same numbers beside its own, in two ways: by the median step of a turn, and by whole cycles of one or four log
periods, after which everything has come back that happens at some steps only.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import grad_norm
from torch import Tensor, nn

from benchmarks.turns import Batches, take_turns
from gradwatch import NumericalHealthMonitor

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    Make = Callable[[], tuple["Workload", tuple[Tensor, Tensor]]]

LOG_EVERY = 50


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
    "a callback that does nothing": lambda: {"gradient_clip_val": 1.0, "callbacks": [Callback()]},
    "detect_anomaly=True": lambda: {"gradient_clip_val": 1.0, "detect_anomaly": True},
    "grad_norm + log_dict each step": lambda: {"gradient_clip_val": 1.0, "callbacks": [GradNormEachStep()]},
    "forward-hook NaN checker": lambda: {"gradient_clip_val": 1.0, "callbacks": [ForwardHookChecker()]},
}


@dataclass(frozen=True)
class Span:
    """What is trained, and which of its steps count.

    ``turn``: steps a turn, a fraction of a second, but enough that most of them find the caches as their own process
    has left them, not the one before; a ``cycle`` is some turns. ``skipped`` steps come first; after them time is taken
    of ``cycles`` times ``cycle`` steps. ``rounds``: how often, as two trainings of the same thing are not equally
    quick. ``variants``: how many of them take part.
    """

    make: Make
    turn: int
    skipped: int
    cycle: int
    cycles: int
    rounds: int
    variants: int


# The first 20 log steps are the dearest, as all of them look at a forward pass, and later each fourth does.
BEGUN = 20 * LOG_EVERY


def _later(make: Make, turn: int, cycles: int, rounds: int, variants: int) -> Span:
    return Span(make, turn, BEGUN, 4 * LOG_EVERY, cycles, rounds, variants)


def _from_start(make: Make, turn: int, rounds: int) -> Span:
    return Span(make, turn, LOG_EVERY, LOG_EVERY, BEGUN // LOG_EVERY - 1, rounds, len(VARIANTS))


WORKLOADS = {
    "transformer": _later(transformer, turn=25, cycles=5, rounds=4, variants=2),
    "20 x conv + BatchNorm": _later(resnet, turn=25, cycles=5, rounds=4, variants=2),
    "MLP": _later(mlp, turn=200, cycles=40, rounds=4, variants=3),
    "transformer, from the start": _from_start(transformer, turn=25, rounds=1),
    "20 x conv + BatchNorm, from the start": _from_start(resnet, turn=25, rounds=1),
    "MLP, from the start": _from_start(mlp, turn=50, rounds=2),
}


@dataclass(frozen=True)
class StepRatio:
    """A variant's time by the plain one's.

    ``milliseconds``: the mean of its steps. ``median``: the ratio of median steps; ``cycles``: that of whole cycles,
    their median, and ``low`` and ``high``, their quartiles.
    """

    workload: str
    variant: str
    milliseconds: float
    median: float
    cycles: float
    low: float
    high: float


def train(variant: str, workload: str, steps: int, baton: Connection) -> None:
    """Train one variant of a workload, a turn at a time."""
    quiet()
    seed_everything(0, verbose=False)
    span = WORKLOADS[workload]
    module, batch = span.make()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_epochs=1,
            logger=TensorBoardLogger(folder),
            log_every_n_steps=LOG_EVERY,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **VARIANTS[variant](),
        )
        trainer.fit(module, Batches(batch, steps, span.turn, baton))


def measure(workload: str, scale: float) -> list[StepRatio]:
    """Train all variants in turns, for ``scale`` times as many cycles as usual."""
    span = WORKLOADS[workload]
    variants = list(VARIANTS)[: span.variants]
    steps = span.skipped + span.cycle * max(1, round(scale * span.cycles))
    rounds = []
    for _ in range(max(1, round(scale * span.rounds))):
        seconds = np.array(take_turns(train, variants, steps // span.turn, workload, steps))
        rounds.append(seconds[:, span.skipped :].reshape(len(variants), -1, span.turn))
    plain, *_ = each = np.concatenate(rounds, axis=1)
    return [_row(workload, variant, own, plain) for variant, own in zip(variants, each, strict=True)]


def _row(workload: str, variant: str, own: np.ndarray, plain: np.ndarray) -> StepRatio:
    """Return the figures of one variant from the seconds of its steps, shape [turns, steps of a turn]."""
    median = np.median(np.median(own, axis=1) / np.median(plain, axis=1))
    cycle = WORKLOADS[workload].cycle
    cycles = own.reshape(-1, cycle).sum(axis=1) / plain.reshape(-1, cycle).sum(axis=1)
    low, middle, high = np.quantile(cycles, (0.25, 0.5, 0.75))
    return StepRatio(workload, variant, 1e3 * float(own.mean()), float(median), float(middle), float(low), float(high))


def quiet() -> None:
    """Silence what Lightning says at each of hundreds of trainings."""
    for name in ("lightning.pytorch", "lightning.fabric", "gradwatch"):
        logging.getLogger(name).setLevel(logging.ERROR)
