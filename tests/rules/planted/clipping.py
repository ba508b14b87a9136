"""Limits on the gradient norm that are always reached, never reached, or reached by one layer alone."""

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
    Recommender,
    Recurrent,
    Transformer,
    adam,
    adamw,
    sgd,
)
from tests.rules.planted.sets import blobs, curve, digits, loader, ratings, waves, words

# -- clips-always ------------------------------------------------------------------------------------------------------


def always_perceptron(seed: int, faulty: bool) -> Training:
    """A limit of 0.001, where 1.0 was meant."""
    module = Perceptron(16, 24, 4, optimizer=sgd(0.05, momentum=0.9))
    limit = {"clip": 0.001 if faulty else 1.0}
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(240, 10, monitor=limit))


def always_convolutional(seed: int, faulty: bool) -> Training:
    """The Trainer clips, at a hundredth of what the gradient usually is."""
    module = Convolutional(optimizer=adam(1e-3))
    return Training(
        module=module, train=loader(digits(seed), seed), **lasting(230, 5, gradient_clip_val=0.01 if faulty else 3.0)
    )


class Summed(Recurrent):
    """Adds up the losses of a batch instead of their mean."""

    reduction = "mean"

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self(x), y, reduction=self.reduction)


def always_recurrent(seed: int, faulty: bool) -> Training:
    """A limit for the mean loss, and a loss that is the sum over the batch."""
    module = Summed(optimizer=adamw(2e-3))
    module.reduction = "sum" if faulty else "mean"
    return Training(module=module, train=loader(waves(seed), seed), **lasting(240, 10, monitor={"clip": 0.5}))


# -- clips-never -------------------------------------------------------------------------------------------------------


def never_perceptron(seed: int, faulty: bool) -> Training:
    """A limit of 1000."""
    module = Perceptron(8, 16, 1, activation=nn.Tanh, loss=functional.mse_loss, optimizer=sgd(0.02))
    limit = {"clip": 1000.0 if faulty else 1.0}
    return Training(module=module, train=loader(curve(seed), seed), **lasting(1060, 10, monitor=limit))


def never_recommender(seed: int, faulty: bool) -> Training:
    """A limit of 100 on gradients of less than ten, by the Trainer."""
    module = Recommender(optimizer=adam(3e-3))
    return Training(
        module=module,
        train=loader(ratings(seed, samples=1024), seed),
        **lasting(1040, 10, gradient_clip_val=100.0 if faulty else 3.0),
    )


def never_autoencoder(seed: int, faulty: bool) -> Training:
    """A limit of 100 on the gradient of a mean squared error."""
    module = Autoencoder(16, 8, optimizer=sgd(0.05, momentum=0.9))
    limit = {"clip": 100.0 if faulty else 0.5}
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(1040, 5, monitor=limit))


# -- clips-one-layer ---------------------------------------------------------------------------------------------------


class Forecasting(Recurrent):
    """Learns the next value beside the class, from a state that is not differentiated."""

    weight = 1.0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.body = nn.Linear(16, 16)
        self.forecast = nn.Linear(16, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        state = torch.tanh(self.body(self.rnn(x[:, :-1])[0][:, -1]))
        error = functional.mse_loss(self.forecast(state.detach()), x[:, -1])
        return self.criterion(self.head(state), y) + self.weight * error


def one_layer_recurrent(seed: int, faulty: bool) -> Training:
    """The error of the forecast is in other units, and a hundred times larger than the rest."""
    module = Forecasting(optimizer=adam(2e-3))
    module.weight = 100.0 if faulty else 0.1
    return Training(module=module, train=loader(waves(seed), seed), **lasting(240, 5, monitor={"clip": 0.5}))


class Annotated(Convolutional):
    """Has a number beside each image, which goes straight to the output."""

    unit = 1.0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.stamp = nn.Linear(1, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, y = batch
        stamp = self.unit * (1 + 0.2 * images[:, 0, 3, 3:4])
        return self.criterion(self(images) + self.stamp(stamp), y)


def one_layer_convolutional(seed: int, faulty: bool) -> Training:
    """The number is a year."""
    module = Annotated(optimizer=adamw(1e-3))
    module.unit = 2000.0 if faulty else 1.0
    return Training(module=module, train=loader(digits(seed), seed), **lasting(230, 10, gradient_clip_val=2.0))


class Centred(Transformer):
    """Keeps the squared norm of its output layer at one by a penalty."""

    penalty = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        gram = self.head.weight @ self.head.weight.T
        distance = (gram - torch.eye(len(gram))).square().sum()
        return super().training_step(batch, batch_idx) + self.penalty * distance


def one_layer_transformer(seed: int, faulty: bool) -> Training:
    """The penalty on the output layer is 1e3 where 1e-3 was meant."""
    module = Centred(optimizer=adam(5e-4))
    module.penalty = 1e3 if faulty else 1e-3
    return Training(module=module, train=loader(words(seed), seed), **lasting(240, 10, monitor={"clip": 0.5}))


# `within` is the number of steps in the definition and two log periods.
CASES = [
    Case(code="clips-always", model="MLP", build=always_perceptron, layer=None, within=220),
    Case(code="clips-always", model="CNN", build=always_convolutional, layer=None, within=210),
    Case(code="clips-always", model="GRU", build=always_recurrent, layer=None, within=220),
    Case(code="clips-never", model="MLP", build=never_perceptron, layer=None, within=1020),
    Case(code="clips-never", model="recommender", build=never_recommender, layer=None, within=1020),
    Case(code="clips-never", model="autoencoder", build=never_autoencoder, layer=None, within=1010),
    Case(code="clips-one-layer", model="GRU", build=one_layer_recurrent, layer="forecast", within=210),
    Case(code="clips-one-layer", model="CNN", build=one_layer_convolutional, layer="stamp", within=220),
    Case(code="clips-one-layer", model="transformer", build=one_layer_transformer, layer="head", within=220),
]
