"""Supervised learning: a network, a loss, an optimizer and a schedule; what most of the healthy trainings are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn import functional

from tests.rules.healthy.case import Learner, Training
from tests.rules.healthy.data import loader, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from tests.rules.healthy.data import Split


def accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the share of right classes."""
    return (prediction.argmax(-1) == target).float().mean()


class Supervised(Learner):
    """Learns targets from inputs.

    Args:
        network: maps a batch of inputs to predictions.
        test: inputs and targets that are not trained on.
        optimizer: makes the optimizer of the module's trainable parameters.
        schedule: makes its schedule, which moves every step; or a whole configuration of Lightning's.
        loss: of predictions and targets.
        score: what counts on the test data.
    """

    def __init__(
        self,
        network: nn.Module,
        test: tuple[Tensor, Tensor],
        optimizer: Callable[[Any], Any],
        *,
        schedule: Callable[[Any], Any] | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
        score: Callable[[Tensor, Tensor], Tensor] = accuracy,
    ) -> None:
        super().__init__()
        self.network = network
        self.test, self.make_optimizer, self.make_schedule = test, optimizer, schedule
        self.criterion, self.score = loss, score

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return self.criterion(self(x), y)

    def measure(self) -> float:
        x, y = self.test
        return float(self.score(self(x.to(self.dtype) if x.is_floating_point() else x), y))

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        if self.make_schedule is None:
            return optimizer
        schedule = self.make_schedule(optimizer)
        if not isinstance(schedule, dict):
            schedule = {"scheduler": schedule, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def supervised(
    module: Supervised,
    data: Split,
    steps: int,
    *,
    batch: int = 64,
    log: int = 50,
    validate: bool = False,
    **trainer: Any,
) -> Training:
    """Return the training of a module on the data of a split."""
    return Training(
        module=module,
        train=loader(data.x, data.y, batch=batch),
        validation=whole(*data.test) if validate else None,
        trainer={"max_steps": steps, **trainer},
        monitor={"log_every_n_steps": log},
    )
