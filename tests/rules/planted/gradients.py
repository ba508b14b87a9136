"""Gradients that explode, vanish, are zero or missing, and layers whose gradient is unlike that of all others."""

# ruff: noqa: FBT001 - a builder is called as build(seed, faulty)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.rules.planted.case import ANY, Case, Training, lasting
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
from tests.rules.planted.sets import blobs, digits, loader, trend, waves, words

# -- exploding-gradient ------------------------------------------------------------------------------------------------


def one_hot_error(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.mse_loss(outputs, functional.one_hot(labels, outputs.shape[1]).float())


class Linear(Perceptron):
    """A linear classifier of images by least squares."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.flatten(1))


def exploding_linear(seed: int, faulty: bool) -> Training:
    """A learning rate of 0.4 where 0.04 was meant: each step overshoots by more than it corrects."""
    module = Linear(64, 10, loss=one_hot_error, optimizer=sgd(0.4 if faulty else 0.04))
    return Training(module=module, train=loader(digits(seed), seed), **lasting(120, 5))


def exploding_recurrent(seed: int, faulty: bool) -> Training:
    """The same slip in a recurrent network with a linear output: 0.8 for 0.08."""
    optimizer = sgd(0.8 if faulty else 0.08)
    module = Recurrent(1, hidden=16, loss=functional.mse_loss, optimizer=optimizer)
    return Training(module=module, train=loader(trend(seed), seed), **lasting(120, 5))


class Score(Transformer):
    """Predicts a number for a sentence; the sign of the loss is ``sign``."""

    sign = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        tokens, y = batch
        return self.sign * functional.mse_loss(self(tokens).squeeze(1), y - 1.0)


def exploding_transformer(seed: int, faulty: bool) -> Training:
    """The loss has the wrong sign: the error is made as large as possible."""
    module = Score(1, optimizer=sgd(0.01))
    module.sign = -1.0 if faulty else 1.0
    return Training(module=module, train=loader(words(seed), seed), **lasting(150, 5))


# -- vanishing-gradient ------------------------------------------------------------------------------------------------


def initialised(module: Any, weights: Any, *args: Any, **options: Any) -> Any:
    """Set the weights of all linear and convolutional layers by ``weights``, and their biases to zero."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            weights(part.weight, *args, **options)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


def vanishing_perceptron(seed: int, faulty: bool) -> Training:
    """Twelve sigmoid layers; the healthy twin has tanh with the weights that belong to it."""
    module = Perceptron(16, *[16] * 12, 4, activation=nn.Sigmoid if faulty else nn.Tanh, optimizer=sgd(0.02))
    if not faulty:
        initialised(module, nn.init.xavier_normal_)
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(100, 5))


class DeepConvolutional(Convolutional):
    """Seven convolutions of one width."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        layers: list[nn.Module] = []
        for inputs in (1, 8, 8, 8, 8, 8, 8):
            layers += [nn.Conv2d(inputs, 8, 3, padding=1), nn.Tanh()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2))
        self.head = nn.Linear(32, 10)


def vanishing_convolutional(seed: int, faulty: bool) -> Training:
    """Weights of standard deviation 0.01, as in old tutorials, which is far too little for seven layers."""
    module = DeepConvolutional(optimizer=sgd(0.02, momentum=0.9))
    if faulty:
        initialised(module, nn.init.normal_, std=0.01)
    else:
        initialised(module, nn.init.xavier_normal_, gain=5 / 3)
    return Training(module=module, train=loader(digits(seed), seed), **lasting(100, 5))


def vanishing_autoencoder(seed: int, faulty: bool) -> Training:
    """A deep autoencoder with sigmoids all the way."""
    sizes = (16, 14, 12, 12, 10, 10, 8, 8)
    module = Autoencoder(*sizes, activation=nn.Sigmoid if faulty else nn.Tanh, optimizer=sgd(0.05))
    if not faulty:
        initialised(module, nn.init.xavier_normal_)
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(150, 10))


# -- dead-layer --------------------------------------------------------------------------------------------------------


def dead_perceptron(seed: int, faulty: bool) -> Training:
    """Biases that start at -20: no unit of the first layer is ever above zero."""
    module = Perceptron(16, 16, 16, 4, optimizer=sgd(0.1))
    first: Any = module.net[0]
    nn.init.constant_(first.bias, -20.0 if faulty else 0.0)
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(150, 10))


class TwoTasks(Recurrent):
    """Classifies a sequence and predicts its next value with a second head."""

    def __init__(self, weight: float, **options: Any) -> None:
        super().__init__(**options)
        self.forecast = nn.Linear(16, 2)
        self.forecast_weight = weight

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        state = self.rnn(x[:, :-1])[0][:, -1]
        forecast = functional.mse_loss(self.forecast(state), x[:, -1])
        return self.criterion(self.head(state), y) + self.forecast_weight * forecast


def dead_recurrent(seed: int, faulty: bool) -> Training:
    """The weight of the second task was left at 0."""
    module = TwoTasks(0.0 if faulty else 0.3, optimizer=adam(2e-3))
    return Training(module=module, train=loader(waves(seed), seed), **lasting(140, 5))


class Quantised(Autoencoder):
    """Rounds its code to bits; the derivative is passed through, unless somebody forgets it."""

    straight_through = True

    def code(self, x: Tensor) -> Tensor:
        soft = torch.tanh(self.encoder(x))
        return soft + (soft.sign() - soft).detach() if self.straight_through else soft.sign()


def dead_autoencoder(seed: int, faulty: bool) -> Training:
    """The derivative of sign() is zero everywhere."""
    module = Quantised(64, 16, optimizer=adamw(1e-3))
    module.straight_through = not faulty
    return Training(module=module, train=loader(digits(seed), seed), **lasting(140, 5))


# -- unused-parameter --------------------------------------------------------------------------------------------------


class Skipped(Perceptron):
    """Has a projection that ``forward`` calls, or does not."""

    def __init__(self, *sizes: int, called: bool, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.projection = nn.Linear(sizes[0], sizes[0])
        self.called = called

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.projection(x) if self.called else x)


def unused_perceptron(seed: int, faulty: bool) -> Training:
    """A layer is built and never called."""
    module = Skipped(16, 16, 4, called=not faulty, optimizer=sgd(0.1, momentum=0.9))
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(80, 10))


class TwoHeads(Convolutional):
    """A second head was to replace the first one."""

    def __init__(self, *, both: bool, **options: Any) -> None:
        super().__init__(**options)
        self.better_head = nn.Linear(64, 10)
        self.both = both

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images).flatten(1)
        return self.better_head(features) + (self.head(features) if self.both else 0.0)


def unused_convolutional(seed: int, faulty: bool) -> Training:
    """The old head is still there."""
    module = TwoHeads(both=not faulty, optimizer=adam(1e-3))
    return Training(module=module, train=loader(digits(seed), seed), **lasting(60, 5))


class Summarised(Transformer):
    """Has a class token of its own."""

    def __init__(self, *, token: bool, **options: Any) -> None:
        super().__init__(**options)
        self.class_token = nn.Parameter(0.1 * torch.randn(1, 1, 16))
        self.token = token

    def hidden(self, tokens: Tensor) -> Tensor:
        if not self.token:
            return super().hidden(tokens)
        x = self.embed(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.encoder(torch.cat([self.class_token.expand(len(x), -1, -1), x], 1))[:, 0]


def unused_transformer(seed: int, faulty: bool) -> Training:
    """The class token is not in the sequence: the mean of the words is used instead."""
    module = Summarised(token=not faulty, optimizer=adamw(2e-3))
    return Training(module=module, train=loader(words(seed), seed), **lasting(60, 5))


# -- outlier-layer -----------------------------------------------------------------------------------------------------


class Annotated(Recurrent):
    """Classifies a sequence with a number beside it, which is a time stamp."""

    def __init__(self, *, unit: float, **options: Any) -> None:
        super().__init__(**options)
        self.body = nn.Linear(16, 16)
        self.neck = nn.Linear(16, 16)
        self.stamp = nn.Linear(1, 3)
        self.unit = unit

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        state = torch.tanh(self.neck(torch.tanh(self.body(self.rnn(x)[0][:, -1]))))
        stamp = (1.0 + 0.1 * x[:, 0, :1]) * self.unit
        return self.criterion(self.head(state) + self.stamp(stamp), y)


def outlier_recurrent(seed: int, faulty: bool) -> Training:
    """A time stamp in seconds since 1970, in millions, goes into a layer of its own."""
    module = Annotated(unit=1e6 if faulty else 1.0, optimizer=adam(1e-3))
    return Training(module=module, train=loader(waves(seed), seed), **lasting(60, 5))


def outlier_residual(seed: int, faulty: bool) -> Training:
    """Residual branches scaled by 1e-5 on a frozen stem: only the head has a gradient worth the name."""
    module = Residual(scale=1e-5 if faulty else 0.5, optimizer=sgd(0.05))
    module.stem.requires_grad_(requires_grad=False)
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(80, 10))


class Penalised(Convolutional):
    """Keeps the weights of its head small."""

    penalty = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + self.penalty * self.head.weight.square().sum()


def outlier_convolutional(seed: int, faulty: bool) -> Training:
    """The penalty is 1e4 where 1e-4 was meant."""
    module = Penalised(optimizer=adam(1e-3))
    module.penalty = 1e4 if faulty else 1e-4
    return Training(module=module, train=loader(digits(seed), seed), **lasting(80, 5))


# `within` is the definition in steps (records times the log period, or the steps that are asked for) and two periods.
CASES = [
    Case(code="exploding-gradient", model="linear classifier", build=exploding_linear, layer="net.0", within=40),
    Case(code="exploding-gradient", model="GRU", build=exploding_recurrent, layer=ANY, within=60),
    Case(code="exploding-gradient", model="transformer", build=exploding_transformer, layer=ANY, within=80),
    Case(code="vanishing-gradient", model="MLP", build=vanishing_perceptron, layer="net.0", within=40),
    Case(code="vanishing-gradient", model="CNN", build=vanishing_convolutional, layer="features.0", within=40),
    Case(code="vanishing-gradient", model="autoencoder", build=vanishing_autoencoder, layer="encoder.0", within=80),
    Case(code="dead-layer", model="MLP", build=dead_perceptron, layer="net.0", within=130),
    Case(code="dead-layer", model="GRU", build=dead_recurrent, layer="forecast", within=115),
    Case(code="dead-layer", model="autoencoder", build=dead_autoencoder, layer="encoder.0", within=115),
    Case(code="unused-parameter", model="MLP", build=unused_perceptron, layer="projection", within=50),
    Case(code="unused-parameter", model="CNN", build=unused_convolutional, layer="head", within=30),
    Case(code="unused-parameter", model="transformer", build=unused_transformer, layer="(root)", within=30),
    Case(code="outlier-layer", model="GRU", build=outlier_recurrent, layer="stamp", within=30),
    Case(code="outlier-layer", model="residual MLP", build=outlier_residual, layer="head", within=60),
    Case(code="outlier-layer", model="CNN", build=outlier_convolutional, layer="head", within=30),
]
