"""Learning rates that jump, start again, are zero, or need a warm-up that they do not get."""

# ruff: noqa: FBT001 - a builder is called as build(seed, faulty)

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler

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
from tests.rules.planted.sets import blobs, curve, digits, loader, trend, waves, words

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer


def by_step(factor: Callable[[int], float]) -> Callable[[Optimizer], lr_scheduler.LRScheduler]:
    """The learning rate times a factor, by the number of the step or epoch."""
    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, factor)


def milestones(gamma: float, *steps: int) -> Callable[[Optimizer], lr_scheduler.LRScheduler]:
    return lambda optimizer: lr_scheduler.MultiStepLR(optimizer, list(steps), gamma)


# -- learning-rate-jump ------------------------------------------------------------------------------------------------


def jump_perceptron(seed: int, faulty: bool) -> Training:
    """MultiStepLR with gamma=10 for gamma=0.1."""
    schedule = milestones(10.0 if faulty else 0.1, 60)
    module = Perceptron(16, 24, 4, optimizer=sgd(0.02), schedule=schedule)
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(120, 10))


class Unfreezing(Convolutional):
    """Sets the learning rate by hand at the start of the third epoch."""

    later = 1e-4

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 2:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = self.later


def jump_convolutional(seed: int, faulty: bool) -> Training:
    """The second learning rate was to be 5e-4 and is 5e-2."""
    module = Unfreezing(optimizer=adam(1e-3))
    module.later = 5e-2 if faulty else 5e-4
    return Training(module=module, train=loader(digits(seed), seed), **lasting(110, 5))


def jump_recurrent(seed: int, faulty: bool) -> Training:
    """An exponential warm-up over the first steps that is stepped once an epoch."""
    first = (lambda epoch: min(1.0, 1e-3 * 12.0**epoch)) if faulty else (lambda step: min(1.0, (step + 1) / 20))
    interval = "epoch" if faulty else "step"
    module = Recurrent(optimizer=adamw(3e-3), schedule=by_step(first), interval=interval)
    return Training(module=module, train=loader(waves(seed), seed), **lasting(120, 10))


# -- learning-rate-restart ---------------------------------------------------------------------------------------------


def restart_perceptron(seed: int, faulty: bool) -> Training:
    """Cosine annealing that starts again every 50 steps."""

    def schedule(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
        if faulty:
            return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=50)
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=120)

    module = Perceptron(16, 24, 4, optimizer=sgd(0.1), schedule=schedule)
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(120, 10))


def restart_autoencoder(seed: int, faulty: bool) -> Training:
    """The schedule goes by the index of the batch, which begins at zero in each epoch of 32 steps."""
    module = Autoencoder(
        64, 24, 8, optimizer=adam(2e-3), schedule=by_step(lambda step: 0.95 ** (step % 32 if faulty else step / 2))
    )
    return Training(module=module, train=loader(digits(seed), seed), **lasting(80, 5))


class Rescheduled(Transformer):
    """Makes its schedule anew in the third epoch."""

    again = False

    def on_train_epoch_start(self) -> None:
        optimizer = self.trainer.optimizers[0]
        if self.again and self.current_epoch == 3:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"]


def restart_transformer(seed: int, faulty: bool) -> Training:
    """Epochs of 16 steps; at step 48 the learning rate is set back to where it began."""
    module = Rescheduled(optimizer=adamw(2e-3), schedule=milestones(0.2, 20, 40))
    module.again = faulty
    return Training(module=module, train=loader(words(seed), seed), **lasting(90, 5))


# -- zero-learning-rate ------------------------------------------------------------------------------------------------


def zero_perceptron(seed: int, faulty: bool) -> Training:
    """A linear decay that ends far too early, since the number of steps was estimated wrongly."""
    end = 60 if faulty else 300
    module = Perceptron(16, 24, 4, optimizer=sgd(0.1), schedule=by_step(lambda step: max(0.0, 1 - step / end)))
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(130, 10))


def zero_convolutional(seed: int, faulty: bool) -> Training:
    """An integer division: 1 // 1000."""
    module = Convolutional(optimizer=adam(1 // 1000 if faulty else 1 / 1000))
    return Training(module=module, train=loader(digits(seed), seed), **lasting(70, 5))


def zero_transformer(seed: int, faulty: bool) -> Training:
    """A warm-up with an integer division, which is zero until it is one."""
    warmup = (lambda step: min(1, step // 50)) if faulty else (lambda step: min(1.0, (step + 1) / 50))
    module = Transformer(optimizer=adamw(1e-3), schedule=by_step(warmup))
    return Training(module=module, train=loader(words(seed), seed), **lasting(100, 5))


# -- missing-warmup ----------------------------------------------------------------------------------------------------


def gentle(step: int) -> float:
    return min(1.0, (step + 1) / 40)


def warmup_perceptron(seed: int, faulty: bool) -> Training:
    """Adam begins with steps of the full learning rate, which is a large one."""
    module = Perceptron(
        8,
        64,
        64,
        1,
        activation=nn.Tanh,
        loss=functional.mse_loss,
        optimizer=adam(0.3 if faulty else 5e-3),
        schedule=None if faulty else by_step(gentle),
    )
    return Training(module=module, train=loader(curve(seed), seed), **lasting(220, 5))


def warmup_residual(seed: int, faulty: bool) -> Training:
    """The same in a residual network."""
    module = Residual(
        8,
        1,
        width=32,
        depth=4,
        loss=functional.mse_loss,
        optimizer=adamw(0.08 if faulty else 2e-3),
        schedule=None if faulty else by_step(gentle),
    )
    return Training(module=module, train=loader(curve(seed), seed), **lasting(220, 5))


def warmup_recurrent(seed: int, faulty: bool) -> Training:
    """A recurrent network, whose output layer overshoots first."""
    module = Recurrent(
        1,
        cell=nn.LSTM,
        hidden=32,
        loss=functional.mse_loss,
        optimizer=adam(0.4 if faulty else 5e-3),
        schedule=None if faulty else by_step(gentle),
    )
    return Training(module=module, train=loader(trend(seed), seed), **lasting(220, 5))


# `within`: the step of the change, or the steps that are asked for, and two log periods.
CASES = [
    Case(code="learning-rate-jump", model="MLP", build=jump_perceptron, layer=None, within=80, fault_step=60),
    Case(code="learning-rate-jump", model="CNN", build=jump_convolutional, layer=None, within=74, fault_step=64),
    Case(code="learning-rate-jump", model="GRU", build=jump_recurrent, layer=None, within=52, fault_step=32),
    Case(code="learning-rate-restart", model="MLP", build=restart_perceptron, layer=None, within=70, fault_step=50),
    Case(
        code="learning-rate-restart",
        model="autoencoder",
        build=restart_autoencoder,
        layer=None,
        within=42,
        fault_step=32,
    ),
    Case(
        code="learning-rate-restart",
        model="transformer",
        build=restart_transformer,
        layer=None,
        within=58,
        fault_step=48,
    ),
    Case(code="zero-learning-rate", model="MLP", build=zero_perceptron, layer=None, within=100, fault_step=60),
    Case(code="zero-learning-rate", model="CNN", build=zero_convolutional, layer=None, within=30),
    Case(code="zero-learning-rate", model="transformer", build=zero_transformer, layer=None, within=30),
    Case(code="missing-warmup", model="MLP", build=warmup_perceptron, layer=None, within=210),
    Case(code="missing-warmup", model="residual MLP", build=warmup_residual, layer=None, within=210),
    Case(code="missing-warmup", model="LSTM", build=warmup_recurrent, layer=None, within=210),
]
