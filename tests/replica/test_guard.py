from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradwatch.replica.guard import CommunicationNeeded, GuardMode, StepGuard
from gradwatch.tracing.operations import operation


def all_reduce(guard: StepGuard) -> None:
    import torch.distributed._functional_collectives  # noqa: PLC0415 - registers the namespace

    guard.before(operation(torch.ops._c10d_functional.all_reduce.default), (torch.ones(1), "sum", ""), {})


def test_a_collective_is_refused_before_it_runs() -> None:
    guard = StepGuard()
    with pytest.raises(CommunicationNeeded, match="all_reduce"):
        all_reduce(guard)
    assert isinstance(guard.refused, CommunicationNeeded)


def test_a_collective_runs_where_all_ranks_are_together() -> None:
    names: list[str] = []
    guard = StepGuard(before_collective=names.append)
    all_reduce(guard)
    assert names == ["all_reduce"]
    assert guard.refused is None


def test_a_generator_that_the_step_draws_from_is_rewound() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    with StepGuard() as guard, GuardMode(guard):
        drawn = [torch.rand(2, generator=generator) for _ in range(2)]
        torch.ones(3).bernoulli_(0.5, generator=generator)
        assert not torch.equal(generator.get_state(), before)
    assert torch.equal(generator.get_state(), before)
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(torch.rand(2, generator=generator), drawn[0])


def test_a_generator_is_rewound_after_an_error_too() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    with pytest.raises(RuntimeError, match="invalid for input"), StepGuard() as guard, GuardMode(guard):
        torch.randperm(5, generator=generator).view(2)
    assert guard._generators
    assert torch.equal(generator.get_state(), before)


def test_shared_weights_that_are_written_get_their_values_back() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    copied = nn.Parameter(weight.detach())
    untouched = nn.Parameter(torch.ones(1))
    with StepGuard(shared=[copied, untouched]) as guard, GuardMode(guard), torch.no_grad():
        copied.add_(1.0)
        copied[0] = 9.0
        copied.data.mul_(2.0)
        assert weight.tolist() == [18.0, 6.0, 8.0]
    assert weight.tolist() == [1.0, 2.0, 3.0]
    assert list(guard._saved) == [id(copied.untyped_storage())]


def test_other_tensors_may_be_written() -> None:
    other = torch.ones(2)
    with StepGuard(shared=[nn.Parameter(torch.ones(2))]) as guard, GuardMode(guard):
        other.add_(1.0)
    assert other.tolist() == [2.0, 2.0]


def test_shared_weights_are_restored_where_gradients_are_followed() -> None:
    weight = nn.Parameter(torch.ones(2))

    def step() -> Tensor:
        with StepGuard(shared=[weight]) as guard, GuardMode(guard):
            with torch.no_grad():
                weight.zero_()
            return weight * 2.0

    assert step().tolist() == [0.0, 0.0]
    assert weight.tolist() == [1.0, 1.0]
