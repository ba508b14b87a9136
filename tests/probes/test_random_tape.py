from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gradwatch.probes.random_tape import OtherSequenceError, RandomTape

if TYPE_CHECKING:
    from collections.abc import Callable

DRAWS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "randn": lambda dtype: torch.randn(5, dtype=dtype),
    "rand": lambda dtype: torch.rand(5, dtype=dtype),
    "normal_": lambda dtype: torch.empty(5, dtype=dtype).normal_(),
    "randn_like": lambda dtype: torch.randn_like(torch.ones(5, dtype=dtype)),
    "bernoulli": lambda dtype: torch.bernoulli(torch.full((5,), 0.5, dtype=dtype)),
    "randperm": lambda _: torch.randperm(5),
    "multinomial": lambda dtype: torch.multinomial(torch.ones(5, dtype=dtype), 3),
}


def recorded(draw: Callable[[torch.dtype], Tensor]) -> tuple[RandomTape, Tensor]:
    tape = RandomTape()
    torch.manual_seed(0)
    with tape.recorder():
        return tape, draw(torch.float32)


@pytest.mark.parametrize("name", DRAWS)
def test_the_same_numbers_are_drawn_in_a_wider_format(name: str) -> None:
    tape, first = recorded(DRAWS[name])
    torch.manual_seed(1)
    with tape.player():
        again = DRAWS[name](torch.float64)
    assert again.dtype in {torch.float64, torch.int64}
    assert torch.equal(again, first.to(again.dtype))


def test_a_tape_matters_as_long_as_the_seed_alone_gives_other_numbers() -> None:
    tape, _ = recorded(DRAWS["randn"])
    assert tape.matters
    torch.manual_seed(0)
    with tape.player():
        DRAWS["randn"](torch.float32)
    assert not tape.matters
    torch.manual_seed(1)
    with tape.player():
        DRAWS["randn"](torch.float32)
    assert tape.matters


def test_a_step_that_draws_nothing_needs_no_tape() -> None:
    tape, _ = recorded(lambda dtype: torch.ones(5, dtype=dtype).exp())
    assert not tape.matters


def test_dropout_keeps_its_own_mask() -> None:
    """What it returns depends on its input, which may have moved."""
    tape, _ = recorded(lambda dtype: functional.dropout(torch.ones(5, dtype=dtype)))
    with tape.player():
        assert functional.dropout(torch.full((5,), 3.0)).max() > 3


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: (torch.randn(5), torch.randn(5)), "draws more random numbers"),
        (lambda: torch.randn(4), "randn draws where randn did"),
        (lambda: torch.rand(5), "rand draws where randn did"),
    ],
)
def test_another_sequence_is_an_error(other: Callable[[], object], words: str) -> None:
    tape, _ = recorded(DRAWS["randn"])
    with pytest.raises(OtherSequenceError, match=words), tape.player():
        other()


def test_a_tape_is_recorded_anew() -> None:
    tape, _ = recorded(DRAWS["randn"])
    with tape.recorder():
        torch.ones(1)
    assert not tape.matters


@pytest.mark.parametrize(
    ("formats", "narrowest"),
    [
        ([torch.float32], "float32"),
        ([torch.float32, torch.bfloat16, torch.float64], "bfloat16"),
        ([torch.float16, torch.float32], "float16"),
        ([torch.float64], "float64"),
        ([], None),
    ],
)
def test_the_narrowest_format_that_was_computed_in(formats: list[torch.dtype], narrowest: str | None) -> None:
    tape = RandomTape()
    assert tape.narrowest is None
    tensors = [torch.ones(2, dtype=dtype) for dtype in formats]
    with tape.recorder():
        for tensor in tensors:
            tensor.mul(2)
    assert tape.narrowest == narrowest
