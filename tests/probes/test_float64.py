from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch.probes.float64 import Float64Mode, widened

if TYPE_CHECKING:
    from collections.abc import Callable

W = torch.ones(2, dtype=torch.float64)


def autocast() -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return W[None] @ W[:, None]


MADE: dict[str, Callable[[], Tensor]] = {
    "zeros": lambda: torch.zeros(2),
    "ones of a type": lambda: torch.ones(2, dtype=torch.float16),
    "tensor": lambda: torch.tensor([1.0, 2.0]),
    "randn": lambda: torch.randn(2),
    "arange": lambda: torch.arange(2, dtype=torch.float32),
    "float": W.float,
    "half": W.half,
    "bfloat16": W.bfloat16,
    "to": lambda: W.to(torch.float32),
    "to by keyword": lambda: W.to(dtype=torch.bfloat16),
    "type": lambda: W.type(torch.float32),
    "type by name": lambda: W.type("torch.FloatTensor"),
    "to another": lambda: W.to(torch.ones(2)),
    "mixed": lambda: W * torch.ones(2, dtype=torch.float32),
    "linear": lambda: nn.functional.linear(W, torch.ones(3, 2)),
    "sum to a type": lambda: W.sum(dtype=torch.float32),
    "autocast": autocast,
}


@pytest.mark.parametrize("name", MADE)
def test_what_a_step_makes_is_float64(name: str) -> None:
    with Float64Mode():
        assert MADE[name]().dtype == torch.float64


def test_integers_and_flags_stay() -> None:
    with Float64Mode():
        assert torch.arange(3).dtype == torch.int64
        assert (W > 0).dtype == torch.bool
        assert W.long().dtype == torch.int64


def test_complex_numbers_are_widened() -> None:
    with Float64Mode():
        assert torch.ones(2, dtype=torch.complex64).dtype == torch.complex128


def test_what_is_outside_of_the_step_keeps_its_format() -> None:
    outside, buffer = torch.ones(2), torch.zeros(2)
    with Float64Mode():
        assert (outside + 1).dtype == torch.float64
        buffer.add_(W)
    assert (outside.dtype, buffer.dtype) == (torch.float32, torch.float32)
    assert buffer.tolist() == [1.0, 1.0]


def test_a_hook_and_a_gradient_belong_to_the_tensor_itself() -> None:
    x = torch.ones(2, requires_grad=True)
    seen: list[Tensor] = []
    with Float64Mode():
        x.register_hook(seen.append)  # type: ignore[no-untyped-call]
        assert x.is_floating_point()
        x.square().sum().backward()  # type: ignore[no-untyped-call]
    assert len(seen) == 1
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0]


def test_after_an_error_all_is_narrow_again() -> None:
    with pytest.raises(RuntimeError), Float64Mode():
        torch.ones(2) @ torch.ones(3)
    assert torch.ones(2).dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.float32, torch.float64),
        (torch.bfloat16, torch.float64),
        (torch.complex64, torch.complex128),
        (torch.int64, torch.int64),
        ("torch.HalfTensor", "torch.DoubleTensor"),
        ("float", "float"),
        (1.5, 1.5),
        (None, None),
        ((torch.float16, [torch.float32]), (torch.float64, [torch.float64])),
        ({"dtype": torch.float32}, {"dtype": torch.float64}),
        (OrderedDict(dtype=torch.float32), OrderedDict(dtype=torch.float32)),
    ],
)
def test_widened(value: Any, expected: Any) -> None:
    assert widened(value) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_widening_is_exact(dtype: torch.dtype) -> None:
    narrow = torch.tensor([0.1, -3.3, 1e-7]).to(dtype)
    wide = widened({"x": [narrow]})["x"][0]
    assert wide.dtype == torch.float64
    assert torch.equal(wide.to(dtype), narrow)
