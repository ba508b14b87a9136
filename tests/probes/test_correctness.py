from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from gradwatch.probes.correctness import Direction, make_direction, slopes_along
from gradwatch.probes.objectives import Objective

if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGHTS = {"a": torch.tensor([1.0, 2.0]).double(), "b": torch.tensor([[3.0]]).double()}


def squares(weights: Mapping[str, Tensor]) -> list[float]:
    """Two objectives, Σa² + Σb² and Σa³."""
    full = {**WEIGHTS, **weights}
    return [float(sum(w.square().sum() for w in full.values())), float((full["a"] ** 3).sum())]


def objectives(factor: float = 1.0) -> list[Objective]:
    first = {name: 2 * weight for name, weight in WEIGHTS.items()}
    values = squares({})
    both = frozenset(WEIGHTS)
    return [
        Objective("loss", values[0], first, both),
        Objective("cubes", values[1], {"a": factor * 3 * WEIGHTS["a"] ** 2}, both),
    ]


def test_the_same_seed_and_name_give_the_same_direction_whatever_else_moves() -> None:
    both, alone = make_direction(WEIGHTS, ["a", "b"], 3, {}), make_direction(WEIGHTS, ["a"], 3, {})
    assert torch.equal(both.changes["a"], alone.changes["a"])
    assert not torch.equal(make_direction(WEIGHTS, ["a"], 4, {}).changes["a"], alone.changes["a"])
    assert list(alone.changes) == ["a"]


def test_a_mask_keeps_a_row_where_it_is() -> None:
    changes = make_direction(WEIGHTS, ["a", "b"], 0, {"a": torch.tensor([1.0, 0.0])}).changes
    assert changes["a"][0] != 0
    assert changes["a"][1] == 0
    assert changes["b"] != 0


def test_a_step_along_a_direction() -> None:
    direction = Direction({"a": torch.tensor([1.0, -1.0]).double()})
    assert direction.moved(WEIGHTS, 0.5)["a"].tolist() == [1.5, 1.5]
    assert list(direction.moved(WEIGHTS, 0.5)) == ["a"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("factor", "expected"), [(1.0, ["pass", "pass"]), (1.01, ["pass", "mismatch"])])
def test_every_objective_has_a_slope_of_its_own(seed: int, factor: float, expected: list[str]) -> None:
    direction = make_direction(WEIGHTS, ["a", "b"], seed, {})
    slopes = slopes_along(direction, objectives(factor), WEIGHTS, squares, 1e-5)
    assert [slope.verdict for slope in slopes] == expected


def test_one_evaluation_serves_all_objectives_and_ends_with_the_last_that_asks() -> None:
    counted: list[int] = []

    def counting(weights: Mapping[str, Tensor]) -> list[float]:
        counted.append(1)
        return squares(weights)

    direction = make_direction(WEIGHTS, ["a"], 0, {})
    slopes = slopes_along(direction, objectives(2.0), WEIGHTS, counting, 1e-5)
    assert [len(slope.rungs) for slope in slopes] == [1, 3]
    assert len(counted) == 6


def test_a_sparse_gradient_has_the_slope_of_its_dense_form() -> None:
    dense = torch.tensor([0.0, 4.0]).double()
    direction = Direction({"a": torch.tensor([1.0, 2.0]).double()})
    slopes = [
        slopes_along(
            direction, [Objective("loss", 0.0, {"a": gradient}, frozenset("a"))], WEIGHTS, lambda _: [0.0], 1e-5
        )[0]
        for gradient in (dense, dense.to_sparse())
    ]
    assert slopes[0].autograd == slopes[1].autograd == 8.0
    assert slopes[0].scale == slopes[1].scale > 0
