"""The hooks of the callback, for ``lightning.pytorch`` and ``pytorch_lightning`` alike: they translate, no more."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from gradwatch.engine.context import RunContext
from gradwatch.engine.endings import ending_of
from gradwatch.engine.monitor import HealthMonitor
from gradwatch.errors import GradientMismatchError, NonFiniteError
from gradwatch.integrations.lightning_step import LightningStep
from gradwatch.integrations.loop_clipping import clips_by_itself, trainer_clip_rule
from gradwatch.integrations.run_facts import ending_of_fit, schedulers_of
from gradwatch.integrations.trainer_internals import (
    around_clipping,
    batches_that_stepped,
    callback_metrics,
    checkpoint_periods,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from gradwatch.engine.settings import LayerScalars
    from gradwatch.records import RunStatus

log = logging.getLogger("gradwatch")

F = TypeVar("F", bound=Callable[..., Any])


def never_fatal(hook: F) -> F:
    """Turn a failure of the monitor itself into one warning a hook; only what is to be raised ends the run."""

    @functools.wraps(hook)
    def guarded(self: MonitorHooks, *args: Any, **kwargs: Any) -> Any:
        try:
            return hook(self, *args, **kwargs)
        except (NonFiniteError, GradientMismatchError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the training run goes on
            self._report_failure(hook.__name__, error)
            return None

    return guarded  # type: ignore[return-value]


class MonitorHooks:
    """Watches a training run: norms of every layer, no non-finite gradient into the weights, clipping, post-mortem log.

    Args:
        dirpath: where the post-mortem files go; default ``<trainer.log_dir or default_root_dir>/gradwatch``.
        log_every_n_steps: how often per-layer records are written; default the Trainer's own.
        granularity: ``"layer"`` (the module that owns the parameters) or ``"parameter"``.
        layer_scalars: also write per-layer scalars to the loggers: True, False or ``"auto"`` (at most 200 tags).
        clip: ``"auto"`` = the default of the detected architecture; a positive float = largest L2 norm; None = never.
        on_nonfinite: ``"raise"``, ``"stop"``, ``"skip"`` (drop the update, keep training) or ``"warn"``.
        max_skips: consecutive skips after which ``"skip"`` raises.
        anomaly_steps: after an incident that training survives: for how many steps anomaly mode stays on.
        max_incident_bytes: what all incidents of a run may take on disk for ``gradwatch replay``; beyond it weights are
            left out.
        gradient_check_every_n_steps: how often gradients are spot-checked: a number of steps, None for never, or
            ``"auto"`` for as often as keeps the cost under 1 % of the run.
        on_gradient_mismatch: what to do about a wrong gradient: ``"warn"`` or ``"raise"``.
        graph_lint: look once, at the first step, for compositions that are numerically unsafe.
        detectors: ``"default"``, or a list.

    Raises:
        TypeError: an argument has a type that is not accepted.
        ValueError: an argument has a value that is not accepted.
    """

    def __init__(
        self,
        *,
        dirpath: str | os.PathLike[str] | None = None,
        log_every_n_steps: int | None = None,
        granularity: str = "layer",
        layer_scalars: LayerScalars = "auto",
        clip: float | str | None = "auto",
        on_nonfinite: str = "raise",
        max_skips: int = 10,
        anomaly_steps: int = 100,
        max_incident_bytes: int = 2 * 2**30,
        gradient_check_every_n_steps: int | str | None = "auto",
        on_gradient_mismatch: str = "warn",
        graph_lint: bool = True,
        detectors: Any = "default",
    ) -> None:
        super().__init__()
        self._engine = HealthMonitor(
            dirpath=dirpath,
            log_every_n_steps=log_every_n_steps,
            granularity=granularity,
            layer_scalars=layer_scalars,
            clip=clip,
            on_nonfinite=on_nonfinite,
            max_skips=max_skips,
            anomaly_steps=anomaly_steps,
            max_incident_bytes=max_incident_bytes,
            gradient_check_every_n_steps=gradient_check_every_n_steps,
            on_gradient_mismatch=on_gradient_mismatch,
            graph_lint=graph_lint,
            detectors=detectors,
        )
        self._dirpath: str | None = None
        self._checkpoint_periods: list[int] = []
        self._undo: list[Callable[[], None]] = []
        self._awaited: list[Callable[[], None]] = []
        self._failures: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Copies, as of a Trainer, have none of the hooks that are to be taken back from this one's."""
        return {**vars(self), "_undo": [], "_awaited": []}

    # -- the life of a run --------------------------------------------------------------------------------------

    @never_fatal
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find out where the files go: ``trainer.log_dir`` talks to the other ranks, so every rank asks here."""
        if stage == "fit":
            self._dirpath = None if trainer.barebones else self._chosen_dirpath(trainer)
            _make_visible()

    @never_fatal
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch: optimizers exist, and a checkpoint has been restored."""
        if self._dirpath is None:
            return
        self._release()
        self._checkpoint_periods = checkpoint_periods(trainer)
        context = self._context(trainer, pl_module, self._dirpath)
        after = None if context.clip_rule is None else self._after_clip
        self._undo.append(around_clipping(trainer, functools.partial(self._judge, trainer), after))
        # Last: an engine that is told of batches and never of a step would keep them.
        self._engine.start(pl_module, trainer.optimizers, context)

    @never_fatal
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Look once more at everything that outlives the run."""
        if self._engine.active:
            self._engine.scan()
            self._publish(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the files."""
        self._finish(*ending_of_fit(trainer, stopped_here=self._engine.stop_requested))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close the files, should ``on_fit_end`` not have been called."""
        self._finish("finished")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the files: after an error Lightning calls neither ``on_fit_end`` nor ``teardown``."""
        self._finish(*ending_of(exception))

    # -- the flow of a batch ------------------------------------------------------------------------------------

    @never_fatal
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep a reference to the batch and the buffers before it."""
        if self._engine.active:
            self._engine.begin_batch(
                batch,
                batch_idx,
                epoch=trainer.current_epoch,
                step=trainer.global_step,
                log_step=batches_that_stepped(trainer),
            )

    @never_fatal
    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Take the forward hooks off: between the training step and this, other callbacks copy the module."""
        self._engine.end_forward()

    @never_fatal
    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Keep the loss; Lightning has divided it by the number of accumulated batches."""
        if self._engine.active:
            divided = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
            self._engine.observe_loss(loss, factor=float(divided))

    @never_fatal
    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Finish the batch, and look at the state if a checkpoint of it is about to be written."""
        self._await_no_more()
        if not self._engine.active:
            return
        self._engine.end_batch()
        periods = self._checkpoint_periods
        checkpoint_due = bool(periods) and any(trainer.global_step % period == 0 for period in periods)
        if checkpoint_due:
            self._engine.scan()
        if checkpoint_due or self._engine.is_log_step or self._engine.has_news():
            self._publish(trainer)
        self._pass_on_stop(trainer)

    @never_fatal
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at the state before the checkpoint callbacks save it."""
        self._scan(trainer)

    @never_fatal
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the state that will be validated."""
        self._scan(trainer)

    @never_fatal
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at what validation has left behind, before the checkpoint callbacks save it."""
        self._scan(trainer)
        if not trainer.sanity_checking:
            self._engine.observe_validation(validation_losses(callback_metrics(trainer)))

    @never_fatal
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Look at the state that is being saved; not all ranks need be here, so this one decides alone."""
        if self._engine.active:
            self._engine.scan(together=False)

    # -- state --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return counters and run id in plain types, which ``torch.load(weights_only=True)`` opens."""
        return self._engine.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the counters; a checkpoint from before this callback has nothing to load."""
        self._engine.load_state_dict(state_dict)

    # -- between the hooks --------------------------------------------------------------------------------------

    def _judge(self, trainer: Any, optimizer: Optimizer) -> bool:
        """Return whether Lightning's own clipping may run; a dropped or non-finite update has nothing to clip."""
        return self._before_step(trainer, optimizer) is not False  # None: the monitor failed, and must not interfere

    @never_fatal
    def _before_step(self, trainer: Any, optimizer: Optimizer) -> bool:
        if not self._engine.active:
            return True
        # Several steps in one batch are for manual optimization alone; the property takes 2 µs.
        step = None if trainer.lightning_module.automatic_optimization else trainer.global_step
        kept = self._engine.before_step(optimizer, step=step)
        if self._engine.awaits_update:  # on log steps, as a rule: a hook of every step would take 4 µs of each
            handle = optimizer.register_step_post_hook(lambda stepped, *_: self._after_step(stepped))
            self._awaited.append(handle.remove)
        self._pass_on_stop(trainer)
        return kept

    @never_fatal
    def _after_clip(self, optimizer: Optimizer) -> None:
        if self._engine.active:
            self._engine.after_clip(optimizer)

    @never_fatal
    def _after_step(self, optimizer: Optimizer) -> None:
        if self._engine.active:
            self._engine.after_step(optimizer)

    def _scan(self, trainer: Any) -> None:
        if self._engine.active and not trainer.sanity_checking:
            self._engine.scan()
            self._publish(trainer)

    def _publish(self, trainer: Any) -> None:
        """Offer the ``health/*`` values to ``ModelCheckpoint(monitor=...)`` and ``EarlyStopping``."""
        health = self._engine.health()
        values = torch.tensor([float(value) for value in health.values()]).unbind()
        callback_metrics(trainer).update(zip(health, values, strict=True))

    def _pass_on_stop(self, trainer: Any) -> None:
        if self._engine.stop_requested and not trainer.fast_dev_run:
            trainer.should_stop = True

    def _chosen_dirpath(self, trainer: Any) -> str:
        chosen = self._engine.settings.dirpath
        log_dir = trainer.log_dir
        return os.fspath(chosen) if chosen is not None else str(Path(log_dir or trainer.default_root_dir) / "gradwatch")

    def _context(self, trainer: Any, module: Any, dirpath: str) -> RunContext:
        strategy = trainer.strategy
        context = RunContext(
            dirpath=dirpath,
            log_every_n_steps=trainer.log_every_n_steps,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            strategy=type(strategy).__name__,
            precision={"precision": str(trainer.precision), "plugin": type(trainer.precision_plugin).__name__},
            scaler=_enabled_scaler(trainer.precision_plugin),
            loggers=tuple(trainer.loggers) if trainer.is_global_zero and not trainer.fast_dev_run else (),
            clip_rule=trainer_clip_rule(trainer, module),
            clips_by_user_code=module.automatic_optimization and clips_by_itself(module),
            manual_optimization=not module.automatic_optimization,
            schedulers=schedulers_of(trainer),
            step=trainer.global_step,
            epoch=trainer.current_epoch,
            write=not trainer.fast_dev_run,
            run_id=strategy.broadcast(uuid.uuid4().hex),
            runner=LightningStep(trainer),
        )
        if trainer.world_size == 1:
            return context
        gather = _gather(strategy) if "DDP" in type(strategy).__name__ else None
        return dataclasses.replace(context, agree=_agree(strategy), ranks_where=_ranks_where(strategy), gather=gather)

    def _finish(self, status: RunStatus, reason: str | None = None) -> None:
        self._release()
        try:
            self._engine.end(status, reason)
        except Exception as error:  # noqa: BLE001 - as in never_fatal
            self._report_failure("end", error)

    def _await_no_more(self) -> None:
        while self._awaited:
            self._awaited.pop()()

    def _release(self) -> None:
        """Take back every hook, also after an exception."""
        self._await_no_more()
        while self._undo:
            self._undo.pop()()

    def _report_failure(self, where: str, error: Exception) -> None:
        if where not in self._failures:
            self._failures.add(where)
            log.warning(
                "gradwatch itself failed in %s (%s: %s). Training goes on unwatched there; please report this.",
                where,
                type(error).__name__,
                error,
                exc_info=log.isEnabledFor(logging.DEBUG),
            )


def _make_visible() -> None:
    """Show the choice of the clip rule where nobody has set up logging, as Lightning shows its own lines."""
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)


def _enabled_scaler(plugin: Any) -> Any:
    scaler = getattr(plugin, "scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def _agree(strategy: Any) -> Callable[[int], int]:
    def agree(value: int) -> int:
        return int(strategy.reduce(torch.tensor(value, device=strategy.root_device), reduce_op="max"))

    return agree


def _ranks_where(strategy: Any) -> Callable[[bool], list[int]]:
    def ranks_where(flag: bool) -> list[int]:  # noqa: FBT001 - one flag, the whole message
        flags = strategy.all_gather(torch.tensor(int(flag), device=strategy.root_device))
        return [int(rank) for rank in torch.nonzero(flags.flatten()).flatten()]

    return ranks_where


def _gather(strategy: Any) -> Callable[[list[float]], list[list[float]]]:
    def gather(values: list[float]) -> list[list[float]]:
        wide = torch.float32 if strategy.root_device.type == "mps" else torch.float64
        rows: list[list[float]] = strategy.all_gather(
            torch.tensor(values, dtype=wide, device=strategy.root_device)
        ).tolist()
        return rows

    return gather


def validation_losses(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what a user has logged under a name with "val" and "loss" in it."""
    return {name: float(value) for name, value in metrics.items() if "val" in name.lower() and "loss" in name.lower()}
