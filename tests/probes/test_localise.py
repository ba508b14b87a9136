from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from gradwatch.probes.evaluation import Evaluator
from gradwatch.probes.localise import find_culprit
from gradwatch.replica import randomness
from gradwatch.replica.step_runner import LossFunctionRunner, Moment

if TYPE_CHECKING:
    from gradwatch.records import Culprit

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Right(Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Any:
        return 2 * grads[0]


class Wrong(Right):
    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Any:
        return 3 * grads[0]


class Applies(nn.Module):
    """Applies a function; keeps count of its calls."""

    def __init__(self, function: type[Right]) -> None:
        super().__init__()
        self.function, self.drop = function, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.function.apply(x))  # type: ignore[no-untyped-call]


class Detaches(nn.Module):
    """A straight-through estimator: meant, and no wrong backward."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.round() - x).detach()


class Scaled(nn.Module):
    """Its own code doubles a gradient, with no function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        y.register_hook(lambda gradient: 2 * gradient)
        return y.tanh()


class First(nn.Module):
    """The first of several outputs."""

    def forward(self, outputs: tuple[Tensor, Any]) -> Tensor:
        return outputs[0]


def culprit(module: nn.Module) -> Culprit | None:
    def loss(copied: nn.Module, x: Tensor) -> Tensor:
        return copied(x).square().sum()

    torch.manual_seed(0)
    moment = Moment(X, 0, randomness.capture(), {})
    return find_culprit(Evaluator(module, [], LossFunctionRunner(loss), moment, dict(module.named_parameters())))


def test_of_two_functions_the_wrong_one_is_named_with_the_line_that_applies_it() -> None:
    found = culprit(nn.Sequential(nn.Linear(4, 4), Applies(Right), Applies(Wrong)))
    assert found is not None
    assert (found.module, found.module_type, found.function) == ("2", "Applies", "Wrong")
    assert found.source is not None
    assert found.source.code.startswith("return self.drop(self.function.apply(x))")


def test_without_a_function_the_innermost_module_is_named() -> None:
    found = culprit(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), Scaled())))
    assert found is not None
    assert (found.module, found.module_type, found.function) == ("1.1", "Scaled", None)
    assert found.source is not None
    assert found.source.code == "def forward(self, x: Tensor) -> Tensor:"


def test_a_healthy_network_has_no_culprit() -> None:
    assert culprit(nn.Sequential(nn.Linear(4, 4), Applies(Right), nn.BatchNorm1d(4), nn.LSTM(4, 2), First())) is None


def test_a_gradient_that_is_stopped_on_purpose_is_nobodys_fault() -> None:
    assert culprit(nn.Sequential(nn.Linear(4, 4), Detaches())) is None


def test_looking_leaves_no_hook_and_draws_no_number() -> None:
    module = nn.Sequential(nn.Linear(4, 4), Applies(Wrong))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert culprit(module) is not None  # which seeds with 0 itself
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(vars(m)[key] for m in module.modules() for key in vars(m) if key.endswith("_hooks"))
    assert all(parameter.grad is None for parameter in module.parameters())
