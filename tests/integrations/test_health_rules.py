"""The health rules under a Trainer: what is found is told, remembered in checkpoints, and costs the run nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torchmetrics import MeanMetric

from gradwatch.engine.health_rules import HealthRules
from gradwatch.observations import Observation, Validation
from tests.integrations.fits import Classifier, Manual, data, events, fit, monitor, seeded
from tests.integrations.test_configuration import parser

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.detectors.alarms import Alarm

pytestmark = pytest.mark.usefixtures("nothing_fails")

RULE = "zero-learning-rate"
# Soon and without a pause: the fits are short.
SOON: Any = [{RULE: {"steps": 0, "records": 2, "quiet": 1}}]


def still(parameters: Any) -> torch.optim.Optimizer:
    """An optimizer whose learning rate has been forgotten."""
    return torch.optim.SGD(parameters, lr=0.0)


def findings(path: Path) -> list[tuple[str, str]]:
    return [(event["code"], event["status"]) for event in events(path, "finding")]


class Keeper(Callback):
    """Saves the whole run after some epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.path)


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_finding_is_on_the_console_and_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, seeded(optimizer=still), monitor(tmp_path, detectors=SOON), max_epochs=5)
    (event,) = events(tmp_path, "finding")
    assert (event["code"], event["status"], event["severity"]) == (RULE, "opened", "warning")
    told = [record for record in caplog.records if event["message"] in record.message]
    assert len(told) == 1
    assert (told[0].levelno, told[0].name) == (logging.WARNING, "gradwatch")
    assert event["advice"] in told[0].message
    order = [event["type"] for event in events(tmp_path)]
    assert order[order.index("finding") - 1] == "step"


def test_a_user_may_choose_no_rules(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, seeded(optimizer=still), monitor(tmp_path, detectors=[]), max_epochs=5)
    assert findings(tmp_path) == []
    assert len(events(tmp_path, "step")) == 25


@pytest.mark.parametrize("kind", [Classifier, Manual], ids=["automatic", "manual"])
def test_a_rule_of_the_users_own_sees_every_log_step(kind: type[Classifier], tmp_path: Path) -> None:
    seen: list[Observation] = []

    def own(state: Any, record: Observation) -> tuple[Any, list[Alarm]]:
        seen.append(record)
        return state, []

    fit(tmp_path, seeded(kind), monitor(tmp_path, detectors=[(dict, own)]), log_every_n_steps=2)
    assert [found.rows.step.tolist() for found in seen] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert [(found.epoch, found.batch_idx) for found in seen] == [(0, 1), (0, 3), (1, 0), (1, 2), (1, 4)]
    assert all(found.forward is not None and found.forward.inputs for found in seen)
    assert {found.setting.compute for found in seen} == {"fp32"}


@pytest.mark.parametrize("accumulate", [1, 5])
def test_losses_are_those_of_the_user_whatever_is_accumulated(accumulate: int, tmp_path: Path) -> None:
    seen: list[float] = []
    own: list[float] = []

    def rule(state: Any, record: Observation) -> tuple[Any, list[Alarm]]:
        seen.extend(record.rows.loss.tolist())
        return state, []

    def note(_module: Any, loss: Tensor, _batch: int) -> Tensor:
        own.append(float(loss))
        return loss

    fit(
        tmp_path,
        seeded(fault=note),
        monitor(tmp_path, detectors=[(dict, rule)], graph_lint=False, gradient_check_every_n_steps=None),
        accumulate_grad_batches=accumulate,
        max_epochs=1,
    )
    means = torch.tensor(own).reshape(-1, accumulate).mean(dim=1)
    assert seen == pytest.approx(means.tolist(), rel=1e-6)


# -- validation --------------------------------------------------------------------------------------------------------


def validations(monkeypatch: pytest.MonkeyPatch) -> list[Validation]:
    """All validations that the rules are shown, from now on."""
    shown: list[Validation] = []
    read = HealthRules.read

    def see(rules: HealthRules, record: Any) -> None:
        if isinstance(record, Validation):
            shown.append(record)
        read(rules, record)

    monkeypatch.setattr(HealthRules, "read", see)
    return shown


class Losses(Callback):
    """The validation losses as a user reads them, after each validation."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.seen.append(float(trainer.callback_metrics["val_loss"]))


@pytest.mark.parametrize("sanity", [0, 2])
def test_the_losses_of_each_validation_arrive_and_those_of_no_other(
    sanity: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, losses = validations(monkeypatch), Losses()
    fit(
        tmp_path,
        seeded(),
        monitor(tmp_path),
        losses,
        validation=data(2),
        max_epochs=3,
        num_sanity_val_steps=sanity,
    )
    assert [list(found.losses) for found in shown] == [["val_loss"]] * 3
    assert [found.losses["val_loss"] for found in shown] == losses.seen
    assert len(set(losses.seen)) == 3
    assert [(found.epoch, found.step) for found in shown] == [(0, 4), (1, 9), (2, 14)]


def test_validation_within_an_epoch_is_told_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = validations(monkeypatch)
    fit(tmp_path, seeded(), monitor(tmp_path), validation=data(2), max_epochs=1, val_check_interval=2)
    assert [(found.epoch, found.step) for found in shown] == [(0, 1), (0, 3)]


def test_without_a_validation_loss_nothing_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("accuracy", 0.5)

    shown = validations(monkeypatch)
    fit(tmp_path, seeded(Silent), monitor(tmp_path), validation=data(2))
    assert shown == []


def test_no_metric_of_the_user_is_computed_early(tmp_path: Path) -> None:
    """A metric that is logged on the epoch is computed at its end, once; one that is read before keeps that value."""

    class Counting(MeanMetric):
        computed = 0

        def compute(self) -> Tensor:
            type(self).computed += 1
            return super().compute()

    class Metrics(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.mean = Counting()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.mean.update(float(batch_idx))
            self.log("mean", self.mean, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

        def on_train_epoch_end(self) -> None:
            self.mean.update(8.0)

    def computed(*callbacks: Any) -> tuple[int, float]:
        Counting.computed = 0
        fitted = fit(
            tmp_path / str(len(callbacks)),
            seeded(Metrics),
            *callbacks,
            validation=data(2),
            max_epochs=1,
            val_check_interval=2,
        )
        return Counting.computed, float(fitted.trainer.callback_metrics["mean"])

    assert computed(monitor(tmp_path)) == computed() == (1, 3.0)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_an_open_finding_is_not_opened_again_after_a_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    keep = Keeper(tmp_path / "all.ckpt")
    fit(first, seeded(optimizer=still), monitor(first, detectors=SOON), keep, max_epochs=5)
    saved = torch.load(tmp_path / "all.ckpt", weights_only=True)
    (state,) = [state for name, state in saved["callbacks"].items() if "NumericalHealthMonitor" in name]
    assert f"{RULE}/0" in state["rules"]
    assert findings(first) == [(RULE, "opened")]
    caplog.clear()
    fit(
        second,
        seeded(optimizer=still),
        monitor(second, detectors=SOON),
        ckpt_path=tmp_path / "all.ckpt",
        max_epochs=10,
    )
    assert len(events(second, "step")) == 25
    assert findings(second) == []
    assert [message for message in caplog.messages if "learning rate" in message] == []
    alone = tmp_path / "alone"
    fit(alone, seeded(optimizer=still), monitor(alone, detectors=SOON), max_epochs=5)
    assert findings(alone) == [(RULE, "opened")]


def test_what_a_rule_counts_goes_on_after_a_resume(tmp_path: Path) -> None:
    """Neither part of the run has records enough by itself."""
    rules: Any = [{RULE: {"steps": 0, "records": 24}}]
    first, second = tmp_path / "a", tmp_path / "b"
    keep = Keeper(tmp_path / "all.ckpt")
    fit(first, seeded(optimizer=still), monitor(first, detectors=rules), keep, max_epochs=6)
    fit(
        second,
        seeded(optimizer=still),
        monitor(second, detectors=rules),
        ckpt_path=tmp_path / "all.ckpt",
        max_epochs=12,
    )
    assert [findings(first), findings(second)] == [[], [(RULE, "opened")]]


def test_the_memory_of_all_rules_survives_a_checkpoint(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=3, save_top_k=-1)
    watch = monitor(tmp_path)
    fit(tmp_path, seeded(), watch, keep, validation=data(2))
    paths = sorted((tmp_path / "ckpt").iterdir())
    assert len(paths) == 3
    for path in paths:
        callbacks = torch.load(path, weights_only=True)["callbacks"]
        (state,) = [state for name, state in callbacks.items() if "NumericalHealthMonitor" in name]
        assert len(state["rules"]) > 10
        fresh = monitor(tmp_path)
        fresh.load_state_dict(state)
        assert fresh.state_dict()["rules"] == state["rules"]


def test_a_monitor_that_cannot_start_lets_checkpoints_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        message = "broken on purpose"
        raise ZeroDivisionError(message)

    monkeypatch.setattr("gradwatch.engine.run.Watched", fail)
    keep = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=3, save_top_k=-1)
    fit(tmp_path, seeded(), monitor(tmp_path), keep)
    assert len(list((tmp_path / "ckpt").iterdir())) == 3
    assert len([message for message in caplog.messages if "broken on purpose" in message]) == 1
    caplog.clear()


# -- hooks -------------------------------------------------------------------------------------------------------------


class Hooks(Callback):
    """How many forward hooks the module has, at several places."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {"batch": [], "backward": [], "end": []}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen["batch"].append(hooks(pl_module))

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        self.seen["backward"].append(hooks(pl_module))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen["end"].append(hooks(pl_module))


def hooks(module: nn.Module) -> int:
    """Count the forward hooks of a module and of all in it."""
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


class During(Classifier):
    """Counts its hooks in the middle of a forward pass."""

    def __init__(self, error_at: int | None = None) -> None:
        super().__init__()
        self.during: list[int] = []
        self.error_at = error_at

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.during.append(hooks(self))
        if batch_idx == self.error_at:
            message = "by the user"
            raise LookupError(message)
        return loss if batch_idx != 3 else None


def test_hooks_are_there_during_sampled_passes_only(tmp_path: Path) -> None:
    seen = Hooks()
    module = seeded(During)
    watch = monitor(tmp_path, graph_lint=False, gradient_check_every_n_steps=None)
    fit(tmp_path, module, watch, seen, max_epochs=1, log_every_n_steps=2)
    # The very first one, and those of log steps; batch 3 has no loss, and no backward pass.
    assert [count > 0 for count in module.during] == [True, True, False, True, False]
    assert seen.seen == {"batch": [0] * 5, "backward": [0] * 4, "end": [0]}
    assert hooks(module) == 0


@pytest.mark.parametrize("error_at", [0, 1])
def test_hooks_are_gone_after_an_error_of_the_user(error_at: int, tmp_path: Path) -> None:
    module = seeded(During, error_at=error_at)
    fitted = fit(tmp_path, module, monitor(tmp_path), expect=LookupError)
    assert isinstance(fitted.error, LookupError)
    assert module.during[-1] > 0
    assert hooks(module) == 0


# -- from YAML ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jsonargparse about the names of its own methods
def test_thresholds_from_yaml_are_those_of_the_run(tmp_path: Path) -> None:
    text = f"""
watch:
  class_path: gradwatch.NumericalHealthMonitor
  init_args:
    clip: null
    dirpath: {tmp_path}
    detectors:
      - {RULE}: {{steps: 0, records: 2}}
"""
    made = parser()
    watch = made.instantiate_classes(made.parse_string(text)).watch
    fit(tmp_path, seeded(optimizer=still), watch, max_epochs=5)
    assert findings(tmp_path) == [(RULE, "opened")]
