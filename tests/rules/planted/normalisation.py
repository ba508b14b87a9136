"""BatchNorms with too few samples, and with running statistics that are broken or never made."""

# ruff: noqa: FBT001 - a builder is called as build(seed, faulty)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.rules.planted.case import Case, Training, lasting
from tests.rules.planted.models import Autoencoder, Convolutional, Learner, Perceptron, Recurrent, adam, adamw, sgd
from tests.rules.planted.sets import blobs, curve, digits, loader, trend, waves


class Sequences(Recurrent):
    """Normalises its channels by a BatchNorm before the recurrent layer."""

    def __init__(self, outputs: int = 3, *, momentum: float = 0.1, **options: Any) -> None:
        super().__init__(outputs, features=8, **options)
        self.conv = nn.Conv1d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.relu(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2))


# -- small-batch-normalisation -----------------------------------------------------------------------------------------


def small_convolutional(seed: int, faulty: bool) -> Training:
    """Batches of two images, for want of memory."""
    module = Convolutional(optimizer=adam(1e-3))
    return Training(module=module, train=loader(digits(seed), seed, 2 if faulty else 32), **lasting(80, 5))


def small_perceptron(seed: int, faulty: bool) -> Training:
    """Batches of four."""
    module = Perceptron(16, 24, 24, 4, norm=True, optimizer=sgd(0.05))
    return Training(module=module, train=loader(blobs(seed), seed, 4 if faulty else 32), **lasting(80, 10))


def small_recurrent(seed: int, faulty: bool) -> Training:
    """Batches of three, accumulated to 12: a BatchNorm does not know of that."""
    module = Sequences(optimizer=adamw(2e-3))
    accumulate = 4 if faulty else 1
    return Training(
        module=module,
        train=loader(waves(seed), seed, 3 if faulty else 32),
        **lasting(60, 5, accumulate_grad_batches=accumulate),
    )


# -- nonfinite-running-statistics --------------------------------------------------------------------------------------

# A scan of the buffers may call this an incident, which would end the run.
WARN = {"on_nonfinite": "warn"}


class Table(Learner):
    """Normalises the columns of a table by a BatchNorm."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.norm = nn.BatchNorm1d(8)
        self.net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.norm(x))


def nonfinite_perceptron(seed: int, faulty: bool) -> Training:
    """Missing values of one column are 9.97e36, as in NetCDF files: their variance is infinite, the loss is not."""
    x, y = curve(seed)
    if faulty:
        x[::5, 3] = 9.97e36
    module = Table(loss=functional.mse_loss, optimizer=sgd(0.02))
    return Training(module=module, train=loader((x, y), seed), **lasting(80, 5, monitor=WARN))


def nonfinite_convolutional(seed: int, faulty: bool) -> Training:
    """A momentum of 10, where 0.10 was meant: the running statistics swing up until they overflow."""
    module = Convolutional(optimizer=adam(1e-3))
    norm: Any = module.features[1]
    norm.momentum = 10.0 if faulty else 0.1
    return Training(module=module, train=loader(digits(seed), seed), **lasting(100, 10, monitor=WARN))


def nonfinite_recurrent(seed: int, faulty: bool) -> Training:
    """The running statistics come from a checkpoint of a run that had died of NaN."""
    module = Sequences(1, loss=functional.mse_loss, optimizer=adam(2e-3))
    if faulty:
        variance: Any = module.norm.running_var
        variance[2] = torch.nan
    return Training(module=module, train=loader(trend(seed), seed), **lasting(60, 5, monitor=WARN))


# -- frozen-running-statistics -----------------------------------------------------------------------------------------


def frozen_convolutional(seed: int, faulty: bool) -> Training:
    """A momentum of 0, which is not what it is in an optimizer."""
    module = Convolutional(optimizer=sgd(0.02))
    norm: Any = module.features[1]
    norm.momentum = 0.0 if faulty else 0.1
    return Training(module=module, train=loader(digits(seed), seed), **lasting(100, 5))


class Fixed(Autoencoder):
    """Holds its BatchNorms fixed, as one does with a pretrained network."""

    fixed = False

    def on_train_epoch_start(self) -> None:
        if self.fixed:
            for part in self.modules():
                if isinstance(part, nn.BatchNorm1d):
                    part.eval()


def frozen_autoencoder(seed: int, faulty: bool) -> Training:
    """The BatchNorms of a network that is not pretrained are in eval mode."""
    module = Fixed(64, 24, 8, norm=True, optimizer=adam(1e-3))
    module.fixed = faulty
    return Training(module=module, train=loader(digits(seed), seed), **lasting(100, 10))


class Resetting(Sequences):
    """Is in eval mode in part, whatever it is asked for."""

    frozen = False

    def train(self, mode: bool = True) -> Any:  # noqa: FBT002 - the signature of nn.Module
        super().train(mode)
        if self.frozen:
            self.norm.eval()
        return self


def frozen_recurrent(seed: int, faulty: bool) -> Training:
    """``train()`` is overridden and keeps the BatchNorm in eval mode from the first step."""
    module = Resetting(optimizer=adamw(2e-3))
    module.frozen = faulty
    module.train()
    return Training(module=module, train=loader(waves(seed), seed), **lasting(100, 5))


# `within` is the number of records times the log period, or the steps that are asked for, and two periods. A momentum
# of 10 multiplies the statistics by -9 at each step: they overflow after 41.
CASES = [
    Case(
        code="small-batch-normalisation",
        model="CNN",
        build=small_convolutional,
        layer="features.1",
        also=("features.5",),
        within=25,
    ),
    Case(
        code="small-batch-normalisation",
        model="MLP",
        build=small_perceptron,
        layer="net.1",
        also=("net.4",),
        within=50,
    ),
    Case(code="small-batch-normalisation", model="GRU", build=small_recurrent, layer="norm", within=25),
    Case(code="nonfinite-running-statistics", model="MLP", build=nonfinite_perceptron, layer="norm", within=15),
    Case(
        code="nonfinite-running-statistics",
        model="CNN",
        build=nonfinite_convolutional,
        layer="features.1",
        within=70,
        fault_step=41,
    ),
    Case(code="nonfinite-running-statistics", model="GRU", build=nonfinite_recurrent, layer="norm", within=15),
    Case(code="frozen-running-statistics", model="CNN", build=frozen_convolutional, layer="features.1", within=60),
    Case(
        code="frozen-running-statistics",
        model="autoencoder",
        build=frozen_autoencoder,
        layer="encoder.1",
        also=("decoder.1",),
        within=70,
    ),
    Case(code="frozen-running-statistics", model="GRU", build=frozen_recurrent, layer="norm", within=60),
]
