"""A callback that runs a training step a second time on a copy, before the real one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback

from gradwatch.capture.rollback import evaluates_again
from gradwatch.engine.replay_observer import Reached
from gradwatch.integrations.lightning_step import LightningStep
from gradwatch.replica import randomness
from gradwatch.replica.copying import side_copy
from gradwatch.replica.step_runner import Moment

if TYPE_CHECKING:
    from torch import Tensor, nn


class Again(Callback):
    """Runs batch ``at`` again, up to the optimizer step ``until`` if there is one.

    Attributes:
        losses, steps: what the runner told.
        module: the copy, and ``gradients`` its own.
        real_gradients: those of the real step, where its optimizer acted.
    """

    def __init__(
        self, at: int = 1, *, loss_scale: float = 1.0, with_step: bool = True, until: int | None = None
    ) -> None:
        self.at, self.loss_scale, self.with_step, self.until = at, loss_scale, with_step, until
        self.losses: list[Tensor] = []
        self.steps: list[int] = []
        self.module: Any = None
        self.gradients: dict[str, Tensor] = {}
        self.real_gradients: dict[str, Tensor] = {}

    def terms(self, output: object) -> None:
        """Nothing that is returned matters here."""

    def loss(self, loss: Tensor) -> None:
        self.losses.append(loss.detach().clone())

    def backward(self) -> None:
        """What comes after it does not matter here."""

    def step(self, optimizer: int) -> None:
        self.steps.append(optimizer)
        self.gradients = gradients(self.module)
        if self.until == len(self.steps):
            raise Reached

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx != self.at or trainer.current_epoch:
            return
        runner, moment = LightningStep(trainer), Moment(batch, batch_idx, None, {})
        again = any(evaluates_again(optimizer) for optimizer in trainer.optimizers)
        with randomness.preserved():
            copy = side_copy(pl_module, trainer.optimizers, replaced=runner.replaced(), with_optimizer_state=again)
            self.module = copy.module
            try:
                runner(copy, moment, self, loss_scale=self.loss_scale, with_step=self.with_step)
            except Reached:
                return
        self.gradients = self.gradients or gradients(copy.module)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.fit_loop.batch_idx == self.at and not trainer.current_epoch:
            self.real_gradients = gradients(pl_module)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all gradients by name."""
    named = module.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
