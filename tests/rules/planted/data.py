"""Batches that are not normalised, constant, not finite or too small, and targets that the loss is not made for."""

# ruff: noqa: FBT001 - a builder is called as build(seed, faulty)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.rules.planted.case import Case, Training, lasting
from tests.rules.planted.models import (
    Autoencoder,
    Convolutional,
    Perceptron,
    Recurrent,
    Residual,
    Transformer,
    adam,
    adamw,
    sgd,
)
from tests.rules.planted.sets import blobs, curve, digits, loader, raw_digits, trend, waves, words

# -- unnormalised-input ------------------------------------------------------------------------------------------------


def raw_perceptron(seed: int, faulty: bool) -> Training:
    """A table whose columns are years, prices and the like."""
    x, y = blobs(seed)
    scale = torch.tensor([2000.0, 1.0, 50.0, 300.0]).repeat(4)
    module = Perceptron(16, 24, 4, optimizer=adam(1e-3))
    return Training(module=module, train=loader((x * scale if faulty else x, y), seed), **lasting(60, 5))


def raw_convolutional(seed: int, faulty: bool) -> Training:
    """Pixels from 0 to 255."""
    images, labels = raw_digits(seed)
    module = Convolutional(optimizer=sgd(0.02, momentum=0.9))
    data = (images * 255, labels) if faulty else digits(seed)
    return Training(module=module, train=loader(data, seed), **lasting(60, 10))


def raw_recurrent(seed: int, faulty: bool) -> Training:
    """A sensor in millivolt around an offset."""
    x, y = waves(seed)
    module = Recurrent(cell=nn.LSTM, optimizer=adamw(3e-3))
    return Training(module=module, train=loader((x * 40 + 300 if faulty else x, y), seed), **lasting(60, 5))


# -- constant-input ----------------------------------------------------------------------------------------------------


def constant_convolutional(seed: int, faulty: bool) -> Training:
    """Bytes are divided by 255 as integers: all images are black."""
    images, labels = raw_digits(seed)
    pixels = (images * 240).to(torch.uint8)
    images = torch.div(pixels, 255, rounding_mode="floor").float() if faulty else digits(seed)[0]
    module = Convolutional(norm=False, optimizer=adam(1e-3))
    return Training(module=module, train=loader((images, labels), seed), **lasting(60, 5))


class TwoInputs(Recurrent):
    """Has a static feature beside the sequence."""

    filled = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.static = nn.Linear(4, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        features = x[:, :4, 0] if self.filled else torch.ones(len(x), 4)
        return self.criterion(self(x) + self.static(features), y)


def constant_recurrent(seed: int, faulty: bool) -> Training:
    """The static features are a placeholder of ones."""
    module = TwoInputs(optimizer=adamw(3e-3))
    module.filled = not faulty
    return Training(module=module, train=loader(waves(seed), seed), **lasting(80, 10))


def constant_residual(seed: int, faulty: bool) -> Training:
    """Missing values are filled in where there are none: a mask the wrong way round makes all features -1."""
    x, y = curve(seed)
    missing = torch.zeros_like(x, dtype=torch.bool)
    x = torch.where(~missing if faulty else missing, torch.tensor(-1.0), x)
    module = Residual(8, 1, depth=2, loss=functional.mse_loss, optimizer=sgd(0.02))
    return Training(module=module, train=loader((x, y), seed), **lasting(60, 5))


# -- nonfinite-input ---------------------------------------------------------------------------------------------------


class Masked(Perceptron):
    """Leaves out targets that are missing, which is right, and says nothing of how many they are."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        known = ~y.isnan()
        error = self(x) - torch.where(known, y, 0.0)
        return (error.square() * known).sum() / known.sum()


def nonfinite_perceptron(seed: int, faulty: bool) -> Training:
    """A third of the targets is NaN."""
    x, y = curve(seed)
    if faulty:
        y[::3] = torch.nan
    module = Masked(8, 24, 1, optimizer=adam(3e-3))
    return Training(module=module, train=loader((x, y), seed), **lasting(60, 5))


class Filled(Autoencoder):
    """Replaces what is missing in its input by zeros."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch["pixels"].nan_to_num(0.0, posinf=0.0).flatten(1)
        return self.criterion(self(x), x)


def nonfinite_autoencoder(seed: int, faulty: bool) -> Training:
    """Some pixels are NaN; the model fills them in without a word. The batch is a dictionary."""
    images, labels = digits(seed)
    if faulty:
        images[::4, 0, 2, 2] = torch.nan
    samples: Any = [{"pixels": image, "label": label} for image, label in zip(images, labels, strict=True)]
    train: Any = torch.utils.data.DataLoader(samples, 32, shuffle=True, generator=torch.Generator().manual_seed(seed))
    return Training(module=Filled(64, 24, optimizer=adamw(1e-3)), train=train, **lasting(60, 10))


class Distances(Transformer):
    """Has a distance for each sentence, which is infinite where there is no neighbour, and is squashed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.near = nn.Linear(1, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        tokens, y, distance = batch
        return self.criterion(self(tokens) + self.near(torch.exp(-distance)), y)


def nonfinite_transformer(seed: int, faulty: bool) -> Training:
    """Some distances are infinite; exp(-x) makes zero of them."""
    tokens, y = words(seed)
    distance = 1.0 + (y[:, None] == 1).float() * torch.rand(len(y), 1)
    if faulty:
        distance[::3] = torch.inf
    module = Distances(optimizer=adam(2e-3))
    return Training(module=module, train=loader((tokens, y, distance), seed), **lasting(60, 5))


# -- target-domain -----------------------------------------------------------------------------------------------------


def domain_perceptron(seed: int, faulty: bool) -> Training:
    """Binary classes that are called 1 and 2."""
    x, y = blobs(seed, classes=2)
    target = (y + 1 if faulty else y).float()[:, None]
    module = Perceptron(16, 24, 1, loss=functional.binary_cross_entropy_with_logits, optimizer=sgd(0.05))
    return Training(module=module, train=loader((x, target), seed), **lasting(60, 5))


def domain_convolutional(seed: int, faulty: bool) -> Training:
    """A mask of bytes, 0 and 255, for binary cross entropy."""
    images, labels = digits(seed)
    target = functional.one_hot(labels, 10).float() * (255.0 if faulty else 1.0)
    loss = functional.binary_cross_entropy_with_logits
    module = Convolutional(loss=loss, optimizer=adam(1e-3))
    return Training(module=module, train=loader((images, target), seed), **lasting(60, 10))


class Likelihood(Recurrent):
    """A negative log-likelihood, with or without the logarithm."""

    normalised = True

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        outputs = self(x)
        return functional.nll_loss(outputs.log_softmax(-1) if self.normalised else outputs, y)


def domain_recurrent(seed: int, faulty: bool) -> Training:
    """nll_loss of the logits themselves."""
    module = Likelihood(optimizer=adam(5e-3))
    module.normalised = not faulty
    return Training(module=module, train=loader(waves(seed), seed), **lasting(60, 5))


# -- small-batch -------------------------------------------------------------------------------------------------------


def small_perceptron(seed: int, faulty: bool) -> Training:
    """641 samples in batches of 32: the 21st has one."""
    x, y = blobs(seed, samples=641)
    module = Perceptron(16, 24, 4, optimizer=sgd(0.1))
    return Training(module=module, train=loader((x, y), seed, drop_last=not faulty), **lasting(60, 5))


def small_recurrent(seed: int, faulty: bool) -> Training:
    """514 sequences in batches of 64: the ninth has two."""
    x, y = trend(seed, samples=514)
    module = Recurrent(1, loss=functional.mse_loss, optimizer=adam(3e-3))
    return Training(module=module, train=loader((x, y), seed, 64, drop_last=not faulty), **lasting(60, 10))


def small_transformer(seed: int, faulty: bool) -> Training:
    """483 sentences in batches of 48: the eleventh has three."""
    tokens, y = words(seed, samples=483)
    module = Transformer(optimizer=adamw(2e-3))
    return Training(module=module, train=loader((tokens, y), seed, 48, drop_last=not faulty), **lasting(60, 5))


# `within` is the number of records times the log period (one, if the definition names none), and two periods; for a
# small batch its own step and two periods.
CASES = [
    Case(code="unnormalised-input", model="MLP", build=raw_perceptron, layer="net.0", within=25),
    Case(code="unnormalised-input", model="CNN", build=raw_convolutional, layer="features.0", within=50),
    Case(code="unnormalised-input", model="LSTM", build=raw_recurrent, layer="rnn", within=25),
    Case(code="constant-input", model="CNN", build=constant_convolutional, layer="features.0", within=25),
    Case(code="constant-input", model="GRU", build=constant_recurrent, layer="static", within=50),
    Case(code="constant-input", model="residual MLP", build=constant_residual, layer="stem", within=25),
    Case(code="nonfinite-input", model="MLP", build=nonfinite_perceptron, layer=None, within=15),
    Case(code="nonfinite-input", model="autoencoder", build=nonfinite_autoencoder, layer=None, within=30),
    Case(code="nonfinite-input", model="transformer", build=nonfinite_transformer, layer=None, within=15),
    Case(code="target-domain", model="MLP", build=domain_perceptron, layer=None, within=15),
    Case(code="target-domain", model="CNN", build=domain_convolutional, layer=None, within=30),
    Case(code="target-domain", model="GRU", build=domain_recurrent, layer=None, within=15),
    Case(code="small-batch", model="MLP", build=small_perceptron, layer=None, within=30, fault_step=20),
    Case(code="small-batch", model="GRU", build=small_recurrent, layer=None, within=28, fault_step=8),
    Case(code="small-batch", model="transformer", build=small_transformer, layer=None, within=20, fault_step=10),
]
