"""Whose rule is in force: the table of what a Trainer and a module may say about clipping."""

from __future__ import annotations

import math
from functools import partial
from types import MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch import nn

from gradwatch.integrations.loop_clipping import SHARDING_STRATEGIES, trainer_clip_rule
from tests.integrations.fits import Classifier, Manual, events, fit, monitor, seeded, weights

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.records import ClipRule


class OwnClipping(Classifier):
    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        nn.utils.clip_grad_value_(self.parameters(), 1e-3)


class Inherits(OwnClipping):
    """Overrides nothing itself."""


class OwnManual(Manual, OwnClipping):
    """In manual optimization Lightning never calls it."""


def rule(module: Any = None, *, package: Any = lightning.pytorch, **arguments: Any) -> ClipRule | None:
    trainer = package.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False, **arguments,
    )  # fmt: skip
    return trainer_clip_rule(trainer, Classifier() if module is None else module)


@pytest.mark.parametrize(
    ("arguments", "limit", "reason", "source"),
    [
        (
            {"gradient_clip_val": 0.5},
            0.5,
            "the Trainer clips by norm",
            "Trainer(gradient_clip_val=0.5, gradient_clip_algorithm='norm')",
        ),
        (
            {"gradient_clip_val": 2, "gradient_clip_algorithm": "norm"},
            2.0,
            "the Trainer clips by norm",
            "Trainer(gradient_clip_val=2, gradient_clip_algorithm='norm')",
        ),
        (
            {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"},
            None,
            "the Trainer clips each element to ±0.5",
            "Trainer(gradient_clip_val=0.5, gradient_clip_algorithm='value')",
        ),
        (
            {"gradient_clip_val": 0},
            None,
            "the Trainer's gradient_clip_val switches clipping off",
            "Trainer(gradient_clip_val=0)",
        ),
        (
            {"gradient_clip_val": 0.0, "gradient_clip_algorithm": "value"},
            None,
            "the Trainer's gradient_clip_val switches clipping off",
            "Trainer(gradient_clip_val=0.0)",
        ),
    ],
    ids=["norm", "integer", "value", "off", "off-by-value"],
)
@pytest.mark.parametrize("package", [lightning.pytorch, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_the_trainers_arguments(
    arguments: dict[str, Any], limit: float | None, reason: str, source: str, package: Any
) -> None:
    found = rule(package=package, **arguments)
    assert found is not None
    assert (found.max_norm, found.family, found.reason, found.source) == (limit, None, reason, source)


def test_nobody_clips_who_has_not_been_asked_to() -> None:
    assert rule() is None
    assert rule(Manual()) is None


@pytest.mark.parametrize("arguments", [{}, {"gradient_clip_val": 0.5}], ids=["alone", "with-argument"])
@pytest.mark.parametrize("kind", [OwnClipping, Inherits])
def test_an_overridden_method_wins_over_the_argument(kind: type[Classifier], arguments: dict[str, Any]) -> None:
    found = rule(kind(), **arguments)
    assert found is not None
    name = f"{kind.__name__}.configure_gradient_clipping"
    assert (found.max_norm, found.reason, found.source) == (None, f"{name} clips", name)


@pytest.mark.parametrize("bound", [True, False])
def test_an_assignment_to_the_instance_counts(*, bound: bool) -> None:
    module: Any = Classifier()
    method = OwnClipping.configure_gradient_clipping
    module.configure_gradient_clipping = MethodType(method, module) if bound else lambda *_, **__: None
    found = rule(module)
    assert found is not None
    assert found.source == "Classifier.configure_gradient_clipping"


def test_a_module_of_either_package_that_overrides_nothing() -> None:
    class Twin(pytorch_lightning.LightningModule):
        pass

    assert rule(Twin(), package=pytorch_lightning) is None


def test_in_manual_optimization_the_method_is_never_called_and_does_not_count() -> None:
    assert rule(OwnManual()) is None


@pytest.mark.parametrize("strategy", SHARDING_STRATEGIES)
def test_sharded_gradients_are_left_alone(strategy: str) -> None:
    made = SimpleNamespace(strategy=type(strategy, (), {})(), gradient_clip_val=None, gradient_clip_algorithm=None)
    found = trainer_clip_rule(made, Classifier())
    assert found is not None
    assert found.max_norm is None
    assert strategy in found.reason


def test_the_names_of_sharding_strategies_are_lightnings() -> None:
    from lightning.pytorch import strategies  # noqa: PLC0415

    assert [name for name in SHARDING_STRATEGIES if name != "XLAFSDPStrategy" and not hasattr(strategies, name)] == []


# -- in a fit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", ["auto", 1e-9, None])
@pytest.mark.parametrize("kind", [OwnClipping, Classifier])
def test_the_argument_clip_loses_against_what_the_user_has_set_up(
    clip: Any, kind: type[Classifier], tmp_path: Path
) -> None:
    trainer: dict[str, Any] = {"gradient_clip_val": 0.05} if kind is Classifier else {}
    plain = fit(tmp_path / "plain", seeded(kind), max_epochs=1, **trainer)
    ours = fit(tmp_path, seeded(kind), monitor(tmp_path, clip=clip), max_epochs=1, **trainer)
    assert str(weights(plain.module)) == str(weights(ours.module))
    clipped = [event["clip"]["coefficient"] for event in events(tmp_path, "step")]
    assert max(clipped) < 1


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({}, "It was not clipped"),
        ({"gradient_clip_val": 1.0}, "makes every gradient zero"),
        ({"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}, "up to the training loop's own clipping"),
        ({"gradient_clip_val": 0}, "up to the training loop's own clipping"),
    ],
    ids=["none", "norm", "value", "off"],
)
def test_a_huge_gradient_under_the_trainers_clipping_is_told_as_it_goes(
    trainer: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """Lightning calls clip_grad_norm_, whose norm overflows: the step that is lost must not be silent."""

    def explode(module: Any, batch: int) -> None:
        if batch == 2:
            module.head.weight.grad.fill_(1e30)

    sgd = partial(torch.optim.SGD, lr=1e-35)
    watch = monitor(tmp_path, on_nonfinite="warn")
    fit(tmp_path, seeded(optimizer=sgd, spoil=explode), watch, max_epochs=1, **trainer)
    finding = events(tmp_path, "finding")[0]
    assert (finding["code"], finding["step"], finding["layer"]) == ("huge-gradient", 2, "head")
    assert words in finding["message"]
    record = events(tmp_path, "step")[2]
    assert record["grad_norm"] == pytest.approx(math.sqrt(12) * 1e30, rel=1e-5)


@pytest.mark.parametrize("clip", ["auto", 1e-9, None])
def test_zero_is_the_users_off(clip: Any, tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", seeded(), max_epochs=1)
    ours = fit(tmp_path, seeded(), monitor(tmp_path, clip=clip), max_epochs=1, gradient_clip_val=0)
    assert str(weights(plain.module)) == str(weights(ours.module))
    assert {event["clip"]["clipped"] for event in events(tmp_path, "step")} == {False}


@pytest.mark.parametrize(("clip", "clipped"), [("auto", False), (1e-3, True), (None, False)])
def test_in_manual_optimization_only_a_number_clips(clip: Any, tmp_path: Path, *, clipped: bool) -> None:
    class Recurrent(Manual):
        """The architecture's own limit would be 0.25."""

        def __init__(self) -> None:
            super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
            self.lstm = nn.LSTM(2, 2)

    fit(tmp_path, Recurrent, monitor(tmp_path, clip=clip), max_epochs=1)
    assert {event["clip"]["clipped"] for event in events(tmp_path, "step")} == {clipped}
