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


def untoggle(module: Any) -> None:
    """Let parameters need gradients as before ``toggle_optimizer``, in whose reach a bad step mostly ends.

    The public ``untoggle_optimizer`` leaves those of one optimizer as they are.
    """
    for parameter, needs_gradient in module._param_requires_grad_state.items():  # noqa: SLF001
        parameter.requires_grad_(needs_gradient)
    module._param_requires_grad_state = {}  # noqa: SLF001


def needing_gradients(module: Any) -> list[str]:
    """Return the parameters that need a gradient but for ``toggle_optimizer``, by name."""
    toggled = module._param_requires_grad_state  # noqa: SLF001
    return [name for name, parameter in module.named_parameters() if toggled.get(parameter, False)]


def checkpoint_periods(trainer: Any) -> list[int]:
    """Return the numbers of steps after which checkpoint callbacks save, at the end of a training batch.

    They run last, after every other callback, so what must be seen before a checkpoint is written is seen by then.
    """
    periods = [getattr(callback, "_every_n_train_steps", 0) or 0 for callback in trainer.checkpoint_callbacks]
    return sorted({period for period in periods if period >= 1})


def around_clipping(
    trainer: Any, judge: Callable[[Optimizer], bool], after: Callable[[Optimizer], None] | None
) -> Callable[[], None]:
    """Call ``judge`` where Lightning clips, and let it clip only if that returns True; return how to undo this.

    That place is after every ``on_before_optimizer_step`` hook, the module's own included, in automatic and manual
    optimization alike. No callback hook comes that late: ``on_before_optimizer_step`` of a callback runs before the
    module's, which may still change the gradients and must see them unclipped. ``after`` is called once Lightning has
    clipped; None says that it has nothing to clip, which then need not be asked at every step.
    """
    plugin = trainer.precision_plugin
    own = dict(vars(plugin))
    clip = plugin._clip_gradients  # noqa: SLF001

    def judge_then_clip(model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        if judge(optimizer) and after is not None:
            clip(model, optimizer, *args, **kwargs)
            after(optimizer)

    plugin._clip_gradients = judge_then_clip  # noqa: SLF001

    def undo() -> None:
        plugin.__dict__.pop("_clip_gradients", None)
        if "_clip_gradients" in own:
            plugin._clip_gradients = clip  # noqa: SLF001

    return undo
