"""Runs one healthy training under gradwatch, and collects what it found and whether anything was learned."""

from __future__ import annotations

import logging
import math
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

from gradwatch import NonFiniteError, NumericalHealthMonitor, load_events
from gradwatch.records import Event, Finding, Incident, StepRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.rules.healthy.case import Case, Training

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "max_epochs": -1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a training.

    Attributes:
        steps: optimizer steps, of all optimizers together.
        value: what the module measures after the training.
        learned: whether that is enough.
        alarms: findings above info and incidents, each once, with the message.
        remarks: findings at info.
        failures: what gradwatch said of its own failures.
        seconds: how long ``Trainer.fit`` took.
        records: the step records, for a closer look.
    """

    name: str
    steps: int
    value: float
    learned: bool
    alarms: list[str]
    remarks: list[str]
    failures: list[str]
    seconds: float
    records: list[StepRecord]

    @property
    def right(self) -> bool:
        """Whether the training learned and gradwatch had nothing to complain of."""
        return self.learned and not self.alarms and not self.failures


def run(case: Case, seed: int = 0, folder: Path | None = None) -> Outcome:
    """Train a case under the monitor; its files go to ``folder``, by default to one that is removed again."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return run(case, seed, Path(temporary))
    training = case.build(seed)
    watch = _Failures()
    logging.getLogger("gradwatch").addHandler(watch)
    try:
        steps, seconds = _fit(training, folder)
    finally:
        logging.getLogger("gradwatch").removeHandler(watch)
    value = case.measure(training.module)
    events = load_events(folder)
    return Outcome(
        name=case.name,
        steps=steps,
        value=value,
        learned=case.learned.reached(value),
        alarms=_once(event for event in events if _alarming(event)),
        remarks=_once(event for event in events if isinstance(event, Finding) and not _alarming(event)),
        failures=watch.messages,
        seconds=seconds,
        records=[event for event in events if isinstance(event, StepRecord)],
    )


def failed(name: str, error: BaseException) -> Outcome:
    """Return the outcome of a training that raised."""
    return Outcome(
        name=name,
        steps=0,
        value=math.nan,
        learned=False,
        alarms=[],
        remarks=[],
        failures=[f"{type(error).__name__}: {error}"],
        seconds=0.0,
        records=[],
    )


def _fit(training: Training, folder: Path) -> tuple[int, float]:
    monitor = NumericalHealthMonitor(dirpath=folder, **training.monitor)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(**{**QUIET, **training.trainer}, default_root_dir=folder, callbacks=[monitor])
        try:
            trainer.fit(training.module, training.train, training.validation)
        except NonFiniteError:
            logging.getLogger(__name__).exception("a healthy training became non-finite")
    return trainer.global_step, time.perf_counter() - begin


def _alarming(event: Event) -> bool:
    return isinstance(event, Incident) or (isinstance(event, Finding) and event.severity != "info")


def _once(events: Iterable[Event]) -> list[str]:
    """Describe findings and incidents; of the events of one finding the last counts."""
    said = {}
    for event in events:
        if isinstance(event, Finding):
            where = "" if event.layer is None else f" ({event.layer})"
            key = f"{event.code}{where}"
            said[key] = f"{key}, from step {event.since_step}, {event.status} at {event.step}: {event.message}"
        elif isinstance(event, Incident):
            said[f"incident {event.step}"] = f"incident at step {event.step}: {event.explanation}"
    return list(said.values())


class _Failures(logging.Handler):
    """Keeps what gradwatch says of its own failures."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "itself failed" in text or "could not" in text:
            self.messages.append(text)
