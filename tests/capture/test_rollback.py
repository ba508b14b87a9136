from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch.capture.rollback import Rollback, evaluates_again


class MyLBFGS(torch.optim.LBFGS):
    """Third-party variants (PyTorch-LBFGS) keep the name, whatever they inherit."""


def flat(value: Any) -> list[Any]:
    """Every number of a nested state, bitwise, in order."""
    if isinstance(value, Tensor):
        return [value.dtype, value.numpy().tobytes()]
    if isinstance(value, dict):
        return [part for key in value for part in [key, *flat(value[key])]]
    if isinstance(value, (list, tuple)):
        return [part for item in value for part in flat(item)]
    return [value]


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    return flat([p.detach() for p in model.parameters()]) + flat(list(optimizer.state.values()))


@pytest.mark.parametrize(
    ("optimizer", "again"),
    [
        (torch.optim.LBFGS, True),
        (MyLBFGS, True),
        (torch.optim.SGD, False),
        (torch.optim.Adam, False),
        (torch.optim.Rprop, False),
    ],
)
def test_who_evaluates_again(optimizer: Any, *, again: bool) -> None:
    assert evaluates_again(optimizer([nn.Parameter(torch.ones(1))])) == again


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
@pytest.mark.parametrize("steps_before", [0, 1, 3])
def test_lbfgs_goes_back_bitwise_and_goes_on_as_if_nothing_had_happened(
    line_search: str | None, steps_before: int
) -> None:
    """A step that is broken off in its third evaluation has moved the weights and its history."""

    def train(*, broken: bool) -> list[Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        x, y = torch.randn(8, 3), torch.randn(8, 1)
        optimizer: Any = torch.optim.LBFGS(model.parameters(), max_iter=5, line_search_fn=line_search)
        evaluations = 0

        def closure() -> Tensor:
            nonlocal evaluations
            evaluations += 1
            if evaluations == 0:
                raise ArithmeticError
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            torch.autograd.backward(loss)
            return loss

        for _ in range(steps_before):
            optimizer.step(closure)
        before = snapshot(model, optimizer)
        if broken:
            rollback = Rollback(optimizer)
            evaluations = -3
            with pytest.raises(ArithmeticError):
                optimizer.step(closure)
            assert snapshot(model, optimizer) != before
            rollback.undo()
            assert snapshot(model, optimizer) == before
        optimizer.step(closure)
        return snapshot(model, optimizer)

    assert train(broken=True) == train(broken=False)


def test_what_is_put_back_is_no_longer_shared() -> None:
    """The copies become the state: the optimizer goes on writing to them."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.LBFGS([parameter])
    optimizer.state[parameter]["d"] = [torch.ones(2)]
    rollback = Rollback(optimizer)
    optimizer.state[parameter]["d"][0].zero_()
    parameter.data.zero_()
    rollback.undo()
    assert optimizer.state[parameter]["d"][0].tolist() == [1.0, 1.0]
    assert parameter.tolist() == [1.0, 1.0]
