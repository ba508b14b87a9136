from __future__ import annotations

import torch
from torch import Tensor, nn

from gradwatch.replica.copying import SideCopy, side_copy
from gradwatch.replica.step_runner import LossFunctionRunner, Moment


class Told:
    """Notes what a runner tells."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.steps: list[int] = []

    def terms(self, output: object) -> None:
        """Nothing that is returned matters here."""

    def loss(self, loss: Tensor) -> None:
        self.losses.append(loss.detach().clone())

    def backward(self) -> None:
        """What comes after it does not matter here."""

    def step(self, optimizer: int) -> None:
        self.steps.append(optimizer)


def mean(module: nn.Module, batch: object) -> Tensor:
    assert isinstance(batch, Tensor)
    return module(batch).mean()


def run(*, loss_scale: float = 1.0, with_step: bool = True) -> tuple[nn.Linear, SideCopy, Told]:
    torch.manual_seed(0)
    module, told = nn.Linear(2, 1), Told()
    copy = side_copy(module, [torch.optim.SGD(module.parameters(), lr=0.1)])
    moment = Moment(torch.tensor([[1.0, 2.0]]), 0, None, {})
    LossFunctionRunner(mean)(copy, moment, told, loss_scale=loss_scale, with_step=with_step)
    return module, copy, told


def test_a_loss_function_runs_on_the_copy_alone() -> None:
    module, copy, told = run()
    assert told.losses[0].item() == mean(module, torch.tensor([[1.0, 2.0]])).item()
    assert all(parameter.grad is None for parameter in module.parameters())
    assert [p.grad.tolist() for p in copy.module.parameters() if p.grad is not None] == [[[1.0, 2.0]], [1.0]]


def test_a_step_is_told_only_where_the_optimizer_acts() -> None:
    assert run()[2].steps == [0]
    assert run(with_step=False)[2].steps == []


def test_gradients_are_scaled_and_the_loss_is_the_users_own() -> None:
    _, copy, told = run(loss_scale=4.0)
    assert told.losses[0].item() == run()[2].losses[0].item()
    bias = copy.module.get_parameter("bias")
    assert bias.grad is not None
    assert bias.grad.tolist() == [4.0]


def test_a_loss_function_needs_no_stand_in() -> None:
    assert LossFunctionRunner(mean).replaced() == {}
