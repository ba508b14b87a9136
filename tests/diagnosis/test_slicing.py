from __future__ import annotations

import torch

from gradwatch.diagnosis.memory import Leaf, Special
from gradwatch.diagnosis.responsibility import Explanation
from gradwatch.diagnosis.slicing import births, first_birth
from gradwatch.diagnosis.summary import summary_of
from gradwatch.diagnosis.trace import Identity, Record
from gradwatch.tracing.module_stack import Location

IDENTITY = Identity("op", Location("", "Module"), None)
NAN, INFINITY = Special(nan=True), Special(posinf=True)


def record(index: int, *causes: Record | Leaf, context: bool = False, shrinks: bool = False) -> Record:
    """An operation that follows from ``causes``; of context, which are infinities, they are the parents."""
    if context:
        why = Explanation(via="inf", context=True, parents=causes)
        return Record(index, IDENTITY, INFINITY, of_infinity=why, shrinks=shrinks)
    return Record(index, IDENTITY, NAN, of_nan=Explanation(causes), shrinks=shrinks)


def leaf(*, context: bool = False) -> Leaf:
    special = INFINITY if context else NAN
    return Leaf("batch", "batch", special, context, summary_of(torch.ones(1)), None, [])


def test_nothing_depends_on_nothing() -> None:
    assert first_birth([]) is None


def test_a_birth_is_found_behind_what_follows_from_it() -> None:
    born = record(1)
    assert first_birth([record(3, record(2, born))]) is born


def test_the_earliest_birth_is_found() -> None:
    early, late = record(1), record(2)
    assert first_birth([record(4, late), record(5, early)]) is early
    assert first_birth([record(4, early), record(5, late)]) is early


def test_what_was_bad_before_the_step_comes_first() -> None:
    batch = leaf()
    assert first_birth([record(3, record(1), batch)]) is batch


def test_context_is_passed_over_where_there_is_a_birth() -> None:
    born = record(5)
    assert first_birth([record(6, record(1, leaf(context=True), context=True), born)]) is born


def test_a_birth_behind_context_is_found() -> None:
    born = record(1)
    assert first_birth([record(2, born, context=True)]) is born


def test_of_context_alone_the_first_operation_that_picks_is_named() -> None:
    mask = record(1, context=True)
    masked = record(2, mask, context=True)
    picked = record(3, masked, context=True, shrinks=True)
    mean = record(4, picked, context=True, shrinks=True)
    assert first_birth([mean]) is picked


def test_of_context_that_nothing_picks_from_the_last_operation_is_named() -> None:
    last = record(2, record(1, context=True), context=True)
    assert first_birth([last]) is last


def test_of_a_mask_alone_the_mask_is_named() -> None:
    mask = leaf(context=True)
    assert first_birth([mask]) is mask


def test_a_value_that_came_on_many_ways_is_looked_at_once() -> None:
    """Two ways at each of 60 operations: 2**60 ways in all."""
    born = record(0)
    at = born
    for index in range(1, 60):
        at = record(index, at, at, record(index, at))
    assert first_birth([at]) is born


def test_a_chain_longer_than_the_recursion_limit_is_followed() -> None:
    born = record(0)
    at = born
    for index in range(1, 5000):
        at = record(index, at)
    assert first_birth([at]) is born


# -- NaN and infinities of different origins in one tensor -------------------------------------------------------------


def overflow(index: int) -> Record:
    return Record(index, IDENTITY, INFINITY, of_infinity=Explanation(transition="finite->inf"))


def mixed(index: int, nan: Record | Leaf, infinity: Record | Leaf) -> Record:
    """A tensor with NaN of one origin and infinities of another."""
    why_infinite = Explanation([infinity], via="inf")
    return Record(index, IDENTITY, Special(nan=True, posinf=True), Explanation([nan]), why_infinite)


def test_a_nan_is_followed_to_its_own_origin_and_an_infinity_to_its_own() -> None:
    nan, infinity = record(1), overflow(2)
    both = mixed(3, nan, infinity)
    only_infinity = Record(4, IDENTITY, INFINITY, of_infinity=Explanation([both], via="inf"))
    only_nan = record(4, both)
    assert births([only_infinity]) == [infinity]
    assert births([only_nan]) == [nan]


def test_a_nan_that_infinities_have_made_is_followed_to_them() -> None:
    """inf - inf: the NaN in the same tensor has nothing to do with it."""
    nan, infinity = record(1), overflow(2)
    both = mixed(3, nan, infinity)
    difference = Record(4, IDENTITY, NAN, of_nan=Explanation([both], via="inf"))
    assert births([difference]) == [infinity]


def test_an_infinity_that_a_nan_has_made_is_followed_to_it() -> None:
    nan, infinity = record(1), overflow(2)
    replaced = Record(4, IDENTITY, INFINITY, of_infinity=Explanation([mixed(3, nan, infinity)], via="nan"))
    assert births([replaced]) == [nan]


def test_one_operation_is_asked_for_each_kind_once() -> None:
    nan, infinity = record(1), overflow(2)
    both = mixed(3, nan, infinity)
    of_both_kinds = Record(5, IDENTITY, NAN, of_nan=Explanation([record(4, both), both], via="nan"))
    of_infinity = Record(6, IDENTITY, INFINITY, of_infinity=Explanation([both], via="inf"))
    assert births([of_both_kinds, of_infinity]) == [nan, infinity]


def test_all_births_are_found_in_order_and_once() -> None:
    batch, early, late = leaf(), record(1), record(2)
    assert births([record(5, late, early), record(6, early, batch)]) == [batch, early, late]
