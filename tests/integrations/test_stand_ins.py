from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger

from gradwatch.integrations.stand_ins import OptimizerStandIn, SchedulerStandIn, StrategyStandIn, TrainerStandIn
from tests.integrations.fits import fit, seeded

if TYPE_CHECKING:
    from pathlib import Path


class Trainer(SimpleNamespace):
    """What the stand-in of a trainer asks of the real one. A call without effect would be one too many."""

    def __init__(self, *, loggers: bool = False) -> None:
        store = SimpleNamespace(_callback_metrics={"loss": torch.ones(())})
        super().__init__(loggers=[object()] if loggers else [], current_epoch=3, _logger_connector=store)

    def save_checkpoint(self, *_: Any, **__: Any) -> None:
        raise AssertionError("the real trainer was called")

    fit = validate = test = predict = print = save_checkpoint

    @property
    def callback_metrics(self) -> Any:
        raise AssertionError("the metrics were computed")


# -- the trainer -----------------------------------------------------------------------------------------------------


def test_what_the_trainer_knows_is_asked_of_it() -> None:
    trainer = Trainer()
    stand_in = TrainerStandIn(trainer, None)
    assert stand_in.current_epoch == 3
    trainer.current_epoch = 4
    assert stand_in.current_epoch == 4
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = stand_in.no_such_thing


def test_what_is_set_on_the_trainer_stays_with_the_stand_in() -> None:
    trainer = Trainer()
    stand_in: Any = TrainerStandIn(trainer, None)
    stand_in.current_epoch = 9
    stand_in.should_stop = True
    assert (stand_in.current_epoch, stand_in.should_stop) == (9, True)
    assert trainer.current_epoch == 3
    assert not hasattr(trainer, "should_stop")


@pytest.mark.parametrize("name", ["save_checkpoint", "fit", "validate", "test", "predict", "print"])
def test_what_would_leave_a_trace_does_nothing(name: str) -> None:
    assert getattr(TrainerStandIn(Trainer(), None), name)("anything", at="all") is None


def test_metrics_are_read_without_computing_them() -> None:
    stand_in = TrainerStandIn(Trainer(), None)
    metrics = stand_in.callback_metrics
    assert {name: float(value) for name, value in metrics.items()} == {"loss": 1.0}
    metrics["own"] = torch.zeros(())
    assert set(stand_in.callback_metrics) == {"loss"}
    assert (stand_in.logged_metrics, stand_in.progress_bar_metrics) == ({}, {})


def test_a_logger_is_there_where_the_trainer_has_one() -> None:
    null = DummyLogger()
    with_logger = TrainerStandIn(Trainer(loggers=True), null)
    assert with_logger.logger is null
    assert with_logger.loggers == [null]
    null.experiment.add_scalar("anything", 1.0, global_step=2)
    without = TrainerStandIn(Trainer(), null)
    assert (without.logger, without.loggers) == (None, [])


def test_what_is_overridden_is_answered_in_place_of_the_trainer() -> None:
    stand_in = TrainerStandIn(Trainer(), None, {"current_epoch": 7, "global_step": 11})
    assert (stand_in.current_epoch, stand_in.global_step) == (7, 11)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainerStandIn(SimpleNamespace(loggers=[], current_epoch=3), None),
        lambda: OptimizerStandIn(SimpleNamespace(current_epoch=3), None, print),
        lambda: SchedulerStandIn(SimpleNamespace(current_epoch=3), None),
        lambda: StrategyStandIn(SimpleNamespace(current_epoch=3), {}),
    ],
    ids=["trainer", "optimizer", "scheduler", "strategy"],
)
def test_a_stand_in_can_be_copied(make: Any) -> None:
    """Copying asks for attributes before there are any: that must end."""
    assert copy.copy(make()).current_epoch == 3
    assert copy.deepcopy(make()).current_epoch == 3
    assert pickle.loads(pickle.dumps(make())).current_epoch == 3


def test_a_strategy_answers_with_what_the_copy_holds() -> None:
    stand_in = StrategyStandIn(SimpleNamespace(root_device="cpu", model="real"), {"model": "copied"})
    assert (stand_in.root_device, stand_in.model) == ("cpu", "copied")


# -- optimizers ------------------------------------------------------------------------------------------------------


class Two(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)


def two() -> tuple[Two, list[torch.optim.Optimizer]]:
    module = Two()
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(part.parameters(), lr=0.1) for part in (module.a, module.b)
    ]
    trainer: Any = SimpleNamespace(optimizers=optimizers)
    module._trainer = trainer
    return module, optimizers


def needing(module: Two) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def test_a_step_evaluates_the_closure_tells_and_moves_nothing() -> None:
    module, [optimizer, _] = two()
    told: list[str] = []

    def closure() -> float:
        told.append("closure")
        module.a.weight.grad = torch.ones(1, 1)
        return 2.5

    stand_in = OptimizerStandIn(optimizer, module, lambda: told.append("step"))
    before = module.a.weight.item()
    assert stand_in.step(closure) == 2.5
    assert stand_in.step(epoch=1) is None
    assert told == ["closure", "step", "step"]
    assert module.a.weight.item() == before


def test_everything_else_is_the_copied_optimizers() -> None:
    module, [optimizer, _] = two()
    stand_in = OptimizerStandIn(optimizer, module, lambda: None)
    assert stand_in.optimizer is optimizer
    stand_in.param_groups[0]["lr"] = 0.5
    assert optimizer.param_groups[0]["lr"] == 0.5
    module.a.weight.grad = torch.ones(1, 1)
    stand_in.zero_grad()
    assert module.a.weight.grad is None


def test_toggling_keeps_gradients_from_the_other_optimizers_parameters() -> None:
    module, optimizers = two()
    module.b.bias.requires_grad_(False)
    before = needing(module)
    stand_in = OptimizerStandIn(optimizers[1], module, lambda: None)
    with stand_in.toggle_model(sync_grad=False):
        assert needing(module) == ["b.weight"]
    assert needing(module) == before


def test_a_schedule_can_be_asked_and_does_not_move() -> None:
    _, optimizers = two()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizers[0], 0.5)
    stand_in = SchedulerStandIn(scheduler, optimizers[1])
    stand_in.step()
    stand_in.step(0.5)
    assert (stand_in.last_epoch, scheduler.last_epoch, stand_in.get_last_lr()) == (0, 0, [0.1])
    assert stand_in.optimizer is optimizers[1]


# -- a trainer as it is ----------------------------------------------------------------------------------------------


def test_a_real_trainer_is_asked_for_what_a_step_may_want(tmp_path: Path) -> None:
    trainer = fit(tmp_path, seeded(), max_epochs=1).trainer
    stand_in = TrainerStandIn(trainer, DummyLogger())
    for name in ("global_step", "max_epochs", "world_size", "global_rank", "num_training_batches", "is_last_batch"):
        assert getattr(stand_in, name) == getattr(trainer, name)
    assert stand_in.precision_plugin is trainer.precision_plugin
