"""Gradient checks in a Trainer: where their result can be read, and what a wrong backward does to a run."""

from __future__ import annotations

import csv
import gc
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradwatch.probes.check import GradientProbe
from tests.integrations.fits import Classifier, Manual, equal, events, fit, monitor, weights
from tests.probes.doubled import Wrong

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("nothing_fails")

TAG = "health/gradient_check_error"


def wrong_loss(_module: Any, loss: Tensor, _batch: int) -> Tensor:
    return Wrong.apply(loss)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("module", [Classifier, Manual])
def test_a_fit_is_checked_and_its_metrics_have_the_error(module: type[Classifier], tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="csv", version=0)
    fitted = fit(tmp_path, module(), monitor(tmp_path, gradient_check_every_n_steps=3), logger=logger)
    checks = events(tmp_path, "gradient_check")
    assert [check["step"] for check in checks] == [2, 5, 8]
    assert {check["verdict"] for check in checks} == {"pass"}
    last = [("pass", checks[-1]["relative_error"])]
    last += [(found["correct"], found["relative_error"]) for found in checks[-1]["parameters"].values()]
    error = max(value for verdict, value in last if value is not None and verdict == "pass")
    assert float(fitted.trainer.callback_metrics[TAG]) == pytest.approx(error)
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        logged = [(int(row["step"]), float(row[TAG])) for row in csv.DictReader(file) if row.get(TAG)]
    assert [step for step, _ in logged] == [2, 5, 8]
    assert logged[-1][1] == pytest.approx(error)


class Copies(Callback):
    """Counts the tensors as large as a weight of ``Wide`` at the end of each batch."""

    def __init__(self) -> None:
        self.alive: list[int] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's deprecated attributes are among the objects looked at
            tensors = [item for item in gc.get_objects() if isinstance(item, Tensor) and not is_lazy(item)]
        self.alive.append(sum(tensor.numel() == Wide.SIZE for tensor in tensors))


class Wide(Classifier):
    """A classifier with one weight of an unusual size beside it."""

    SIZE = 12_347

    def __init__(self) -> None:
        super().__init__()
        self.unusual = nn.Parameter(torch.zeros(self.SIZE))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + self.unusual.square().sum()


def test_no_copy_outlives_its_check(tmp_path: Path) -> None:
    gc.collect()
    gc.disable()  # a copy that waits for the collector waits in memory
    try:
        counted = Copies()
        fit(tmp_path, Wide(), monitor(tmp_path, gradient_check_every_n_steps=1), counted)
    finally:
        gc.enable()
    assert set(counted.alive) == {4}  # the weight, its gradient, and the two moments of AdamW


def test_a_wrong_backward_is_a_finding_and_training_goes_on(tmp_path: Path) -> None:
    module = Classifier(fault=wrong_loss)
    fitted = fit(tmp_path, module, monitor(tmp_path, gradient_check_every_n_steps=5))
    assert fitted.trainer.global_step == 10
    found = [(event["code"], event["status"], event["severity"]) for event in events(tmp_path, "finding")]
    assert found == [("gradient-mismatch", "opened", "error")]
    # Twice the gradient: |2n - n| against the larger of |n| and the typical size of 2n. Round-off does not count.
    assert 0.05 < float(fitted.trainer.callback_metrics[TAG]) <= 1.0


class Clipping(Manual):
    """Clips by itself between backward pass and step, as reinforcement learning does."""

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().manual_backward(loss, *args, **kwargs)
        nn.utils.clip_grad_norm_(self.parameters(), 1e-3)


def test_clipping_inside_of_a_step_is_no_wrong_gradient(tmp_path: Path) -> None:
    fit(tmp_path, Clipping(), monitor(tmp_path, gradient_check_every_n_steps=5))
    verdicts = [event["verdict"] for event in events(tmp_path, "gradient_check")]
    assert verdicts
    assert set(verdicts) == {"pass"}


class Centred(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h - h.mean(dim=0, keepdim=True)


def test_mixed_samples_are_a_finding_at_the_first_step_and_change_nothing(tmp_path: Path) -> None:
    def mixing() -> Classifier:
        module = Classifier()
        module.norm = Centred()  # type: ignore[assignment]
        return module

    plain = fit(tmp_path / "plain", mixing())
    watched = fit(tmp_path / "watched", mixing(), monitor(tmp_path / "watched"))
    (found,) = [event for event in events(tmp_path / "watched", "finding") if event["code"] == "batch-mixing"]
    assert (found["status"], found["severity"], found["layer"], found["step"]) == ("opened", "warning", "norm", 0)
    assert found["evidence"]["code"] == "return h - h.mean(dim=0, keepdim=True)"
    assert equal(weights(plain.module), weights(watched.module))


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
