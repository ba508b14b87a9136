"""An optimizer that evaluates its closure again (LBFGS) cannot skip: it acts as ``raise``, and nothing has moved.

The fault may come at the first evaluation of a step or later, when LBFGS has already moved the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Callback

from gradwatch import NonFiniteError, NumericalHealthMonitor
from tests.cases import Case, Setup, named, train
from tests.noninterference.fingerprint import Fingerprint, differences, fingerprint

if TYPE_CHECKING:
    from pathlib import Path

KEPT = ("weights/", "buffers/", "optimizers/")


class Bad:
    """Mixed into the LightningModule: the loss or a gradient of one evaluation in one batch is NaN."""

    kind = "loss"
    batch_idx = 2
    evaluation = 0
    evaluations = 0

    def armed(self, batch_idx: int) -> bool:
        return batch_idx == self.batch_idx and self.evaluations == self.evaluation

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)  # type: ignore[misc]
        self.now = self.armed(batch_idx)
        self.evaluations += 1
        return loss * float("nan") if self.now and self.kind == "loss" else loss


class Before(Callback):
    """Keeps what weights and optimizer state are when a batch starts, and starts the count of evaluations again."""

    def __init__(self) -> None:
        self.found: Fingerprint = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if getattr(pl_module, "kind", None) == "gradient":
            weight = pl_module.network.weight
            weight.register_hook(lambda gradient: gradient * float("nan") if pl_module.now else gradient)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, _batch: Any, batch_idx: int) -> None:
        pl_module.evaluations = 0
        if batch_idx == Bad.batch_idx:
            self.found = kept(trainer, pl_module)


def kept(trainer: Any, module: Any) -> Fingerprint:
    return {k: v for k, v in fingerprint(trainer, module).items() if k.startswith(KEPT)}


def bad_case(kind: str, evaluation: int) -> Case:
    def build(package: Any) -> Setup:
        setup = named("lbfgs").build(package)
        cls = type(setup.module)
        setup.module.__class__ = type(cls.__name__, (Bad, cls), {"kind": kind, "evaluation": evaluation})
        return setup

    return Case("bad_lbfgs", build)


@pytest.mark.parametrize("mode", ["raise", "skip"])
@pytest.mark.parametrize("evaluation", [0, 2])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_bad_evaluation_raises_and_nothing_has_moved(kind: str, evaluation: int, mode: str, tmp_path: Path) -> None:
    before = Before()
    trained = train(
        bad_case(kind, evaluation),
        tmp_path,
        lambda: [NumericalHealthMonitor(clip=None, on_nonfinite=mode, dirpath=tmp_path / "health"), before],
    )
    assert isinstance(trained.error, NonFiniteError), repr(trained.error)
    incident = trained.error.incident
    assert (incident.step, incident.batch_idx, incident.first_seen, incident.action) == (2, 2, kind, "raised")
    assert any(name.startswith("optimizers/0/state") for name in before.found)
    assert differences(before.found, kept(trained.trainer, trained.module)) == []


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_without_the_monitor_such_a_run_goes_on(kind: str, tmp_path: Path) -> None:
    """The fault is real: it spoils the weights."""
    trained = train(bad_case(kind, 0), tmp_path, lambda: [Before()])
    assert trained.error is None
    assert not torch.isfinite(trained.module.network.weight).all()
