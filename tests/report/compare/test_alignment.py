"""One step axis for several runs, without a value that nobody recorded."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.report.compare.alignment import align


def steps(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_runs_with_the_same_steps_keep_them() -> None:
    aligned = align([steps(0, 10, 20), steps(0, 10, 20)])
    assert aligned.bin is None
    assert aligned.steps.tolist() == [0, 10, 20]
    assert aligned.of(1, np.array([1.0, 2.0, 3.0])).tolist() == [1.0, 2.0, 3.0]
    assert aligned.described() == "3 common steps, 0 to 20"


def test_only_common_steps_count_where_one_run_was_thinned() -> None:
    aligned = align([steps(0, 10, 20, 30, 40, 50), steps(10, 30, 50)])
    assert (aligned.bin, aligned.steps.tolist()) == (None, [0, 10, 30, 50])  # at step 0 the second had not begun
    assert aligned.of(0, np.arange(6.0)).tolist() == [0.0, 1.0, 3.0, 5.0]
    assert aligned.present(1).tolist() == [False, True, True, True]


def test_a_run_that_has_ended_does_not_end_the_comparison() -> None:
    aligned = align([steps(0, 10, 20, 30), steps(0, 10)])
    assert aligned.steps.tolist() == [0, 10, 20, 30]
    np.testing.assert_array_equal(aligned.of(1, np.array([1.0, 2.0])), [1.0, 2.0, np.nan, np.nan])


def test_runs_logged_at_different_steps_are_put_into_bins_of_whole_records() -> None:
    aligned = align([steps(*range(0, 200, 10)), steps(*range(7, 207, 10))])
    assert (aligned.bin, aligned.steps.tolist()) == (10, list(range(0, 200, 10)))
    assert aligned.described() == "20 bins of 10 steps (the runs were logged at different steps)"


def test_a_bin_holds_the_median_of_its_records() -> None:
    aligned = align([steps(*range(0, 100, 2)), steps(*range(1, 101, 10))])
    assert aligned.bin == 10
    np.testing.assert_array_equal(aligned.of(0, np.arange(50.0)), np.arange(2.0, 50.0, 5.0))


def test_runs_without_records_take_no_part() -> None:
    aligned = align([steps(0, 10), steps()])
    assert aligned.steps.tolist() == [0, 10]
    assert np.isnan(aligned.of(1, np.empty(0))).all()
    assert align([steps(), steps()]).described() == "the runs have no steps in common"
    assert align([]).steps.tolist() == []


def test_layers_are_aligned_all_at_once() -> None:
    aligned = align([steps(0, 10, 20), steps(10, 20)])
    layers = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(aligned.of(0, layers)[:, -2:], layers[:, 1:])


RUN = st.lists(st.integers(0, 60), max_size=30, unique=True).map(
    lambda values: np.array(sorted(values), dtype=np.int64)
)


@settings(deadline=None)
@given(st.lists(RUN, max_size=4))
def test_every_value_was_recorded_at_its_step_or_in_its_bin(runs: list[np.ndarray]) -> None:
    aligned = align(runs)
    for index, run in enumerate(runs):
        values = aligned.of(index, run.astype(float))
        known = ~np.isnan(values)
        low = aligned.steps[known]
        high = low if aligned.bin is None else low + aligned.bin - 1
        assert ((low <= values[known]) & (values[known] <= high)).all()
        covered = len(run) > 0 and aligned.bin is None
        if covered:  # a run that was training then has a record at every step that counts
            inside = (run[0] <= aligned.steps) & (aligned.steps <= run[-1])
            np.testing.assert_array_equal(known, inside)


@settings(deadline=None)
@given(st.lists(RUN, min_size=2, max_size=4), st.randoms())
def test_the_order_of_runs_does_not_matter(runs: list[np.ndarray], random: object) -> None:
    shuffled = list(runs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types it as object's kin
    np.testing.assert_array_equal(align(shuffled).steps, align(runs).steps)
