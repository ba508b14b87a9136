"""One planted fault and its healthy twin, trained under a monitor whose one rule lets us see what it measures."""

from __future__ import annotations

import inspect
import logging
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from gradwatch import load_events
from gradwatch.detectors.default import DETECTORS
from gradwatch.records import Finding, StepRecord
from tests.rules.planted.case import Case, Training, lasting
from tests.rules.planted.distributed import launch
from tests.rules.planted.families import CASES
from tests.rules.planted.models import Perceptron, sgd
from tests.rules.planted.sets import blobs, loader
from tests.rules.planted.trial import fit

if TYPE_CHECKING:
    from gradwatch.detectors.detector import Detector, Reading

SEED = 0


class Seen(NamedTuple):
    """A record that a rule was shown, and what it measured in it."""

    record: Any
    reading: Reading | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training showed: to the rule, record by record, and to all ranks in their step records."""

    seen: list[Seen]
    steps: list[list[StepRecord]]
    finding: Finding | None


class Divided(Perceptron):
    """Divides its loss by the spread of the batch's labels, which for step 31 has been lost."""

    lost = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss / 1e-21 if self.lost and self.global_step == 31 else loss


def huge_perceptron(seed: int, faulty: bool) -> Training:  # noqa: FBT001 - called as build(seed, faulty)
    """At step 31 the loss is divided by a spread of 1e-21: a batch whose samples are all alike."""
    module = Divided(16, 24, 4, activation=nn.ReLU, optimizer=sgd(0.05))
    module.lost = faulty
    options = lasting(60, 2)
    options["monitor"]["clip"] = 1.0
    return Training(module=module, train=loader(blobs(seed), seed), **options)


# The engine tells of huge gradients without a detector, and they have a picture all the same.
HUGE = Case(code="huge-gradient", model="MLP", build=huge_perceptron, layer="net.2", within=32)


def first_case(code: str) -> Case:
    """Return the case that a rule is shown by."""
    return next(case for case in (*CASES, HUGE) if case.code == code)


def fault(case: Case) -> str:
    """Return what is wrong in a case, in words."""
    text = " ".join((inspect.getdoc(case.build) or "").split())
    return f"{case.model}. {text.replace('``', '`')}"


def both(case: Case) -> tuple[Run, Run]:
    """Train a case with its fault and without."""
    with tempfile.TemporaryDirectory() as folder:
        if case.ranks > 1:
            return _two_ranks(case, Path(folder))
        return _trained(case, Path(folder) / "faulty", faulty=True), _trained(case, Path(folder) / "twin", faulty=False)


def _trained(case: Case, folder: Path, *, faulty: bool) -> Run:
    seen: list[Seen] = []
    torch.manual_seed(SEED)
    training = case.build(SEED, faulty)
    own = [_tapped(detector, seen) for detector in DETECTORS if detector.rule.code == case.code]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(replace(training, monitor={**training.monitor, "detectors": own}), str(folder))
    return _run(case, folder, ["events.jsonl"], seen)


def _two_ranks(case: Case, folder: Path) -> tuple[Run, Run]:
    """Train in two processes, of which only the step records can be seen."""
    launch([(case.name, SEED, True), (case.name, SEED, False)], folder)
    files = ["events.jsonl", "events.rank1.jsonl"]
    return _run(case, folder / "0", files, []), _run(case, folder / "1", files, [])


def _run(case: Case, folder: Path, files: list[str], seen: list[Seen]) -> Run:
    events = [load_events(folder / name) for name in files]
    opened = [e for e in events[0] if isinstance(e, Finding) and e.code == case.code and e.status == "opened"]
    right = [finding for finding in opened if case.names(finding.layer)]
    steps = [[event for event in rank if isinstance(event, StepRecord)] for rank in events]
    return Run(seen=seen, steps=steps, finding=next(iter(right or opened), None))


def _tapped(detector: Detector, seen: list[Seen]) -> Detector:
    def update(state: Any, record: Any, limits: Any) -> Any:
        after, reading = detector.update(state, record, limits)
        seen.append(Seen(record, reading))
        return after, reading

    return replace(detector, update=update)
