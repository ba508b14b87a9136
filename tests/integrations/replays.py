"""Runs that end with an incident, and replays of what they leave behind."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from gradwatch import HealthMonitor, NonFiniteError, NumericalHealthMonitor, cli
from gradwatch.engine.context import RunContext
from gradwatch.integrations.pytorch_lightning import NumericalHealthMonitor as TwinMonitor
from tests.integrations.fits import fit
from tests.integrations.replay_modules import Net, TwinPackage, breaking, loss_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest


class Replayed(NamedTuple):
    status: int
    out: str
    err: str


def loader(batches: Sequence[Any]) -> DataLoader[Any]:
    return DataLoader(list(batches), batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


def incident_of(path: Path, module: Any, *, batches: Any = None, monitor: Any = None, **trainer: Any) -> Path:
    """Fit until the module breaks, and return the incident's folder."""
    options = {"dirpath": path, "clip": None, **(monitor or {})}
    train = loader(breaking() if batches is None else batches)
    if isinstance(module, TwinPackage):
        _fit_twin(path, module, TwinMonitor(**options), train)
    else:
        fit(path, module, NumericalHealthMonitor(**options), train=train, expect=NonFiniteError, **trainer)
    return min((path / "incidents").iterdir())


def _fit_twin(path: Path, module: Any, callback: Any, train: Any) -> None:
    import pytorch_lightning  # noqa: PLC0415 - only here

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pytorch_lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            default_root_dir=path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[callback],
        )
        try:
            trainer.fit(module, train)
        except NonFiniteError:
            return


def incident_of_loop(path: Path, module: Any = None, loss: Callable[..., Any] | None = loss_of, **monitor: Any) -> Path:
    """Train by hand until the module breaks, and return the incident's folder."""
    model = Net() if module is None else module
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    watch = HealthMonitor(clip=None, **monitor)
    watch.start(model, optimizer, RunContext(dirpath=str(path)), loss_function=loss)
    try:
        for index, batch in enumerate(breaking()):
            watch.begin_batch(batch, index)
            value = (loss or loss_of)(model, batch)
            watch.observe_loss(value)
            value.backward()
            watch.before_step(optimizer)
            optimizer.step()
            watch.after_step(optimizer)
            optimizer.zero_grad()
            watch.end_batch()
    except NonFiniteError:
        pass
    return min((path / "incidents").iterdir())


def replay(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> Replayed:
    """Run the command in this process."""
    capsys.readouterr()
    status = cli.main(["replay", str(folder), *arguments])
    return Replayed(status, *capsys.readouterr())


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """Run the command, which must end with status 2 and one line, and return that line."""
    done = replay(capsys, folder, *arguments)
    assert done.status == cli.UNUSABLE, done
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("gradwatch replay: ")
    return done.err


def edit(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "replay.json") -> None:
    """Change one of the JSON files of an incident."""
    data = json.loads((folder / name).read_text("utf-8"))
    change(data)
    (folder / name).write_text(json.dumps(data), "utf-8")
