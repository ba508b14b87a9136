"""What a Trainer tells of its run: schedulers, validation losses, how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradwatch.capture.environment import describe_scheduler
from gradwatch.engine.endings import MAX_REASON, Ending

if TYPE_CHECKING:
    from collections.abc import Mapping


def schedulers_of(trainer: Any) -> list[dict[str, Any]]:
    """Return the learning rate schedulers, each with its settings and how Lightning calls it."""
    return [
        describe_scheduler(
            entry.scheduler,
            trainer.optimizers,
            interval=entry.interval,
            frequency=entry.frequency,
            monitor=entry.monitor,
        )
        for entry in trainer.lr_scheduler_configs
    ]


def validation_losses(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what a user has logged under a name with "val" and "loss" in it."""
    return {name: float(value) for name, value in metrics.items() if "val" in name.lower() and "loss" in name.lower()}


def ending_of_fit(trainer: Any, *, stopped_here: bool) -> Ending:
    """Return how a fit ended that no exception has ended.

    Args:
        trainer: as it is when ``on_fit_end`` is called.
        stopped_here: whether it was the monitor that asked it to stop.
    """
    if stopped_here:
        return Ending("stopped", "on_nonfinite='stop'")
    return Ending("finished", _who_stopped(trainer) if trainer.should_stop else None)


def _who_stopped(trainer: Any) -> str:
    """Name the callback that asked the Trainer to stop, as far as those of Lightning tell."""
    for callback in trainer.callbacks:
        kinds = {base.__name__ for base in type(callback).__mro__}
        remaining = callback.time_remaining() if "Timer" in kinds else None
        if remaining is not None and remaining <= 0:
            return "max_time is over"
        message = getattr(callback, "stopping_reason_message", None) if "EarlyStopping" in kinds else None
        if message:
            return f"EarlyStopping: {' '.join(str(message).split())}"[:MAX_REASON]
    return "trainer.should_stop was set"
