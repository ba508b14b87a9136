from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import _SingleLevelFunction
from torch.nn import functional

from gradwatch.probes.stop_gradients import OtherPathError, StopGradients

if TYPE_CHECKING:
    from collections.abc import Callable


def no_grad(w: Tensor) -> Tensor:
    with torch.no_grad():
        goal = 2 * w
    return goal * w


def in_place(w: Tensor) -> Tensor:
    kept = torch.zeros(2)
    with torch.no_grad():
        kept.add_(w)
    return kept * w


def first_order(w: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(w.square().sum(), w)
    return slope * w


def frozen(w: Tensor) -> Tensor:
    w.requires_grad_(False)
    constant = w * 2
    w.requires_grad_(True)
    return constant * w


STOPS: dict[str, Callable[[Tensor], Tensor]] = {
    "detach": lambda w: w.detach() * w,
    "data": lambda w: w.data * w,
    "no_grad": no_grad,
    "grad": first_order,
    "frozen": frozen,
    "number": lambda w: w.sum().item() * w,
}
FREE: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda w: w.exp() * w,
    "detached constant": lambda w: torch.ones(2).detach() * w,
    "a number of no weight": lambda w: torch.ones(1).item() * w,
    "second order": lambda w: torch.autograd.grad(w.square().sum(), w, create_graph=True)[0] * w,
}


def weight(value: float = 1.0) -> Tensor:
    return torch.full((2,), value, requires_grad=True)


def recorded(step: Callable[[Tensor], Tensor]) -> StopGradients:
    stops = StopGradients()
    with stops.recorder():
        step(weight())
    return stops


@pytest.mark.parametrize("kind", STOPS)
def test_a_stopped_value_is_held_while_the_weight_moves(kind: str) -> None:
    stops, step = recorded(STOPS[kind]), STOPS[kind]
    constant = step(weight()).detach()  # at 1, where the weight itself counts as a factor of one
    with stops.held():
        moved = step(weight(1.5))
    assert torch.allclose(moved, 1.5 * constant)
    assert not torch.allclose(step(weight(1.5)), moved)
    (explanation,) = stops.explanations()
    assert explanation.kind == kind
    assert explanation.source is not None
    assert explanation.source.file == __file__


@pytest.mark.parametrize("name", FREE)
def test_what_no_weight_moves_is_no_explanation(name: str) -> None:
    stops = recorded(FREE[name])
    with stops.held():
        moved = FREE[name](weight(1.5))
    assert torch.equal(moved, FREE[name](weight(1.5)))
    assert stops.explanations() == []


def test_a_buffer_written_without_gradients_is_held() -> None:
    stops = recorded(in_place)
    with stops.held():
        moved = in_place(weight(3.0))
    assert moved.tolist() == [3.0, 3.0]


def test_a_hard_sample_is_held_but_for_its_soft_part() -> None:
    def hard(w: Tensor) -> Tensor:
        torch.manual_seed(0)
        return functional.gumbel_softmax(w, hard=True)

    stops = recorded(hard)
    with stops.recorder():
        start = hard(weight())
    with stops.held():
        tilted = torch.tensor([1.0, 1.2], requires_grad=True)
        moved = hard(tilted)
    torch.manual_seed(0)
    soft = functional.gumbel_softmax(tilted)
    torch.manual_seed(0)
    assert torch.allclose(moved - start, soft - functional.gumbel_softmax(weight()), atol=1e-6)


def test_a_line_is_named_once_however_often_it_stops() -> None:
    def twice(w: Tensor) -> Tensor:
        return torch.stack([w.detach() * w for _ in range(3)])

    stops = recorded(twice)
    assert len(stops) == 3
    with stops.held():
        twice(weight(2.0))
    assert len(stops.explanations()) == 1


def test_another_path_is_noticed() -> None:
    stops = recorded(STOPS["detach"])
    with pytest.raises(OtherPathError), stops.held():
        STOPS["number"](weight())
    with pytest.raises(OtherPathError), stops.held():
        [weight().detach() for _ in range(2)]


class Inside(Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.detach() * 2

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Any:
        return 2 * grads[0]


def test_what_a_custom_function_does_inside_is_no_stop() -> None:
    assert len(recorded(Inside.apply)) == 0


def test_weights_switched_off_and_on_are_where_they_were() -> None:
    linear = nn.Linear(2, 1)
    stops = StopGradients()
    with stops.recorder():
        linear.requires_grad_(requires_grad=False)
        linear.requires_grad_()
    value = linear.weight.detach().clone() + 1
    with torch.no_grad():
        linear.weight.copy_(value)
    with stops.held():
        linear.requires_grad_(requires_grad=False)
        assert not torch.equal(linear.weight, value)
        linear.requires_grad_()
        assert torch.equal(linear.weight, value)


def test_nothing_is_left_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        recorded(lambda w: w.detach() @ torch.ones(3))
    assert "apply" not in vars(_SingleLevelFunction)
    assert torch.overrides._get_current_function_mode_stack() == []  # type: ignore[no-untyped-call]
