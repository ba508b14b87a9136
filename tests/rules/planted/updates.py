"""Updates that are too large, too small or lost, Adam's epsilon, weights that grow and weights that stand still."""

# ruff: noqa: FBT001 - a builder is called as build(seed, faulty)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.rules.planted.case import ANY, Case, Training, lasting
from tests.rules.planted.models import (
    Convolutional,
    Learner,
    Perceptron,
    Recommender,
    Recurrent,
    Transformer,
    adam,
    adamw,
    sgd,
    stack,
)
from tests.rules.planted.sets import blobs, curve, digits, loader, ratings, waves, words

# -- large-update ------------------------------------------------------------------------------------------------------


def large_perceptron(seed: int, faulty: bool) -> Training:
    """A learning rate of 2 with weight decay 0.1, where 0.02 was meant: every step replaces a fifth of the weights."""
    module = Perceptron(16, 24, 4, activation=nn.Tanh, optimizer=sgd(2.0 if faulty else 0.02, weight_decay=0.1))
    return Training(module=module, train=loader(blobs(seed, spread=1.5), seed), **lasting(120, 10))


class Critic(Learner):
    """The critic of a Wasserstein GAN between two clouds, whose weights are cut to a small range after each step."""

    limit = 0.1

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.critic = stack(16, 24, 24, 1)
        self.cut()

    def cut(self) -> None:
        with torch.no_grad():
            for parameter in self.critic.parameters():
                parameter.clamp_(-self.limit, self.limit)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        value = self.critic(x).squeeze(1)
        return value[y == 0].mean() - value[y == 1].mean()

    def on_train_batch_end(self, *args: Any) -> None:
        self.cut()


def large_critic(seed: int, faulty: bool) -> Training:
    """Steps as long as the range of the weights."""
    module = Critic(optimizer=adam(0.1 if faulty else 1e-4))
    return Training(module=module, train=loader(blobs(seed, classes=2), seed), **lasting(120, 10))


def large_recommender(seed: int, faulty: bool) -> Training:
    """Vectors of a length of one at most, and Adam with a learning rate of 0.3."""
    module = Recommender(limit=1.0, optimizer=adam(0.3 if faulty else 1e-2))
    return Training(module=module, train=loader(ratings(seed), seed), **lasting(100, 5))


# -- small-update ------------------------------------------------------------------------------------------------------


def small_perceptron(seed: int, faulty: bool) -> Training:
    """A learning rate of 1e-8, from a configuration in which it was divided twice."""
    module = Perceptron(16, 32, 4, optimizer=sgd(1e-8 if faulty else 0.1))
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(120, 10))


def small_transformer(seed: int, faulty: bool) -> Training:
    """The function of LambdaLR returns the learning rate, and not the factor that it is multiplied by."""
    rate = 1e-3 if not faulty else 3e-5

    def schedule(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _step: rate if faulty else 1.0)

    module = Transformer(optimizer=adamw(rate), schedule=schedule)
    return Training(module=module, train=loader(words(seed), seed), **lasting(90, 5))


class TwoRates(Recurrent):
    """Trains its recurrent layer with a learning rate of its own."""

    rate = 0.05

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [
            {"params": self.rnn.parameters(), "lr": self.rate},
            {"params": self.head.parameters()},
        ]
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9)


def small_recurrent(seed: int, faulty: bool) -> Training:
    """The learning rate of one group is 1e-8."""
    module = TwoRates(optimizer=sgd(0.05))
    module.rate = 1e-8 if faulty else 0.05
    return Training(module=module, train=loader(waves(seed), seed), **lasting(90, 5))


# -- lost-update -------------------------------------------------------------------------------------------------------


def lost_perceptron(seed: int, faulty: bool) -> Training:
    """Weights in bfloat16, and steps that are smaller than its resolution."""
    module = Perceptron(16, 32, 4, optimizer=adamw(2e-5 if faulty else 2e-3))
    precision = "bf16-true" if faulty else "bf16-mixed"
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(60, 5, precision=precision))


def lost_transformer(seed: int, faulty: bool) -> Training:
    """The same in a transformer with plain SGD."""
    module = Transformer(optimizer=sgd(1e-3 if faulty else 0.05))
    precision = "bf16-true" if faulty else "32-true"
    return Training(module=module, train=loader(words(seed), seed), **lasting(80, 10, precision=precision))


class HalfBackbone(Convolutional):
    """Keeps the convolutions in bfloat16 to save memory."""

    def forward(self, images: Tensor) -> Tensor:
        kind = next(self.features.parameters()).dtype
        return self.head(self.features(images.to(kind)).flatten(1).float())


def lost_convolutional(seed: int, faulty: bool) -> Training:
    """Only the convolutions are in bfloat16."""
    module = HalfBackbone(norm=False, optimizer=sgd(2e-4 if faulty else 0.02, momentum=0.9))
    if faulty:
        module.features.bfloat16()
    return Training(module=module, train=loader(digits(seed), seed), **lasting(60, 5))


# -- adam-epsilon ------------------------------------------------------------------------------------------------------


def epsilon_perceptron(seed: int, faulty: bool) -> Training:
    """Capacitances in farad: inputs of 1e-10, whose gradients are far below eps."""
    x, y = blobs(seed)
    module = Perceptron(16, 24, 4, optimizer=adam(2e-3))
    return Training(module=module, train=loader((x * 1e-10 if faulty else x, y), seed), **lasting(80, 5))


def epsilon_convolutional(seed: int, faulty: bool) -> Training:
    """eps=1, copied from the description of another network."""
    module = Convolutional(optimizer=adam(1e-3, eps=1.0 if faulty else 1e-8))
    return Training(module=module, train=loader(digits(seed), seed), **lasting(80, 5))


class Averaged(Recurrent):
    """Divides its loss by a number of samples."""

    count = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) / self.count


def epsilon_recurrent(seed: int, faulty: bool) -> Training:
    """The loss, already a mean, is divided by the size of the whole data set again, and by its length."""
    module = Averaged(optimizer=adamw(3e-3))
    module.count = 1e9 if faulty else 1.0
    return Training(module=module, train=loader(waves(seed), seed), **lasting(100, 10))


# -- weight-growth -----------------------------------------------------------------------------------------------------


class Decayed(Convolutional):
    """A penalty on the first filters, of sign and size ``penalty``."""

    penalty = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        filters: Any = self.features[0]
        return super().training_step(batch, batch_idx) + self.penalty * filters.weight.square().sum()


def growth_convolutional(seed: int, faulty: bool) -> Training:
    """The penalty has the wrong sign. A BatchNorm follows, so that the loss does not show it."""
    module = Decayed(optimizer=sgd(0.05))
    module.penalty = -0.5 if faulty else 0.005
    return Training(module=module, train=loader(digits(seed), seed), **lasting(140, 5))


def growth_critic(seed: int, faulty: bool) -> Training:
    """A Wasserstein critic whose weights nobody keeps in bounds."""
    module = Critic(optimizer=adam(0.05 if faulty else 1e-4))
    module.limit = 1e9 if faulty else 0.1
    return Training(module=module, train=loader(blobs(seed, classes=2), seed), **lasting(200, 10))


class Sharpened(Transformer):
    """Makes its embedding longer after each step, by ``factor``."""

    factor = 1.0

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            self.embed.weight.mul_(self.factor)


def growth_transformer(seed: int, faulty: bool) -> Training:
    """A factor that was meant to be applied once is applied after every step."""
    module = Sharpened(optimizer=adam(1e-3))
    module.factor = 1.05 if faulty else 1.0
    return Training(module=module, train=loader(words(seed), seed), **lasting(140, 10))


# -- frozen-weights ----------------------------------------------------------------------------------------------------


class Partial(Transformer):
    """Gives some of its parts to the optimizer."""

    parts: tuple[str, ...] = ()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for name in self.parts for p in self.get_submodule(name).parameters()], lr=1e-3)


def frozen_transformer(seed: int, faulty: bool) -> Training:
    """The output layer is not among the parameters of the optimizer."""
    module = Partial(optimizer=adamw(1e-3))
    module.parts = ("embed", "positions", "encoder", *(() if faulty else ("head",)))
    return Training(module=module, train=loader(words(seed), seed), **lasting(80, 5))


class TwoParts(Convolutional):
    """Trains its convolutions more slowly than its head."""

    rate = 1e-4

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [
            {"params": self.head.parameters()},
            {"params": self.features.parameters(), "lr": self.rate},
        ]
        return torch.optim.AdamW(groups, lr=1e-3)


def frozen_convolutional(seed: int, faulty: bool) -> Training:
    """The learning rate of the convolutions was left at 0."""
    module = TwoParts(norm=False, optimizer=adamw(1e-3))
    module.rate = 0.0 if faulty else 1e-3
    return Training(module=module, train=loader(digits(seed), seed), **lasting(80, 10))


class Sine(nn.Module):
    """A layer of a sine network."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(narrow, wide) / wide**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(functional.linear(x, self.weight))


class Implicit(Learner):
    """A sine network for regression, with a group of parameters for its first layer."""

    rate = 0.02

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first = Sine(8, 24)
        self.second = Sine(24, 24)
        self.out = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second(self.first(x)))

    def configure_optimizers(self) -> Any:
        first: dict[str, Any] = {"params": self.first.parameters(), "lr": self.rate}
        others: dict[str, Any] = {"params": [*self.second.parameters(), *self.out.parameters()]}
        return torch.optim.SGD([first, others], lr=0.02)


def frozen_implicit(seed: int, faulty: bool) -> Training:
    """The learning rate of the first layer is 1e-20: no weight can change by so little."""
    module = Implicit(loss=functional.mse_loss, optimizer=sgd(0.02))
    module.rate = 1e-20 if faulty else 0.02
    return Training(module=module, train=loader(curve(seed), seed), **lasting(80, 10))


# `within` is the definition in steps (records times the log period, or the steps that are asked for) and two periods.
CASES = [
    Case(code="large-update", model="MLP", build=large_perceptron, layer="net.0", also=("net.2",), within=80),
    Case(
        code="large-update",
        model="critic",
        build=large_critic,
        layer="critic.0",
        also=("critic.2", "critic.4"),
        within=80,
    ),
    Case(code="large-update", model="recommender", build=large_recommender, layer="items", also=("users",), within=65),
    Case(code="small-update", model="MLP", build=small_perceptron, layer="net.0", also=("net.2",), within=80),
    Case(code="small-update", model="transformer", build=small_transformer, layer=ANY, within=65),
    Case(code="small-update", model="GRU", build=small_recurrent, layer="rnn", within=65),
    Case(code="lost-update", model="MLP", build=lost_perceptron, layer="net.0", also=("net.2",), within=25),
    Case(code="lost-update", model="transformer", build=lost_transformer, layer=ANY, within=50),
    Case(
        code="lost-update",
        model="CNN",
        build=lost_convolutional,
        layer="features.0",
        also=("features.3",),
        within=30,
    ),
    Case(code="adam-epsilon", model="MLP", build=epsilon_perceptron, layer="net.0", within=40),
    Case(code="adam-epsilon", model="CNN", build=epsilon_convolutional, layer=ANY, within=40),
    Case(code="adam-epsilon", model="GRU", build=epsilon_recurrent, layer="rnn", also=("head",), within=75),
    Case(code="weight-growth", model="CNN", build=growth_convolutional, layer="features.0", within=100),
    Case(code="weight-growth", model="critic", build=growth_critic, layer=ANY, within=140),
    Case(code="weight-growth", model="transformer", build=growth_transformer, layer="embed", within=80),
    Case(code="frozen-weights", model="transformer", build=frozen_transformer, layer="head", within=40),
    Case(
        code="frozen-weights",
        model="CNN",
        build=frozen_convolutional,
        layer="features.0",
        also=("features.3",),
        within=60,
    ),
    Case(code="frozen-weights", model="sine network", build=frozen_implicit, layer="first", within=60),
]
