"""Put a planned fault into a training, from outside of whatever watches it.

What is planted depends on the position of the training alone (epoch, batch, backward), never on how often a hook ran:
whoever replays the batch meets the fault again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests import cases
from tests.faults.plan import EPOCHS, MODELS, FaultPlan

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule as Base
else:
    Base = object


class PlantedLoss(Base):
    """Mixed into the LightningModule under test; changes the loss where the plan says so."""

    plan: FaultPlan
    position: tuple[int, int] = (0, -1)
    backwards: int = 0

    def armed(self) -> bool:
        """Whether this is the batch and the backward of the plan."""
        plan = self.plan
        return self.position == (plan.epoch, plan.batch_idx) and self.backwards == plan.backward

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.backwards = 0
        loss: Any = super().training_step(batch, batch_idx)
        return self.planted(loss) if self.automatic_optimization else loss

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().manual_backward(self.planted(loss), *args, **kwargs)
        self.backwards += 1

    def planted(self, loss: Tensor) -> Tensor:
        """Return the loss, bad where planned. Adding leaves gradients finite, multiplying does not."""
        if self.plan.kind != "loss" or not self.armed():
            return loss
        return loss + self.plan.value if self.plan.loss_way == "add" else loss * self.plan.value


class PlantedData(Dataset[Any]):
    """The samples of another dataset; one element of the planned batch is bad.

    Samples are counted as they are drawn, so that the order of a shuffled epoch does not matter.
    """

    def __init__(self, samples: Dataset[Any], plan: FaultPlan, batch_size: int) -> None:
        self.samples = samples
        batch = plan.epoch * MODELS[plan.model].batches + plan.batch_idx
        self.bad = batch * batch_size + plan.element % batch_size
        self.plan = plan
        self.drawn = 0

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        x, y = self.samples[index]
        if self.plan.kind == "batch" and self.drawn == self.bad:
            x = x.clone()
            x.view(-1)[self.plan.element % x.numel()] = self.plan.value
        self.drawn += 1
        return x, y


class Planter(Callback):
    """Plants into gradients by a hook on the parameter, and into weights, buffers and state between two steps."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan

    def on_train_start(self, _trainer: Any, pl_module: Any) -> None:
        plan = self.plan
        if plan.kind == "gradient":
            parameter = pl_module.get_parameter(plan.tensor)
            parameter.register_hook(lambda gradient: self._planted(gradient) if pl_module.armed() else gradient)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, _batch: Any, batch_idx: int) -> None:
        pl_module.position = (trainer.current_epoch, batch_idx)
        pl_module.backwards = 0
        here = pl_module.position == (self.plan.epoch, self.plan.batch_idx)
        if here and self.plan.kind in ("weight", "buffer", "optimizer"):
            with torch.no_grad():
                elements = self._target(trainer, pl_module).view(-1)
                elements[self.plan.element % len(elements)] = self.plan.value

    def _target(self, trainer: Any, module: Any) -> Tensor:
        plan = self.plan
        if plan.kind == "buffer":
            return module.get_buffer(plan.tensor)
        parameter = module.get_parameter(plan.tensor)
        if plan.kind == "weight":
            return parameter
        optimizer = trainer.optimizers[plan.backward]
        state: Tensor = optimizer.state[parameter][plan.state_key]
        return state

    def _planted(self, gradient: Tensor) -> Tensor:
        bad = gradient.clone()
        bad.view(-1)[self.plan.element] = self.plan.value
        return bad


def planted_case(plan: FaultPlan) -> cases.Case:
    """Build the case of the plan with the fault in its module and its data."""

    def build(package: Any) -> cases.Setup:
        setup = MODELS[plan.model].build(package)
        cls = type(setup.module)
        setup.module.__class__ = type(cls.__name__, (PlantedLoss, cls), {"plan": plan})
        data = PlantedData(setup.train.dataset, plan, setup.train.batch_size or 1)
        train = DataLoader(data, batch_size=setup.train.batch_size, sampler=setup.train.sampler)
        validation = None
        if plan.validation:
            validation = setup.validation or DataLoader(setup.train.dataset, batch_size=setup.train.batch_size)
        return setup._replace(train=train, validation=validation)

    return cases.Case(plan.model, build)


def trainer_settings(plan: FaultPlan) -> dict[str, Any]:
    """Return the arguments of the Trainer that the plan decides."""
    settings: dict[str, Any] = {"max_epochs": EPOCHS, "log_every_n_steps": plan.log_every_n_steps}
    if MODELS[plan.model].accumulate > 1:
        settings["accumulate_grad_batches"] = MODELS[plan.model].accumulate
    if plan.clip == "trainer":
        settings["gradient_clip_val"] = 1.0
    return settings
