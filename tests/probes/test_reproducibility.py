from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradwatch.probes.evaluation import Evaluator
from gradwatch.probes.reproducibility import OperationLog, first_difference
from gradwatch.replica import randomness
from gradwatch.replica.step_runner import LossFunctionRunner, Moment

if TYPE_CHECKING:
    from collections.abc import Callable

SYSTEM = random.SystemRandom()
X = torch.ones(3, 2)


def difference(loss: Callable[[nn.Module, Any], Tensor]) -> str:
    """Return where two runs of a loss part."""
    module = nn.Linear(2, 1)
    moment = Moment(X, 0, randomness.capture(), {})
    return first_difference(Evaluator(module, [], LossFunctionRunner(loss), moment, dict(module.named_parameters())))


def test_runs_that_take_another_path_part_at_the_first_other_operation() -> None:
    turns = iter([torch.sin, torch.cos])
    text = difference(lambda m, x: next(turns)(m(x)).sum())
    assert text.startswith("the two runs took different paths: sin (")
    assert ", cos (" in text
    assert __file__ in text


def test_values_from_outside_are_blamed_where_they_enter() -> None:
    text = difference(lambda m, x: (m(x) + torch.tensor(SYSTEM.random())).sum())
    assert "was given other values, which come from outside of PyTorch or of the seeded generators" in text


def test_a_generator_without_a_seed_is_named() -> None:
    generator = torch.Generator()

    def loss(module: nn.Module, x: Tensor) -> Tensor:
        generator.seed()
        return (module(x) + torch.rand(1, generator=generator)).sum()

    text = difference(loss)
    assert text.startswith("rand (")
    assert text.endswith("draws from a generator that is not seeded: the same input gave another output")


def test_runs_that_are_alike_have_no_operation_to_name() -> None:
    text = difference(lambda m, x: m(x).sum())
    assert text == "operation by operation the two runs are alike: a race, or an operation that PyTorch does not see"


def test_memory_that_is_only_written_to_does_not_count_as_read() -> None:
    entries = []
    for before in (1.0, 2.0):
        target = torch.full((2,), before)
        with OperationLog() as log:
            target.fill_(3.0)
            target.add_(1.0)
        entries.append(log.entries)
    assert entries[0] == entries[1]
    assert [entry.name for entry in entries[0]] == ["fill", "add"]


def test_digests_tell_bits_apart() -> None:
    with OperationLog() as log:
        for value in (0.0, -0.0, 0.0):
            torch.tensor(value).clone()
    clones = [entry for entry in log.entries if entry.name == "clone"]
    assert clones[0].outputs == clones[2].outputs != clones[1].outputs
