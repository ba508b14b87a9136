"""No infinity gets past the door: a rule, also one of a user's own, sees NaN for what is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gradwatch.detectors.alarms import own_detector
from gradwatch.detectors.known import LAYERS, ROWS, as_known
from gradwatch.detectors.panel import Panel
from tests.detectors.observations import observation

if TYPE_CHECKING:
    from gradwatch.observations import Observation


def spoiled(part: str, name: str, value: float) -> Observation:
    seen = observation(20)
    columns = getattr(seen, part)
    changed = getattr(columns, name).astype(float)
    changed[-1] = value
    return observation(20, **{part: columns._replace(**{name: changed})})


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize(("part", "name"), [*(("rows", name) for name in ROWS), *(("layers", name) for name in LAYERS)])
def test_a_rule_sees_nan_for_infinity_and_the_rest_as_it_is(part: str, name: str, value: float) -> None:
    shown: list[Observation] = []

    def look(state: None, seen: Observation) -> tuple[None, list[Any]]:
        shown.append(seen)
        return state, []

    Panel([own_detector("look", lambda: None, look)]).observe(spoiled(part, name, value))
    expected = spoiled(part, name, np.nan)
    for column, wanted in zip((*shown[0].rows, *shown[0].layers), (*expected.rows, *expected.layers), strict=True):
        np.testing.assert_array_equal(column, wanted)


@pytest.mark.parametrize("columns", [observation(20).rows, observation(20).layers])
def test_every_column_of_floats_is_looked_at(columns: Any) -> None:
    floats = {name for name in columns._fields if np.asarray(getattr(columns, name)).dtype.kind == "f"}
    assert floats - {"elements"} <= {*ROWS, *LAYERS}


def test_an_observation_without_infinity_is_passed_on_as_it_is() -> None:
    seen = observation(20)
    assert as_known(seen) is seen
