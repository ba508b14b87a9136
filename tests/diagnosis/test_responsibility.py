from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from gradwatch.diagnosis.memory import Leaf, Read, special_of
from gradwatch.diagnosis.responsibility import explain_output
from gradwatch.diagnosis.summary import summary_of

if TYPE_CHECKING:
    from gradwatch.diagnosis.responsibility import Explanation
    from gradwatch.records import Transition

INF, NAN = math.inf, math.nan


def given(*values: float, context: bool = False) -> Read:
    """An input; what is bad in it was there before the step, or is meant."""
    tensor = torch.tensor(values)
    special = special_of(tensor)
    source = Leaf("buffer", "x", special, context, summary_of(tensor), None, [])
    return Read(tensor, tensor, special, [source] if special else [], "")


def explain(
    output: list[float], *reads: Read, pointwise: bool = False, literals: tuple[bool, bool] = (False, False)
) -> Explanation:
    result = torch.tensor(output)
    return explain_output(result, special_of(result), reads, pointwise=pointwise, literals=literals)


@pytest.mark.parametrize(
    ("output", "transition"), [([NAN], "finite->nan"), ([INF], "finite->inf"), ([-INF, NAN], "finite->nan")]
)
def test_nothing_bad_went_in(output: list[float], transition: Transition) -> None:
    found = explain(output, given(1.0, 2.0))
    assert (found.is_birth, found.transition) == (True, transition)


@pytest.mark.parametrize(("value", "output"), [(NAN, NAN), (INF, NAN), (-INF, INF), (INF, INF), (NAN, INF)])
def test_a_fault_that_went_in_explains_what_comes_out(value: float, output: float) -> None:
    fault = given(value)
    found = explain([output], given(1.0), fault)
    assert (found.causes, found.is_birth) == (fault.writers, False)


def test_a_nan_explains_a_nan_before_an_infinity_does() -> None:
    nan, inf = given(NAN), given(INF)
    assert explain([NAN], inf, nan).causes == nan.writers


def test_a_fault_explains_before_a_mask_does() -> None:
    mask, fault = given(-INF, context=True), given(-INF)
    assert explain([-INF], mask, fault).causes == fault.writers


def test_a_mask_explains_infinities_and_is_no_fault() -> None:
    mask = given(-INF, 0.0, context=True)
    found = explain([-INF, 1.0], mask)
    assert (found.causes, found.context, found.parents) == ([], True, mask.writers)
    assert not found.is_birth


def test_a_mask_explains_no_nan() -> None:
    found = explain([NAN], given(-INF, context=True))
    assert (found.is_birth, found.transition) == (True, "inf->nan")


def test_a_bad_constant_explains_a_nan_although_it_was_meant() -> None:
    """A NaN is never context: whoever wrote it is to blame."""
    nan = given(NAN)
    assert explain([NAN], nan).causes == nan.writers


@pytest.mark.parametrize(
    ("output", "literals", "context"),
    [
        ([-INF], (False, True), True),
        ([INF], (True, False), True),
        ([INF, -INF], (True, True), True),
        ([INF], (False, True), False),
        ([-INF], (True, False), False),
        ([INF, -INF], (False, True), False),
    ],
)
def test_a_written_infinity_excuses_those_of_its_sign(
    output: list[float], literals: tuple[bool, bool], *, context: bool
) -> None:
    found = explain(output, given(1.0), literals=literals)
    assert (found.context, found.is_birth) == (context, not context)


def test_a_written_infinity_that_becomes_nan_is_a_birth() -> None:
    found = explain([NAN], given(0.0), literals=(True, False))
    assert (found.is_birth, found.transition) == (True, "inf->nan")


def test_in_a_pointwise_operation_only_the_inputs_at_the_bad_place_count() -> None:
    elsewhere, here = given(NAN, 1.0), given(1.0, NAN)
    assert explain([1.0, NAN], elsewhere, here, pointwise=True).causes == here.writers
    assert explain([1.0, NAN], elsewhere, pointwise=True).is_birth
    assert explain([1.0, NAN], elsewhere).causes == elsewhere.writers


def test_places_are_compared_after_broadcasting() -> None:
    column = given(1.0, NAN)
    column = column._replace(tensor=column.tensor[:, None], before=column.before[:, None])
    found = explain_output(
        torch.tensor([[1.0, 1.0], [NAN, NAN]]),
        special_of(torch.tensor(NAN)),
        [column],
        pointwise=True,
        literals=(False, False),
    )
    assert found.causes == column.writers


def test_inputs_whose_places_cannot_be_compared_count() -> None:
    """Lists of tensors, as the fused optimizers take them."""
    other = given(NAN, 1.0, 1.0)
    assert explain([NAN, 1.0], other, pointwise=True).causes == other.writers


def test_an_input_that_is_overwritten_counts_with_its_values_from_before() -> None:
    before = given(NAN, 1.0)
    changed = before._replace(tensor=torch.tensor([1.0, NAN]))
    assert explain([1.0, NAN], changed, pointwise=True).is_birth


def test_one_fault_in_two_inputs_is_one_cause() -> None:
    fault = given(NAN)
    assert explain([NAN], fault, fault).causes == fault.writers


def test_an_infinity_made_of_a_nan_is_blamed_on_the_nan() -> None:
    """``nan_to_num(nan=inf)``: what made the NaN is the cause."""
    nan = given(NAN, context=True)
    assert explain([INF], nan).causes == nan.writers
