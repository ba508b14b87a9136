"""What a ladder of centred differences says about functions whose derivative is known."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.probes.slopes import FIRST_STEP, LARGEST_STEP, RUNGS, Rung, Slope, worst
from tests.numerics.tensors import PROPERTY

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradwatch.records import CheckVerdict

TOLERANCE = 1e-4


def measured(
    function: Callable[[float], float], at: float, autograd: float, scale: float | None = None, limit: int = 10
) -> Slope:
    """Go down the ladder of ``function`` at a point where autograd gives ``autograd``."""
    slope = Slope(autograd, abs(autograd) if scale is None else scale, function(at), TOLERANCE)
    for _ in range(limit):
        step = slope.next_step
        if step is None:
            return slope
        slope = slope.with_rung(Rung(step, function(at + step), function(at - step)))
    raise AssertionError("the ladder does not end")


def noisy(amplitude: float, seed: int) -> Callable[[float], float]:
    """Return a sine with noise, as of a loss that is computed in a narrower format."""
    draws = random.Random(seed)
    return lambda x: math.sin(x) + amplitude * draws.uniform(-1, 1)


@pytest.mark.parametrize(
    ("function", "at", "autograd", "scale", "expected"),
    [
        pytest.param(math.sin, 1.0, math.cos(1.0), None, "pass", id="smooth and right"),
        pytest.param(math.sin, 1.0, math.cos(1.0) * (1 + 1e-3), None, "mismatch", id="smooth and 1e-3 off"),
        pytest.param(math.sin, 1.0, math.cos(1.0) * (1 + 1e-6), None, "pass", id="off by less than the tolerance"),
        pytest.param(math.sin, 1.0, -math.cos(1.0), None, "mismatch", id="wrong sign"),
        pytest.param(math.sin, 1.0, 0.0, 0.0, "mismatch", id="a gradient that is missing"),
        pytest.param(math.sin, math.pi / 2, 0.0, 1.0, "pass", id="a maximum"),
        pytest.param(abs, 0.0, 1.0, None, "kink", id="a kink, differentiated to one side"),
        pytest.param(abs, 0.0, 0.0, 1.0, "pass", id="a kink, differentiated in between"),
        pytest.param(abs, 3e-7, 1.0, None, "pass", id="a kink between the first step and the second"),
        pytest.param(lambda x: x * abs(x), 0.0, 0.0, 1.0, "pass", id="a jump of the second derivative"),
        pytest.param(lambda x: x * abs(x), 0.0, 1.0, None, "mismatch", id="wrong where the second derivative jumps"),
        pytest.param(lambda x: 1e12 + math.sin(x), 1.0, math.cos(1.0), None, "not_resolvable", id="a huge offset"),
        pytest.param(lambda x: 1e12 + math.sin(x), 1.0, -1.0, None, "not_resolvable", id="wrong below a huge offset"),
        pytest.param(lambda x: 1e4 + math.sin(x), 1.0, math.cos(1.0), None, "pass", id="an offset"),
        pytest.param(lambda x: 1e4 + math.sin(x), 1.0, -1.0, None, "mismatch", id="wrong above an offset"),
        pytest.param(lambda _: 3.0, 0.0, 0.0, None, "not_resolvable", id="constant"),
        pytest.param(lambda _: 0.0, 0.0, 0.0, None, "not_resolvable", id="zero"),
        pytest.param(lambda _: 3.0, 0.0, 1.0, None, "mismatch", id="a gradient of a constant"),
        pytest.param(lambda _: math.nan, 0.0, 1.0, None, "not_checkable", id="NaN"),
        pytest.param(lambda x: math.inf if x > 0 else x, 0.0, 1.0, None, "not_checkable", id="infinite close by"),
        pytest.param(math.sin, 1.0, math.nan, None, "not_checkable", id="a gradient of NaN"),
        pytest.param(math.sin, 1.0, math.inf, None, "not_checkable", id="an infinite gradient"),
    ],
)
def test_verdict(
    function: Callable[[float], float], at: float, autograd: float, scale: float | None, expected: CheckVerdict
) -> None:
    assert measured(function, at, autograd, scale).verdict == expected


def test_a_loss_with_the_noise_of_float32_is_never_called_wrong() -> None:
    verdicts = [measured(noisy(6e-8, seed), 1.0, math.cos(1.0)).verdict for seed in range(300)]
    assert "mismatch" not in verdicts
    assert verdicts.count("not_resolvable") >= 4 * verdicts.count("kink")


def test_a_wrong_sign_stands_out_of_a_hundred_thousand_times_the_noise_of_float64() -> None:
    verdicts = {measured(noisy(2e-11, seed), 1.0, -math.cos(1.0)).verdict for seed in range(100)}
    assert verdicts == {"mismatch"}


_slopes = st.floats(0.1, 10).map(lambda x: round(x, 3))
_bends = st.floats(-1, 1)
_offsets = st.floats(-10, 10)
_factors = st.one_of(st.floats(-3, 1 - 1e-3), st.floats(1 + 1e-3, 3))


def cubic(a: float, b: float, c: float, offset: float) -> Callable[[float], float]:
    return lambda x: offset + a * x + b * x**2 + c * x**3


@PROPERTY
@given(_slopes, _bends, _bends, _offsets)
def test_a_right_derivative_of_any_cubic_passes(a: float, b: float, c: float, offset: float) -> None:
    slope = measured(cubic(a, b, c, offset), 0.0, a)
    assert slope.verdict == "pass"
    assert slope.error <= TOLERANCE
    assert slope.numeric == pytest.approx(a, rel=TOLERANCE)


@PROPERTY
@given(_slopes, _bends, _bends, _offsets, _factors)
def test_a_wrong_derivative_of_any_cubic_is_a_mismatch(
    a: float, b: float, c: float, offset: float, factor: float
) -> None:
    slope = measured(cubic(a, b, c, offset), 0.0, factor * a, a)
    assert slope.verdict == "mismatch"
    assert slope.error == pytest.approx(abs(factor - 1), rel=1e-2)


@PROPERTY
@given(_slopes, _bends, st.sampled_from([1.0, 1.5, -1.0]), st.integers(-200, 200))
def test_the_unit_of_the_loss_does_not_matter(a: float, b: float, factor: float, power: int) -> None:
    unit = 2.0**power
    plain = measured(cubic(a, b, 0.0, 1.0), 0.0, factor * a)
    scaled = measured(lambda x: unit * cubic(a, b, 0.0, 1.0)(x), 0.0, unit * factor * a)
    assert scaled.verdict == plain.verdict
    assert scaled.ladder == plain.ladder


@PROPERTY
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0, 1e300), st.floats(1e-12, 1))
def test_the_first_step_is_a_power_of_ten_within_bounds(value: float, scale: float, tolerance: float) -> None:
    step = Slope(0.0, scale, value, tolerance).next_step
    assert step is not None
    assert FIRST_STEP * 0.99 <= step <= LARGEST_STEP * 1.01
    assert math.log10(step) == pytest.approx(round(math.log10(step)))


_losses = st.floats(allow_nan=True, allow_infinity=True)


@PROPERTY
@given(_losses, st.floats(0), _losses, st.lists(_losses, min_size=20, max_size=20))
def test_any_numbers_have_a_verdict_after_a_few_rungs(
    autograd: float, scale: float, value: float, losses: list[float]
) -> None:
    slope = Slope(autograd, scale, value, TOLERANCE)
    given_losses = iter(losses)
    while (step := slope.next_step) is not None:
        slope = slope.with_rung(Rung(step, next(given_losses), next(given_losses)))
    assert 1 <= len(slope.rungs) <= RUNGS
    assert slope.verdict in {"pass", "mismatch", "kink", "not_resolvable", "not_checkable"}
    if not all(math.isfinite(x) for x in (autograd, scale, value)):
        assert slope.verdict == "not_checkable"


def test_a_slope_that_passes_asks_for_no_more() -> None:
    slope = measured(math.sin, 1.0, math.cos(1.0))
    assert len(slope.rungs) == 1
    assert list(slope.ladder) == ["1e-06"]


def test_a_slope_that_fails_goes_down_the_ladder() -> None:
    slope = measured(math.sin, 1.0, 0.0, 1.0)
    assert list(slope.ladder) == ["1e-06", "1e-07", "1e-08"]
    assert slope.ladder["1e-07"] == pytest.approx(math.cos(1.0), rel=1e-6)


def test_a_difference_is_measured_against_the_typical_size_of_the_slope() -> None:
    rung = Rung(1.0, 1e-6, -1e-6)
    assert Slope(0.0, 1.0, 0.0, TOLERANCE).error_of(rung) == pytest.approx(1e-6)
    assert Slope(0.0, 0.0, 0.0, TOLERANCE).error_of(rung) == 1.0
    assert Slope(0.0, 0.0, 0.0, TOLERANCE).error_of(Rung(1.0, 2.0, 2.0)) == 0.0
    assert Slope(0.0, 1.0, 0.0, TOLERANCE).error_of(Rung(1.0, math.nan, 0.0)) == math.inf


def test_a_gradient_whose_square_is_zero_is_too_small_to_resolve() -> None:
    assert measured(lambda _: 0.0, 0.0, 1e-200, 0.0).verdict == "not_resolvable"


def test_a_slope_without_rungs_has_not_passed() -> None:
    assert not Slope(0.0, 1.0, 0.0, TOLERANCE).passed


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["pass", "mismatch", "kink"], "mismatch"),
        (["explained", "kink"], "kink"),
        (["pass", "not_resolvable"], "not_resolvable"),
        (["not_checkable", "explained", "pass"], "explained"),
        (["not_resolvable", "not_checkable"], "not_checkable"),
        ([], "pass"),
    ],
)
def test_the_worst_verdict(verdicts: list[CheckVerdict], expected: CheckVerdict) -> None:
    assert worst(verdicts) == expected
