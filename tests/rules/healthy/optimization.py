"""Ways to train: schedules of the learning rate, optimizers, precisions and accumulation, on the digits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LinearLR, MultiStepLR, ReduceLROnPlateau

from tests.rules.healthy.case import Case, Training, above
from tests.rules.healthy.data import digits, flat, standard_digits, table
from tests.rules.healthy.schedules import one_cycle, warmup_cosine
from tests.rules.healthy.supervised import Supervised, supervised
from tests.rules.healthy.vision import group_normed, normed_cnn, plain_cnn

if TYPE_CHECKING:
    from collections.abc import Callable


class Lion(Optimizer):
    """The sign of an interpolation between momentum and gradient (Chen et al., 2023)."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.99), decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                    parameter.mul_(1 - group["lr"] * group["decay"])
                    parameter.sub_(average.lerp(parameter.grad, 1 - first).sign(), alpha=group["lr"])
                    average.lerp_(parameter.grad, 1 - second)
        return loss


def mlp(
    inputs: int = 64, width: int = 128, outputs: int = 10, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(inputs, width), activation()),
        *(nn.Linear(width, width), activation(), nn.Linear(width, outputs)),
    )


def sgd() -> Training:
    data = standard_digits()
    return supervised(Supervised(mlp(), data.test, partial(SGD, lr=0.1)), data, 2500, log=20, validate=True)


def step_decay() -> Training:
    data = standard_digits()
    schedule = partial(MultiStepLR, milestones=[600, 900], gamma=0.1)
    module = Supervised(normed_cnn(), data.test, partial(SGD, lr=0.05, momentum=0.9), schedule=schedule)
    return supervised(module, data, 1200, log=20)


def plateau() -> Training:
    data = standard_digits()

    def schedule(optimizer: Any) -> dict[str, Any]:
        scheduler = ReduceLROnPlateau(optimizer, patience=5, factor=0.5, min_lr=1e-3)
        return {"scheduler": scheduler, "monitor": "val_loss"}

    module = Supervised(plain_cnn(), data.test, partial(SGD, lr=0.05, momentum=0.9), schedule=schedule)
    return supervised(module, data, 1400, validate=True)


def warm_restarts() -> Training:
    data = standard_digits()
    schedule = partial(CosineAnnealingWarmRestarts, T_0=200, T_mult=2, eta_min=1e-5)
    module = Supervised(group_normed(), data.test, partial(AdamW, lr=3e-3), schedule=schedule)
    return supervised(module, data, 1400, log=10)


def linear_decay() -> Training:
    data, steps = standard_digits(), 2500
    schedule = partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=steps)
    module = Supervised(mlp(activation=nn.GELU), data.test, partial(AdamW, lr=2e-3), schedule=schedule)
    return supervised(module, data, steps, log=10)


def adam_one_cycle() -> Training:
    data, steps = standard_digits(), 1000
    module = Supervised(normed_cnn(), data.test, partial(Adam, lr=1e-4), schedule=one_cycle(steps, 1e-2))
    return supervised(module, data, steps, log=10, validate=True)


def rmsprop() -> Training:
    data = standard_digits()
    return supervised(Supervised(plain_cnn(), data.test, partial(RMSprop, lr=5e-4)), data, 1200, log=20)


def lion() -> Training:
    data, steps = standard_digits(), 1200
    module = Supervised(group_normed(), data.test, partial(Lion, lr=3e-4), schedule=warmup_cosine(steps))
    return supervised(module, data, steps, log=20)


def accumulate() -> Training:
    data = standard_digits()
    module = Supervised(group_normed(), data.test, partial(AdamW, lr=2e-3))
    return supervised(module, data, 1000, batch=16, log=20, accumulate_grad_batches=4)


def half_with_scaler() -> Training:
    data = standard_digits()
    module = Supervised(mlp(width=96), data.test, partial(AdamW, lr=1e-3))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**28, growth_interval=200)
    return supervised(module, data, 2000, log=20, plugins=[MixedPrecision("16-mixed", device="cpu", scaler=scaler)])


def half_convolution() -> Training:
    data = standard_digits()
    module = Supervised(normed_cnn(), data.test, partial(SGD, lr=0.05, momentum=0.9))
    scaler = torch.amp.GradScaler("cpu")
    return supervised(module, data, 1000, log=10, plugins=[MixedPrecision("16-mixed", device="cpu", scaler=scaler)])


def bfloat() -> Training:
    data = standard_digits()
    module = Supervised(group_normed(), data.test, partial(AdamW, lr=2e-3))
    return supervised(module, data, 1000, validate=True, precision="bf16-mixed")


def double() -> Training:
    data = table("breast_cancer")
    module = Supervised(mlp(30, 32, 2, nn.Tanh), data.test, partial(Adam, lr=1e-3))
    return supervised(module, data, 1200, batch=32, log=20, validate=True, precision="64-true")


def logistic_regression() -> Training:
    data = flat(digits())
    module = Supervised(nn.Linear(64, 10), data.test, partial(SGD, lr=0.5))
    return supervised(module, data, 4000, log=50, validate=True)


def clipped_by_trainer() -> Training:
    data = standard_digits()
    module = Supervised(plain_cnn(), data.test, partial(SGD, lr=0.05, momentum=0.9))
    return supervised(module, data, 1200, log=20, gradient_clip_val=1.0)


CASES = [
    Case(name="sgd", about="plain SGD, constant rate", make=sgd, learned=above("accuracy", 0.93)),
    Case(name="step-decay", about="a tenth at 600 and 900", make=step_decay, learned=above("accuracy", 0.95)),
    Case(name="plateau", about="ReduceLROnPlateau", make=plateau, learned=above("accuracy", 0.95)),
    Case(name="warm-restarts", about="cosines of 200, 400, 800", make=warm_restarts, learned=above("accuracy", 0.95)),
    Case(name="linear-decay", about="to 0 at the last step", make=linear_decay, learned=above("accuracy", 0.95)),
    Case(name="adam-one-cycle", about="Adam up to 0.01", make=adam_one_cycle, learned=above("accuracy", 0.95)),
    Case(name="rmsprop", about="RMSprop", make=rmsprop, learned=above("accuracy", 0.95)),
    Case(name="lion", about="an optimizer of one's own, by sign", make=lion, learned=above("accuracy", 0.95)),
    Case(name="accumulate", about="4 micro-batches of 16", make=accumulate, learned=above("accuracy", 0.95)),
    Case(
        name="fp16-scaler",
        about="the scale comes down from 2^28, and is tried again every 200 steps",
        make=half_with_scaler,
        learned=above("accuracy", 0.95),
    ),
    Case(
        name="fp16-convolution",
        about="BatchNorm and SGD under a GradScaler with its defaults",
        make=half_convolution,
        learned=above("accuracy", 0.95),
    ),
    Case(name="bf16-mixed", about="bfloat16 autocast", make=bfloat, learned=above("accuracy", 0.95)),
    Case(name="float64", about="double precision, tanh", make=double, learned=above("accuracy", 0.93)),
    Case(
        name="logistic-regression",
        about="one linear layer, SGD",
        make=logistic_regression,
        learned=above("accuracy", 0.93),
    ),
    Case(
        name="own-clipping",
        about="gradient_clip_val of the Trainer",
        make=clipped_by_trainer,
        learned=above("accuracy", 0.95),
    ),
]
