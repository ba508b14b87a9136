"""Trains one case, faulty or healthy, under the monitor, and judges what has been found."""

from __future__ import annotations

import logging
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer

from gradwatch import NumericalHealthMonitor, load_events
from gradwatch.probes.lint.catalogue import RULES as LINT_RULES
from gradwatch.records import Finding
from tests.rules.planted.distributed import launch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.rules.planted.case import Case, Training

# Findings of the graph lint are about the code of a model, not about its training, and not in the catalogue.
LINT = frozenset(rule.code for rule in LINT_RULES)
DEFAULTS: dict[str, Any] = {"gradient_check_every_n_steps": None, "graph_lint": False, "clip": None}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one run.

    Attributes:
        found: the code was opened in time (faulty runs).
        right_layer: it was opened in time and for the right layer.
        silent: nothing above info was opened, and not the code (healthy runs).
        opened_at: the step at which the code was first opened for a right layer.
        findings: all that were opened.
        strays: those of a healthy run that should not be there.
        lint: codes of the graph lint.
        error: the exception that ended the run.
        messages: what gradwatch said of its own failures.
    """

    faulty: bool
    found: bool
    right_layer: bool
    silent: bool
    opened_at: int | None
    findings: list[Finding] = field(default_factory=list)
    strays: list[Finding] = field(default_factory=list)
    lint: list[str] = field(default_factory=list)
    error: str | None = None
    messages: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether this run came out as the case says."""
        return (self.right_layer if self.faulty else self.silent and self.error is None) and not self.messages


def run(case: Case, seed: int, *, faulty: bool) -> Outcome:
    """Train once in a temporary folder."""
    if case.ranks > 1:
        return run_ranks([(case, seed, faulty)])[0]
    failures = _Failures()
    gradwatch_log = logging.getLogger("gradwatch")
    gradwatch_log.addHandler(failures)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            error = fit(case.build(seed, faulty), folder)
            findings = _findings(folder)
    finally:
        gradwatch_log.removeHandler(failures)
    return judge(case, findings, faulty=faulty, error=error, messages=failures.messages)


def run_ranks(jobs: Sequence[tuple[Case, int, bool]]) -> list[Outcome]:
    """Train cases of two ranks, all of them in the same two processes."""
    with tempfile.TemporaryDirectory() as folder:
        errors = launch([(case.name, seed, faulty) for case, seed, faulty in jobs], Path(folder))
        return [
            judge(case, _findings(Path(folder) / str(number)), faulty=faulty, error=error)
            for number, ((case, _, faulty), error) in enumerate(zip(jobs, errors, strict=True))
        ]


def _findings(folder: str | Path) -> list[Finding]:
    return [event for event in load_events(folder) if isinstance(event, Finding)]


def fit(training: Training, folder: str, **trainer: Any) -> str | None:
    """Train under the monitor; return what ended the run early."""
    monitor = NumericalHealthMonitor(**{"dirpath": folder, **DEFAULTS, **training.monitor})
    options = {"accelerator": "cpu", "max_epochs": -1, "num_sanity_val_steps": 0, **training.trainer, **trainer}
    silence: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    runner = Trainer(
        **silence, enable_model_summary=False, default_root_dir=folder, callbacks=[monitor], **options
    )  # fmt: skip
    try:
        runner.fit(training.module, training.train, training.validation)
    except Exception as error:  # noqa: BLE001 - a faulty training may die of anything
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def judge(
    case: Case, findings: Iterable[Finding], *, faulty: bool, error: str | None = None, messages: Sequence[str] = ()
) -> Outcome:
    """Compare what was found with what the case says."""
    opened = [finding for finding in findings if finding.status == "opened"]
    lint = [finding.code for finding in opened if finding.code in LINT]
    counted = [finding for finding in opened if finding.code not in lint]
    own = [finding for finding in counted if finding.code == case.code]
    timely = [finding for finding in own if finding.step <= case.within]
    right = [finding for finding in timely if case.names(finding.layer)]
    strays = [] if faulty else [finding for finding in counted if finding in own or finding.severity != "info"]
    return Outcome(
        faulty=faulty,
        found=bool(timely),
        right_layer=bool(right),
        silent=not strays,
        opened_at=min((finding.step for finding in right or own), default=None),
        findings=counted,
        strays=strays,
        lint=lint,
        error=error,
        messages=list(messages),
    )


class _Failures(logging.Handler):
    """Keeps what gradwatch says of its own failures."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "itself failed" in text or "could not" in text:
            self.messages.append(text)
