"""What a whole training leaves in its event file for the Numerical Health tab."""

from __future__ import annotations

import json
import math
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from gradwatch import NonFiniteError
from gradwatch.integrations.pytorch_lightning import NumericalHealthMonitor as TwinMonitor
from gradwatch.serialization.tensorboard_rows import CURVE_NAMES, curve_series, layer_series
from tests.integrations.fits import Classifier, equal, events, fit, monitor, nan_loss, seeded, weights
from tests.integrations.replay_modules import TwinPackage, breaking
from tests.integrations.replays import loader

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = ("body", "norm", "head")


def tensors(folder: str) -> dict[str, list[tuple[int, Any]]]:
    accumulator = EventAccumulator(folder, size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, make_ndarray(event.tensor_proto)) for event in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
    }


def test_rows_stand_at_the_steps_of_the_loggers_and_say_what_the_event_log_says(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="tb", version="")
    fit(tmp_path, Classifier(), monitor(tmp_path / "files"), logger=logger)
    found, steps = tensors(logger.log_dir), events(tmp_path, "step")
    for metric in ("grad_norm", "weight_norm", "update_ratio"):
        rows = found[layer_series(metric, 0, LAYERS).tag]
        assert [step for step, _ in rows] == [event["log_step"] for event in steps] == list(range(10))
        for (_, row), event in zip(rows, steps, strict=True):
            assert row.tolist() == pytest.approx([event["layers"][layer][metric] for layer in LAYERS])
    curves = [dict(zip(CURVE_NAMES, row, strict=True)) for _, row in found[curve_series(0).tag]]
    assert [row["loss"] for row in curves] == [event["loss"] for event in steps]


def test_a_run_that_dies_shows_its_death(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="tb", version="")
    fit(tmp_path, Classifier(fault=nan_loss(3)), monitor(tmp_path / "files"), logger=logger, expect=NonFiniteError)
    found = tensors(logger.log_dir)
    told = [json.loads(text) for text in found["numerical_health/events"][-1][1].tolist()]
    assert [event["type"] for event in told][-2:] == ["incident", "run_end"]
    incident = next(event for event in told if event["type"] == "incident")
    assert incident["log_step"] == 3
    assert (tmp_path / "files/incidents").joinpath(incident["folder"]).is_dir()
    assert told[-1]["status"] == "nonfinite"
    last = dict(zip(CURVE_NAMES, found[curve_series(0).tag][-1][1], strict=True))
    assert (last["first"], last["nonfinite_steps"]) == (3, 1)
    assert math.isnan(last["loss_max"])


def test_training_does_not_notice(tmp_path: Path) -> None:
    plain = fit(tmp_path / "a", seeded(), logger=TensorBoardLogger(tmp_path / "a"))
    watched = fit(tmp_path / "b", seeded(), monitor(tmp_path / "b"), logger=TensorBoardLogger(tmp_path / "b"))
    assert equal(weights(plain.module), weights(watched.module))


def test_the_twin_package_writes_the_same(tmp_path: Path) -> None:
    logger = pytorch_lightning.loggers.TensorBoardLogger(str(tmp_path), name="tb", version="")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pytorch_lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=logger,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[TwinMonitor(dirpath=tmp_path, clip=None)],
        )
        with pytest.raises(NonFiniteError):
            trainer.fit(TwinPackage(), loader(breaking()))
    found = tensors(logger.log_dir)
    assert [step for step, _ in found[layer_series("grad_norm", 0, ("layer",)).tag]] == [*range(len(breaking()) - 1)]
    assert b"incident" in found["numerical_health/events"][-1][1][0]
