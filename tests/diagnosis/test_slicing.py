from __future__ import annotations

import torch

from gradwatch.diagnosis.memory import Leaf, Special
from gradwatch.diagnosis.module_stack import Location
from gradwatch.diagnosis.slicing import first_birth
from gradwatch.diagnosis.summary import summary_of
from gradwatch.diagnosis.trace import Identity, Record


def record(index: int, *causes: Record | Leaf, context: bool = False, shrinks: bool = False) -> Record:
    """An operation that follows from ``causes``; of context they are the parents."""
    identity = Identity("op", Location("", "Module"), None)
    before = list(causes)
    return Record(
        index,
        identity,
        Special(nan=True),
        [] if context else before,
        context,
        before if context else [],
        None,
        shrinks=shrinks,
    )


def leaf(*, context: bool = False) -> Leaf:
    return Leaf("batch", "batch", Special(nan=True), context, summary_of(torch.ones(1)), None, [])


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
