from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gradwatch.observations import Ranks
from tests.detectors.constant import observation
from tests.detectors.findings import findings

if TYPE_CHECKING:
    from gradwatch.observations import Observation

SAME = np.ones((2, 6))


def with_ranks(weights: np.ndarray = SAME, gradients: np.ndarray = SAME) -> list[Observation]:
    return [observation(s, ranks=Ranks(weights, gradients)) for s in range(9, 50, 10)]


def changed(layer: int, value: float) -> np.ndarray:
    norms = SAME.copy()
    norms[1, layer] = value
    return norms


def test_weights_that_differ() -> None:
    (opened,) = findings("rank-weights-differ", with_ranks(weights=changed(2, 1.001)))
    assert (opened.layer, opened.step, opened.severity) == ("c", 9, "error")
    assert "1 on rank 0 and 1.001 on rank 1" in opened.message


@pytest.mark.parametrize("value", [0.0, np.nan, 1.01], ids=["zero", "none", "another"])
def test_gradients_that_differ(value: float) -> None:
    (opened,) = findings("rank-gradients-differ", with_ranks(gradients=changed(4, value)))
    assert (opened.layer, opened.severity) == ("e", "error")


@pytest.mark.parametrize("value", [1 + 1e-6, np.inf])
def test_rounding_and_overflow_are_no_difference(value: float) -> None:
    norms = changed(1, value)
    assert findings("rank-weights-differ", with_ranks(weights=norms)) == []
    assert findings("rank-gradients-differ", with_ranks(gradients=norms)) == []


def test_one_rank_has_nobody_to_differ_from() -> None:
    alone = [observation(s) for s in range(9, 50, 10)]
    assert findings("rank-weights-differ", alone) + findings("rank-gradients-differ", alone) == []
