from __future__ import annotations

from typing import Any

import pytest

from gradwatch.detectors.normalisation import DETECTORS
from gradwatch.observations import BatchNormState, Observation
from tests.detectors.observations import findings
from tests.detectors.seeing import codes, forward, observation


def norm(**fields: Any) -> BatchNormState:
    return BatchNormState(**{"module": "net.1", "samples": 32, "at_start": False, "finite": True, **fields})


def run(*states: BatchNormState | None, period: int = 10) -> list[Observation]:
    return [
        observation(period * i + 1, forward=None if state is None else forward(batch_norms=(state,)))
        for i, state in enumerate(states)
    ]


@pytest.mark.parametrize(("samples", "expected"), [(1, True), (4, True), (5, False), (32, False)])
def test_few_samples_are_told_after_three_records(samples: int, expected: bool) -> None:  # noqa: FBT001
    assert codes(DETECTORS, run(*[norm(samples=samples)] * 2)) == []
    told = findings(DETECTORS, run(*[norm(samples=samples)] * 3))
    assert [(finding.code, finding.layer) for finding in told] == (
        [("small-batch-normalisation", "net.1")] if expected else []
    )


def test_a_small_last_batch_now_and_then_is_silent() -> None:
    assert codes(DETECTORS, run(*[norm(), norm(samples=2)] * 10)) == []


def test_evaluation_mode_takes_nothing_from_the_batch() -> None:
    assert codes(DETECTORS, run(*[norm(samples=2, training=False)] * 5)) == []


def test_statistics_that_are_not_finite_are_an_error_at_once() -> None:
    (finding,) = findings(DETECTORS, run(norm(), norm(finite=False)))
    assert (finding.code, finding.severity, finding.layer) == ("nonfinite-running-statistics", "error", "net.1")


def test_statistics_of_a_new_layer_are_told_after_50_steps() -> None:
    fresh = norm(at_start=True, training=False)
    assert codes(DETECTORS, run(*[fresh] * 5)) == []
    (finding,) = findings(DETECTORS, run(*[fresh] * 6))
    assert (finding.code, finding.step, finding.layer) == ("frozen-running-statistics", 51, "net.1")
    assert "evaluation mode" in finding.message


def test_statistics_that_move_are_silent() -> None:
    assert codes(DETECTORS, run(norm(at_start=True), *[norm()] * 20)) == []


def test_steps_without_a_sample_neither_advance_nor_reset() -> None:
    small = norm(samples=2)
    assert codes(DETECTORS, run(small, None, small, None, None)) == []
    assert codes(DETECTORS, run(small, None, small, None, small)) == ["small-batch-normalisation"]
