from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from gradwatch.diagnosis.memory import Leaf, Special, special_of
from gradwatch.diagnosis.repair import Repair, RepairMode, make_finite, replace_samples, suspects, without
from gradwatch.diagnosis.summary import summary_of
from gradwatch.diagnosis.trace import Identity, Record
from gradwatch.replica.guard import StepGuard
from gradwatch.tracing.module_stack import Location
from gradwatch.tracing.source import Place
from tests.diagnosis.tracing import tracer_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gradwatch.diagnosis.slicing import Root

INF, NAN = math.inf, math.nan


def record(index: int, op: str = "log", line: int = 1) -> Record:
    place = Place("/nowhere/train.py", line, "step")
    return Record(index, Identity(op, Location("", "Module"), place), Special(nan=True))


def leaf(name: str | None) -> Leaf:
    return Leaf("batch", name, Special(nan=True), False, summary_of(torch.ones(1)), None, [])


def repaired(step: Callable[[], Any], *operations: int) -> Any:
    with RepairMode(StepGuard(), frozenset(operations)):
        return step()


# -- what is made harmless ---------------------------------------------------------------------------------------------


def test_the_result_of_the_wanted_operation_is_finite_and_the_others_are_not() -> None:
    def step() -> tuple[Tensor, Tensor]:
        return torch.zeros(2).log(), torch.full((2,), -1.0).sqrt()

    first, second = repaired(step, 2)
    assert first.tolist() == [0.0, 0.0]
    assert bool(second.isnan().all())
    first, second = repaired(step, 4)
    assert bool(first.isinf().all())
    assert second.tolist() == [0.0, 0.0]


def test_operations_have_the_numbers_that_the_trace_gives_them() -> None:
    """Views count, and so does the backward pass."""

    def step() -> Tensor:
        x = torch.zeros(4, requires_grad=True)
        x.view(2, 2).t().sqrt().sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        return x.grad

    modules, tracer = tracer_of()
    with modules, tracer:
        [found] = tracer.record_of(step())
    assert isinstance(found, Record)
    assert not special_of(repaired(step, found.index))
    assert special_of(repaired(step, found.index - 1))


def test_an_operation_that_writes_in_place_is_repaired() -> None:
    x = torch.tensor([1.0, 0.0, 4.0])
    repaired(lambda: torch.log(x, out=x), 1)
    assert x.tolist() == [0.0, 0.0, torch.tensor(4.0).log().item()]


def test_the_guard_is_shown_every_operation() -> None:
    guard = StepGuard()
    seen: list[str] = []
    guard.before = lambda what, *_: seen.append(what.name)  # type: ignore[method-assign]
    with RepairMode(guard, frozenset()):
        torch.ones(2).exp()
    assert seen == ["ones", "exp"]


def test_good_numbers_stay_and_integers_are_left_alone() -> None:
    numbers, count = torch.tensor([1.0, NAN, INF, -INF, -2.0]), torch.tensor([3])
    make_finite([numbers, count])
    assert numbers.tolist() == [1.0, 0.0, 0.0, 0.0, -2.0]
    assert count.tolist() == [3]


def test_a_tensor_that_needs_a_gradient_can_be_made_finite() -> None:
    weight = torch.tensor([NAN, 1.0], requires_grad=True)
    make_finite([weight])
    assert weight.tolist() == [0.0, 1.0]
    assert weight.is_leaf


def test_sparse_tensors_are_left_alone() -> None:
    sparse = torch.tensor([[NAN, 0.0]]).to_sparse()
    make_finite([sparse])
    assert bool(sparse.values().isnan().any())


# -- samples -----------------------------------------------------------------------------------------------------------


def test_samples_are_overwritten_by_one_that_stays() -> None:
    x, y = torch.arange(6.0).view(3, 2), torch.tensor([5, 6, 7])
    replace_samples([x, y], frozenset({0, 2}), 3)
    assert x.tolist() == [[2.0, 3.0]] * 3
    assert y.tolist() == [6, 6, 6]


def test_the_first_sample_that_is_not_guilty_takes_their_place() -> None:
    x = torch.arange(4.0)
    replace_samples([x], frozenset({0, 1}), 4)
    assert x.tolist() == [2.0, 2.0, 2.0, 3.0]


@pytest.mark.parametrize("other", [torch.tensor(NAN), torch.full((2, 3), NAN)], ids=["no dimension", "another extent"])
def test_what_is_not_of_the_batch_stays(other: Tensor) -> None:
    before = other.clone()
    replace_samples([other], frozenset({1}), 3)
    assert torch.equal(other.isnan(), before.isnan())


# -- who is suspected --------------------------------------------------------------------------------------------------


def test_births_of_one_line_are_one_suspect() -> None:
    first, second, other, another = record(3), record(7), record(4, line=2), record(5, op="exp")
    assert suspects([first, other, another, second]) == [[first, second], [other], [another]]


def test_what_was_bad_before_the_step_is_a_suspect_by_its_name() -> None:
    x, y = leaf("batch['x']"), leaf("batch['y']")
    assert suspects([x, y, x]) == [[x, x], [y]]


def test_nobody_is_suspected_without_a_birth() -> None:
    assert suspects([]) == []


def test_a_repair_covers_all_births_of_the_suspects() -> None:
    groups: list[list[Root]] = [[record(3), record(7)], [leaf("batch['x']"), leaf(None)]]
    assert without(groups) == Repair(frozenset({3, 7}), frozenset({"batch['x']"}))
    assert without([]) == Repair()
