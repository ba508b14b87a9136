from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.detectors.constant import observation
from tests.detectors.findings import course, findings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradwatch.observations import Observation


def records(norms: Sequence[float], every: int = 10, loss: Sequence[float] | None = None) -> Iterator[Observation]:
    """Total norms at full rate, cut into log steps; of six layers, the third has half of it."""
    for end in range(every, len(norms) + 1, every):
        part = list(norms[end - every : end])
        losses = list(loss[end - every : end]) if loss is not None else 1.0
        share = [0.1, 0.1, 0.5, 0.1, 0.1, 0.1]
        yield observation(end - 1, every, grad_norm=part, loss=losses, layer_grad_norm=[part[-1] * s for s in share])


def noisy(level: float, count: int, seed: int = 0) -> list[float]:
    return list(level * np.exp(0.5 * np.random.default_rng(seed).standard_normal(count)))


# -- exploding-gradient ---------------------------------------------------------------------------------------------


def test_a_norm_far_above_its_usual_level() -> None:
    (opened, *_) = findings("exploding-gradient", records(noisy(1.0, 100) + noisy(500.0, 40)))
    assert (opened.status, opened.step, opened.since_step) == ("opened", 119, 119)


def test_the_layer_that_has_grown_most_is_named() -> None:
    quiet = [observation(step) for step in range(9, 100, 10)]
    grown = [1.0, 1.0, 1.0, 1.0, 300.0, 1.0]
    loud = [observation(step, grad_norm=300.0, layer_grad_norm=grown) for step in (109, 119)]
    assert [f.layer for f in findings("exploding-gradient", [*quiet, *loud])] == ["e"]


def test_exponential_growth_is_found_before_there_is_a_usual_level() -> None:
    norms = list(np.geomspace(1, 1e4, 40))
    assert course("exploding-gradient", records(norms))[0] == (29, "opened")


def test_a_network_that_begins_to_learn_is_no_explosion() -> None:
    """Zero-initialised residuals: the norm rises a hundredfold while the loss falls."""
    norms, loss = list(np.geomspace(1e-3, 1, 50)) + [1.0] * 50, list(np.linspace(2, 1, 100))
    assert findings("exploding-gradient", records(norms, loss=loss)) == []


def test_a_return_to_the_level_of_the_start_is_none() -> None:
    norms = noisy(1.0, 60) + list(np.geomspace(1, 1e-4, 300)) + noisy(1e-4, 300) + noisy(0.5, 50)
    loss = [1.0] * 660 + [0.9] * 50
    assert findings("exploding-gradient", records(norms, loss=loss)) == []


@pytest.mark.parametrize("seed", range(20))
def test_single_spikes_are_none(seed: int) -> None:
    norms = np.array(noisy(1.0, 500, seed))
    norms[:: 23 + seed] *= 1e4
    assert findings("exploding-gradient", records(list(norms))) == []


# -- vanishing-gradient ---------------------------------------------------------------------------------------------


def test_a_gradient_that_dies_on_its_way_down() -> None:
    norms = list(np.geomspace(1e-7, 1e-1, 6))
    (opened,) = findings("vanishing-gradient", [observation(s, layer_grad_norm=norms) for s in range(9, 100, 10)])
    assert (opened.step, opened.layer) == (49, "a")


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_grad_norm": list(np.geomspace(1e-4, 1, 6))},
        {"layer_grad_norm": 1e-12},
        {"layer_grad_norm": list(np.geomspace(1e-7, 1e-1, 6)), "is_weight": 0.0},
        {"layer_grad_norm": [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]},
        {"layer_grad_norm": [None] * 6},
    ],
    ids=["large enough", "all are small", "no weights", "zero", "none"],
)
def test_what_does_not_vanish(changes: dict[str, Any]) -> None:
    assert findings("vanishing-gradient", [observation(s, **changes) for s in range(9, 100, 10)]) == []


# -- dead-layer, unused-parameter -----------------------------------------------------------------------------------


def test_a_layer_whose_gradient_is_exactly_zero() -> None:
    norms = [0.1, 0.0, 0.1, 0.1, 0.1, 0.1]
    (opened,) = findings("dead-layer", [observation(s, layer_grad_norm=norms) for s in range(9, 200, 10)])
    assert (opened.layer, opened.step, opened.since_step) == ("b", 109, 9)
    assert "since step 9" in opened.message


def test_one_step_with_a_gradient_is_life() -> None:
    norms = [0.1, 0.0, 0.1, 0.1, 0.1, 0.1]
    live = [
        observation(s, layer_grad_norm=norms, grad_norm_max=[0.1, 1e-9, 0.1, 0.1, 0.1, 0.1]) for s in range(9, 200, 10)
    ]
    assert findings("dead-layer", live) == []


@pytest.mark.parametrize("norms", [[0.0] * 6, [0.1, None, 0.1, 0.1, 0.1, 0.1], [1e-30] * 6])
def test_what_is_not_dead(norms: list[float | None]) -> None:
    assert findings("dead-layer", [observation(s, layer_grad_norm=norms) for s in range(9, 200, 10)]) == []


def test_parameters_without_a_gradient_are_named() -> None:
    without = (("c.weight", "c"), ("c.bias", "c"))
    (opened,) = findings("unused-parameter", [observation(s, without_gradient=without) for s in range(9, 100, 10)])
    assert (opened.layer, opened.step) == ("c", 29)
    assert opened.message == "2 trainable parameter(s) of c never had a gradient: c.weight, c.bias."


def test_one_record_with_a_gradient_ends_the_count() -> None:
    without = (("c.weight", "c"),)
    seen = [observation(s, without_gradient=() if s % 30 == 9 else without) for s in range(9, 300, 10)]
    assert findings("unused-parameter", seen) == []


# -- outlier-layer --------------------------------------------------------------------------------------------------


def test_one_layer_with_nearly_all_of_the_gradient() -> None:
    norms = [0.1, 0.2, 0.1, 500.0, 0.1, 0.1]
    (opened,) = findings("outlier-layer", [observation(s, layer_grad_norm=norms) for s in range(9, 100, 10)])
    assert (opened.layer, opened.step) == ("d", 29)
    assert "2.5e+03 times that of b" in opened.message


@pytest.mark.parametrize(
    "norms",
    [[0.1, 0.2, 0.1, 50.0, 0.1, 0.1], [0.1, 400.0, 0.1, 500.0, 0.1, 0.1], [1e-3, None, None, None, 9.0, 1e-3]],
    ids=["within range", "two", "too few"],
)
def test_what_is_no_outlier(norms: list[float | None]) -> None:
    assert findings("outlier-layer", [observation(s, layer_grad_norm=norms) for s in range(9, 100, 10)]) == []
