"""The harness can fail: callbacks that interfere in the smallest way are seen, and two plain runs are equal."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from gradwatch import HealthMonitor, NumericalHealthMonitor
from tests.cases import CASES, Case, named
from tests.noninterference.fingerprint import Bits, differences
from tests.noninterference.runs import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Meddler(Callback):
    """Does one thing after one step, the last unless told otherwise (later steps may round a last bit away)."""

    def __init__(self, deed: Callable[[Any, Any], Any], when: int = 10) -> None:
        self.deed = deed
        self.when = when

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_args: Any) -> None:
        if trainer.global_step == self.when:
            self.deed(trainer, pl_module)


def one_ulp(_trainer: Any, module: Any) -> None:
    with torch.no_grad():
        weight = module.network[0].weight.view(-1)
        weight[0] = torch.nextafter(weight[0], torch.tensor(math.inf))


def one_ulp_of_state(trainer: Any, _module: Any) -> None:
    state = next(iter(trainer.optimizers[0].state.values()))["exp_avg"].view(-1)
    state[0] = torch.nextafter(state[0], torch.tensor(math.inf))


def drop_a_hook(_trainer: Any, module: Any) -> None:
    module.network[0].register_forward_hook(lambda *_: None)


def log_something(_trainer: Any, module: Any) -> None:
    module.log("train_loss_of_another", 1.0)


DEEDS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "one number of torch": (lambda *_: torch.rand(1), "random/torch"),
    "one number of numpy": (lambda *_: np.random.rand(), "random/numpy"),  # noqa: NPY002
    "one number of python": (lambda *_: random.random(), "random/python"),
    "one ulp of a weight": (one_ulp, "weights/network.0.weight"),
    "one ulp of the optimizer's state": (one_ulp_of_state, "optimizers/0/state/0/exp_avg"),
    "mode": (lambda _trainer, module: module.network[0].eval(), "modules/network.0/mode"),
    "hook left behind": (drop_a_hook, "modules/network.0/hooks/_forward_hooks"),
    "gradient": (lambda _trainer, module: module.network[3].bias.grad.mul_(2.0), "gradients/network.3.bias"),
    "metric": (log_something, "metrics/train_loss_of_another"),
}


@pytest.mark.parametrize("name", DEEDS)
def test_a_meddling_callback_is_seen(name: str, tmp_path: Path) -> None:
    deed, where = DEEDS[name]
    plain = run(named("mlp"), tmp_path / "plain")
    meddled = run(named("mlp"), tmp_path / "meddled", lambda: [Meddler(deed)])
    assert any(line.startswith(where) for line in differences(plain.fingerprint, meddled.fingerprint))


def test_a_run_that_ends_early_is_seen(tmp_path: Path) -> None:
    plain = run(named("mlp"), tmp_path / "plain")
    meddler = Meddler(lambda trainer, _module: setattr(trainer, "should_stop", True), when=5)
    meddled = run(named("mlp"), tmp_path / "meddled", lambda: [meddler])
    assert any(line.startswith("progress/global_step") for line in differences(plain.fingerprint, meddled.fingerprint))


def test_a_monitor_that_clips_is_seen(tmp_path: Path) -> None:
    plain = run(named("mlp"), tmp_path / "plain")
    clipped = run(named("mlp"), tmp_path / "clipped", lambda: [NumericalHealthMonitor(clip=1e-3)])
    assert any(line.startswith("weights/") for line in differences(plain.fingerprint, clipped.fingerprint))


def test_a_monitor_that_fails_quietly_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HealthMonitor, "observe_loss")
    outcome = run(named("mlp"), tmp_path, lambda: [NumericalHealthMonitor(clip=None)])
    assert any("observe_loss" in message for message in outcome.failures)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_plain_runs_are_equal(case: Case, tmp_path: Path) -> None:
    one, two = (run(case, tmp_path / name) for name in ("one", "two"))
    assert differences(one.fingerprint, two.fingerprint) == []


def test_differences_name_the_place_and_the_values() -> None:
    one = {"weights/a": Bits.of(torch.tensor([1.0, 2.0])), "gone": 1, "same": Bits.of(torch.tensor(math.nan))}
    two = {"weights/a": Bits.of(torch.tensor([1.0, 2.5])), "new": 1, "same": Bits.of(torch.tensor(math.nan))}
    assert differences(one, two) == [
        "gone: only in the first",
        "new: only in the second",
        "weights/a: 1 of 2 elements differ, the first at [1]: 2.0 against 2.5",
    ]


def test_minus_zero_is_not_zero() -> None:
    one, two = ({"x": Bits.of(torch.tensor([value]))} for value in (0.0, -0.0))
    assert differences(one, two) == ["x: 1 of 1 elements differ, the first at [0]: 0.0 against -0.0"]
