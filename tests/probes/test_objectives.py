from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch.probes.objectives import EnoughError, NoLossError, Objectives
from gradwatch.replica.copying import SideCopy, side_copy


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.full((2,), value)) for value in (1.0, 2.0))


def begun(stop_after: int | None = None) -> tuple[Objectives, SideCopy, Any]:
    module = Two()
    objectives = Objectives(dict(module.named_parameters()), stop_after)
    copy = side_copy(module, [], replaced={}, share_weights=False)
    objectives.begin(copy)
    return objectives, copy, copy.module


def backpropagate(objectives: Objectives, loss: Tensor) -> None:
    objectives.loss(loss)
    loss.backward()  # type: ignore[no-untyped-call]


def gradients(objectives: Objectives) -> list[tuple[str, float, dict[str, list[float]]]]:
    return [(o.name, o.value, {n: g.tolist() for n, g in o.gradients.items()}) for o in objectives.finish()]


def test_each_loss_has_gradients_of_its_own() -> None:
    objectives, _, module = begun()
    backpropagate(objectives, module.a.sum())
    backpropagate(objectives, (3 * module.b).sum())
    assert gradients(objectives) == [
        ("loss", 2.0, {"a": [1.0, 1.0]}),
        ("loss 2", 12.0, {"b": [3.0, 3.0]}),
    ]


def test_terms_of_a_loss_are_differentiated_apart() -> None:
    objectives, _, module = begun()
    one, other = module.a.sum(), module.b.sum()
    loss = one + other
    objectives.terms({"loss": loss, "one": one, "other": other, "same": loss})
    backpropagate(objectives, loss)
    assert gradients(objectives) == [
        ("one", 2.0, {"a": [1.0, 1.0]}),
        ("other", 4.0, {"b": [1.0, 1.0]}),
        ("loss", 6.0, {"a": [1.0, 1.0], "b": [1.0, 1.0]}),
    ]


@pytest.mark.parametrize(
    "output", [None, 1.0, torch.ones(()), [1], {"n": 1.0}, {"v": torch.ones(2, requires_grad=True)}]
)
def test_what_is_no_term(output: object) -> None:
    objectives, _, _ = begun()
    objectives.terms(output)
    assert objectives.finish() == []


def test_a_weight_that_is_switched_off_is_not_active() -> None:
    objectives, _, module = begun()
    module.b.requires_grad_(False)
    backpropagate(objectives, module.a.sum())
    assert objectives.finish()[0].active == {"a"}


def test_what_the_step_does_to_gradients_after_the_last_loss_does_not_count() -> None:
    objectives, _, module = begun()
    backpropagate(objectives, module.a.sum())
    objectives.step(0)
    module.a.grad = torch.zeros(2)
    assert objectives.found[0].gradients["a"].tolist() == [1.0, 1.0]


def test_values_alone_end_the_step_as_soon_as_they_are_known() -> None:
    objectives, _, module = begun(2)
    objectives.loss(module.a.sum())
    with pytest.raises(EnoughError):
        objectives.loss(module.b.sum())
    assert [o.value for o in objectives.found] == [2.0, 4.0]
    assert module.a.grad is None


def test_gradients_of_tensors_from_outside_come_back() -> None:
    objectives, _, module = begun()
    had, had_none = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    had.grad = torch.full((2,), 5.0)
    kept = had.grad
    backpropagate(objectives, (module.a * had * had_none).sum())
    objectives.give_back()
    assert had.grad is kept
    assert kept.tolist() == [5.0, 5.0]
    assert had_none.grad is None


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (1.0, "the loss is a float, and must be a tensor"),
        (None, "the loss is a NoneType, and must be a tensor"),
        (torch.ones(2, 3, requires_grad=True), r"the loss has the shape \(2, 3\), and must be a scalar"),
        (torch.ones(()), "the loss depends on no weight, or has been detached"),
    ],
)
def test_a_loss_that_is_none(loss: Any, words: str) -> None:
    objectives, _, _ = begun()
    with pytest.raises(NoLossError, match=words):
        objectives.loss(loss)
