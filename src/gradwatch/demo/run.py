"""Run the demo: train, watch, sum up."""

from __future__ import annotations

import logging
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from gradwatch import NonFiniteError, NumericalHealthMonitor, load_events
from gradwatch.demo.progress import LineDisplay, LiveDisplay, ProgressCallback
from gradwatch.demo.render import Report, incident_files, print_end, print_report
from gradwatch.demo.summary import RunSummary, summarize
from gradwatch.demo.trainings import TRAININGS, Setup, Training

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lightning.pytorch import LightningModule
    from rich.console import Console

    from gradwatch.demo.progress import Display

LOG_EVERY_N_STEPS = 10


def run_demo(console: Console, folder: Path, *, quick: bool) -> bool:
    """Run all trainings, each in a subfolder of ``folder``, and print what was seen.

    Args:
        console: where to print; live bars appear on a terminal, plain lines elsewhere.
        folder: an empty folder.
        quick: train for a few steps only, too few to learn anything; nothing is then expected of the results.

    Returns:
        Whether every healthy training learned without an incident and the bug was caught.
    """
    began = time.monotonic()
    steps = [(training, training.quick_steps if quick else training.steps) for training in TRAININGS]
    # FORCE_COLOR makes rich call a pipe a terminal; bars that move would fill a log.
    live = console.is_interactive and console.file.isatty()
    display: Display = LiveDisplay(console, steps) if live else LineDisplay(console)
    with _quiet_lightning(), _one_thread(), display:
        reports = [_run(training, limit, folder / training.name, display, quick=quick) for training, limit in steps]
    for report in reports:
        print_report(console, report)
    print_end(console, reports, folder, time.monotonic() - began)
    return all(report.problem is None for report in reports)


def _run(training: Training, steps: int, folder: Path, display: Display, *, quick: bool) -> Report:
    display.start(training, steps)
    seed_everything(training.seed, verbose=False)
    setup = training.build()
    trainer = _trainer(folder, steps, display)
    note = _fit(trainer, setup)
    value = trainer.validate(setup.model, setup.test, verbose=False)[0][setup.goal.metric]
    display.finish(trainer.global_step, note)
    summary = summarize(load_events(folder / "gradwatch"))
    finite = _finite(setup.model)
    problem = _problem_of_bug(summary, folder, finite=finite) if training.bug else _problem_of_healthy(summary)
    if problem is None and not (quick or setup.goal.reached(value)):
        problem = "it did not learn what it should"
    return Report(
        training=training,
        summary=summary,
        result=setup.goal.describe(value),
        folder=folder,
        weights_finite=finite,
        problem=problem,
    )


def _trainer(folder: Path, steps: int, display: Display) -> Trainer:
    return Trainer(
        accelerator="cpu",  # the same figures on every machine, and nothing here is worth a GPU
        devices=1,
        max_epochs=-1,
        max_steps=steps,
        log_every_n_steps=LOG_EVERY_N_STEPS,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(folder.parent, name=folder.name, version=""),
        callbacks=[NumericalHealthMonitor(), ProgressCallback(display)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


def _fit(trainer: Trainer, setup: Setup) -> str:
    """Train, and return what to note beside the bar."""
    try:
        trainer.fit(setup.model, setup.train, setup.test)
    except NonFiniteError as error:
        return f"stopped at step {error.incident.step}"
    return ""


def _problem_of_bug(summary: RunSummary, folder: Path, *, finite: bool) -> str | None:
    if not summary.incidents or not incident_files(folder):
        return "the bug left no incident"
    return None if finite else "the bug reached the weights"


def _problem_of_healthy(summary: RunSummary) -> str | None:
    return "an incident in a healthy training" if summary.incidents else None


def _finite(model: LightningModule) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence notes on hardware, data loading and clip rules; warnings of gradwatch itself stay audible."""
    levels = {name: logging.getLogger(name).level for name in ("lightning.pytorch", "gradwatch")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("gradwatch").addFilter(_is_no_finding)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning 2.6 calls an interface of torch that torch 2.13 calls deprecated.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        logging.getLogger("gradwatch").removeFilter(_is_no_finding)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _is_no_finding(record: logging.LogRecord) -> bool:
    """The summary of each run has its findings."""
    return not hasattr(record, "finding")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: a second one gains little on models this small, and loses much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
