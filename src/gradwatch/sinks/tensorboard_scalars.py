"""The scalars of a record for Lightning's TensorBoard logger: all of them as one event.

The logger itself writes one metric at a time, an event each, which takes tens of microseconds: milliseconds for the
scalars of forty layers. TensorBoard reads the same from one event that holds them all.
"""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from tensorboard.compat.proto.summary_pb2 import Summary

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

# Where Lightning, under its two names, and torch keep what is known to do nothing else with a metric.
_LIGHTNING = {
    "lightning.fabric.loggers.tensorboard",
    "lightning_fabric.loggers.tensorboard",
    "lightning_utilities.core.rank_zero",  # what it is wrapped in
}
_TORCH = {"torch.utils.tensorboard.writer"}


def log_metrics(logger: Any, metrics: Mapping[str, float], step: int) -> None:
    """Do what ``logger.log_metrics(metrics, step)`` does, which is asked wherever it is not known what that is."""
    if _is_written_in(_LIGHTNING, logger.log_metrics) and _is_written_in(_TORCH, logger.experiment.add_scalar):
        prefix = f"{logger._prefix}{logger.LOGGER_JOIN_CHAR}" if logger._prefix else ""  # noqa: SLF001 - as it does
        values = [Summary.Value(tag=prefix + name, simple_value=value) for name, value in metrics.items()]
        logger.experiment._get_file_writer().add_summary(Summary(value=values), step)  # noqa: SLF001 - as add_scalar does
    else:
        logger.log_metrics(metrics, step=step)


def _is_written_in(modules: Container[str], method: Any) -> bool:
    """Whether a method and all that it wraps come from there: nobody has overridden, replaced or wrapped it."""
    while method is not None:
        # `type`, as a proxy says of itself to be an instance of what it stands for.
        function = method.__func__ if type(method) is MethodType else method
        # Not its `__module__`, which a wrapper copies.
        if type(function) is not FunctionType or function.__globals__.get("__name__") not in modules:
            return False
        method = getattr(function, "__wrapped__", None)
    return True
