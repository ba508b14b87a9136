"""Loss scales that collapse or are stuck, steps that are skipped, gradients and activations at the ends of float16."""

# ruff: noqa: FBT001 - a builder is called as build(seed, faulty)

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional

from tests.rules.planted.case import ANY, Case, Training, lasting
from tests.rules.planted.models import Autoencoder, Convolutional, Learner, Perceptron, Transformer, adam, adamw, sgd
from tests.rules.planted.sets import blobs, curve, cut, digits, in_order, loader, words

NEVER = 10**6  # a growth interval
# What overflows without any scale, too, is an incident, which ends a run unless it is only warned of.
WARN = {"on_nonfinite": "warn"}


def half(scale: float = 2.0**10, scaler: Any = None, **options: Any) -> dict[str, Any]:
    """Train in float16 with a loss scale, which Lightning lets one do on the CPU by a plugin."""
    kind = scaler or torch.amp.GradScaler
    return {"plugins": [MixedPrecision("16-mixed", device="cpu", scaler=kind("cpu", init_scale=scale, **options))]}


class Weighted(Convolutional):
    """Multiplies its loss by a weight, from some step on."""

    weight, since = 1.0, 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * self.weight if self.global_step >= self.since else loss


# -- loss-scale-collapse -----------------------------------------------------------------------------------------------


def collapse_perceptron(seed: int, faulty: bool) -> Training:
    """From step 60 on the targets are in another unit, some thousand times larger."""
    batches = cut(curve(seed), 120, seed)
    if faulty:
        batches[60:] = [(x, y * 1.5e3) for x, y in batches[60:]]
    module = Perceptron(8, 32, 1, loss=functional.mse_loss, optimizer=adam(3e-3))
    return Training(module=module, train=in_order(batches), **lasting(120, 10, **half()))


def collapse_autoencoder(seed: int, faulty: bool) -> Training:
    """A loss of some millions, from the start: no scale of one or more is small enough."""
    factor = 1e7 if faulty else 1.0
    module = Autoencoder(64, 16, loss=lambda out, x: factor * functional.mse_loss(out, x), optimizer=adamw(2e-3))
    return Training(module=module, train=loader(digits(seed), seed), **lasting(80, 5, monitor=WARN, **half(2.0**12)))


def collapse_convolutional(seed: int, faulty: bool) -> Training:
    """A weight of the loss that comes in at step 50 is 5e3 where 5e-3 was meant."""
    module = Weighted(norm=False, optimizer=adam(2e-3))
    module.weight, module.since = 5e3 if faulty else 1.0, 50
    return Training(module=module, train=loader(digits(seed), seed), **lasting(100, 5, **half()))


# -- loss-scale-stuck --------------------------------------------------------------------------------------------------


class Static(torch.amp.GradScaler):
    """A static loss scale, as older tools have it."""

    def update(self, new_scale: Any = None) -> None:
        super().update(self._init_scale if new_scale is None else new_scale)


def stuck_perceptron(seed: int, faulty: bool) -> Training:
    """A static loss scale that is far too large: each step overflows."""
    module = Perceptron(16, 32, 4, optimizer=sgd(0.1))
    options = half(2.0**26, Static) if faulty else half(2.0**8, Static)
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(60, 5, **options))


def stuck_convolutional(seed: int, faulty: bool) -> Training:
    """An initial scale of 1 that practically never grows."""
    module = Convolutional(norm=False, optimizer=adam(2e-3))
    options = half(1.0, growth_interval=NEVER) if faulty else half(2.0**12)
    return Training(module=module, train=loader(digits(seed), seed), **lasting(80, 5, **options))


class Loud(Transformer):
    """Multiplies its loss by a factor."""

    factor = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.factor * super().training_step(batch, batch_idx)


def stuck_transformer(seed: int, faulty: bool) -> Training:
    """The gradients are so large that the scale falls below one and stays there."""
    module = Loud(optimizer=adamw(2e-3))
    module.factor = 1e6 if faulty else 1.0
    return Training(
        module=module,
        train=loader(words(seed), seed),
        **lasting(90, 5, monitor=WARN, **half(4.0 if faulty else 2.0**10)),
    )


# -- skipped-steps -----------------------------------------------------------------------------------------------------


def skipped_perceptron(seed: int, faulty: bool) -> Training:
    """The scale grows after every third step, so that every fourth overflows."""
    module = Perceptron(16, 32, 4, optimizer=sgd(0.05))
    options = half(2.0**16, growth_interval=3) if faulty else half(2.0**10)
    return Training(module=module, train=loader(blobs(seed, spread=1.5), seed), **lasting(330, 10, **options))


def skipped_convolutional(seed: int, faulty: bool) -> Training:
    """The same with five steps, and Adam."""
    module = Convolutional(norm=False, width=4, optimizer=adam(1e-3))
    options = half(2.0**16, growth_interval=5) if faulty else half(2.0**10)
    return Training(module=module, train=loader(digits(seed), seed), **lasting(320, 5, **options))


def spoiled(batches: list[tuple[Tensor, ...]], every: int, since: int = 0) -> list[tuple[Tensor, ...]]:
    """Give every so many batches one sample with inputs of 2e4, near the end of float16."""
    for index in range(since, len(batches), every):
        x = batches[index][0].clone()
        x[0] = 2e4
        batches[index] = (x, *batches[index][1:])
    return batches


def skipped_autoencoder(seed: int, faulty: bool) -> Training:
    """Every fourth batch has a sample with inputs of 2e4, whose gradient overflows."""
    batches = cut(blobs(seed), 330, seed)
    module = Finite(Autoencoder(16, 8, optimizer=adam(2e-3)))
    data = in_order(spoiled(batches, 4) if faulty else batches)
    return Training(module=module, train=data, **lasting(330, 10, **half(growth_interval=2 if faulty else 2000)))


class Finite(Learner):
    """Compresses large inputs before it takes its loss, so that the loss is finite where the gradient is not."""

    def __init__(self, network: Autoencoder) -> None:
        super().__init__(optimizer=network.make_optimizer)
        self.network = network

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        loss = functional.mse_loss(self.network(x.clamp(-10, 10)), x.clamp(-10, 10))
        return loss * x.abs().amax().clamp(min=10.0) / 10  # samples with large values count more


# -- gradient-underflow ------------------------------------------------------------------------------------------------


def underflow_perceptron(seed: int, faulty: bool) -> Training:
    """A loss scale of 1, and a loss that is divided by a thousand."""
    factor = 1e-3 if faulty else 1.0
    module = Perceptron(16, 32, 4, loss=lambda out, y: factor * functional.cross_entropy(out, y), optimizer=adam(2e-3))
    options = half(1.0, growth_interval=NEVER) if faulty else half(2.0**12)
    return Training(module=module, train=loader(blobs(seed), seed), **lasting(60, 5, **options))


def underflow_autoencoder(seed: int, faulty: bool) -> Training:
    """Pixels that have been divided by 255 once too often, and a loss scale of 1."""
    images, labels = digits(seed)
    module = Autoencoder(64, 16, optimizer=adam(1e-3))
    data = (images / 255 if faulty else images, labels)
    options = half(1.0, growth_interval=NEVER) if faulty else half(2.0**12)
    return Training(module=module, train=loader(data, seed), **lasting(60, 5, **options))


def underflow_convolutional(seed: int, faulty: bool) -> Training:
    """All of the model in float16, without any loss scale, and a small loss."""
    module = Weighted(norm=False, optimizer=sgd(10.0 if faulty else 0.05))
    module.weight = 2e-3 if faulty else 1.0
    options = {"precision": "16-true"} if faulty else half(2.0**12)
    return Training(module=module, train=loader(digits(seed), seed), **lasting(80, 10, **options))


# -- fp16-range --------------------------------------------------------------------------------------------------------


def range_autoencoder(seed: int, faulty: bool) -> Training:
    """After step 120 every sixth batch overflows."""
    batches = cut(blobs(seed), 240, seed)
    module = Finite(Autoencoder(16, 8, optimizer=adam(2e-3)))
    data = in_order(spoiled(batches, 6, since=120) if faulty else batches)
    return Training(module=module, train=data, **lasting(240, 10, **half()))


class FeedForward(nn.Module):
    """The two matrices of a transformer block whose residual stream is normalised only later."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.wi = nn.Linear(16, 64)
        self.wo = nn.Linear(64, 16)
        with torch.no_grad():
            self.wo.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(functional.relu(self.wi(x)))


class Block(Learner):
    """One feed-forward block; the LayerNorm hides how large its values are."""

    def __init__(self, gain: float, **options: Any) -> None:
        super().__init__(**options)
        self.feed_forward = FeedForward(gain)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.feed_forward(x)))


LARGE = 2.7e4  # by which the output of FeedForward comes to about 20,000


def range_block(seed: int, faulty: bool) -> Training:
    """Activations at half of what float16 has room for, all the time."""
    module = Block(LARGE if faulty else 1.0, optimizer=adamw(1e-3))
    return Training(
        module=module, train=loader(blobs(seed), seed), **lasting(240, 10, **half(2.0**4 if faulty else 2.0**12))
    )


def range_convolutional(seed: int, faulty: bool) -> Training:
    """A weight that comes in at step 130 makes the scaled gradients overflow, again and again."""
    module = Weighted(norm=False, optimizer=adam(2e-3))
    module.weight, module.since = 8.0 if faulty else 1.0, 130
    options = half(growth_interval=4) if faulty else half()
    return Training(module=module, train=loader(digits(seed), seed), **lasting(240, 5, **options))


# `within`: the step of the fault, what the definition asks for in steps, and two log periods. A scale of 2**12 is below
# one after 13 overflows, one of 4 after 3.
CASES = [
    Case(code="loss-scale-collapse", model="MLP", build=collapse_perceptron, layer=None, within=85, fault_step=60),
    Case(code="loss-scale-collapse", model="autoencoder", build=collapse_autoencoder, layer=None, within=30),
    Case(code="loss-scale-collapse", model="CNN", build=collapse_convolutional, layer=None, within=65, fault_step=50),
    Case(code="loss-scale-stuck", model="MLP", build=stuck_perceptron, layer=None, within=15),
    Case(code="loss-scale-stuck", model="CNN", build=stuck_convolutional, layer=None, within=30),
    Case(code="loss-scale-stuck", model="transformer", build=stuck_transformer, layer=None, within=40),
    Case(code="skipped-steps", model="MLP", build=skipped_perceptron, layer=None, within=320),
    Case(code="skipped-steps", model="CNN", build=skipped_convolutional, layer=None, within=310),
    Case(code="skipped-steps", model="autoencoder", build=skipped_autoencoder, layer=None, within=320),
    Case(code="gradient-underflow", model="MLP", build=underflow_perceptron, layer="net.0", also=("net.2",), within=25),
    Case(code="gradient-underflow", model="autoencoder", build=underflow_autoencoder, layer="encoder.0", within=25),
    Case(code="gradient-underflow", model="CNN", build=underflow_convolutional, layer=ANY, within=50),
    Case(code="fp16-range", model="autoencoder", build=range_autoencoder, layer=None, within=160, fault_step=120),
    Case(code="fp16-range", model="feed-forward block", build=range_block, layer=None, within=160),
    Case(code="fp16-range", model="CNN", build=range_convolutional, layer=None, within=150, fault_step=130),
]
