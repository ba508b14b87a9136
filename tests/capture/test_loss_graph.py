from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gradwatch.capture.loss_graph import loss_facts

if TYPE_CHECKING:
    from collections.abc import Callable

torch.manual_seed(0)
X = torch.randn(6, 5, requires_grad=True)
T = torch.rand(6, 5)
Y = torch.randint(5, (6,))
MASK = (torch.rand(6, 5) > 0.5).float()

CERTAIN: dict[str, tuple[Callable[[], Tensor], str]] = {
    "mse": (lambda: functional.mse_loss(X, T), "mse_loss"),
    "mse by hand": (lambda: (X - T).square().mean(), "square"),
    "power": (lambda: ((X - T) ** 2).sum(1).mean(), "square"),
    "l1": (lambda: functional.l1_loss(X, T), "l1_loss"),
    "smooth l1": (lambda: functional.smooth_l1_loss(X, T), "smooth_l1_loss"),
    "huber": (lambda: functional.huber_loss(X, T), "huber_loss"),
    "cross entropy": (lambda: functional.cross_entropy(X, Y), "cross_entropy"),
    "nll": (lambda: functional.nll_loss(X.log_softmax(1), Y), "cross_entropy"),
    "bce": (lambda: functional.binary_cross_entropy(X.sigmoid(), T), "binary_cross_entropy"),
    "logits": (
        lambda: functional.binary_cross_entropy_with_logits(X, T),
        "binary_cross_entropy_with_logits",
    ),
    "cut up": (lambda: functional.mse_loss(X, T) / 4, "mse_loss"),
    "scaled": (lambda: 3 * functional.mse_loss(X, T, reduction="none").mean(1).sum(), "mse_loss"),
    "cast": (lambda: functional.mse_loss(X.half(), T.half()).float(), "mse_loss"),
    "sum": (lambda: functional.mse_loss(X, T) + 0.1 * functional.l1_loss(X, T), "mse_loss"),
    "stack": (lambda: torch.stack([functional.l1_loss(X, T), functional.mse_loss(X, T)]).mean(), "l1_loss"),
    "masked": (lambda: (functional.mse_loss(X, T, reduction="none") * MASK).sum() / MASK.sum(), "mse_loss"),
}
UNCERTAIN: dict[str, Callable[[], Tensor]] = {
    "mean": lambda: X.mean() / 2,
    "negated": lambda: -functional.mse_loss(X, T),
    "negative factor": lambda: functional.mse_loss(X, T) * -1,
    "difference": lambda: functional.mse_loss(X, T) - functional.l1_loss(X, T),
    "added with a sign": lambda: torch.add(functional.mse_loss(X, T), functional.l1_loss(X, T), alpha=-2),
    "constant subtracted": lambda: functional.mse_loss(X, T) - 3,
    "constant added": lambda: functional.mse_loss(X, T) + -3,
    "from a constant": lambda: 3 - functional.mse_loss(X, T),
    "one branch unknown": lambda: functional.mse_loss(X, T) + X.mean(),
    "advantages": lambda: (functional.cross_entropy(X, Y, reduction="none") * (torch.arange(6.0) - 3)).mean() / 2,
    "learnt factor": lambda: functional.mse_loss(X, T) * X.mean(),
    "cube": lambda: (X**3).mean() / 2,
    "log": lambda: functional.mse_loss(X, T).log(),
    "no graph": lambda: torch.tensor(1.0),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_a_loss_that_cannot_be_negative_is_known(name: str) -> None:
    make, function = CERTAIN[name]
    assert loss_facts(make()).function == function
    assert loss_facts(make()).outside is None


@pytest.mark.parametrize("name", UNCERTAIN)
def test_nothing_is_said_where_it_is_not_certain(name: str) -> None:
    assert loss_facts(UNCERTAIN[name]()).function is None


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_targets_of_binary_cross_entropy_lie_in_0_to_1(low: float) -> None:
    target = T * (1 - low) + low
    for extra in (0.0, X.mean()):
        facts = loss_facts(functional.binary_cross_entropy_with_logits(X, target) + extra)
        if low == 0:
            assert facts.outside is None
            continue
        assert facts.outside == "binary_cross_entropy_with_logits is given targets outside of 0 to 1"
        assert (facts.low, facts.high) == pytest.approx((float(target.min()), float(target.max())))


def test_targets_over_1_and_rounding() -> None:
    assert loss_facts(functional.binary_cross_entropy_with_logits(X, T * 255)).outside
    assert not loss_facts(functional.binary_cross_entropy_with_logits(X, torch.full((6, 5), 1.00001))).outside
    assert not loss_facts(functional.binary_cross_entropy_with_logits(X, T * math.nan)).outside


def test_nll_loss_wants_log_probabilities() -> None:
    facts = loss_facts(functional.nll_loss(X.softmax(1), Y))
    assert facts.outside == "nll_loss is given positive log-probabilities"
    assert 0 < facts.low < facts.high < 1
    assert loss_facts(functional.nll_loss((X.softmax(1) + 1e-6).log(), Y)).outside is None


def test_hooks_of_the_user_are_not_run_again() -> None:
    unpacked: list[Any] = []

    def unpack(tensor: Tensor) -> Tensor:
        unpacked.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        loss = functional.binary_cross_entropy_with_logits(X, T * 9)
    assert loss_facts(loss).outside is None
    assert unpacked == []


def test_a_graph_that_is_gone_says_nothing() -> None:
    loss = functional.binary_cross_entropy_with_logits(X, T)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss_facts(loss).function is None


def test_a_deep_graph_ends() -> None:
    loss = functional.mse_loss(X, T)
    for _ in range(500):
        loss = loss / 1.0
    assert loss_facts(loss).function is None
