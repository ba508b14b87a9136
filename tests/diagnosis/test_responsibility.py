from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from gradwatch.diagnosis import responsibility
from gradwatch.diagnosis.memory import Leaf, Read, special_of
from gradwatch.diagnosis.responsibility import HEAD, Literals, explain_infinity, explain_nan
from gradwatch.diagnosis.summary import summary_of

if TYPE_CHECKING:
    from gradwatch.diagnosis.responsibility import Explanation, Kind

INF, NAN = math.inf, math.nan
NO_LITERALS = Literals()


def given(*values: float, context: bool = False) -> Read:
    """An input; what is bad in it was there before the step, or is meant."""
    tensor = torch.tensor(values)
    special = special_of(tensor)
    source = Leaf("buffer", "x", special, context, summary_of(tensor), None, [])
    return Read(tensor, tensor, special, [source] if special else [], "")


def why_nan(
    output: list[float],
    *reads: Read,
    pointwise: bool = False,
    literals: Literals = NO_LITERALS,
    selects: bool = True,
) -> Explanation:
    return explain_nan(torch.tensor(output), reads, literals, pointwise=pointwise, selects=selects)


def why_infinite(
    output: list[float], *reads: Read, pointwise: bool = False, literals: Literals = NO_LITERALS
) -> Explanation:
    result = torch.tensor(output)
    return explain_infinity(result, special_of(result), reads, literals, pointwise=pointwise)


def test_where_nothing_bad_went_in_each_kind_is_a_birth_of_its_own() -> None:
    nan, infinity = why_nan([-INF, NAN], given(1.0, 2.0)), why_infinite([-INF, NAN], given(1.0, 2.0))
    assert (nan.is_birth, nan.transition) == (True, "finite->nan")
    assert (infinity.is_birth, infinity.transition) == (True, "finite->inf")


@pytest.mark.parametrize(("value", "via"), [(NAN, "nan"), (INF, "inf"), (-INF, "inf")])
def test_a_fault_that_went_in_explains_a_nan(value: float, via: Kind) -> None:
    fault = given(value)
    found = why_nan([NAN], given(1.0), fault)
    assert (found.causes, found.via, found.is_birth) == (fault.writers, via, False)
    assert found.transition is None


@pytest.mark.parametrize(("value", "via"), [(-INF, "inf"), (INF, "inf"), (NAN, "nan")])
def test_a_fault_that_went_in_explains_an_infinity(value: float, via: Kind) -> None:
    """Of a NaN too: ``nan_to_num(nan=inf)``."""
    fault = given(value, context=math.isnan(value))
    found = why_infinite([INF], given(1.0), fault)
    assert (found.causes, found.via, found.is_birth) == (fault.writers, via, False)


def test_a_nan_explains_a_nan_before_an_infinity_does() -> None:
    nan, inf = given(NAN), given(INF)
    assert why_nan([NAN], inf, nan).causes == nan.writers


def test_an_infinity_explains_an_infinity_before_a_nan_does() -> None:
    nan, inf = given(NAN), given(INF)
    assert why_infinite([INF], nan, inf).causes == inf.writers


def test_a_nan_beside_an_infinity_explains_only_its_like() -> None:
    """Where NaN comes out too, the NaN that went in need not have become the infinity."""
    nan = given(NAN)
    assert why_nan([NAN, INF], nan).causes == nan.writers
    infinity = why_infinite([NAN, INF], nan)
    assert (infinity.is_birth, infinity.transition) == (True, "finite->inf")


def test_a_fault_explains_before_a_mask_does() -> None:
    mask, fault = given(-INF, context=True), given(-INF)
    assert why_infinite([-INF], mask, fault).causes == fault.writers
    assert why_nan([NAN], mask, fault).causes == fault.writers


def test_a_mask_explains_infinities_and_is_no_fault() -> None:
    mask = given(-INF, 0.0, context=True)
    found = why_infinite([-INF, 1.0], mask)
    assert (found.causes, found.context, found.parents) == ((), True, mask.writers)
    assert not found.is_birth


def test_a_mask_explains_no_nan() -> None:
    found = why_nan([NAN], given(-INF, context=True))
    assert (found.is_birth, found.transition) == (True, "inf->nan")


def test_a_bad_constant_explains_a_nan_although_it_was_meant() -> None:
    """A NaN is never context: whoever wrote it is to blame."""
    nan = given(NAN, context=True)
    assert why_nan([NAN], nan).causes == nan.writers


@pytest.mark.parametrize(
    ("output", "literals", "context"),
    [
        ([-INF], Literals(neginf=True, written=True), True),
        ([INF], Literals(posinf=True, written=True), True),
        ([INF, -INF], Literals(posinf=True, neginf=True, written=True), True),
        ([INF], Literals(neginf=True, written=True), False),
        ([-INF], Literals(posinf=True, written=True), False),
        ([INF, -INF], Literals(neginf=True, written=True), False),
        ([INF], Literals(posinf=True), False),  # a factor of infinity is no mask
    ],
)
def test_a_written_infinity_excuses_those_of_its_sign(
    output: list[float], literals: Literals, *, context: bool
) -> None:
    found = why_infinite(output, given(1.0), literals=literals)
    assert (found.context, found.is_birth) == (context, not context)


@pytest.mark.parametrize("written", [True, False])
def test_a_written_infinity_that_becomes_nan_is_a_birth(*, written: bool) -> None:
    found = why_nan([NAN], given(0.0), literals=Literals(posinf=True, written=written))
    assert (found.is_birth, found.transition) == (True, "inf->nan")


def test_in_a_pointwise_operation_only_the_inputs_at_the_bad_place_count() -> None:
    elsewhere, here = given(NAN, 1.0), given(1.0, NAN)
    assert why_nan([1.0, NAN], elsewhere, here, pointwise=True).causes == here.writers
    assert why_nan([1.0, NAN], elsewhere, pointwise=True).is_birth
    assert why_nan([1.0, NAN], elsewhere).causes == elsewhere.writers


def test_what_carries_every_nan_on_is_not_asked_for_places() -> None:
    """As arithmetic does: a NaN that went in has come out."""
    nan = given(NAN, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responsibility, "_coincide", None)
        assert why_nan([NAN, 1.0], nan, pointwise=True, selects=False).causes == nan.writers


def test_in_a_pointwise_operation_infinities_are_looked_for_where_the_infinities_are() -> None:
    """The output's NaN stands where that input is infinite, its infinity does not."""
    elsewhere = given(INF, 1.0)
    assert why_infinite([NAN, INF], elsewhere, pointwise=True).is_birth
    assert why_infinite([INF, NAN], elsewhere, pointwise=True).causes == elsewhere.writers
    assert why_nan([NAN, INF], elsewhere, pointwise=True).causes == elsewhere.writers


@pytest.mark.parametrize("place", [1, HEAD + 5])
def test_in_large_tensors_every_place_counts(place: int) -> None:
    """Where much is bad the first elements would do; what stands behind them counts all the same."""
    output, here, elsewhere = [1.0] * (HEAD + 9), [1.0] * (HEAD + 9), [1.0] * (HEAD + 9)
    output[place] = NAN
    here[place] = elsewhere[0] = elsewhere[HEAD + 1] = INF
    good, bad = given(*elsewhere), given(*here)
    assert why_nan(output, good, bad, pointwise=True).causes == bad.writers
    assert why_nan(output, good, pointwise=True).is_birth
    strided = bad._replace(before=torch.stack([bad.before, bad.before], dim=1)[:, 0])
    assert why_nan(output, strided, pointwise=True).causes == bad.writers


def test_places_are_compared_after_broadcasting() -> None:
    column = given(1.0, NAN)
    column = column._replace(tensor=column.tensor[:, None], before=column.before[:, None])
    output = torch.tensor([[1.0, 1.0], [NAN, NAN]])
    assert explain_nan(output, [column], NO_LITERALS, pointwise=True).causes == column.writers


def test_inputs_whose_places_cannot_be_compared_count() -> None:
    """Lists of tensors, as the fused optimizers take them."""
    other = given(NAN, 1.0, 1.0)
    assert why_nan([NAN, 1.0], other, pointwise=True).causes == other.writers


def test_an_input_that_is_overwritten_counts_with_its_values_from_before() -> None:
    before = given(NAN, 1.0)
    changed = before._replace(tensor=torch.tensor([1.0, NAN]))
    assert why_nan([1.0, NAN], changed, pointwise=True).is_birth


def test_one_fault_in_two_inputs_is_one_cause() -> None:
    fault = given(NAN)
    assert why_nan([NAN], fault, fault).causes == fault.writers
