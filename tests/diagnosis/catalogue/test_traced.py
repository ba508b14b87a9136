"""What is said of the records of a real trace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from gradwatch.diagnosis.catalogue import entry_of, explain_origin
from gradwatch.diagnosis.circumstances import Birth, Circumstances
from gradwatch.diagnosis.verdict import origin_of_record
from gradwatch.records import Origin, TensorSummary
from tests.diagnosis.catalogue.grammar import BAD_GRAMMAR, SCREEN, TWO_PLACES
from tests.diagnosis.catalogue.traced_cases import DELIBERATE, TRACED_CASES, TracedCase
from tests.diagnosis.tracing import backward, birth, zeros

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradwatch.diagnosis.trace import Record


def told_of(record: Record, *, loss_is_bad: bool = True) -> Birth:
    origin = origin_of_record(record, [0], loss_is_bad=loss_is_bad)
    known = Circumstances(
        losses=["+inf"] if loss_is_bad else [],
        bad_gradients=1,
        gradients=1,
        producers=record.producers,
        scalars=record.numbers,
        index=origin.index,
        in_derivative=not loss_is_bad and record.identity.derivative,
    )
    return Birth(origin, known)


@pytest.mark.parametrize(
    "case", TRACED_CASES, ids=[f"{number}-{case.entry}-{case.op}" for number, case in enumerate(TRACED_CASES)]
)
def test_a_record_is_told_in_its_own_numbers(case: TracedCase) -> None:
    told = told_of(birth(case.step))
    text = explain_origin(*told)
    assert (told.op, entry_of(told).name) == (case.op, case.entry)
    assert not any(map(BAD_GRAMMAR.search, text))
    assert not TWO_PLACES.search(text.explanation)
    assert max(map(len, text)) <= SCREEN
    assert [words for words in case.says if words not in text.explanation] == []
    assert [words for words in case.advises if words not in text.advice] == []
    # The advice may name what it warns of.
    assert [words for words in case.avoids if words in text.explanation] == []
    if case.entry in {"log of a complex 0", "one over 0", "zero divided by zero"}:
        assert ".clamp(" not in text.advice.replace("x.abs().clamp(", "")


@pytest.mark.parametrize("case", DELIBERATE, ids=lambda case: f"{case.entry}-{case.op}")
def test_what_was_written_on_purpose_has_no_transition(case: TracedCase) -> None:
    assert birth(case.step).transition is None


def test_the_sample_of_a_deliberate_infinity_is_named() -> None:
    told = told_of(birth(DELIBERATE[0].step))
    text = explain_origin(told.origin, replace(told.circumstances, sample=2))
    assert "masked with -inf (sample 2): its log-probability" in text.explanation


def half_powers(x: Tensor) -> Tensor:
    return (x**0.5).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_the_edge_of_a_slope_and_the_place_are_told_apart(dtype: torch.dtype) -> None:
    x = torch.zeros(2, dtype=dtype, requires_grad=True)
    told = told_of(birth(lambda: backward(half_powers(x).abs(), x)), loss_is_bad=False)
    text = explain_origin(*told)
    assert "The slope of pow is infinite at 0 for an exponent below 1 (at [0]): 2 of 2 values" in text.explanation
    assert ("x.clamp(min=1e-6) ** p" in text.advice) == (dtype == torch.float32)
    assert ("(x + 1e-6) ** p" in text.advice) == (dtype == torch.complex64)


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        (lambda x: x - 1, "that value does not reach it"),
        (lambda x: torch.where(x < 0, x, x - 1), "a mask hides that value"),
    ],
    ids=["unknown", "mask"],
)
def test_a_mask_is_named_only_where_one_is_known(argument: Callable[[Tensor], Tensor], why: str) -> None:
    x = zeros()
    record = birth(lambda: backward(torch.where(x < 1, x, argument(x).sqrt()).sum(), x))
    text = explain_origin(*told_of(record, loss_is_bad=False))
    assert record.identity.op == "sqrt"
    assert text.explanation.endswith(
        f"The loss is finite as {why}, but its derivative comes back: the only gradient is not."
    )


def test_a_deliberate_infinity_in_a_gradient() -> None:
    scores = TensorSummary(shape=(4,), dtype="float32", min=1.0, max=1.0, nan=0, posinf=0, neginf=2, zeros=0)
    origin = Origin(phase="backward", op="mul", transition=None, inputs=[scores])
    text = explain_origin(origin, Circumstances(bad_gradients=1, gradients=2))
    assert "reaches a gradient in the derivative of mul: in its input, 2 of 4 values are -inf." in text.explanation
    assert "right before a softmax" in text.advice


ATTENTION = TensorSummary(shape=(1, 8, 16, 64), dtype="float16", min=-1.0, max=1.0, nan=0, posinf=0, neginf=0, zeros=0)
ALL_MASKED = TensorSummary(shape=(16, 16), dtype="float16", min=0.0, max=0.0, nan=0, posinf=0, neginf=16, zeros=240)


@pytest.mark.parametrize(
    ("largest", "entry"),
    [
        (80.0, "attention over infinities"),  # 80 * 80 * sqrt(64) is 51200
        (91.0, "attention scores beyond the largest number"),  # 91 * 91 * sqrt(64) is 66248
    ],
)
def test_scores_have_overflowed_where_their_bound_says_so(largest: float, entry: str) -> None:
    queries = replace(ATTENTION, max=largest)
    inputs = [queries, queries, ATTENTION, ALL_MASKED]
    origin = Origin(phase="forward", op="scaled_dot_product_attention", transition="inf->nan", inputs=inputs)
    assert entry_of(Birth(origin, Circumstances())).name == entry
