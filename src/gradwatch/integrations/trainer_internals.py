"""The private members of Lightning that gradwatch needs, each with its reason; a test notices when one changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim import Optimizer


def batches_that_stepped(trainer: Any) -> int:
    """Return the loggers' x-axis: batches after which an optimizer has stepped. Lightning has no public name for it."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)  # noqa: SLF001


def callback_metrics(trainer: Any) -> dict[str, Tensor]:
    """Return the dictionary behind ``trainer.callback_metrics``.

    The public property computes every metric that the user has logged so far, which at the end of an epoch would
    freeze their values too early: reading it is not neutral.
    """
    store: dict[str, Tensor] = trainer._logger_connector._callback_metrics  # noqa: SLF001
    return store


def checkpoint_due(trainer: Any) -> bool:
    """Whether a checkpoint callback will save after this training batch: they run last, after every other callback."""
    periods = [getattr(callback, "_every_n_train_steps", 0) or 0 for callback in trainer.checkpoint_callbacks]
    return any(period >= 1 and trainer.global_step % period == 0 for period in periods)


def around_clipping(
    trainer: Any, judge: Callable[[Optimizer], bool], after: Callable[[Optimizer], None]
) -> Callable[[], None]:
    """Call ``judge`` where Lightning clips, and clip only if it returns True; return a function that undoes this.

    That place is after every ``on_before_optimizer_step`` hook, the module's own included, in automatic and manual
    optimization alike. No callback hook comes that late: ``on_before_optimizer_step`` of a callback runs before the
    module's, which may still change the gradients and must see them unclipped.
    """
    plugin = trainer.precision_plugin
    clip = plugin._clip_gradients  # noqa: SLF001

    def judge_then_clip(model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        if judge(optimizer):
            clip(model, optimizer, *args, **kwargs)
            after(optimizer)

    plugin._clip_gradients = judge_then_clip  # noqa: SLF001

    def undo() -> None:
        plugin.__dict__.pop("_clip_gradients", None)

    return undo
