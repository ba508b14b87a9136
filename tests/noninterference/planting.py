"""One NaN in a training of any case, and a module that counts, prints and draws random numbers wherever it is asked."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import lightning.pytorch
import numpy as np
import pytorch_lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.cases import Case, Setup

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule as Base
else:
    Base = object

Way = Literal["batch", "loss", "loss of the real run"]
BATCH_SIZE = 4


class Plan(NamedTuple):
    """Where the NaN sits: in an element of a batch, or as a factor of its loss, there perhaps in the real run alone."""

    way: Way = "batch"
    epoch: int = 1
    batch_idx: int = 2
    loss: int = 0  # of those that a batch has, in manual optimization


class Telltale(Base):
    """Mixed into the module under test: whatever it is made to do leaves a trace on it, or in a random generator."""

    plan: Plan

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.calls = getattr(self, "calls", Counter())
        self.calls["training_step"] += 1
        self.losses_seen = 0
        print("step", batch_idx)  # noqa: T201 - what a user might do
        self.print("through the trainer", batch_idx)
        self.noise = random.random() * torch.rand(1).item() * np.random.rand()  # noqa: NPY002 - as above
        output: Any = super().training_step(batch, batch_idx)
        if not self.automatic_optimization or output is None:
            return output
        return {**output, "loss": self.spoilt(output["loss"])} if isinstance(output, dict) else self.spoilt(output)

    def spoilt(self, loss: Tensor) -> Tensor:
        """Return the loss with some noise, NaN where planned."""
        plan, here = self.plan, (self.current_epoch, self.trainer.fit_loop.epoch_loop.batch_idx)
        planned = plan.way != "batch" and here == (plan.epoch, plan.batch_idx) and self.losses_seen == plan.loss
        if plan.way == "loss of the real run":
            planned &= isinstance(self.trainer, (lightning.pytorch.Trainer, pytorch_lightning.Trainer))
        self.losses_seen += 1
        return loss * (torch.nan if planned else 1.0 + 0.01 * self.noise)

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.calls["manual_backward"] += 1
        super().manual_backward(loss, *args, **kwargs)

    def on_train_batch_start(self, *args: Any) -> Any:
        return self._counted("on_train_batch_start", *args)

    def on_before_zero_grad(self, *args: Any) -> None:
        self._counted("on_before_zero_grad", *args)

    def on_before_backward(self, *args: Any) -> None:
        self._counted("on_before_backward", *args)

    def on_after_backward(self) -> None:
        self._counted("on_after_backward")

    def on_before_optimizer_step(self, *args: Any) -> None:
        self._counted("on_before_optimizer_step", *args)

    def on_train_batch_end(self, *args: Any) -> None:
        self._counted("on_train_batch_end", *args)

    def _counted(self, hook: str, *args: Any) -> Any:
        self.calls = getattr(self, "calls", Counter())
        self.calls[hook] += 1
        np.random.rand()  # noqa: NPY002 - as above
        return getattr(super(), hook)(*args)


class TelltaleOfLosses(Telltale):
    """For modules with several losses a batch, which they make in ``verdict``."""

    def verdict(self, *args: Any) -> Tensor:
        below: Any = super()
        return self.spoilt(below.verdict(*args))


class PlantedData(Dataset[Any]):
    """The samples of another dataset; one element of the planned batch is NaN, whatever order they are drawn in."""

    def __init__(self, samples: Dataset[Any], plan: Plan) -> None:
        self.samples, self.drawn = samples, 0
        batches = -(-len(samples) // BATCH_SIZE)  # type: ignore[arg-type]
        self.bad = (plan.epoch * batches + plan.batch_idx) * BATCH_SIZE + 1 if plan.way == "batch" else -1

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        x, *rest = self.samples[index]
        if self.drawn == self.bad:
            x = x.clone()
            x.view(-1)[-1] = torch.nan
        self.drawn += 1
        return x, *rest


def planted(case: Case, plan: Plan) -> Case:
    """Return the case with the NaN in it; where the data are integers, it comes by the loss."""

    def build(package: Any) -> Setup:
        setup = case.build(package)
        data = setup.train.dataset
        integers = isinstance(data[0], tuple) and not data[0][0].is_floating_point()
        chosen = plan._replace(way="loss") if integers else plan
        owner = getattr(setup.module, "_orig_mod", setup.module)
        mixin = TelltaleOfLosses if hasattr(owner, "verdict") else Telltale
        cls = type(owner)
        owner.__class__ = type(cls.__name__, (mixin, cls), {"plan": chosen, "__module__": cls.__module__})
        if chosen.way != "batch":
            return setup
        loader = DataLoader(
            PlantedData(data, chosen),
            batch_size=BATCH_SIZE,
            sampler=setup.train.sampler,
            collate_fn=setup.train.collate_fn,
        )
        return setup._replace(train=loader)

    return Case(case.name, build)
