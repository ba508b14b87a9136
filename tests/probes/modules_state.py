"""Steps that do more than compute a loss: state, side effects, randomness from near and far."""

from __future__ import annotations

import itertools
import random
import secrets
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchmetrics
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.probes.modules_generative import network
from tests.probes.probed import (
    CLASSES,
    FEATURES,
    NOT_CHECKABLE,
    PASS,
    SAMPLES,
    Probe,
    probed,
    vectors,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HISTORY: list[float] = []
GLOBAL_NUMPY = np.random.default_rng(0)


class Stateful(Probe):
    """A small classifier; what ``scale(x)`` returns multiplies its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, CLASSES)

    def scale(self, x: Tensor) -> Any:
        """Return a factor of the loss; what the state of a case does shows here."""
        raise NotImplementedError

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return self.scale(x) * functional.cross_entropy(self.network(x), y)


class RunningScale(Stateful):
    """A buffer follows the data and is used at once."""

    running: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running", torch.ones(()))

    def scale(self, x: Tensor) -> Tensor:
        self.running.mul_(0.5).add_(0.5 * x.square().mean())
        return self.running.clone()


class Queue(Probe):
    """MoCo: keys of a frozen encoder enter a buffer that serves as negatives."""

    queue: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, 4)
        self.keys = network(FEATURES, 4).requires_grad_(False)
        self.register_buffer("queue", functional.normalize(torch.randn(16, 4), dim=-1))

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        query = functional.normalize(self.network(x), dim=-1)
        with torch.no_grad():
            key = functional.normalize(self.keys(x), dim=-1)
        logits = torch.cat([(query * key).sum(-1, keepdim=True), query @ self.queue.mT.clone()], -1)
        self.queue = torch.cat([key, self.queue[:-SAMPLES]])
        return functional.cross_entropy(5 * logits, torch.zeros(SAMPLES, dtype=torch.long))


class Counting(Stateful):
    """A Python counter warms the loss up."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def scale(self, x: Tensor) -> float:
        self.calls += 1
        return min(1.0, 0.2 * self.calls)


class AskingTheTrainer(Stateful):
    """The schedule of a weight asks the trainer for its progress."""

    def scale(self, x: Tensor) -> float:
        self.log("progress", float(self.global_step), prog_bar=True)
        return 1 + self.global_step / self.trainer.max_steps + self.trainer.current_epoch


class Remembering(Stateful):
    """Appends to a list of the Python module, on whose length the loss depends."""

    def scale(self, x: Tensor) -> float:
        HISTORY.append(float(x.mean()))
        return 1 + 0.1 * len(HISTORY)


def endless() -> Iterator[float]:
    """Yield growing numbers: a generator, which nobody can copy."""
    for number in itertools.count():
        yield 1 + 0.1 * number


class FromAGenerator(Stateful):
    """Reads the next factor from a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = endless()

    def scale(self, x: Tensor) -> float:
        return next(self.numbers)


class FromAList(Stateful):
    """Reads the next factor from an iterator over a list, which can be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = iter([1 + 0.1 * number for number in range(1000)])

    def scale(self, x: Tensor) -> float:
        return next(self.numbers)


class Secret(Stateful):
    """Draws from the operating system."""

    def scale(self, x: Tensor) -> float:
        return 1 + secrets.randbelow(10**9) / 10**9


class Clock(Stateful):
    """Looks at the clock."""

    def scale(self, x: Tensor) -> float:
        return 1 + time.perf_counter_ns() % 10**6 / 10**6


class GlobalRandom(Stateful):
    """Draws from the global generators of numpy and Python."""

    def scale(self, x: Tensor) -> float:
        return 1 + random.random() * np.random.rand()  # noqa: NPY002 - what users do


class OwnGenerator(Probe):
    """Draws noise from its own generators, one of them made anew in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, CLASSES)
        self.generator = Generator().manual_seed(1)
        self.numpy_generator = np.random.default_rng(1)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        fresh = Generator().manual_seed(y.numel())
        x = x + 0.1 * torch.randn(x.shape, generator=self.generator) * torch.rand(x.shape, generator=fresh)
        mixing = float(self.numpy_generator.beta(0.4, 0.4))
        logits = self.network(mixing * x + (1 - mixing) * x.flip(0))
        return mixing * functional.cross_entropy(logits, y) + (1 - mixing) * functional.cross_entropy(logits, y.flip(0))


class DistantGenerator(Stateful):
    """Draws from a generator of the Python module, to which nothing of the model refers."""

    def __init__(self) -> None:
        super().__init__()
        GLOBAL_NUMPY.bit_generator.state = np.random.default_rng(0).bit_generator.state

    def scale(self, x: Tensor) -> float:
        return 1 + GLOBAL_NUMPY.random()


class Measured(Probe):
    """Updates torchmetrics in the step, one of which scales the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, CLASSES)
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=CLASSES)
        self.mean = torchmetrics.MeanMetric()

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        logits = self.network(x)
        self.accuracy(logits, y)
        self.mean.update(x.square().mean())
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        return functional.cross_entropy(logits, y) * (1 + self.mean.compute())


class Unregistered(Probe):
    """Layers in a plain list: no parameters of the module, and trained all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(FEATURES, 8), nn.Linear(8, 8)]
        self.head = nn.Linear(8, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        for layer in self.layers:
            x = layer(x).tanh()
        return functional.cross_entropy(self.head(x), y)

    def configure_optimizers(self) -> Any:
        hidden = [parameter for layer in self.layers for parameter in layer.parameters()]
        return torch.optim.SGD([*hidden, *self.head.parameters()], lr=0.05)


class HardCoded(Probe):
    """Casts to float32 by hand, in all the usual ways."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, 8)
        self.head = nn.Linear(8, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        hidden = self.enter(x.float()).tanh().float()
        memory = torch.zeros(SAMPLES, 8, dtype=torch.float32)
        memory[:, :4] = hidden[:, 4:].to(torch.float32)
        logits = self.head((hidden + memory + torch.arange(8.0) / 8).type(torch.float32))
        return functional.cross_entropy(logits.to(dtype=torch.float32), y)


NOTHING = "its source is out of reach: two runs of one batch differ"
CASES = (
    probed("buffer-updated-in-step", RunningScale, vectors, PASS, "every run starts from the same buffer"),
    probed("queue-of-keys", Queue, vectors, PASS, "every run starts from the same queue; the keys' encoder is frozen"),
    probed("python-counter", Counting, vectors, PASS, "every run starts from the same count"),
    probed("asks-the-trainer", AskingTheTrainer, vectors, PASS, "the trainer's progress can be read and stands still"),
    probed("global-side-effect", Remembering, vectors, NOT_CHECKABLE, NOTHING, repeatable=False),
    probed(
        "reads-from-a-generator",
        FromAGenerator,
        vectors,
        NOT_CHECKABLE,
        "a generator cannot be copied, and reading on would rob the training of a number",
    ),
    probed(
        "reads-from-a-list",
        FromAList,
        vectors,
        PASS | NOT_CHECKABLE,
        "its iterator can be copied; to refuse all iterators would be no mistake",
    ),
    probed("operating-system-randomness", Secret, vectors, NOT_CHECKABLE, NOTHING, repeatable=False),
    probed("clock", Clock, vectors, NOT_CHECKABLE, NOTHING, repeatable=False),
    probed("global-randomness", GlobalRandom, vectors, PASS, "global generators are put back"),
    probed("own-generator", OwnGenerator, vectors, PASS, "generators of the module are copied with it"),
    probed(
        "distant-generator",
        DistantGenerator,
        vectors,
        PASS | NOT_CHECKABLE,
        "a check that finds the generator can put it back; one that does not sees two runs differ",
    ),
    probed("torchmetrics", Measured, vectors, PASS, "every run starts from the same metric"),
    probed("unregistered-layers", Unregistered, vectors, PASS, "the layers in the list are computed with all the same"),
    probed("hard-coded-float32", HardCoded, vectors, PASS, "the code is right, whatever it casts to"),
)
