"""Runs one case in one way of training under gradwatch, and compares what it says with the truth."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from gradwatch import NonFiniteError, NumericalHealthMonitor, load_events
from gradwatch.records import Incident
from tests.zoo.case import BF16, SCALER

if TYPE_CHECKING:
    from torch import Tensor

    from tests.zoo.case import Case, Truth, ZooModule

PLAIN, ACCUMULATE, MANUAL = "plain", "accumulate 4", "manual"
CHECKPOINT, REENTRANT = "checkpoint", "checkpoint, reentrant"
AOT_EAGER, INDUCTOR = "compile, aot_eager", "compile, inductor"
VARIANTS = (ACCUMULATE, MANUAL, CHECKPOINT, REENTRANT, AOT_EAGER)
SCALE = 1024.0


@dataclass(frozen=True)
class Outcome:
    """What gradwatch said. ``judged`` maps each judged field to whether it is right."""

    incident: Incident | None
    alarms: int
    failures: list[str] = field(default_factory=list)
    judged: dict[str, bool] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        return all(self.judged.values()) and not self.failures


def run(case: Case, precision: str, variant: str, folder: Path, **monitor: Any) -> Outcome:
    """Train on the case's batches once and compare."""
    torch.manual_seed(0)
    module = _varied(case.module(), variant)
    messages = _Messages()
    logging.getLogger("gradwatch").addHandler(messages)
    try:
        options: dict[str, Any] = {"on_nonfinite": "raise", "clip": None, **monitor}
        callback = NumericalHealthMonitor(dirpath=folder, **options)
        incident = _fit(_trainer(case, precision, variant, folder, callback), module, case)
    finally:
        logging.getLogger("gradwatch").removeHandler(messages)
    alarms = sum(isinstance(event, Incident) for event in load_events(folder))
    truth = case.truth[precision]
    return Outcome(incident, alarms, messages.failures, compare(truth, case, incident))


def compare(truth: Truth, case: Case, incident: Incident | None) -> dict[str, bool]:
    """Return which of the judged fields are right."""
    if not truth.incident or incident is None:
        return {"alarm": (incident is not None) == truth.incident}
    origin, line = incident.origin, case.marked_line
    said = {
        "phase": (truth.phase, origin.phase),
        "op": (truth.op, origin.op),
        "module": (truth.module, origin.module),
        "tensor": (truth.tensor, origin.tensor),
        "sample": (truth.sample, origin.sample),
        "transition": (truth.transition, origin.transition),
        "cause": (truth.cause, origin.cause),
    }
    judged = {name: expected == found for name, (expected, found) in said.items() if expected is not None}
    if truth.line:
        found = (str(Path(origin.source.file).resolve()), origin.source.line) if origin.source else None
        judged["line"] = line is not None and found == (str(Path(line[0]).resolve()), line[1])
    if truth.cause is None:
        judged["batch_idx"] = incident.batch_idx == case.bad_batch
        judged["cause"] = origin.cause is None
    return judged


def _fit(trainer: Trainer, module: ZooModule, case: Case) -> Incident | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer.fit(module, _loader(case))
        except NonFiniteError as error:
            return error.incident
    return None


def _loader(case: Case) -> DataLoader[Any]:
    batches: Any = case.batches()
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


def _trainer(case: Case, precision: str, variant: str, folder: Path, callback: Any) -> Trainer:
    options = dict(case.trainer)
    scale = options.pop("scaler_init_scale", SCALE)
    if precision == SCALER:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        options["plugins"] = [MixedPrecision("16-mixed", device="cpu", scaler=scaler)]
    elif precision == BF16:
        options["precision"] = BF16
    if variant == ACCUMULATE:
        options["accumulate_grad_batches"] = 4
    return Trainer(
        **{"max_epochs": 1, **options},
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _varied(module: ZooModule, variant: str) -> ZooModule:
    """Return the module with another way to run its step."""
    steps = {
        MANUAL: _manual_step,
        CHECKPOINT: _checkpointed_step,
        REENTRANT: _reentrant_step,
        AOT_EAGER: _compiled_step("aot_eager"),
        INDUCTOR: _compiled_step("inductor"),
    }
    if variant in steps:
        cls = type(module)
        module.__class__ = type(cls.__name__, (cls,), {"training_step": steps[variant], "__module__": cls.__module__})
        module.automatic_optimization = variant != MANUAL
    return module


def _manual_step(self: Any, batch: Any, batch_idx: int) -> None:
    optimizer = self.optimizers()
    optimizer.zero_grad()
    self.manual_backward(self.loss(batch))
    optimizer.step()


def _compiled_step(backend: str) -> Any:
    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        return torch.compile(self.loss, backend=backend)(batch)  # type: ignore[no-untyped-call]

    return training_step


def _checkpointed_step(self: Any, batch: Any, batch_idx: int) -> Any:
    return checkpoint(self.loss, batch, use_reentrant=False)


def _reentrant_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
    # This kind gives gradients only if an argument needs one.
    anchor = torch.zeros((), requires_grad=True)
    return checkpoint(lambda _, inputs: self.loss(inputs), anchor, batch, use_reentrant=True)


class _Messages(logging.Handler):
    """Keeps what gradwatch says of its own failures."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.failures: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "itself failed" in text or "could not" in text:
            self.failures.append(text)
