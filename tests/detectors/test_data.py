from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.detectors.data import DETECTORS
from gradwatch.observations import LossFacts, Observation
from tests.detectors.observations import findings
from tests.detectors.seeing import codes, entering, forward, observation, rows

ANY = st.floats(allow_nan=True, allow_infinity=True)


def fed(*passes: dict[str, Any] | None) -> list[Observation]:
    return [
        observation(
            i + 1, forward=None if entry is None else forward(entering(**{"layer": "a", "is_data": True, **entry}))
        )
        for i, entry in enumerate(passes)
    ]


def batches(*sizes: Any, period: int = 5) -> list[Observation]:
    return [
        observation(period * (i + 1), rows=rows(period * (i + 1), period, batch_size=size))
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("entry", [{"mean": 127.0, "std": 70.0}, {"mean": 0.0, "std": 21.0}, {"mean": -25.0}])
def test_data_far_from_one_is_told_after_three_records(entry: dict[str, Any]) -> None:
    assert codes(DETECTORS, fed(*[entry] * 2)) == []
    (finding,) = findings(DETECTORS, fed(*[entry] * 3))
    assert (finding.code, finding.layer) == ("unnormalised-input", "a")


@pytest.mark.parametrize(
    "entry",
    [
        {"mean": 0.5, "std": 0.3},
        {"mean": 3.0, "std": 10.0},
        {"mean": 127.0, "std": 70.0, "is_data": False},
        {"mean": 127.0, "std": 70.0, "layer": "of another optimizer"},
        {"mean": math.nan, "std": 70.0},
        {"mean": math.inf, "std": math.nan},
    ],
)
def test_ordinary_data_and_inner_activations_are_silent(entry: dict[str, Any]) -> None:
    assert codes(DETECTORS, fed(*[entry] * 5)) == []


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_constant_data_is_told_after_three_records(value: float) -> None:
    entry = {"mean": value, "std": 1e-9 * abs(value)}
    assert codes(DETECTORS, fed(*[entry] * 2)) == []
    assert codes(DETECTORS, fed(*[entry] * 3)) == ["constant-input"]
    assert codes(DETECTORS, fed(*[{**entry, "std": math.nan}] * 3)) == []


def test_gaps_neither_advance_nor_reset() -> None:
    entry = {"mean": 127.0, "std": 70.0}
    assert codes(DETECTORS, fed(entry, None, entry, None, None)) == []
    assert codes(DETECTORS, fed(entry, None, entry, {"mean": math.nan}, entry)) == ["unnormalised-input"]


def test_a_bad_batch_that_nobody_noticed_is_told() -> None:
    bad = (("batch['x']", 3), ("batch['z']", 1))
    (finding,) = findings(DETECTORS, [observation(1), observation(2, bad_batch=bad)])
    assert (finding.code, finding.severity, finding.layer) == ("nonfinite-input", "info", None)
    assert "4 value(s)" in finding.message
    assert "batch['x'], batch['z']" in finding.message


@pytest.mark.parametrize("field", ["loss", "grad_norm"])
def test_a_bad_batch_that_was_noticed_is_an_incident(field: str) -> None:
    known: dict[str, Any] = {"loss": 1.0, "grad_norm": 1.0, field: math.nan}
    assert codes(DETECTORS, [observation(1, bad_batch=(("batch", 1),), rows=rows(1, **known))]) == []


def test_targets_outside_of_the_domain_are_an_error_at_once() -> None:
    facts = LossFacts(outside="binary_cross_entropy is given targets outside of 0 to 1", low=-1.0, high=1.0)
    (finding,) = findings(DETECTORS, [observation(1, loss=facts)])
    assert (finding.code, finding.severity) == ("target-domain", "error")
    assert finding.message == (
        "binary_cross_entropy is given targets outside of 0 to 1: the values lie between -1 and 1."
    )
    assert codes(DETECTORS, [observation(1, loss=LossFacts(function="mse_loss")), observation(2)]) == []


def test_a_finding_on_targets_closes_by_what_is_seen_only() -> None:
    bad = observation(1, loss=LossFacts(outside="x"))
    unknown = [observation(step) for step in range(2, 9)]
    good = [observation(step, loss=LossFacts(function="mse_loss")) for step in range(9, 12)]
    told = findings(DETECTORS, [bad, *unknown, *good])
    assert [(finding.status, finding.step) for finding in told] == [("opened", 1), ("closed", 11)]


def test_a_left_over_batch_is_told_once() -> None:
    epoch = [32, 32, [32, 32, 32, 32, 2]]
    (finding,) = findings(DETECTORS, batches(*epoch * 5))
    assert (finding.code, finding.severity, finding.layer) == ("small-batch", "info", None)
    assert finding.message == "The batch at step 15 had 2 sample(s), the usual one has 32."


@pytest.mark.parametrize(
    "sizes",
    [[32] * 5, [[32, 32, 32, 32, 4]] * 5, [1] * 5, [math.nan] * 5, [[32, 16, 64, 20, 8]] * 5, [0.0, 32, 0.0]],
)
def test_ordinary_batches_are_silent(sizes: list[Any]) -> None:
    assert codes(DETECTORS, batches(*sizes)) == []


def test_two_batches_have_no_usual_size() -> None:
    assert codes(DETECTORS, batches(1000, 2, period=1)) == []


@given(
    st.lists(st.tuples(ANY, ANY, st.lists(ANY, min_size=5, max_size=5), ANY, st.integers(0, 3)), max_size=8),
)
def test_anything_may_be_seen(passes: list[tuple[float, float, list[float], float, int]]) -> None:
    seen = [
        observation(
            5 * (i + 1),
            forward=forward(entering("a", mean=mean, std=std, is_data=True)),
            rows=rows(5 * (i + 1), 5, batch_size=sizes, loss=loss, grad_norm=loss),
            bad_batch=(("batch", bad),) if bad else (),
        )
        for i, (mean, std, sizes, loss, bad) in enumerate(passes)
    ]
    findings(DETECTORS, seen)


@given(st.lists(st.sampled_from([1.0, 2.0, 16.0, 32.0, 64.0]), min_size=5, max_size=30), st.data())
def test_unknown_sizes_do_not_change_the_verdict(sizes: list[float], data: st.DataObject) -> None:
    whole = [observation(i, rows=rows(i, 3, batch_size=size)) for i, size in enumerate(sizes, 1)]
    gaps = []
    for seen in whole:
        gaps.append(seen)
        if data.draw(st.booleans()):
            unknown = np.array([math.nan, data.draw(st.sampled_from([math.nan, math.inf])), math.nan])
            gaps.append(observation(seen.step, rows=rows(seen.step, 3, batch_size=unknown)))
    assert findings(DETECTORS, gaps) == findings(DETECTORS, whole)
