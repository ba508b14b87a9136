"""Losses that jump, diverge, stand still, are negative or constant, and validation losses that go their own way."""

# ruff: noqa: FBT001 - a builder is called as build(seed, faulty)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

from tests.rules.planted.case import Case, Training, lasting
from tests.rules.planted.models import (
    Autoencoder,
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
from tests.rules.planted.sets import (
    blobs,
    curve,
    cut,
    digits,
    generator,
    in_order,
    loader,
    ratings,
    raw_digits,
    trend,
    waves,
    words,
)

# -- loss-spike --------------------------------------------------------------------------------------------------------


def spike_perceptron(seed: int, faulty: bool) -> Training:
    """One batch has its targets in another unit."""
    batches = cut(curve(seed), 150, seed)
    if faulty:
        batches[103] = (batches[103][0], batches[103][1] * 30)
    module = Perceptron(8, 32, 1, loss=functional.mse_loss, optimizer=adam(1e-2))
    return Training(module=module, train=in_order(batches), **lasting(150, 10))


def spike_convolutional(seed: int, faulty: bool) -> Training:
    """One batch of images is not normalised."""
    batches = cut(digits(seed), 140, seed)
    if faulty:
        batches[97] = (batches[97][0] * 60 + 80, batches[97][1])
    module = Convolutional(norm=False, optimizer=adam(5e-3))
    return Training(module=module, train=in_order(batches), **lasting(140, 5))


def spike_transformer(seed: int, faulty: bool) -> Training:
    """The labels of one batch are off by one."""
    batches = cut(words(seed, samples=1024), 240, seed)
    if faulty:
        batches[211] = (batches[211][0], (batches[211][1] + 1) % 3)
    module = Transformer(optimizer=adamw(5e-3))
    return Training(module=module, train=in_order(batches), **lasting(240, 5))


# -- loss-divergence ---------------------------------------------------------------------------------------------------


def divergence_perceptron(seed: int, faulty: bool) -> Training:
    """A learning rate of 0.3 with momentum 0.9, where 0.003 was meant."""
    module = Perceptron(
        8,
        32,
        1,
        activation=nn.Tanh,
        loss=functional.mse_loss,
        optimizer=sgd(0.3 if faulty else 0.003, momentum=0.9),
    )
    return Training(module=module, train=loader(curve(seed), seed), **lasting(120, 10))


class Contrary(Convolutional):
    """The sign of the loss is given to the optimizer, not to the function."""

    maximise = False

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02, maximize=self.maximise)


def divergence_convolutional(seed: int, faulty: bool) -> Training:
    """``maximize=True`` was left over from another objective."""
    module = Contrary(optimizer=sgd(0.02))
    module.maximise = faulty
    return Training(module=module, train=loader(digits(seed), seed), **lasting(120, 5))


def divergence_recurrent(seed: int, faulty: bool) -> Training:
    """After 110 good steps a milestone multiplies the learning rate by 300 instead of 0.3: all is forgotten."""

    def schedule(optimizer: Any) -> Any:
        return lr_scheduler.MultiStepLR(optimizer, [110], 300 if faulty else 0.3)

    module = Recurrent(1, loss=functional.mse_loss, optimizer=adam(1e-2), schedule=schedule)
    return Training(module=module, train=loader(trend(seed), seed), **lasting(180, 5))


# -- loss-plateau ------------------------------------------------------------------------------------------------------


def plateau_perceptron(seed: int, faulty: bool) -> Training:
    """The learning rate is divided by ten every ten steps; every ten epochs was meant. One batch is the data set."""

    def schedule(optimizer: Any) -> Any:
        return lr_scheduler.StepLR(optimizer, 10, 0.1 if faulty else 1.0)

    module = Perceptron(8, 16, 1, loss=functional.mse_loss, optimizer=sgd(0.02), schedule=schedule)
    batches = [curve(seed, samples=64)] * 1120
    return Training(module=module, train=in_order(batches), **lasting(1120, 10))


def plateau_recommender(seed: int, faulty: bool) -> Training:
    """An exponential decay per step that was meant per epoch."""

    def schedule(optimizer: Any) -> Any:
        return lr_scheduler.ExponentialLR(optimizer, 0.9 if faulty else 0.9999)

    module = Recommender(optimizer=adam(2e-3), schedule=schedule)
    batches = [ratings(seed, samples=256)] * 1220
    return Training(module=module, train=in_order(batches), **lasting(1220, 10))


def plateau_autoencoder(seed: int, faulty: bool) -> Training:
    """Gradients are clipped at 1e-7, so that plain gradient descent does not move."""
    module = Autoencoder(16, 6, activation=nn.Tanh, optimizer=sgd(0.02))
    batches = [blobs(seed, samples=64)] * 1060
    limit = {"clip": 1e-7 if faulty else 1.0}
    return Training(module=module, train=in_order(batches), **lasting(1060, 10, monitor=limit))


# -- negative-loss -----------------------------------------------------------------------------------------------------


class Likelihood(Perceptron):
    """A negative log-likelihood of what ``logarithms`` makes of the outputs."""

    logarithms: Any = functional.log_softmax

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return functional.nll_loss(type(self).logarithms(self(x), -1), y)


class Probability(Likelihood):
    """Forgets the logarithm."""

    logarithms = functional.softmax


def negative_perceptron(seed: int, faulty: bool) -> Training:
    """nll_loss of probabilities instead of their logarithms."""
    module = (Probability if faulty else Likelihood)(16, 24, 4, optimizer=sgd(0.1))
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(60, 5))


def negative_autoencoder(seed: int, faulty: bool) -> Training:
    """Binary cross entropy of images that have been standardised."""
    module = Autoencoder(64, 16, loss=functional.binary_cross_entropy_with_logits, optimizer=adam(3e-3))
    data = digits(seed) if faulty else raw_digits(seed)
    return Training(module=module, train=loader(data, seed), **lasting(100, 5))


class Student(Recurrent):
    """Learns what a teacher thinks of a sequence."""

    soften = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.teacher = nn.Linear(20, 3).requires_grad_(requires_grad=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        with torch.no_grad():
            thought = 3 * self.teacher(x.flatten(1))
        return functional.cross_entropy(self(x), thought.softmax(-1) if self.soften else thought)


def negative_recurrent(seed: int, faulty: bool) -> Training:
    """The teacher's logits are taken for probabilities."""
    module = Student(optimizer=adam(5e-3))
    module.soften = not faulty
    return Training(module=module, train=loader(waves(seed), seed), **lasting(100, 10))


# -- constant-loss -----------------------------------------------------------------------------------------------------


class Triplets(Learner):
    """Learns vectors in which two samples of one class are closer than two of different classes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.embed = nn.Sequential(*stack(16, 24, 8), nn.ReLU())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        anchor, near, far = (self.embed(x[y == label]) for label in (0, 0, 1))
        count = min(len(anchor), len(far))
        return functional.triplet_margin_loss(anchor[:count], near.roll(1, 0)[:count], far[:count])


def constant_triplets(seed: int, faulty: bool) -> Training:
    """All vectors have collapsed into one point: the loss is the margin."""
    module = Triplets(optimizer=sgd(0.05))
    last: Any = module.embed[2]
    nn.init.constant_(last.bias, -30.0 if faulty else 0.5)
    return Training(module=module, train=loader(blobs(seed, classes=2, spread=3.0), seed), **lasting(60, 5))


class OneClass(Recurrent):
    """Tells whether a sequence is of the first kind, with one output."""

    softmax = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        if self.softmax:
            return functional.cross_entropy(logits, torch.zeros_like(y))
        return functional.binary_cross_entropy_with_logits(logits.squeeze(1), (y == 0).float())


def constant_recurrent(seed: int, faulty: bool) -> Training:
    """A softmax over one class, which is always 1."""
    module = OneClass(1, optimizer=adam(3e-3))
    module.softmax = faulty
    return Training(module=module, train=loader(waves(seed), seed), **lasting(60, 10))


class Bounded(Convolutional):
    """Limits its loss, against outliers."""

    most = 1e9

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx).clamp(max=self.most)


def constant_convolutional(seed: int, faulty: bool) -> Training:
    """The limit is below the loss of an untrained network: there is no gradient."""
    module = Bounded(norm=False, optimizer=adamw(1e-3))
    module.most = 1.0 if faulty else 100.0
    return Training(module=module, train=loader(digits(seed), seed), **lasting(60, 5))


# -- validation-divergence ---------------------------------------------------------------------------------------------

OFTEN: dict[str, Any] = {"val_check_interval": 10, "check_val_every_n_epoch": None}


def mislabelled(data: tuple[Tensor, Tensor], seed: int, classes: int) -> tuple[Tensor, Tensor]:
    """Give a third of the samples a random label."""
    rng = generator(seed)
    wrong = torch.rand(len(data[1]), generator=rng) < 1 / 3
    return data[0], torch.where(wrong, torch.randint(classes, data[1].shape, generator=rng), data[1])


def split(data: tuple[Tensor, Tensor], samples: int, seed: int, batch: int = 32) -> dict[str, Any]:
    """Train on the first samples, validate on the last 256."""
    first, last = tuple(part[:samples] for part in data), tuple(part[-256:] for part in data)
    return {"train": loader(first, seed, batch), "validation": in_order([last])}


def overfitted_perceptron(seed: int, faulty: bool) -> Training:
    """64 samples, many of them mislabelled, for a wide network."""
    data = mislabelled(blobs(seed, spread=2.0, samples=2304), seed, 4)
    module = Perceptron(16, 96, 4, optimizer=adam(1e-2 if faulty else 1e-3))
    return Training(module=module, **split(data, 64 if faulty else 2048, seed), **lasting(240, 10, **OFTEN))


def overfitted_convolutional(seed: int, faulty: bool) -> Training:
    """64 images, many of them mislabelled."""
    data = digits(seed, 1700)
    first = mislabelled((data[0][:1400], data[1][:1400]), seed, 10) if faulty else data
    both = torch.cat([first[0][:1400], data[0][1400:]]), torch.cat([first[1][:1400], data[1][1400:]])
    module = Convolutional(norm=False, optimizer=adam(1e-2 if faulty else 1e-3))
    return Training(module=module, **split(both, 64 if faulty else 1400, seed), **lasting(240, 10, **OFTEN))


def overfitted_transformer(seed: int, faulty: bool) -> Training:
    """64 sentences, many of them mislabelled."""
    data = mislabelled(words(seed, samples=2304), seed, 3)
    module = Transformer(optimizer=adamw(5e-3 if faulty else 1e-3))
    return Training(module=module, **split(data, 64 if faulty else 2048, seed), **lasting(240, 10, **OFTEN))


# `within`: the step of the fault, or the steps that are asked for, and two log periods. The plateaus begin when the
# learning rate is used up: at about step 40 (perceptron) and 130 (recommender). Of the validation losses, the third one
# above 1.3 times the best comes at step 120 at the latest.
CASES = [
    Case(code="loss-spike", model="MLP", build=spike_perceptron, layer=None, within=123, fault_step=103),
    Case(code="loss-spike", model="CNN", build=spike_convolutional, layer=None, within=107, fault_step=97),
    Case(code="loss-spike", model="transformer", build=spike_transformer, layer=None, within=221, fault_step=211),
    Case(code="loss-divergence", model="MLP", build=divergence_perceptron, layer=None, within=80),
    Case(code="loss-divergence", model="CNN", build=divergence_convolutional, layer=None, within=60),
    Case(code="loss-divergence", model="GRU", build=divergence_recurrent, layer=None, within=140, fault_step=110),
    Case(code="loss-plateau", model="MLP", build=plateau_perceptron, layer=None, within=1080),
    Case(code="loss-plateau", model="recommender", build=plateau_recommender, layer=None, within=1180),
    Case(code="loss-plateau", model="autoencoder", build=plateau_autoencoder, layer=None, within=1030),
    Case(code="negative-loss", model="MLP", build=negative_perceptron, layer=None, within=15),
    Case(code="negative-loss", model="autoencoder", build=negative_autoencoder, layer=None, within=60),
    Case(code="negative-loss", model="GRU", build=negative_recurrent, layer=None, within=60),
    Case(code="constant-loss", model="triplet MLP", build=constant_triplets, layer=None, within=30),
    Case(code="constant-loss", model="GRU", build=constant_recurrent, layer=None, within=40),
    Case(code="constant-loss", model="CNN", build=constant_convolutional, layer=None, within=30),
    Case(code="validation-divergence", model="MLP", build=overfitted_perceptron, layer=None, within=150),
    Case(code="validation-divergence", model="CNN", build=overfitted_convolutional, layer=None, within=150),
    Case(code="validation-divergence", model="transformer", build=overfitted_transformer, layer=None, within=150),
]
