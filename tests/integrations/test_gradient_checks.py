"""Gradient checks in a Trainer: where their result can be read, and what a wrong backward does to a run."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.autograd import Function

from gradwatch.probes.check import GradientProbe
from tests.integrations.fits import Classifier, Manual, equal, events, fit, monitor, weights

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("nothing_fails")

TAG = "health/gradient_check_error"


class Wrong(Function):
    """The identity with twice its gradient."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Any:
        return 2 * grads[0]


def wrong_loss(_module: Any, loss: Tensor, _batch: int) -> Tensor:
    return Wrong.apply(loss)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("module", [Classifier, Manual])
def test_a_fit_is_checked_and_its_metrics_have_the_error(module: type[Classifier], tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="csv", version=0)
    fitted = fit(tmp_path, module(), monitor(tmp_path, gradient_check_every_n_steps=3), logger=logger)
    checks = events(tmp_path, "gradient_check")
    assert [check["step"] for check in checks] == [2, 5, 8]
    assert {check["verdict"] for check in checks} == {"pass"}
    last = [checks[-1]["relative_error"], *(found["relative_error"] for found in checks[-1]["parameters"].values())]
    error = max(value for value in last if value is not None)
    assert float(fitted.trainer.callback_metrics[TAG]) == pytest.approx(error)
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        logged = [(int(row["step"]), float(row[TAG])) for row in csv.DictReader(file) if row.get(TAG)]
    assert [step for step, _ in logged] == [2, 5, 8]
    assert logged[-1][1] == pytest.approx(error)


def test_a_wrong_backward_is_a_finding_and_training_goes_on(tmp_path: Path) -> None:
    module = Classifier(fault=wrong_loss)
    fitted = fit(tmp_path, module, monitor(tmp_path, gradient_check_every_n_steps=5))
    assert fitted.trainer.global_step == 10
    found = [(event["code"], event["status"], event["severity"]) for event in events(tmp_path, "finding")]
    assert found == [("gradient-mismatch", "opened", "error"), ("gradient-mismatch", "updated", "error")]
    assert float(fitted.trainer.callback_metrics[TAG]) == pytest.approx(1.0, rel=0.01)


def test_by_default_a_short_run_is_not_checked(tmp_path: Path) -> None:
    fitted = fit(tmp_path, Classifier(), monitor(tmp_path))
    assert events(tmp_path, "gradient_check") == []
    assert TAG not in fitted.trainer.callback_metrics


def test_a_check_that_breaks_is_a_warning_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_probe: GradientProbe, _request: object) -> None:
        raise ZeroDivisionError("inside of gradwatch")

    plain = fit(tmp_path / "plain", Classifier)
    monkeypatch.setattr(GradientProbe, "run", broken)
    fitted = fit(tmp_path, Classifier, monitor(tmp_path, gradient_check_every_n_steps=2))
    assert fitted.trainer.global_step == 10
    assert equal(weights(plain.module), weights(fitted.module))
    assert any("inside of gradwatch" in message for message in caplog.messages)
    caplog.clear()  # it has failed on purpose


def test_gradients_kept_beyond_a_batch_are_untouched(tmp_path: Path) -> None:
    """A module that sets its gradients to zero has them all the time."""

    class Keeping(Classifier):
        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            optimizer.zero_grad(set_to_none=False)

    def gradients(*callbacks: Any, path: Path) -> dict[str, Tensor]:
        torch.manual_seed(0)
        fitted = fit(path, Keeping(), *callbacks)
        return {name: parameter.grad.clone() for name, parameter in fitted.module.named_parameters()}

    checked = gradients(monitor(tmp_path, gradient_check_every_n_steps=1), path=tmp_path / "checked")
    assert equal(gradients(path=tmp_path / "plain"), checked)
