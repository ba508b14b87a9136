"""What a healthy training is: something real that learns, made as a competent user makes it, without a fault.

What each must reach is written down beside it. Every rule must stay silent on all of them, but for remarks ("info").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, seed_everything

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.utils.data import DataLoader


class Learner(LightningModule):
    """A module whose whole step is ``loss(batch)``, and that can say how much it has learned."""

    def loss(self, batch: Any) -> Tensor:
        """Return the scalar loss of one batch."""
        raise NotImplementedError

    def measure(self) -> float:
        """Return what the goal of the case is about; called in eval mode and without gradients."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training, ready to run. ``trainer`` and ``monitor`` are keyword arguments of those two."""

    module: Learner
    train: DataLoader[Any]
    validation: DataLoader[Any] | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    monitor: dict[str, Any] = field(default_factory=dict)


class Goal(NamedTuple):
    """What a training has to reach, in words and as a test of what the module measures."""

    words: str
    reached: Callable[[float], bool]


def above(what: str, limit: float) -> Goal:
    """Return the goal of a measure that has to come out above a limit."""
    return Goal(f"{what} > {limit:g}", lambda value: value > limit)


def below(what: str, limit: float) -> Goal:
    """Return the goal of a measure that has to come out below a limit."""
    return Goal(f"{what} < {limit:g}", lambda value: value < limit)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A healthy training. ``make`` builds it from torch's random state; ``about`` says what is special in it."""

    name: str
    about: str
    make: Callable[[], Training]
    learned: Goal

    def build(self, seed: int) -> Training:
        """Return the training of a seed."""
        seed_everything(seed, verbose=False)
        return self.make()

    def measure(self, module: Learner) -> float:
        """Return what a trained module has reached."""
        with torch.no_grad():
            return float(module.eval().measure())
