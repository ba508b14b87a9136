"""The hooks of the callback, for ``lightning.pytorch`` and ``pytorch_lightning`` alike: they translate, no more."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from gradwatch.engine.endings import ending_of
from gradwatch.engine.monitor import HealthMonitor
from gradwatch.integrations.never_fatal import Failures, never_fatal
from gradwatch.integrations.run_context import context_of, dirpath_of
from gradwatch.integrations.run_facts import ending_of_fit, validation_losses
from gradwatch.integrations.trainer_internals import (
    around_clipping,
    batches_that_stepped,
    callback_metrics,
    checkpoint_periods,
)
from gradwatch.integrations.visible_log import make_visible

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim import Optimizer

    from gradwatch.engine.settings import LayerScalars
    from gradwatch.records import RunStatus


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
        self._failures = Failures()

    def __getstate__(self) -> dict[str, Any]:
        """Copies, as of a Trainer, have none of the hooks that are to be taken back from this one's."""
        return {**vars(self), "_undo": [], "_awaited": []}

    # -- the life of a run --------------------------------------------------------------------------------------

    @never_fatal
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find out where the files go: ``trainer.log_dir`` talks to the other ranks, so every rank asks here."""
        if stage == "fit":
            self._dirpath = None if trainer.barebones else dirpath_of(trainer, self._engine.settings.dirpath)
            make_visible()

    @never_fatal
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch: optimizers exist, and a checkpoint has been restored."""
        if self._dirpath is None:
            return
        self._release()
        self._checkpoint_periods = checkpoint_periods(trainer)
        context = context_of(trainer, pl_module, self._dirpath)
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

    def _finish(self, status: RunStatus, reason: str | None = None) -> None:
        self._release()
        try:
            self._engine.end(status, reason)
        except Exception as error:  # noqa: BLE001 - as in never_fatal
            self._failures.report("end", error)

    def _await_no_more(self) -> None:
        while self._awaited:
            self._awaited.pop()()

    def _release(self) -> None:
        """Take back every hook, also after an exception."""
        self._await_no_more()
        while self._undo:
            self._undo.pop()()
