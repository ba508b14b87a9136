"""Where groups part: the promised rate of false alarms, planted differences, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from gradwatch.report.compare.parting import Verdict, compare_groups, judge, level_of_each
from gradwatch.report.compare.windows import Windows
from tests.report.compare.noise import autocorrelated, pairs

LEVEL = 0.05
# Log steps every 10 steps of a run of 1000; what is planted at step 200 is there from record 20 on.
STEP, RECORDS, PLANTED = 10, 100, 20


def told_apart(sizes: tuple[int, int], records: int, memory: float, *, count: int) -> int:
    """How many pairs of groups of one setting are told apart."""
    return sum(
        compare_groups(*both, LEVEL).stretches != () for both in pairs(sizes, records, memory, count=count, seed=0)
    )


def most_by_chance(count: int) -> float:
    """What a rate of 5 % exceeds once in a thousand times."""
    return float(stats.binom.isf(0.001, count, LEVEL))


@pytest.mark.parametrize("memory", [0.0, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("sizes", [(2, 2), (3, 3), (5, 5), (1, 4), (10, 3)])
def test_groups_of_one_setting_are_seldom_told_apart(sizes: tuple[int, int], memory: float) -> None:
    assert told_apart(sizes, 120, memory, count=200) <= most_by_chance(200)


@pytest.mark.long
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.97, 0.99, 1.0])
@pytest.mark.parametrize("records", [40, 200, 1000])
@pytest.mark.parametrize("sizes", [(2, 2), (3, 3), (5, 5), (1, 4), (10, 10)])
def test_groups_of_one_setting_in_a_thousand_pairs(sizes: tuple[int, int], records: int, memory: float) -> None:
    assert told_apart(sizes, records, memory, count=1000) <= LEVEL * 1000


def planted(random: np.random.Generator, runs: int, size: float) -> Verdict:
    """Two groups whose difference from step 200 on is ``size`` standard deviations of the seeds."""
    one, other = (autocorrelated(random, runs, RECORDS, 0.9) for _ in range(2))
    other[:, PLANTED:] += size
    return compare_groups(one, other, LEVEL / 5)


@pytest.mark.parametrize(("runs", "size"), [(5, 6.0), (4, 9.0), (3, 16.0)])
def test_a_planted_difference_is_found_where_it_is(runs: int, size: float) -> None:
    """The update ratio doubles with the rate, a difference of 0.69 in logarithms, where seeds differ by 0.05 to 0.1."""
    random = np.random.default_rng(0)
    found = [planted(random, runs, size).stretches for _ in range(200)]
    places = [stretches[0].first if stretches else -1 for stretches in found]
    right = [200 <= place * STEP <= 260 for place in places]
    assert np.mean(right) >= 0.95
    assert np.mean([0 <= place < PLANTED for place in places]) <= LEVEL


def test_a_difference_that_ends_is_told_with_its_end() -> None:
    random = np.random.default_rng(3)
    one, other = (0.1 * autocorrelated(random, 5, 200, 0.5) for _ in range(2))
    other[:, 50:120] -= 2.0
    (stretch,) = compare_groups(one, other, LEVEL).stretches
    assert 50 <= stretch.first <= 55
    assert stretch.last is not None
    assert 100 <= stretch.last <= 125
    assert stretch.sign == 1  # the first group is the larger one


def test_a_difference_at_the_very_end_counts() -> None:
    one, other = np.zeros((3, 64)), np.zeros((3, 64))
    other[:, -4:] = 1.0  # the last window, which has no other behind it
    (stretch,) = compare_groups(one, other, LEVEL).stretches
    assert (stretch.first, stretch.last) == (60, None)


def test_a_spike_is_no_parting() -> None:
    random = np.random.default_rng(4)
    one, other = (0.1 * autocorrelated(random, 5, 160, 0.5) for _ in range(2))
    other[:, 80] += 100.0
    assert compare_groups(one, other, LEVEL).stretches == ()


@pytest.mark.parametrize("at", [0, 1, 7, 100, 1234, 4999])
def test_without_noise_the_first_record_that_differs_is_the_place(at: int) -> None:
    one, other = np.zeros((3, 5000)), np.zeros((3, 5000))
    other[:, at:] = 1.0
    found = compare_groups(one, other, LEVEL).stretches
    # A difference shorter than half a window of the last sixteenth is not seen.
    assert [stretch.first for stretch in found] == ([at] if at < 4900 else [])


def test_rounding_is_no_difference() -> None:
    one = np.full((3, 50), 1.0)
    assert compare_groups(one, one + 1e-7, LEVEL).stretches == ()


def test_two_runs_alone_have_no_spread() -> None:
    verdict = compare_groups(np.zeros((1, 50)), np.ones((1, 50)), LEVEL)
    assert verdict.stretches == ()
    assert verdict.resolution == math.inf


def test_the_resolution_is_what_would_just_have_been_seen() -> None:
    random = np.random.default_rng(5)
    one, other = (autocorrelated(random, 5, 160, 1.0) for _ in range(2))
    one -= one.mean(axis=0)
    other -= other.mean(axis=0)
    size = compare_groups(one, other, LEVEL).resolution
    assert compare_groups(one, other + 0.99 * size, LEVEL).stretches == ()
    assert len(compare_groups(one, other + 1.01 * size, LEVEL).stretches) == 1


def test_runs_that_have_ended_take_no_part() -> None:
    random = np.random.default_rng(6)
    one, other = (0.01 * autocorrelated(random, 5, 160, 0.9) for _ in range(2))
    other[:, 40:] += 1.0
    other[:2, 60:] = np.nan
    one[3, 10:] = np.nan
    (stretch,) = compare_groups(one, other, LEVEL).stretches
    assert (40 <= stretch.first <= 42, stretch.last) == (True, None)


GROUP = arrays(
    np.float64,
    st.tuples(st.integers(1, 5), st.just(40)),
    elements=st.one_of(st.just(np.nan), st.floats(-1e6, 1e6, width=32)),
)


@settings(deadline=None)
@given(GROUP, GROUP)
def test_gaps_never_raise_and_a_swap_changes_the_sign_alone(one: np.ndarray, other: np.ndarray) -> None:
    there, back = compare_groups(one, other, LEVEL), compare_groups(other, one, LEVEL)
    assert [(each.first, each.last, -each.sign) for each in there.stretches] == list(back.stretches)
    assert there.resolution == back.resolution


@settings(deadline=None)
@given(GROUP)
def test_a_group_does_not_differ_from_itself(group: np.ndarray) -> None:
    assert compare_groups(group, group, LEVEL).stretches == ()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_runs_does_not_matter(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = (autocorrelated(random, 4, 60, 0.9) for _ in range(2))
    other[:, 30:] += 5.0
    verdict = compare_groups(one, other, LEVEL)
    shuffled = compare_groups(random.permutation(one), random.permutation(other), LEVEL)
    assert shuffled.stretches == verdict.stretches
    assert shuffled.resolution == pytest.approx(verdict.resolution)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([-20.0, -1.0, 0.5, 30.0]))
def test_a_constant_added_in_the_logarithmic_domain_moves_nothing(seed: int, constant: float) -> None:
    random = np.random.default_rng(seed)
    one, other = (autocorrelated(random, 4, 60, 0.9) for _ in range(2))
    other[:, 30:] += 8.0
    verdict = compare_groups(one, other, LEVEL)
    assert compare_groups(one + constant, other + constant, LEVEL).stretches == verdict.stretches


def test_no_records_are_no_difference() -> None:
    verdict = compare_groups(np.empty((3, 0)), np.empty((2, 0)), LEVEL)
    assert verdict.stretches == ()


# -- many curves at once -----------------------------------------------------------------------------------------------


def layers(random: np.random.Generator, count: int, apart: int, runs: int = 5) -> list[Windows]:
    """Curves of two groups, of which the first few differ by six standard deviations from the middle on."""
    curves = []
    for index in range(count):
        one, other = (autocorrelated(random, runs, 64, 0.9) for _ in range(2))
        other[:, 32:] += 6.0 * (index < apart)
        curves.append(Windows(one, other))
    return curves


def test_where_no_layer_differs_the_level_is_that_of_all_together() -> None:
    random = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        curves = layers(random, 10, 0)
        level = level_of_each(curves, LEVEL)
        found += any(judge(windows, level).stretches for windows in curves)
    assert found <= most_by_chance(100)


def test_of_the_layers_told_apart_few_are_so_by_mistake() -> None:
    random = np.random.default_rng(1)
    mistakes, found = [], []
    for _ in range(40):
        curves = layers(random, 40, 10)
        level = level_of_each(curves, LEVEL)
        apart = [bool(judge(windows, level).stretches) for windows in curves]
        found.append(sum(apart[:10]))
        mistakes.append(sum(apart[10:]) / max(sum(apart), 1))
    assert np.mean(mistakes) <= LEVEL
    assert np.mean(found) >= 9.5


def test_many_layers_that_differ_lower_the_limit_for_each() -> None:
    curves = layers(np.random.default_rng(2), 40, 20)
    assert level_of_each(curves, LEVEL) >= 15 / 40 * LEVEL
    assert level_of_each(curves[20:], LEVEL) == pytest.approx(LEVEL / 20)
    assert level_of_each([], LEVEL) == LEVEL
    assert level_of_each(curves[:1], LEVEL) == LEVEL
