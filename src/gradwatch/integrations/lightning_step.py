"""A LightningModule's training step once more, on a copy: the module's own hooks, no callbacks, no logging."""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradwatch.capture.rollback import evaluates_again
from gradwatch.integrations.loop_clipping import clips_by_itself
from gradwatch.integrations.stand_ins import OptimizerStandIn, SchedulerStandIn, StrategyStandIn, TrainerStandIn
from gradwatch.integrations.trainer_internals import needing_gradients, untoggle
from gradwatch.replica.once import do_nothing
from gradwatch.replica.step_runner import import_path
from gradwatch.replica.tensors import parameters_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn
    from torch.optim import Optimizer

    from gradwatch.replica.copying import SideCopy
    from gradwatch.replica.step_runner import Moment, Observer


_HELD = ("optimizers", "lightning_module", "model")
_SILENT = ("log", "log_dict", "print")


class LightningStep:
    """Runs training steps as Lightning's loops do, in automatic and in manual optimization.

    Args:
        trainer: the real one; the copy gets a stand-in for it.
        overrides: what the stand-in answers by itself.
    """

    def __init__(self, trainer: Any, overrides: dict[str, Any] | None = None) -> None:
        self._trainer = trainer
        package = self._package = type(trainer).__module__.split(".")[0]
        loggers = import_module(
            "lightning.pytorch.loggers.logger" if package == "lightning" else f"{package}.loggers.logger"
        )
        self._stand_in = TrainerStandIn(trainer, loggers.DummyLogger(), overrides)

    def replaced(self) -> Mapping[int, object]:
        """Return the stand-in for the trainer."""
        return {id(self._trainer): self._stand_in}

    def facts(self, module: nn.Module) -> dict[str, Any]:
        """Return class, hyperparameters and the trainer's settings that a step depends on."""
        trainer = self._stand_in
        return {
            "kind": "lightning",
            "package": self._package,
            "module": import_path(type(module)),
            "file": _file_of(type(module)),
            "hyperparameters": dict(getattr(module, "hparams_initial", None) or {}),
            "precision": str(trainer.precision),
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "current_epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "global_rank": trainer.global_rank,
            "local_rank": trainer.local_rank,
            "world_size": trainer.world_size,
            "untoggled": sorted(needing_gradients(module)),
        }

    def __call__(
        self, copy: SideCopy, moment: Moment, observer: Observer, *, loss_scale: float, with_step: bool
    ) -> None:
        """Run forward and backward of one micro-batch, up to where the optimizer would act."""
        run = _Run(self._stand_in, copy, observer, loss_scale)
        try:
            run.prepare()
            self._run(run, copy, moment, with_step=with_step)
        finally:  # the stand-in outlives the copy, which would otherwise stay in memory
            run.release()

    def _run(self, run: _Run, copy: SideCopy, moment: Moment, *, with_step: bool) -> None:
        if copy.module.on_train_batch_start(moment.batch, moment.batch_idx) == -1:  # type: ignore[operator]
            return
        if not copy.module.automatic_optimization:
            run.training_step(moment)
        elif with_step and evaluates_again(copy.optimizers[0]):
            optimizer: Any = copy.optimizers[0]
            optimizer.step(lambda: run.closure(moment, with_step=True))
        else:
            run.closure(moment, with_step=with_step)


class _Run:
    """One run of one step on one copy."""

    def __init__(self, stand_in: TrainerStandIn, copy: SideCopy, observer: Observer, loss_scale: float) -> None:
        self._trainer, self._module, self._observer = stand_in, copy.module, observer
        self._optimizers, self._loss_scale = copy.optimizers, loss_scale
        self._first = True

    def prepare(self) -> None:
        """Replace what would log, print, or reach the real optimizers."""
        module: Any = self._module
        untoggle(module)
        configs = self._scheduler_configs()
        held = dict(zip(_HELD, (self._optimizers, module, module), strict=True))
        answers = {**held, "lr_scheduler_configs": configs, "backward": self._manual_backward}
        strategy = StrategyStandIn(self._trainer.real.strategy, answers)
        vars(self._trainer).update(held, strategy=strategy, lr_scheduler_configs=configs)
        for name in _SILENT:
            setattr(module, name, do_nothing)
        stand_ins = [OptimizerStandIn(o, module, self._stepper(i, o)) for i, o in enumerate(self._optimizers)]
        schedulers = [config.scheduler for config in configs]
        module.optimizers = lambda use_pl_optimizer=True: _as_lightning_returns(stand_ins)  # noqa: ARG005
        module.lr_schedulers = lambda: _as_lightning_returns(schedulers) if schedulers else None

    def release(self) -> None:
        """Take back what leads from the copy, and from the trainer's stand-in, to the copy: it ends with the run."""
        for name in (*_SILENT, "optimizers", "lr_schedulers"):
            vars(self._module).pop(name, None)
        for name in (*_HELD, "strategy", "lr_scheduler_configs"):
            vars(self._trainer).pop(name, None)

    def _scheduler_configs(self) -> list[Any]:
        """Return the real configurations with stand-ins for the schedulers, which lead to the copied optimizers."""
        real = self._trainer.real
        copies = {id(old): new for old, new in zip(real.optimizers, self._optimizers, strict=False)}
        configs = [(config, config.scheduler) for config in real.lr_scheduler_configs]
        return [
            dataclasses.replace(c, scheduler=SchedulerStandIn(s, copies.get(id(getattr(s, "optimizer", None)))))
            for c, s in configs
        ]

    def training_step(self, moment: Moment) -> Any:
        """Call the user's step under the precision's context."""
        step: Any = self._module.training_step
        with self._trainer.precision_plugin.train_step_context():
            return step(moment.batch, moment.batch_idx) if _takes_index(step) else step(moment.batch)

    def closure(self, moment: Moment, *, with_step: bool) -> Tensor | None:
        """Run what Lightning hands to an optimizer of automatic optimization."""
        output = self.training_step(moment)
        loss: Tensor | None = output["loss"] if isinstance(output, dict) else output
        module: Any = self._module
        optimizer = self._optimizers[0]
        if with_step and not self._first:
            optimizer.zero_grad()
        self._first = False
        module.on_before_zero_grad(optimizer)
        if loss is None:
            return None
        self._observer.terms(output)
        self._backward(loss / self._trainer.accumulate_grad_batches)
        if with_step:
            self._stepper(0, optimizer)()
        return loss

    def _manual_backward(self, loss: Tensor, _optimizer: object, *args: Any, **kwargs: Any) -> None:
        """Stand in for the strategy's, to which ``manual_backward`` leads, also a user's own."""
        self._backward(loss, *args, **kwargs)

    def _backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        module: Any = self._module
        self._observer.loss(loss)
        if self._loss_scale != 1.0:
            loss = loss * self._loss_scale
        module.on_before_backward(loss)
        module.backward(loss, *args, **kwargs)
        if not module.automatic_optimization:
            self._observer.backward()
        module.on_after_backward()

    def _stepper(self, index: int, optimizer: Optimizer) -> Callable[[], None]:
        def about_to_step() -> None:
            module: Any = self._module
            self._unscale(optimizer)
            module.on_before_optimizer_step(optimizer)
            if module.automatic_optimization and clips_by_itself(module):
                trainer = self._trainer
                module.configure_gradient_clipping(
                    optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                )
            self._observer.step(index)

        return about_to_step

    @torch.no_grad()
    def _unscale(self, optimizer: Optimizer) -> None:
        if self._loss_scale != 1.0:
            for parameter in parameters_of(optimizer):
                if parameter.grad is not None:
                    parameter.grad.div_(self._loss_scale)


def _takes_index(step: Any) -> bool:
    """Whether a training step takes the batch's index, under whatever name, or whatever it is given."""
    parameters = inspect.signature(step).parameters.values()
    return len(parameters) > 1 or any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)


def _file_of(cls: type) -> str | None:
    try:
        return inspect.getsourcefile(cls)
    except (TypeError, OSError):  # a notebook, or a class made by hand
        return None


def _as_lightning_returns(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items
