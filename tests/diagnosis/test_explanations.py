"""The sentences of an incident, as a user reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from gradwatch.diagnosis.evidence import Evidence
from gradwatch.diagnosis.explanations import counted, explain, explain_from_afar, names
from gradwatch.records import TensorSummary

IMAGE = TensorSummary(shape=(4, 5), dtype="float32", min=0.0, max=1.0, nan=3, posinf=1, neginf=0, zeros=0)


@pytest.mark.parametrize(
    ("evidence", "explanation"),
    [
        (
            Evidence(optimizer=["head.weight", "head.weight.exp_avg"]),
            (
                "The optimizer made head.weight, head.weight.exp_avg non-finite; loss and gradients of that step were"
                " finite."
            ),
        ),
        (
            Evidence(parameters=["a", "b", "c", "d", "e"]),
            (
                "a, b, c and 2 more held non-finite values before this step's forward pass, so no operation of the step"
                " is to blame: the step before it, or code that writes to the weights, left them there."
            ),
        ),
        (
            Evidence(batch=[("batch['image']", IMAGE)], losses=["NaN"]),
            (
                "The batch itself is non-finite before the model sees it: batch['image'] has 3 NaN and 1 +inf among 20"
                " elements, and the loss became non-finite with it."
            ),
        ),
        (
            Evidence(batch=[("batch[0]", replace(IMAGE, posinf=0)), ("batch[1]", IMAGE)], gradients=["a"]),
            (
                "The batch itself is non-finite before the model sees it: batch[0] (and batch[1]) has 3 NaN among 20"
                " elements, and the gradient became non-finite with it."
            ),
        ),
        (
            Evidence(buffers=["norm.running_var"]),
            "The buffer norm.running_var has become non-finite: it was finite when last looked at.",
        ),
        (
            Evidence(losses=["NaN"], gradients=["a", "b"], gradients_read=3),
            (
                "The loss is NaN, and batch, weights and buffers were finite before this step: an operation of the"
                " forward pass made it. 2 of 3 gradients are non-finite too."
            ),
        ),
        (
            Evidence(losses=["-inf"], gradients_read=3),
            (
                "The loss is -inf, and batch, weights and buffers were finite before this step: an operation of the"
                " forward pass made it. All gradients are finite: weights would not have been harmed by this step."
            ),
        ),
        (
            Evidence(gradients=["a.weight"], gradients_read=3),
            "The loss is finite, but 1 of 3 gradients is not (a.weight): the value was born in the backward pass.",
        ),
        (
            Evidence(gradients=["weight"], gradients_read=1),
            "The loss is finite, but the only gradient is not (weight): the value was born in the backward pass.",
        ),
        (
            Evidence(losses=["NaN"], gradients=["weight"], gradients_read=1),
            (
                "The loss is NaN, and batch, weights and buffers were finite before this step: an operation of the"
                " forward pass made it. The only gradient is non-finite too."
            ),
        ),
    ],
    ids=["optimizer", "parameter", "batch", "batches", "buffer", "loss", "loss-alone", "gradient", "only", "loss-only"],
)
def test_explanation(evidence: Evidence, explanation: str) -> None:
    text = explain(evidence)
    assert text.explanation == explanation
    assert text.advice.endswith(".")


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (Evidence(optimizer=["a"]), ["learning rate", "clip", "eps", "float32"]),
        (Evidence(parameters=["a"]), ["checkpoint", "weight averaging", "torch.empty"]),
        (Evidence(batch=[("batch", IMAGE)]), ["dataset", "standard deviation of zero"]),
        (Evidence(buffers=["a"]), ["Running statistics", "reset"]),
        (Evidence(losses=["NaN"]), ["log", "division", "empty selection"]),
        (Evidence(gradients=["a"]), ["sqrt", "torch.where", "mask its input, not its output"]),
    ],
    ids=["optimizer", "parameter", "batch", "buffer", "loss", "gradient"],
)
def test_advice_says_what_to_change(evidence: Evidence, words: list[str]) -> None:
    advice = explain(evidence).advice
    assert [word for word in words if word not in advice] == []


@pytest.mark.parametrize(
    ("state", "squared"),
    [
        (["head.weight.exp_avg_sq"], True),
        (["head.weight.exp_avg_sq", "head.bias.max_exp_avg_sq"], True),
        (["head.weight.square_avg"], True),
        (["head.weight.exp_avg", "head.weight.exp_avg_sq"], False),  # a bad gradient would be in both
        (["head.weight", "head.weight.exp_avg_sq"], False),
        (["head.weight.momentum_buffer"], False),
    ],
)
def test_a_second_moment_alone_is_bad_by_a_square(state: list[str], *, squared: bool) -> None:
    text = explain(Evidence(optimizer=state))
    assert ("The square of a gradient overflowed" in text.explanation) == squared
    assert ("eps" in text.advice) != squared
    assert state[0] in text.explanation


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta])
def test_a_square_that_overflows_spoils_the_second_moment_alone_and_stops_the_weight(kind: Any) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = kind([weight], lr=0.1)
    weight.grad = torch.tensor([1e21, 1.0])
    optimizer.step()
    bad = [name for name, value in optimizer.state[weight].items() if not bool(torch.as_tensor(value).isfinite().all())]
    assert explain(Evidence(optimizer=[f"weight.{name}" for name in bad])).explanation.startswith("The square of a")
    after = weight.detach().clone()
    weight.grad = torch.ones(2)
    optimizer.step()
    moved: Any = (weight.detach() != after).tolist()
    assert moved == [False, True]


@pytest.mark.parametrize(("ranks", "where"), [([1], "rank 1"), ([1, 3], "ranks 1, 3")])
def test_a_rank_that_only_hears_of_it_blames_nothing_of_its_own(ranks: list[int], where: str) -> None:
    text = explain_from_afar(ranks)
    assert text.explanation == (
        f"The non-finite value was born on {where}. Here loss or gradients can be bad only by what the ranks"
        " exchange, as in the all-reduce of the gradients; this rank takes the same decision."
    )
    assert text.advice == f"Look at the incident that {where} wrote at this step."


def test_names_are_shortened() -> None:
    assert names(["a"]) == "a"
    assert names(["a", "b", "c"]) == "a, b, c"
    assert names(["a", "b", "c", "d"]) == "a, b, c and 1 more"


def test_counts_name_what_there_is() -> None:
    assert counted(IMAGE) == "3 NaN and 1 +inf"
    assert counted(replace(IMAGE, neginf=2)) == "3 NaN and 1 +inf and 2 -inf"
