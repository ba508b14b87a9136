"""What a probed module is: a LightningModule with its data, and what an honest gradient check may say of it.

What is expected was written down before any check ran. Lines at which a gradient stops carry ``# stops: <marker>``.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Generator, Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

Verdict = Literal["pass", "explained", "not_checkable", "not_resolvable", "kink", "mismatch"]
Batches = list[Any]

BATCHES, SAMPLES, FEATURES, CLASSES = 4, 8, 6, 3
WORDS, LENGTH, WIDTH = 11, 6, 8

PASS: frozenset[Verdict] = frozenset({"pass"})
EXPLAINED: frozenset[Verdict] = frozenset({"explained"})
NOT_CHECKABLE: frozenset[Verdict] = frozenset({"not_checkable"})
NOT_RESOLVABLE: frozenset[Verdict] = frozenset({"not_resolvable"})
MISMATCH: frozenset[Verdict] = frozenset({"mismatch"})
PASS_OR_KINK: frozenset[Verdict] = frozenset({"pass", "kink"})


class Probed(NamedTuple):
    """One LightningModule and the verdicts that are right for it.

    Attributes:
        name: unique.
        build: makes the module, with the same weights at every call; leaves the random states alone.
        loader: makes the loader of the training batches, the same at every call.
        expected: verdicts that an honest check may reach about the first training steps.
        why: the reason for ``expected`` in a sentence.
        trainer: further arguments of the Trainer, which always runs on the CPU.
        stops: what stands behind ``# stops: `` at the lines that an explanation should name.
        single: expected verdicts on single parameters, where they differ from the whole model's.
        repeatable: whether two trainings with the same seed in one process end bitwise equal.
    """

    name: str
    build: Callable[[], LightningModule]
    loader: Callable[[], DataLoader[Any]]
    expected: frozenset[Verdict]
    why: str
    trainer: Mapping[str, Any]
    stops: tuple[str, ...]
    single: Mapping[str, frozenset[Verdict]]
    repeatable: bool

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """What the Trainer of this case is made with."""
        return {"accelerator": "cpu", "devices": 1, **self.trainer}


def probed(
    name: str,
    module: Callable[[], LightningModule],
    batches: Callable[[], Batches],
    expected: frozenset[Verdict],
    why: str,
    *,
    trainer: Mapping[str, Any] | None = None,
    stops: tuple[str, ...] = (),
    single: Mapping[str, frozenset[Verdict]] | None = None,
    repeatable: bool = True,
) -> Probed:
    """Describe a module; ``module()`` is called with all random states seeded, ``batches()`` seeds itself."""
    return Probed(
        name,
        partial(_seeded, module),
        partial(_loader, batches),
        expected,
        why,
        trainer or {},
        stops,
        single or {},
        repeatable,
    )


def stopped(name: str, module: Callable[[], LightningModule], why: str, *stops: str) -> Probed:
    """Describe a classifier of vectors whose gradients are stopped on purpose, at the lines marked ``stops``."""
    return probed(name, module, vectors, EXPLAINED, why, stops=stops)


def _loader(batches: Callable[[], Batches]) -> DataLoader[Any]:
    return DataLoader(batches(), batch_size=None, collate_fn=_unchanged)  # type: ignore[arg-type]


def _unchanged(batch: Any) -> Any:
    return batch


def _seeded(module: Callable[[], LightningModule]) -> LightningModule:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - user code draws from the global one
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002 - as above
            return module()
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - as above


def seed_all(seed: int = 1) -> None:
    """Seed every generator that a module may draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - user code draws from the global one


def bits(module: LightningModule) -> Mapping[str, Tensor]:
    """Return weights and buffers, those of layers in a plain list too."""
    hidden = {
        f"{name}.{index}.{key}": value
        for name, layers in vars(module).items()
        if isinstance(layers, list)
        for index, layer in enumerate(layers)
        if isinstance(layer, torch.nn.Module)
        for key, value in layer.state_dict().items()
    }
    return {**module.state_dict(), **hidden}


class Probe(LightningModule):
    """A module whose step is ``loss(batch)``, which is logged."""

    learning_rate = 0.05

    def loss(self, batch: Any) -> Tensor:
        """Return the scalar loss of a batch."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)


class Classifier(Probe):
    """A network with cross-entropy."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.network(x), y)  # stops: inside-the-network


def classifier(network: Callable[[], nn.Module]) -> Callable[[], LightningModule]:
    """Return what builds a classifier around ``network()``."""
    return lambda: Classifier(network())


def labels(samples: int = SAMPLES) -> Tensor:
    """Return the classes of a batch."""
    return torch.arange(samples) % CLASSES


def batches_of(make: Callable[[Generator], Any]) -> Batches:
    """Return batches drawn one after another from one seeded generator."""
    generator = Generator().manual_seed(3)
    return [make(generator) for _ in range(BATCHES)]


def vectors() -> Batches:
    """Return features (8, 6) with classes."""
    return batches_of(lambda g: (torch.randn(SAMPLES, FEATURES, generator=g), labels()))


def images() -> Batches:
    """Return images (8, 3, 8, 8) with classes."""
    return batches_of(lambda g: (torch.randn(SAMPLES, 3, 8, 8, generator=g), labels()))


def sequences() -> Batches:
    """Return sequences of vectors (8, 6, 8) with classes."""
    return batches_of(lambda g: (torch.randn(SAMPLES, LENGTH, WIDTH, generator=g), labels()))


def sentences() -> Batches:
    """Return words (8, 6), none of them 0, with classes."""
    return batches_of(lambda g: (torch.randint(1, WORDS, (SAMPLES, LENGTH), generator=g), labels()))
