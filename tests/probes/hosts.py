"""Small real networks with smooth activations, any module of which can be exchanged for one with a wrong backward.

A host returns its loss when it is called with its batch, and casts floating inputs to the type of its parameters, so
that a float64 copy computes in float64.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS, LENGTH, WIDTH, CLASSES = 11, 6, 16, 3
HIDDEN = 48
SAMPLES = 6

Batch = tuple[Tensor, Tensor]


class Problem(NamedTuple):
    """A module and its loss on a batch of its own; ``loss(module)`` may be called on any copy of the module."""

    module: nn.Module
    loss: Callable[[nn.Module], Tensor]


class Host(nn.Module):
    """A network whose call is its loss."""

    @staticmethod
    def batch(generator: Generator) -> Batch:
        """Return inputs and targets."""
        raise NotImplementedError


class SoftAttention(nn.Module):
    """One head of scaled dot-product attention."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


class Layer(nn.Module):
    """A pre-norm transformer layer; ``core`` takes queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.core = SoftAttention()
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.expand = nn.Linear(WIDTH, 2 * WIDTH)
        self.act = nn.GELU()
        self.contract = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self.core(*self.qkv(self.norm1(x)).chunk(3, -1)))
        return x + self.contract(self.act(self.expand(self.norm2(x))))


class Transformer(Host):
    """Two layers over words, a class for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, words: Tensor, tags: Tensor) -> Tensor:
        x = self.embed(words) + self.position
        for layer in self.layers:
            x = layer(x)
        return functional.cross_entropy(self.head(self.norm(x)).flatten(0, 1), tags.flatten())

    @staticmethod
    def batch(generator: Generator) -> Batch:
        words = torch.randint(WORDS, (SAMPLES, LENGTH), generator=generator)
        return words, torch.randint(CLASSES, words.shape, generator=generator)


class Convolutional(Host):
    """Two convolutions over images, a class for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.act1 = nn.GELU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.act2 = nn.GELU()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        x = self.act1(self.norm(self.conv1(images.to(self.head.weight.dtype))))
        x = self.act2(self.conv2(x)).mean((2, 3))
        return functional.cross_entropy(self.head(x), classes)

    @staticmethod
    def batch(generator: Generator) -> Batch:
        return torch.randn(SAMPLES, 3, 8, 8, generator=generator), torch.arange(SAMPLES) % CLASSES


class Perceptron(Host):
    """Three linear layers, 48 wide, with targets of three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(10, HIDDEN)
        self.act1: nn.Module = nn.Tanh()
        self.middle = nn.Linear(HIDDEN, HIDDEN)
        self.act2: nn.Module = nn.Tanh()
        self.leave = nn.Linear(HIDDEN, CLASSES)
        self.criterion: nn.Module = nn.MSELoss()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = x.to(self.leave.weight.dtype), y.to(self.leave.weight.dtype)
        x = self.act2(self.middle(self.act1(self.enter(x))))
        return self.criterion(self.leave(x), y)

    @staticmethod
    def batch(generator: Generator) -> Batch:
        return torch.randn(SAMPLES, 10, generator=generator), torch.randn(SAMPLES, CLASSES, generator=generator)


class LastStep(nn.Module):
    """Keeps the last position of a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1]


class Recurrent(Host):
    """An LSTM over words; ``middle`` sees all of its outputs, ``pool`` makes a vector of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.middle: nn.Module = nn.Tanh()
        self.pool = LastStep()
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, words: Tensor, classes: Tensor) -> Tensor:
        x, _ = self.lstm(self.embed(words))
        return functional.cross_entropy(self.head(self.pool(self.middle(x))), classes)

    @staticmethod
    def batch(generator: Generator) -> Batch:
        words = torch.randint(WORDS, (SAMPLES, LENGTH), generator=generator)
        return words, torch.arange(SAMPLES) % CLASSES


def problem(host: type[Host], slot: str, block: Callable[[], nn.Module], seed: int) -> Problem:
    """Make a host with ``block()`` at the path ``slot``, and leave the random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = host()
        module.set_submodule(slot, block())
    batch = host.batch(Generator().manual_seed(seed))
    return Problem(module, partial(_call, batch=batch))


def _call(module: nn.Module, batch: Batch) -> Tensor:
    return module(*batch)
