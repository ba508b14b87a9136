"""Derivatives: named by the forward line that they belong to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.diagnosis.tracing import backward, birth, line_of, tracer_of, zeros


def test_a_derivative_is_named_by_its_forward_operation_line_and_module() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt()  # the forward line

    module = nn.Sequential(nn.Identity(), Root())
    x = zeros()
    found = birth(lambda: backward((module(x) * 0.0).sum(), x), module)
    assert (found.identity.op, found.identity.location) == ("sqrt", ("1", "Root"))
    assert line_of(found) == "the forward line"
    assert found.identity.in_backward


def test_operations_without_gradient_do_not_take_the_name_of_a_derivative() -> None:
    def step() -> Tensor:
        x = zeros()
        y = x.sqrt()  # the forward line
        with torch.no_grad():
            y.add(1.0).exp()
        torch.ones(3).mul(2.0)
        return backward((y * 0.0).sum(), x)

    found = birth(step)
    assert (found.identity.op, line_of(found)) == ("sqrt", "the forward line")


class Bad(torch.autograd.Function):
    """Its forward or its derivative divides by zero."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, spoilt: bool) -> Tensor:  # noqa: FBT001 - Function.apply takes no keywords
        return x / 1.0 if spoilt else x / 0.0  # in forward

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] / 0.0, None  # in backward


def test_in_the_forward_of_a_custom_function_the_operation_is_named() -> None:
    found = birth(lambda: Bad.apply(zeros() + 1.0, False))  # type: ignore[no-untyped-call]
    assert (found.identity.op, line_of(found)) == ("div", "in forward")


def test_the_derivative_of_a_custom_function_is_named_by_its_class() -> None:
    x = zeros()
    found = birth(lambda: backward(Bad.apply(x, True).sum(), x))  # type: ignore[no-untyped-call]
    assert (found.identity.op, line_of(found)) == ("Bad", "in backward")


def test_a_hook_on_a_tensor_is_named_by_its_own_line() -> None:
    def step() -> Tensor:
        x = zeros()
        y: Any = x * 2.0
        y.register_hook(lambda gradient: gradient / 0.0)  # the hook
        return backward(y.sum(), x)

    found = birth(step)
    assert (found.identity.op, line_of(found), found.identity.derivative) == ("div", "the hook", False)


def test_a_hook_on_a_parameter_is_named_by_its_own_line() -> None:
    parameter: Any = nn.Parameter(torch.ones(2))
    parameter.register_hook(lambda gradient: gradient.log())  # the hook
    found = birth(lambda: backward((parameter * 0.0).sum(), parameter))
    assert (found.identity.op, line_of(found)) == ("log", "the hook")


def test_in_a_double_backward_the_penalty_is_blamed() -> None:
    def step() -> Tensor:
        weight, x = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
        [gradient] = torch.autograd.grad((weight * x).sum(), x, create_graph=True)
        penalty = gradient.square().sum().sqrt()  # the penalty
        return backward(penalty, weight)

    found = birth(step)
    assert (found.identity.op, line_of(found)) == ("sqrt", "the penalty")


def test_a_derivative_of_a_derivative_is_led_back_to_the_forward_line() -> None:
    """The first derivative of |x|^1.5 is finite at 0, the second is not."""

    def step() -> Tensor:
        x = zeros()
        y = x.pow(1.5).sum()  # the forward line
        [gradient] = torch.autograd.grad(y, x, create_graph=True)
        return backward(gradient.sum(), x)

    found = birth(step)
    assert (found.identity.op, line_of(found)) == ("pow", "the forward line")


def test_a_gradient_that_is_taken_inside_the_forward_is_led_back_to_its_line() -> None:
    def step() -> Tensor:
        x = zeros()
        energy = x.sqrt().sum()  # the forward line
        [force] = torch.autograd.grad(energy, x)
        return force.square().mean()

    found = birth(step)
    assert (found.identity.op, line_of(found), found.identity.derivative) == ("sqrt", "the forward line", True)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_derivative_inside_of_a_checkpoint_is_led_back_to_its_line(*, reentrant: bool) -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt() * 0.0  # the forward line

    module = nn.Sequential(Root())

    def step() -> Tensor:
        x = zeros()
        return backward(checkpoint(module, x, use_reentrant=reentrant).sum(), x)

    found = birth(step, module)
    assert (found.identity.op, line_of(found)) == ("sqrt", "the forward line")
    assert found.identity.location == ("0", "Root")


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_birth_inside_of_a_checkpoint_keeps_its_line(*, reentrant: bool) -> None:
    def inside(x: Tensor) -> Tensor:
        return x.log()  # the forward line

    found = birth(lambda: checkpoint(inside, zeros(), use_reentrant=reentrant).sum())
    assert (found.identity.op, line_of(found)) == ("log", "the forward line")


def test_a_gradient_that_overflows_in_its_sum_is_blamed_on_the_accumulation() -> None:
    parameter = nn.Parameter(torch.ones(2))

    def step() -> Tensor:
        backward((parameter * 2e38).sum(), parameter)
        return backward((parameter * 2e38).sum(), parameter)

    found = birth(step)
    assert (found.identity.op, found.transition) == ("add", "finite->inf")


def test_the_operation_that_anomaly_mode_would_blame_is_known_by_number() -> None:
    modules, tracer = tracer_of()
    x = zeros()
    with modules, tracer:
        y = x * 0.0  # the first operation
        loss: Any = (y.sqrt() * 0.0).sum()
        loss.backward()
    assert tracer.anomaly_at == 2


def test_anomaly_mode_would_blame_nothing_in_the_forward() -> None:
    modules, tracer = tracer_of()
    with modules, tracer:
        (-torch.ones(2)).sqrt()
    assert tracer.anomaly_at is None


def test_a_gradient_where_the_forward_is_masked_is_blamed_on_the_derivative() -> None:
    def step() -> Tensor:
        x = zeros()
        root = x.sqrt()  # the forward line
        return backward(torch.where(x > 0, root, 0.0).sum(), x)

    found = birth(step)
    assert (found.identity.op, line_of(found)) == ("sqrt", "the forward line")
    assert found.identity.derivative
    assert found.transition in {"finite->nan", "inf->nan"}


def test_a_bad_sparse_gradient_is_blamed_on_the_operation_behind_the_embedding() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    nn.init.zeros_(embedding.weight)

    def step() -> Tensor:
        length = embedding(torch.tensor([1, 3])).square().sum(1).sqrt()  # the birth
        return backward(length.sum(), embedding.weight)

    found = birth(step)
    assert (found.identity.op, line_of(found)) == ("sqrt", "the birth")
