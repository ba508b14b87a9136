from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from gradwatch.probes.evaluation import Evaluator
from gradwatch.probes.investigation import (
    THOROUGH,
    Answer,
    _as_explained,
    _elsewhere,
    _move_on,
    _together,
    investigate,
)
from gradwatch.probes.measurement import Measurement
from gradwatch.probes.slopes import Rung, Slope
from gradwatch.replica import randomness
from gradwatch.replica.step_runner import LossFunctionRunner, Moment
from tests.probes.doubled import Wrong

if TYPE_CHECKING:
    from gradwatch.records import CheckVerdict


def answer(verdict: CheckVerdict, error: float = 0.5) -> Answer:
    """An answer on one objective, one slope of which has this error."""
    slope = Slope(1.0, 1.0, 0.0, 1e-4, (Rung(1.0, 1.0 - error, error - 1.0),))
    return Answer(verdict, {"loss": verdict}, (slope,))


@pytest.mark.parametrize(
    ("first", "held", "expected"),
    [
        ("mismatch", "pass", "explained"),
        ("kink", "pass", "explained"),
        ("mismatch", "not_resolvable", "explained"),
        ("mismatch", "mismatch", "mismatch"),
        ("mismatch", "kink", "kink"),
        ("kink", "mismatch", "mismatch"),
        ("mismatch", "not_checkable", "mismatch"),
    ],
)
def test_what_agrees_once_stops_are_held_is_explained(
    first: CheckVerdict, held: CheckVerdict, expected: CheckVerdict
) -> None:
    assert _as_explained(first, held) == expected


@pytest.mark.parametrize(
    ("first", "nearby", "expected"),
    [
        ("kink", "pass", "pass"),
        ("mismatch", "pass", "pass"),
        ("kink", "mismatch", "mismatch"),
        ("mismatch", "kink", "mismatch"),
        ("kink", "kink", "kink"),
        ("kink", "not_checkable", "kink"),
    ],
)
def test_a_little_further_on_the_code_is_asked_and_not_the_point(
    first: CheckVerdict, nearby: CheckVerdict, expected: CheckVerdict
) -> None:
    assert _elsewhere(first, nearby) == expected


@pytest.mark.parametrize(("error", "expected"), [(1e-6, "pass"), (0.02, "mismatch")])
def test_a_difference_that_is_only_a_little_smaller_nearby_has_not_gone(error: float, expected: CheckVerdict) -> None:
    assert _move_on(answer("mismatch", 0.5), answer("pass", error)).verdict == expected
    assert _move_on(answer("kink", 0.5), answer("pass", error)).verdict == "pass"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["not_resolvable", "pass"], "pass"),
        (["pass", "mismatch", "not_resolvable"], "mismatch"),
        (["not_resolvable", "not_resolvable"], "not_resolvable"),
        ([], "pass"),
    ],
)
def test_a_direction_that_resolves_nothing_says_nothing(verdicts: list[CheckVerdict], expected: CheckVerdict) -> None:
    assert _together(verdicts) == expected


def test_the_worst_slope_is_the_one_furthest_off() -> None:
    both = Answer("mismatch", {}, answer("pass", 1e-6).slopes + answer("mismatch", 0.5).slopes)
    assert both.error == pytest.approx(0.5)
    assert Answer("pass", {}, ()).error == 0.0


class _Both(nn.Module):
    """A wrong backward, a target without gradients and a detach, each on a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong, self.target, self.cut = (nn.Parameter(torch.tensor([0.7, -0.4]) * k) for k in (1.0, 1.3, 1.9))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = (x * self.target).tanh()
        cut = (x * self.cut).sin()
        doubled = Wrong.apply(x * self.wrong)  # type: ignore[no-untyped-call]
        guess = (x * self.target).cos()
        return (guess - target).square().sum() + (cut * cut.detach()).sum() + doubled.square().sum()


def test_beside_a_wrong_backward_what_is_stopped_on_purpose_stays_explained() -> None:
    module, x = _Both().double(), torch.tensor([[0.3, 1.1], [0.9, -0.6]], dtype=torch.float64)
    moment = Moment(x, 0, randomness.capture(), {})
    named = dict(module.named_parameters())
    evaluator = Evaluator(module, [], LossFunctionRunner(lambda copied, batch: copied(batch)), moment, named)
    measurement = Measurement(evaluator, evaluator.gradients(), evaluator.weights, {})
    outcome = investigate(measurement, list(named), THOROUGH)
    assert outcome.whole.verdict == "mismatch"
    assert {name: found.verdict for name, found in outcome.tensors.items()} == {
        "wrong": "mismatch",
        "target": "explained",
        "cut": "explained",
    }
    assert {explanation.kind for explanation in outcome.explanations} == {"detach", "no_grad"}
