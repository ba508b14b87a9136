from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch.probes.evaluation import Evaluator, WritesWeightsError
from gradwatch.replica import randomness
from gradwatch.replica.step_runner import LossFunctionRunner, Moment

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """Counts its calls in a buffer, which enters the loss."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return (self.inner(x) * self.calls + torch.randn(1)).square().mean()


def evaluator(module: nn.Module, loss: Any = lambda m, x: m(x)) -> Evaluator:
    torch.manual_seed(0)
    moment = Moment(X, 0, randomness.capture(), {})
    return Evaluator(module, [], LossFunctionRunner(loss), moment, dict(module.named_parameters()))


def test_every_run_starts_from_the_same_module_and_the_same_numbers() -> None:
    module = Counting()
    found = evaluator(module)
    losses = {found.as_trained(record=True)[0].value for _ in range(3)}
    assert len(losses) == 1
    assert float(module.calls) == 0
    assert found.precision == "float32"


def test_in_float64_the_loss_is_that_of_the_training_but_for_round_off() -> None:
    found = evaluator(Counting())
    (trained,), (wide,) = found.as_trained(), found.gradients()
    assert wide.value == pytest.approx(trained.value, rel=1e-6)
    assert wide.value != trained.value
    assert {gradient.dtype for gradient in wide.gradients.values()} == {torch.float64}
    assert {gradient.dtype for gradient in trained.gradients.values()} == {torch.float32}
    assert found.values(1) == [wide.value]


def test_weights_are_replaced_by_name() -> None:
    module = nn.Linear(4, 1)
    found = evaluator(module, lambda m, x: m(x).sum())
    zero = {name: torch.zeros_like(weight) for name, weight in found.weights.items()}
    assert found.values(1, zero) == [0.0]
    assert found.values(1, {"weight": zero["weight"]}) == pytest.approx([3 * float(module.bias.detach())])


def test_a_batch_of_its_own_leaves_the_other_alone() -> None:
    found = evaluator(nn.Linear(4, 1), lambda m, x: m(x).sum())
    part = found.with_batch(X[:1])
    assert part.as_trained()[0].value != found.as_trained()[0].value


def test_a_step_that_writes_its_weights_is_refused() -> None:
    def writing(module: nn.Module, x: Tensor) -> Tensor:
        module.get_parameter("bias").data += 1
        return module(x).sum()

    module = nn.Linear(4, 1)
    with pytest.raises(WritesWeightsError, match=r"into its own weights \(bias\)"):
        evaluator(module, writing).as_trained()
