"""Runs that grow until they overflow, and recurrences that do so within one step.

The growing runs need training without clipping (the harness trains with ``clip=None``); they have no variants, since
accumulation changes the number of updates. ``bad_batch`` is where the growth leaves the range of float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.case import BF16, FP32, SCALER, Case, Truth, ZooModule

BAD = 5
Pair = tuple[Tensor, Tensor]


def regression(length: int = 8) -> list[Pair]:
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.randn(8, 6, generator=generator) for _ in range(length)]
    return [(x, x.sum(1, keepdim=True)) for x in inputs]


class Deep(ZooModule):
    """A deep linear/ReLU regression."""

    depth = 2

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(6, 8)]
        for _ in range(self.depth):
            layers += [nn.ReLU(), nn.Linear(8, 8)]
        self.net = nn.Sequential(*layers, nn.Linear(8, 1))

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        return functional.mse_loss(self.net(x).float(), y)


class DeepLinear(Deep):
    """Trains with a rate of 2, where 2.5e-4 was meant."""

    depth = 0
    learning_rate = 2.0


class DeepAdamW(Deep):
    """Trains with AdamW and a rate of 10: the weights move by 10 and are multiplied by 1 - 10 * 0.5, every step."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=10.0, weight_decay=0.5)


class Decayed(Deep):
    """A weight decay that overshoots: each step multiplies the weights by 1 - 0.1 * 30."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=30.0)


class Residual(ZooModule):
    """A residual network without normalisation, with a rate that a normalised one would bear."""

    learning_rate = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(6))
        self.head = nn.Linear(6, 1)

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        for block in self.blocks:
            x = x + functional.relu(block(x))
        return functional.mse_loss(self.head(x).float(), y)


class Adversaries(ZooModule):
    """A Wasserstein GAN whose critic is not bounded; gradient ascent by a reversed sign, in one optimizer."""

    learning_rate = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(6, 6)
        self.critic = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def loss(self, batch: Pair) -> Tensor:
        real, _ = batch
        fake = self.generator(real.flip(0))
        fake = 2 * fake.detach() - fake  # the same value, the opposite gradient
        return (self.critic(fake.float()) - self.critic(real + 3)).float().mean()


class Ungated(ZooModule):
    """A recurrence with a ReLU and no gate: 1.4 ** 8 is harmless, 1.4 ** 300 is not."""

    learning_rate = 1e-5

    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Linear(3, 6)
        self.recurrent = nn.Linear(6, 6)
        with torch.no_grad():
            self.recurrent.weight.copy_(1.4 * torch.eye(6))
        self.head = nn.Linear(6, 2)

    def loss(self, batch: Pair) -> Tensor:
        sequence, y = batch
        h = sequence.new_zeros(len(sequence), 6)
        for x in sequence.unbind(1):
            memory = self.recurrent(h)  # born: ungated-recurrence
            h = functional.relu(memory + self.inlet(x))
        return functional.cross_entropy(self.head(h).float(), y)


class StateSpace(ZooModule):
    """A linear recurrence in front of a long silence: the state stays zero, its gradient grows by 1.4 a step."""

    learning_rate = 1e-5

    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Linear(3, 6, bias=False)
        self.recurrent = nn.Linear(6, 6, bias=False)
        with torch.no_grad():
            self.recurrent.weight.copy_(1.4 * torch.eye(6))
        self.head = nn.Linear(6, 2)

    def loss(self, batch: Pair) -> Tensor:
        sequence, y = batch
        h = sequence.new_zeros(len(sequence), 6)
        for x in sequence.unbind(1):
            memory = self.recurrent(h)  # born: linear-recurrence-backward
            h = memory + self.inlet(x)
        return functional.cross_entropy(self.head(h).float(), y)


def sequences(*, silence: bool) -> list[Pair]:
    generator = torch.Generator().manual_seed(3)
    lengths = [300 if i == BAD else 8 for i in range(8)]
    inputs = [torch.randn(8, length, 3, generator=generator) for length in lengths]
    if silence:
        inputs[BAD].zero_()
    return [(x, torch.arange(8) % 2) for x in inputs]


def growing(**details: Any) -> Truth:
    return Truth(cause="dynamics", line=False, **details)


CASES = [
    Case(
        name="rate-too-large",
        module=DeepLinear,
        batches=regression,
        truth={FP32: growing(), BF16: growing()},
        source="OpenNMT-tf#744: learning rate 2 in place of 2.5e-4",
        bad_batch=4,
        variants=False,
    ),
    Case(
        name="adamw-rate-too-large",
        module=DeepAdamW,
        batches=lambda: regression(10),
        truth={FP32: growing(), BF16: growing()},
        source="textbook: AdamW with a rate of 10, whose decay multiplies",
        bad_batch=4,  # the second moment overflows here; the loss three batches later
        variants=False,
    ),
    Case(
        name="weight-decay-too-large",
        module=Decayed,
        batches=regression,
        truth={FP32: growing(), BF16: growing()},
        source="textbook: learning rate times weight decay above 2",
        bad_batch=4,
        variants=False,
    ),
    Case(
        name="residual-without-norm",
        module=Residual,
        batches=regression,
        truth={FP32: growing(), BF16: growing()},
        source="textbook: depth multiplies what every block adds",
        variants=False,
    ),
    Case(
        name="unbounded-critic",
        module=Adversaries,
        batches=regression,
        truth={FP32: growing(), BF16: growing()},
        source="textbook: a Wasserstein critic without clipping or penalty",
        variants=False,
    ),
    Case(
        name="ungated-recurrence",
        module=Ungated,
        batches=lambda: sequences(silence=False),
        truth={
            precision: Truth(phase="forward", op="addmm", module="recurrent", transition="finite->inf")
            for precision in (FP32, BF16, SCALER)
        },
        source="lstmp#2, pytorch-kaldi#154: recurrent networks on sequences longer than usual",
    ),
    Case(
        name="linear-recurrence-backward",
        module=StateSpace,
        batches=lambda: sequences(silence=True),
        truth={
            # Under the scaler too: the gradient overflows without any loss scale.
            precision: Truth(phase="backward", op="mm", module="recurrent", transition="finite->inf")
            for precision in (FP32, BF16, SCALER)
        },
        source="textbook: the exploding gradient",
    ),
]
