"""What a copied LightningModule finds in place of its trainer, optimizers and schedulers: it may ask, not change."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gradwatch.integrations.trainer_internals import callback_metrics
from gradwatch.replica.once import do_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WITHOUT_EFFECT = ("save_checkpoint", "fit", "validate", "test", "predict", "print")


class TrainerStandIn:
    """Reads go to the real trainer, writes stay here, and whatever would leave a trace does nothing.

    ``overrides`` answers in place of the trainer: in another process, where the run stood when the step failed.
    """

    def __init__(self, trainer: Any, null_logger: Any, overrides: dict[str, Any] | None = None) -> None:
        vars(self).update(real=trainer, logger=null_logger, loggers=[null_logger] if trainer.loggers else [])
        vars(self).update(overrides or {})
        if not trainer.loggers:
            self.logger = None

    def __getattr__(self, name: str) -> Any:
        """Ask the real trainer for what is not answered here."""
        if name.startswith("__") or "real" not in vars(self):  # copy and pickle ask before there is anything
            raise AttributeError(name)
        if name in _WITHOUT_EFFECT:
            return do_nothing
        if name == "callback_metrics":  # the property computes metrics, and so would freeze their values
            return dict(callback_metrics(self.real))
        if name in {"logged_metrics", "progress_bar_metrics"}:
            return {}
        return getattr(self.real, name)


class StrategyStandIn:
    """The trainer's strategy, but for what it holds of the training run: ``held`` answers in its place."""

    def __init__(self, strategy: Any, held: dict[str, Any]) -> None:
        vars(self).update(real=strategy, **held)

    def __getattr__(self, name: str) -> Any:
        """Ask the real strategy for what is not answered here."""
        if name.startswith("__") or "real" not in vars(self):
            raise AttributeError(name)
        return getattr(self.real, name)


class OptimizerStandIn:
    """An optimizer of the copied module. ``step`` runs the closure and tells that the gradients are final."""

    def __init__(self, optimizer: Any, module: Any, about_to_step: Callable[[], None]) -> None:
        self.optimizer = optimizer
        self._module, self._about_to_step = module, about_to_step

    def __getattr__(self, name: str) -> Any:
        """Learning rates, parameter groups and the like are those of the copied optimizer."""
        if name.startswith("__") or "optimizer" not in vars(self):
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def step(self, closure: Callable[[], Any] | None = None, **_options: Any) -> Any:
        """Evaluate the closure, if there is one, and stop short of the update."""
        result = closure() if closure is not None else None
        self._about_to_step()
        return result

    @contextmanager
    def toggle_model(self, *_args: Any, **_kwargs: Any) -> Iterator[None]:
        """Keep gradients from the parameters of other optimizers; there is no synchronisation to switch off."""
        self._module.toggle_optimizer(self)
        yield
        self._module.untoggle_optimizer(self)


class SchedulerStandIn:
    """A scheduler that can be asked and does not move; ``optimizer`` is the copied one."""

    def __init__(self, scheduler: Any, optimizer: Any) -> None:
        self._scheduler, self.optimizer = scheduler, optimizer

    def __getattr__(self, name: str) -> Any:
        """Everything but ``step`` is the real scheduler's."""
        if name.startswith("__") or "_scheduler" not in vars(self):
            raise AttributeError(name)
        return getattr(self._scheduler, name)

    def step(self, *_arguments: Any) -> None:
        """The real schedule goes on as if this step had run once."""
