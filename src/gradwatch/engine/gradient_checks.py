"""Gradient checks in a training run: when, of which tensors, and what becomes of the result.

Beside them, two looks at the first step: the lint of its graph, and whether samples of the batch are mixed.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from gradwatch.detectors.probes import TELLING
from gradwatch.errors import GradientMismatchError
from gradwatch.observations import BatchMixing
from gradwatch.probes.batch_mixing import BatchMixingProbe
from gradwatch.probes.check import GradientProbe, Request
from gradwatch.probes.evaluation import Evaluator
from gradwatch.probes.investigation import QUICK
from gradwatch.probes.lint import Unsafe, lint
from gradwatch.probes.table import format_check
from gradwatch.records import Finding, GradientCheck
from gradwatch.replica.step_runner import Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from gradwatch.capture.window import MicroBatch
    from gradwatch.engine.context import RunContext
    from gradwatch.engine.recording import Position
    from gradwatch.engine.reporter import Reporter
    from gradwatch.engine.settings import Settings
    from gradwatch.engine.watched import Watched
    from gradwatch.records import Culprit, GradientCheckReport

log = logging.getLogger("gradwatch")

# Of the time that training takes by itself.
BUDGET = 0.01
# In steps, before anything is known of this model (docs/gradient_check_figures.md). With the budget it means that the
# first check comes after 700 steps: weights and learning rate of the first ones are not those of the training.
EXPECTED_STEPS = 7.0
SAMPLES = 2
# Steps between two looks at the clock, under "auto".
ASKED_EVERY = 16


class CheckSchedule:
    """When a check is due.

    Args:
        every: a number of steps; ``"auto"`` for as often as keeps the cost under ``BUDGET``; None for never.
    """

    def __init__(self, every: int | str | None) -> None:
        self._every = every
        self._started: float | None = None
        self._first_step = 0
        self.spent = 0.0
        self._dearest: float | None = None

    def due(self, step: int, now: float) -> bool:
        """Whether to check after step number ``step`` (from 1) at ``now``, in seconds."""
        if self._every is None:
            return False
        if isinstance(self._every, int):
            return step % self._every == 0
        if self._started is None:  # the first step pays for much that no later one does
            self._started, self._first_step = now, step
            return False
        trained = now - self._started - self.spent
        step_time = trained / max(step - self._first_step, 1)
        expected = EXPECTED_STEPS * step_time if self._dearest is None else self._dearest
        return self.spent + expected <= BUDGET * trained

    def took(self, seconds: float) -> None:
        """Learn what a check has cost."""
        self.spent += seconds
        self._dearest = max(self._dearest or 0.0, seconds)


class GradientChecks:
    """Checks the step of a batch now and then, after its update.

    Weights have moved by then, and batch and random states are those of the step: a point like any other.

    Args:
        settings: how often, and what to do about a wrong gradient.
        context: the loop's setting.
        watched: the module and what steps it.
        reporter: takes the checks.
        observe: takes each ``GradientCheck`` and ``BatchMixing``, for the rules on them.
    """

    def __init__(
        self,
        settings: Settings,
        context: RunContext,
        watched: Watched,
        reporter: Reporter,
        observe: Callable[[Any], None],
    ) -> None:
        # One rank is enough: the weights are the same everywhere.
        runs = context.runner is not None and context.rank == 0
        every = settings.gradient_check_every_n_steps if runs else None
        self._schedule, self._asked_every = CheckSchedule(every), ASKED_EVERY if every == "auto" else 1
        self._turn = 0
        self._raises = settings.on_gradient_mismatch == "raise"
        self._lints = settings.graph_lint and runs
        self._looks_for_mixing = settings.gradient_check_every_n_steps is not None and runs
        self._context, self._watched, self._reporter = context, watched, reporter
        self._observe = observe
        self._is_wrong = False
        self._blamed: dict[str, Culprit | None] = {}
        self._said: set[str] = set()
        self._expect_stops = False
        self._checks = 0
        self.worst_error: float | None = None

    def due(self, step: int) -> bool:
        """Whether to look at the batch of step number ``step`` (from 1), which has just been trained on."""
        if self._lints or self._looks_for_mixing:
            return True
        turn = step // self._asked_every  # no remainder: a batch may have several steps
        if turn == self._turn:
            return False  # at most steps: the clock and the sums take 3 µs
        self._turn = turn
        return self._schedule.due(step, time.perf_counter())

    def after_batch(self, micro_batch: MicroBatch[Position], step: int, header: dict[str, Any], log_step: int) -> None:
        """Look at the graph and the samples of the first batch, and check the gradients of one that is due.

        Raises:
            GradientMismatchError: a gradient is wrong, under ``on_gradient_mismatch="raise"``.
        """
        if self._lints:
            self._lints = False
            self._lint(micro_batch, header)
        if self._looks_for_mixing:
            self._looks_for_mixing = False
            self._look_for_mixing(micro_batch, header)
        if not self._schedule.due(step, time.perf_counter()):
            return
        started = time.perf_counter()
        try:
            self._check(micro_batch, header, log_step)
        except GradientMismatchError:
            raise
        except Exception as error:  # noqa: BLE001 - a failure of the monitor is no end of a training
            self._say_once(f"a gradient check failed with {type(error).__name__}: {error}")
        finally:
            self._schedule.took(time.perf_counter() - started)

    def _check(self, micro_batch: MicroBatch[Position], header: dict[str, Any], log_step: int) -> None:
        runner = self._context.runner
        if runner is None:
            return
        named = self._named()
        probe = GradientProbe(self._watched.module, self._watched.optimizers, runner, _moment(micro_batch), named)
        names = list(named)
        each = [names[self._checks % len(names)]] if names else []
        effort = QUICK._replace(seed=self._checks)
        request = Request(
            samples=SAMPLES,
            effort=effort,
            each=each,
            blamed=self._blamed,
            expect_stops=self._expect_stops,
            first_sample=self._checks,
        )
        report = probe.run(request)
        self._checks += 1
        self._report(report, header, log_step)

    def _say_once(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.info("gradwatch: %s.", what)

    def _lint(self, micro_batch: MicroBatch[Position], header: dict[str, Any]) -> None:
        """Look once at what the step computes."""
        runner, module = self._context.runner, self._watched.module
        if runner is None:
            return
        found: list[Unsafe] = []
        evaluator = Evaluator(module, self._watched.optimizers, runner, _moment(micro_batch), self._named())
        try:
            evaluator.as_trained(around=lambda copied, run: found.extend(lint(copied, run)))
        except Exception:
            log.debug("gradwatch: the graph of the step cannot be looked at", exc_info=True)
        for unsafe in found:
            self._reporter.finding(unsafe_composition(header, unsafe))

    def _look_for_mixing(self, micro_batch: MicroBatch[Position], header: dict[str, Any]) -> None:
        """Find out once whether samples of a batch influence one another."""
        runner = self._context.runner
        if runner is None:
            return
        moment, optimizers = _moment(micro_batch), self._watched.optimizers
        probe = BatchMixingProbe(self._watched.module, optimizers, runner, moment, self._named())
        found = probe.run()
        if found.reason is not None:
            log.debug("gradwatch: whether samples are mixed cannot be told: %s", found.reason)
        self._observe(BatchMixing(**header, **found._asdict()))

    def _named(self) -> dict[str, Tensor]:
        return {
            name: parameter
            for group in self._watched.groups
            for name, parameter in zip(group.names, group.parameters, strict=True)
        }

    def _report(self, report: GradientCheckReport, header: dict[str, Any], log_step: int) -> None:
        self._expect_stops = report.verdict == "explained"
        if report.verdict == "mismatch":
            wrong = [name for name, found in report.parameters.items() if found.correct == "mismatch"]
            self._blamed = {**dict.fromkeys(wrong, report.culprit), **self._blamed}
        self.worst_error = report.largest_error
        values = {**vars(report), "notes": [*report.notes, *_circumstances(self._watched.module.parameters())]}
        deterministic = torch.are_deterministic_algorithms_enabled()
        event = GradientCheck(**header, **values, log_step=log_step, deterministic=deterministic)
        self._reporter.write(event)
        self._observe(event)
        self._warn(report)
        if self._raises and report.verdict == "mismatch":
            raise GradientMismatchError(format_check(report), report)
        if report.verdict == "not_checkable":
            self._say_once(f"the gradients of this step cannot be checked: {report.reason}")

    def _warn(self, report: GradientCheckReport) -> None:
        """Show the table of a check whose gradient is wrong, where those before were not."""
        if report.verdict == "mismatch" and not self._is_wrong and not self._raises:
            log.warning("%s", format_check(report))
        if report.verdict in TELLING:
            self._is_wrong = report.verdict == "mismatch"


def unsafe_composition(header: dict[str, Any], unsafe: Unsafe) -> Finding:
    """Return the finding for something numerically unsafe in the graph of a step."""
    source = unsafe.source
    where = f" ({source.file}:{source.line})" if source else ""
    evidence = {**unsafe.evidence, "source": None if source is None else asdict(source)}
    return Finding(
        **header,
        code=unsafe.code,
        status="opened",
        since_step=header["step"],
        severity=unsafe.severity,
        layer=unsafe.module,
        message=f"Unsafe, although nothing is NaN yet: {unsafe.message.rstrip('.')}{where}.",
        evidence=evidence,
        advice=f"Stable form: {unsafe.advice.rstrip('.')}.",
    )


def _moment(micro_batch: MicroBatch[Position]) -> Moment:
    return Moment(micro_batch.batch, micro_batch.position.batch_idx or 0, micro_batch.random_state, {})


def _circumstances(parameters: Iterable[Tensor]) -> list[str]:
    """Return what a reader of precision and reproducibility should know of this process."""
    notes = []
    on_cuda = any(parameter.device.type == "cuda" for parameter in parameters)
    if on_cuda and torch.get_float32_matmul_precision() != "highest":
        notes.append("float32 products run in TF32: torch.set_float32_matmul_precision('highest') switches it off")
    if on_cuda and torch.backends.cudnn.benchmark:
        notes.append("torch.backends.cudnn.benchmark chooses kernels by their speed: two runs may choose differently")
    if os.environ.get("PL_GLOBAL_SEED") is None:
        notes.append("the run is not seeded by seed_everything: another run of it may differ")
    return notes
