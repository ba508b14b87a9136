"""The scalars of a record for the run's own loggers, whatever they are."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gradwatch.records import GradientCheck, RunStart, StepRecord
from gradwatch.sinks.tags import LAYER_TAGS, gradient_check_metrics, health_metrics, layer_metrics
from gradwatch.sinks.tensorboard_scalars import log_metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gradwatch.records import Event

log = logging.getLogger("gradwatch")

MAX_AUTO_TAGS = 200
MAX_FAILURES = 3


class LoggerSink:
    """Sends the ``health`` scalars, and the per-layer ones if wanted, to any number of loggers.

    A logger is anything with ``log_metrics(metrics, step)``; ``group_separator`` is used where it has one. One that
    fails is named in one warning, and left alone after ``MAX_FAILURES`` failures in a row.

    Args:
        loggers: Lightning's loggers, of either package, or whatever looks like one.
        layer_scalars: whether the per-layer scalars are sent; ``"auto"`` while they are at most ``MAX_AUTO_TAGS``.
    """

    def __init__(self, loggers: Iterable[Any], *, layer_scalars: bool | str = "auto") -> None:
        self._loggers = list(loggers)
        self._layer_scalars = layer_scalars
        self._layers: dict[int, int] = {}
        self._failures = [0] * len(self._loggers)
        self._warned: set[int] = set()

    def write(self, event: Event) -> None:
        """Send the scalars of a step or a gradient check; learn from ``RunStart`` how many layers there are."""
        if isinstance(event, RunStart):
            self._layers = _layers_by_optimizer(event)
        elif isinstance(event, StepRecord):
            self._layers[event.optimizer] = len(event.layers)
            with_layers = self._wants_layers()
            self._send(lambda separator: _metrics(event, separator, with_layers=with_layers), event.log_step)
        elif isinstance(event, GradientCheck):
            error = event.largest_error
            if error is not None:
                self._send(lambda separator: gradient_check_metrics([error], separator=separator), event.log_step)

    def close(self) -> None:
        """Do nothing: the loggers belong to the run, which finishes them itself."""

    def _send(self, metrics: Callable[[str], dict[str, float]], step: int) -> None:
        for index, logger in enumerate(self._loggers):
            if self._failures[index] >= MAX_FAILURES:
                continue
            try:
                log_metrics(logger, metrics(str(getattr(logger, "group_separator", "/"))), step)
            except Exception as error:  # noqa: BLE001 - a broken logger is a warning, never the end of a run
                self._failures[index] += 1
                self._warn(index, error)
            else:
                self._failures[index] = 0

    def _warn(self, index: int, error: Exception) -> None:
        if index not in self._warned:
            self._warned.add(index)
            log.warning(
                "gradwatch: logger %s failed: %s: %s. Training goes on; after %d failures in a row it gets no more"
                " scalars from gradwatch (events.jsonl has them all).",
                type(self._loggers[index]).__name__,
                type(error).__name__,
                error,
                MAX_FAILURES,
            )

    def _wants_layers(self) -> bool:
        if self._layer_scalars != "auto":
            return bool(self._layer_scalars)
        count = len(LAYER_TAGS) * sum(self._layers.values())
        if count <= MAX_AUTO_TAGS:
            return True
        log.info(
            "gradwatch: the loggers get no per-layer scalars: %d tags are more than %d and make dashboards slow."
            " events.jsonl has them all; layer_scalars=True sends them anyway.",
            count,
            MAX_AUTO_TAGS,
        )
        self._layer_scalars = False
        return False


def _metrics(record: StepRecord, separator: str, *, with_layers: bool) -> dict[str, float]:
    metrics = health_metrics(record, separator=separator)
    return metrics | layer_metrics(record, separator=separator) if with_layers else metrics


def _layers_by_optimizer(run: RunStart) -> dict[int, int]:
    layers: dict[int, set[str]] = {}
    for row in run.parameters:
        if row.optimizer is not None:
            layers.setdefault(row.optimizer, set()).add(row.layer)
    return {optimizer: len(names) for optimizer, names in layers.items()}
