"""Units that are dead or saturated, and activations whose size leaves what the network or the format can do."""

# ruff: noqa: FBT001 - a builder is called as build(seed, faulty)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.rules.planted.case import Case, Training, lasting
from tests.rules.planted.gradients import DeepConvolutional, initialised
from tests.rules.planted.mixed_precision import LARGE, Block, half
from tests.rules.planted.models import Autoencoder, Convolutional, Learner, Perceptron, adam, adamw, sgd, stack
from tests.rules.planted.sets import blobs, curve, digits, loader, waves

# -- dead-relu ---------------------------------------------------------------------------------------------------------


def dead_perceptron(seed: int, faulty: bool) -> Training:
    """The second layer starts with biases of -10, a prior that belongs to an output."""
    module = Perceptron(16, 32, 16, 4, optimizer=sgd(0.05))
    second: Any = module.net[2]
    if faulty:
        nn.init.constant_(second.bias, -10.0)
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(80, 5))


def dead_convolutional(seed: int, faulty: bool) -> Training:
    """Filters without negative weights, on images that have been inverted below zero."""
    module = Convolutional(norm=False, optimizer=adam(1e-3))
    images, labels = digits(seed)
    if faulty:
        images = -(images - images.min())
        first: Any = module.features[0]
        with torch.no_grad():
            first.weight.abs_()
            first.bias.zero_()
    return Training(module=module, train=loader((images, labels), seed), **lasting(100, 10))


def dead_autoencoder(seed: int, faulty: bool) -> Training:
    """Units that start with a bias of -12 never see anything."""
    module = Autoencoder(64, 48, 12, optimizer=adamw(1e-3))
    if faulty:
        first: Any = module.encoder[0]
        nn.init.constant_(first.bias, -12.0)
    return Training(module=module, train=loader(digits(seed), seed), **lasting(80, 5))


# -- saturated-activation ----------------------------------------------------------------------------------------------


def saturated_perceptron(seed: int, faulty: bool) -> Training:
    """Weights of standard deviation 3 before a tanh."""
    module = Perceptron(16, 24, 4, activation=nn.Tanh, optimizer=sgd(0.05))
    if faulty:
        first: Any = module.net[0]
        nn.init.normal_(first.weight, std=3.0)
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(60, 5))


def saturated_convolutional(seed: int, faulty: bool) -> Training:
    """Images from 0 to 255 before a tanh."""
    module = Convolutional(norm=False, activation=nn.Tanh, optimizer=adam(1e-3))
    images, labels = digits(seed)
    data = ((images - images.min()) * 80 if faulty else images, labels)
    return Training(module=module, train=loader(data, seed), **lasting(80, 10))


def saturated_autoencoder(seed: int, faulty: bool) -> Training:
    """Xavier's initialisation with a gain of 30."""
    module = Autoencoder(64, 24, 8, activation=nn.Sigmoid, optimizer=adam(2e-3))
    first: Any = module.encoder[0]
    nn.init.xavier_normal_(first.weight, gain=30.0 if faulty else 1.0)
    return Training(module=module, train=loader(digits(seed), seed), **lasting(60, 5))


# -- activation-scale --------------------------------------------------------------------------------------------------


def scale_perceptron(seed: int, faulty: bool) -> Training:
    """Standard normal weights in nine layers: each one makes the values four times larger."""
    module = Perceptron(16, *[32] * 8, 4, optimizer=sgd(1e-12 if faulty else 0.02))
    if faulty:
        initialised(module, nn.init.normal_, std=1.0)
    else:
        initialised(module, nn.init.kaiming_normal_, nonlinearity="relu")
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(40, 5))


def scale_convolutional(seed: int, faulty: bool) -> Training:
    """Weights of standard deviation 0.01 in seven convolutions: the values die out."""
    module = DeepConvolutional(optimizer=adam(1e-3))
    if faulty:
        initialised(module, nn.init.normal_, std=0.01)
    else:
        initialised(module, nn.init.xavier_normal_, gain=5 / 3)
    return Training(module=module, train=loader(digits(seed), seed), **lasting(40, 5))


class Plain(Learner):
    """A residual network that has no normalisation."""

    def __init__(self, gain: float, **options: Any) -> None:
        super().__init__(**options)
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(stack(16, 32, 16) for _ in range(6))
        self.head = nn.Linear(16, 1)
        with torch.no_grad():
            for part in self.blocks.parameters():
                part.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def scale_residual(seed: int, faulty: bool) -> Training:
    """Each of six blocks adds several times what it is given, for want of a normalisation."""
    module = Plain(5.0 if faulty else 0.7, loss=functional.mse_loss, optimizer=sgd(1e-13 if faulty else 0.01))
    return Training(module=module, train=loader(curve(seed), seed), **lasting(60, 10))


# -- activation-overflow -----------------------------------------------------------------------------------------------


def overflow_perceptron(seed: int, faulty: bool) -> Training:
    """Raw readings of ten thousands in float16; the tanh hides what goes into it."""
    x, y = blobs(seed)
    module = Perceptron(16, 24, 4, activation=nn.Tanh, optimizer=adam(1e-3))
    data = (x * 14000 if faulty else x, y)
    return Training(module=module, train=loader(data, seed), **lasting(60, 5, **half(2.0**6 if faulty else 2.0**12)))


def overflow_block(seed: int, faulty: bool) -> Training:
    """A few large weights in a feed-forward block, as in the trained T5; a LayerNorm hides them."""
    module = Block(LARGE if faulty else 1.0, optimizer=adamw(1e-3))
    return Training(
        module=module, train=loader(blobs(seed), seed), **lasting(80, 10, **half(2.0**4 if faulty else 2.0**12))
    )


class Counted(Learner):
    """Adds up the features of all positions of a sequence, and normalises the sum."""

    factor = 1.0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.embed = nn.Conv1d(2, 16, 3, padding=1)
        self.mix = nn.Conv1d(16, 16, 3, padding=1)
        nn.init.xavier_normal_(self.mix.weight, gain=2.0)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.mix(self.factor * functional.gelu(self.embed(x.transpose(1, 2))))
        return self.head(self.norm(functional.gelu(features).mean(2)))


def overflow_convolutional(seed: int, faulty: bool) -> Training:
    """A factor of 1e4 between two convolutions, left over from a change of units."""
    module = Counted(optimizer=adam(2e-3))
    module.factor = 1e4 if faulty else 1.0
    return Training(
        module=module, train=loader(waves(seed), seed), **lasting(60, 5, **half(2.0**4 if faulty else 2.0**12))
    )


# `within` is the number of records times the log period, and two periods.
CASES = [
    Case(code="dead-relu", model="MLP", build=dead_perceptron, layer="net.2", within=30),
    Case(code="dead-relu", model="CNN", build=dead_convolutional, layer="features.0", within=60),
    Case(code="dead-relu", model="autoencoder", build=dead_autoencoder, layer="encoder.0", within=30),
    Case(code="saturated-activation", model="MLP", build=saturated_perceptron, layer="net.0", within=25),
    Case(code="saturated-activation", model="CNN", build=saturated_convolutional, layer="features.0", within=50),
    Case(code="saturated-activation", model="autoencoder", build=saturated_autoencoder, layer="encoder.0", within=25),
    Case(code="activation-scale", model="MLP", build=scale_perceptron, layer="net.16", within=10),
    Case(code="activation-scale", model="CNN", build=scale_convolutional, layer="head", within=10),
    Case(code="activation-scale", model="residual MLP", build=scale_residual, layer="head", within=20),
    Case(code="activation-overflow", model="MLP", build=overflow_perceptron, layer="net.0", within=25),
    Case(
        code="activation-overflow",
        model="feed-forward block",
        build=overflow_block,
        layer="feed_forward.wo",
        within=50,
    ),
    Case(code="activation-overflow", model="CNN", build=overflow_convolutional, layer="mix", within=25),
]
