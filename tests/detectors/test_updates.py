from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradwatch.detectors.updates import DETECTORS, usual_norm
from tests.detectors.observations import NAMES, by_code, findings, observation, opened, unknown

STEPS = range(10, 410, 10)


def records(layers: Any = None, rows: Any = None) -> list[Any]:
    """Forty records; values that are callable are asked for each step."""

    def at(changes: Any, step: int) -> dict[str, Any]:
        return {name: value(step) if callable(value) else value for name, value in (changes or {}).items()}

    return [observation(step, layers_changed=at(layers, step), rows_changed=at(rows, step)) for step in STEPS]


def one(value: float, name: str = "block.0") -> dict[str, float]:
    return {name: value}


def codes(layers: Any = None, rows: Any = None) -> list[tuple[str, str | None]]:
    return opened(DETECTORS, records(layers, rows))


def warm_up(step: int) -> Any:
    return 1e-6 * np.arange(step - 9, step + 1)


def cosine(step: int) -> Any:
    return 0.5e-3 * (1 + np.cos(np.pi * np.arange(step - 9, step + 1) / 400))


def test_a_healthy_training_is_silent() -> None:
    assert codes() == []
    assert codes(rows={"lr": warm_up}) == []
    assert codes(rows={"lr": cosine}) == []


def test_large_updates_are_told_of_the_layer_after_five_records_and_fifty_steps() -> None:
    told = findings(DETECTORS, records({"update_ratio": one(0.3)}))
    assert [(f.code, f.layer, f.step, f.since_step) for f in told] == [("large-update", "block.0", 60, 10)]
    assert "by 0.3 of their norm" in told[0].message
    assert codes({"update_ratio": one(0.09)}) == []


def test_four_large_updates_are_no_finding() -> None:
    assert codes({"update_ratio": lambda step: one(0.3 if step <= 40 else 1e-3)}) == []


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_a_layer_that_grows_from_zero_may_take_large_steps(power: float) -> None:
    # LoRA's B under Adam: steps of lr·sqrt(n), at first in one direction, or as a random walk.
    def norm(step: int) -> dict[str, float]:
        return one(1e-3 * np.sqrt(4096) * (step - 1) ** power)

    def ratio(step: int) -> dict[str, float]:
        return one(1.0 / (step - 1) ** power)

    assert codes({"weight_norm": norm, "update_ratio": ratio}) == []


def test_the_usual_norm_is_below_what_torch_initialises_with() -> None:
    shape = np.array([64.0 * 64])
    assert 0.3 < (usual_norm(shape) / (64 / np.sqrt(3 * 64)))[0] < 1.0


@pytest.mark.parametrize("name", ["block.0", "block.0.norm"])
def test_updates_that_were_always_small_are_told(name: str) -> None:
    assert codes({"update_ratio": one(1e-9, name)}) == [("small-update", name)]


def test_updates_that_become_small_are_not() -> None:
    assert codes({"update_ratio": lambda step: 1e-3 if step < 50 else 1e-9}) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": {"grad_norm": one(1e-9)}},  # round-off beside the others: a bias before a normalisation
        {"layers": {"grad_norm": one(np.nan)}},
        {"layers": {"grad_norm": one(0.0)}},
        {"rows": {"lr": warm_up}},
        {"rows": {"lr": 0.0}},
        {"rows": {"skipped": True}},
    ],
    ids=["round-off", "none", "zero", "warm-up", "no rate", "skipped"],
)
@pytest.mark.parametrize("ratio", [0.0, 1e-9])
def test_small_updates_with_a_reason_are_not_told(changes: dict[str, Any], ratio: float) -> None:
    layers = {"update_ratio": one(ratio), "weight_norm": one(4.0), **changes.get("layers", {})}
    assert codes(layers, changes.get("rows")) == []


def test_lost_updates_are_told_but_not_at_the_ends_of_a_schedule() -> None:
    assert codes({"unchanged": one(0.8)}) == [("lost-update", "block.0")]
    assert codes({"unchanged": one(0.4)}) == []
    assert codes({"unchanged": one(0.8)}, {"lr": warm_up}) == []

    def ending(step: int) -> float:
        return 1e-3 if step < 100 else 1e-7

    assert codes({"unchanged": lambda step: one(0.1 if step < 100 else 0.9)}, {"lr": ending}) == []


def test_an_epsilon_that_was_always_too_large_is_told() -> None:
    told = findings(DETECTORS, records({"below_epsilon": one(0.9)}))
    assert [(f.code, f.layer, f.step) for f in told] == [("adam-epsilon", "block.0", 50)]
    assert "for 90% of the elements" in told[0].message


def test_moments_that_fall_below_epsilon_later_are_not_told() -> None:
    assert codes({"below_epsilon": lambda step: one(0.1 if step == 10 else 1.0)}) == []
    assert codes({"below_epsilon": one(1.0, "block.0.norm")}) == []


def test_weights_that_grow_without_bound_are_told_and_growth_that_ends_closes() -> None:
    def norm(step: int) -> dict[str, float]:
        return one(4.6 * 2.0 ** (min(step, 200) / 30))

    told = findings(DETECTORS, records({"weight_norm": norm}))
    assert [(f.code, f.layer) for f in told if f.status == "opened"] == [("weight-growth", "block.0")]
    assert told[0].evidence["start"] == pytest.approx(norm(10)["block.0"])
    assert told[-1].status == "closed"


@pytest.mark.parametrize(
    "norm",
    [
        lambda step: one(4.6 * 8 * min(step, 100) / 100),  # grows, but not tenfold
        lambda step: one(0.08 * (step - 10) ** 0.5),  # from zero to a usual size
        lambda step: one(4.6 * np.exp(step / 150)),  # slowly: 15 times in all
    ],
    ids=["bounded", "from zero", "slow"],
)
def test_other_growth_is_silent(norm: Any) -> None:
    assert codes({"weight_norm": norm}) == []


def test_weights_that_stand_still_are_told() -> None:
    told = findings(DETECTORS, records({"update_ratio": one(0.0), "weight_norm": one(4.0)}))
    assert [(f.code, f.layer, f.step) for f in told] == [("frozen-weights", "block.0", 30)]
    assert "since step 10" in told[0].message


@pytest.mark.parametrize(
    ("layers", "rows"),
    [
        ({"weight_norm": lambda step: one(4.0 + step / 100)}, None),  # moved between the log steps
        ({"grad_norm": lambda step: one(1.0 if step == 10 else 1e-6)}, None),  # converged
        (None, {"lr": lambda step: 1e-3 if step < 20 else 1e-9}),
    ],
    ids=["moved", "converged", "ending"],
)
def test_weights_that_stand_still_with_a_reason_are_silent(layers: Any, rows: Any) -> None:
    still = {"update_ratio": lambda step: one(1e-3 if step == 10 else 0.0), "weight_norm": one(4.0)}
    assert codes({**still, **(layers or {})}, rows) == []


def test_frozen_weights_that_move_again_close() -> None:
    told = findings(
        by_code(DETECTORS, "frozen-weights"),
        records({"update_ratio": lambda step: one(0.0 if step <= 100 else 1e-3), "weight_norm": one(4.0)}),
    )
    assert [(f.status, f.step) for f in told] == [("opened", 30), ("closed", 130)]


def test_nothing_known_is_nothing_told() -> None:
    assert findings(DETECTORS, [unknown(step) for step in STEPS]) == []


def test_layers_that_join_begin_anew() -> None:
    names = (*NAMES, "new")
    later = [
        observation(step, names=names, layers_changed={"weight_norm": {"new": 0.1}}) for step in range(410, 600, 10)
    ]
    assert opened(DETECTORS, [*records(), *later]) == []
