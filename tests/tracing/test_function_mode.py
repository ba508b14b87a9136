from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from gradwatch.tracing.function_mode import FunctionMode, unseen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Names(FunctionMode):
    """Writes down the names of the functions that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self.seen.append(getattr(func, "__name__", ""))
        return func(*args, **kwargs)


class Tanh(Function):
    """Computes its derivative with functions that nobody else uses here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (y,) = ctx.saved_tensors
        return grads[0].mul(1 - y.square())


def leaf() -> Tensor:
    return torch.ones(3, requires_grad=True)


def test_functions_of_the_forward_pass_are_seen() -> None:
    with Names() as names:
        leaf().exp().sum()
    assert names.seen[-2:] == ["exp", "sum"]


def test_what_a_checkpoint_computes_anew_is_seen_in_the_backward_pass() -> None:
    x = leaf()
    with Names() as names:
        out = checkpoint(lambda x: x.cosh().sinh(), x, use_reentrant=False)
        out.sum().backward()
    assert names.seen.count("cosh") == 2
    assert x.grad is not None


def test_the_backward_of_a_custom_function_is_not() -> None:
    x = leaf()
    with Names() as names:
        Tanh.apply(x).sum().backward()  # type: ignore[no-untyped-call]
    assert "mul" not in names.seen
    assert "square" not in names.seen


def test_hooks_of_a_backward_pass_are_seen() -> None:
    x = leaf()
    with Names() as names:
        y = x.exp()
        y.register_hook(lambda gradient: gradient.sinh())  # type: ignore[no-untyped-call]
        torch.autograd.grad(y.sum(), x)
    assert "sinh" in names.seen


def test_after_an_error_in_the_backward_pass_the_engine_is_what_it_was() -> None:
    engine = torch.autograd._engine_run_backward  # type: ignore[attr-defined]
    y = leaf().exp()

    def failing(_gradient: Tensor) -> Tensor:
        raise ValueError("in a hook")

    y.register_hook(failing)  # type: ignore[no-untyped-call]
    names = Names()
    with pytest.raises(ValueError, match="in a hook"), names:
        y.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.autograd._engine_run_backward is engine  # type: ignore[attr-defined]
    seen = len(names.seen)
    leaf().exp().sum().backward()  # type: ignore[no-untyped-call]
    assert len(names.seen) == seen
    assert torch.overrides._get_current_function_mode_stack() == []  # type: ignore[no-untyped-call]


def test_a_look_that_is_no_part_of_the_step_is_unseen() -> None:
    with Names() as names, unseen():
        leaf().exp()
    assert "exp" not in names.seen
