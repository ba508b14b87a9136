"""Loops that are not a plain fit, and parameters of every kind."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradwatch import NonFiniteError
from tests.integrations.fits import (
    Odd,
    Partly,
    Times,
    data,
    equal,
    events,
    fit,
    monitor,
    nan_loss,
    seeded,
    weights,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("nothing_fails")


NAN = math.nan


def test_the_sanity_check_does_not_count(tmp_path: Path) -> None:
    watch = monitor(tmp_path)
    fit(tmp_path, seeded(), watch, validation=data(2), num_sanity_val_steps=2, max_epochs=1)
    assert events(tmp_path, "run_start")[0]["step"] == 0
    assert events(tmp_path)[0]["type"] == "run_start"
    assert events(tmp_path, "run_end")[0]["steps"] == 5


def test_fast_dev_run_writes_nothing_and_still_protects(tmp_path: Path) -> None:
    fit(tmp_path, seeded(), monitor(), fast_dev_run=True)
    watch = monitor(tmp_path / "here")
    fitted = fit(tmp_path, seeded(fault=nan_loss(0)), watch, fast_dev_run=2, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("used_before", [False, True])
def test_barebones_is_left_alone(tmp_path: Path, *, used_before: bool) -> None:
    watch = monitor(tmp_path / "here")
    if used_before:
        fit(tmp_path, seeded(), watch, max_epochs=1)
    before = len(events(tmp_path))
    torch.manual_seed(0)
    module = seeded(fault=nan_loss(1))
    trainer = Trainer(barebones=True, callbacks=[watch], max_epochs=1, accelerator="cpu", default_root_dir=tmp_path)
    trainer.fit(module, data())
    assert bool(module.head.weight.isnan().any())
    assert len(events(tmp_path)) == before
    assert "_clip_gradients" not in vars(trainer.precision_plugin)


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("after_fit", [False, True])
def test_validating_and_testing_alone_leave_nothing(stage: str, tmp_path: Path, *, after_fit: bool) -> None:
    watch = monitor(tmp_path / "here")
    module = seeded()
    if after_fit:
        fit(tmp_path, module, watch, max_epochs=1)
    before = len(events(tmp_path))
    with torch.no_grad():
        module.head.weight[0] = NAN
    trainer = Trainer(callbacks=[watch], accelerator="cpu", logger=False, default_root_dir=tmp_path)
    getattr(trainer, stage)(module, data(2), verbose=False)
    assert len(events(tmp_path)) == before


def test_an_empty_loader(tmp_path: Path) -> None:
    empty = DataLoader(TensorDataset(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)), batch_size=8)
    fitted = fit(tmp_path, seeded(), monitor(tmp_path), train=empty)
    assert fitted.error is None
    assert events(tmp_path, "step") == []


def test_batches_without_a_loss(tmp_path: Path) -> None:
    def some(_module: Any, loss: Tensor, batch: int) -> Any:
        return None if batch % 2 else loss

    plain = fit(tmp_path / "plain", seeded(fault=some))
    fitted = fit(tmp_path, seeded(fault=some), monitor(tmp_path))
    assert equal(weights(fitted.module), weights(plain.module))
    found = {event["step"]: event["loss"] for event in events(tmp_path, "step")}
    assert [step for step, loss in found.items() if loss is None] == [1, 3, 6, 8]


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        (partial(Times, torch.complex64), {"network"}),
        (partial(Times, torch.float64), {"network"}),
        (partial(Times, torch.bfloat16), {"network"}),
        (partial(nn.LazyLinear, 2), {"network"}),
        (lambda: nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Linear(3, 1)), None),
        (Partly, {"network.used", "network.unused"}),
        (nn.Identity, set()),
    ],
    ids=["complex", "float64", "bfloat16", "lazy", "lazy-norm", "partly", "none"],
)
def test_parameters_of_every_kind(network: Any, layers: set[str] | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = fit(tmp_path / "plain", Odd(network()))
    torch.manual_seed(0)
    fitted = fit(tmp_path, Odd(network()), monitor(tmp_path))
    assert equal(weights(fitted.module), weights(plain.module))
    assert [event["status"] for event in events(tmp_path, "run_end")] == ["finished"]
    found = events(tmp_path, "step")
    if layers:
        assert {frozenset(event["layers"]) for event in found} == {frozenset(layers)}
        assert all(event["grad_norm"] > 0 for event in found)
    if layers is None:
        assert all(event["grad_norm"] > 0 for event in found)


def test_a_layer_that_is_never_used_has_no_norm(tmp_path: Path) -> None:
    fit(tmp_path, Odd(Partly()), monitor(tmp_path))
    assert {event["layers"]["network.unused"]["grad_norm"] for event in events(tmp_path, "step")} == {None}


def test_parameters_that_are_unfrozen_during_training(tmp_path: Path) -> None:
    class Unfreeze(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.optimizers[0].add_param_group({"params": list(pl_module.body.parameters())})

    def head(parameters: Any) -> Any:
        return torch.optim.SGD(list(parameters)[2:], lr=0.1)

    plain = fit(tmp_path / "plain", seeded(optimizer=head), Unfreeze())
    fitted = fit(tmp_path, seeded(optimizer=head), Unfreeze(), monitor(tmp_path))
    assert equal(weights(fitted.module), weights(plain.module))
    layers = [set(event["layers"]) for event in events(tmp_path, "step")]
    assert layers == [{"norm", "head"}] * 5 + [{"body", "norm", "head"}] * 5
