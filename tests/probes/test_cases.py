"""The cases of the gradient check do what they claim, in plain torch and plain Lightning, without gradwatch."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from tests.probes.wrong_backward import marked_lines
from tests.probes.wrong_backwards import WRONG_BACKWARDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.probes.hosts import Problem
    from tests.probes.wrong_backward import WrongBackward

SEEDS = (0, 1)
DIFFERENT = 1e-9  # relative, in float64: far above round-off, far below the smallest error planted (1e-3)
CENTRED = 1e-6
STEP = 1e-6  # of the direction, which is as large as the weights
WRONG = [pytest.param(case, id=case.name) for case in WRONG_BACKWARDS]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def loss_of(problem: Problem, module: nn.Module) -> Tensor:
    """Return the loss of ``module`` under a fixed random state."""
    torch.manual_seed(0)
    return problem.loss(module)


def gradients(problem: Problem) -> dict[str, Tensor]:
    """Return the gradients of a float64 copy; a parameter that gets none has zeros."""
    module = copy.deepcopy(problem.module).double()
    loss_of(problem, module).backward()  # type: ignore[no-untyped-call]
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in module.named_parameters()
    }


def shifted_loss(problem: Problem, directions: dict[str, Tensor], step: float) -> float:
    """Return the loss of a float64 copy whose weights are moved by ``step`` along ``directions``."""
    module = copy.deepcopy(problem.module).double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(directions[name], alpha=step)
    return loss_of(problem, module).item()


def centred_error(problem: Problem) -> float:
    """Compare the gradient along a random direction with a centred difference of the loss."""
    generator = torch.Generator().manual_seed(5)
    directions, slope, natural = {}, 0.0, 0.0
    for name, gradient in gradients(problem).items():
        weight = problem.module.get_parameter(name).detach().double()
        scale = max(weight.square().mean().sqrt().item(), 1e-3)
        directions[name] = scale * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        slope += (gradient * directions[name]).sum().item()
        natural += (scale * gradient.norm().item()) ** 2
    numeric = (shifted_loss(problem, directions, STEP) - shifted_loss(problem, directions, -STEP)) / (2 * STEP)
    return abs(slope - numeric) / max(natural**0.5, abs(numeric))


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_forward_pass_equals_that_of_the_twin_bit_by_bit(case: WrongBackward, seed: int) -> None:
    problem, twin = case.build(seed), case.build_clean(seed)
    state, twin_state = problem.module.state_dict(), twin.module.state_dict()
    assert state.keys() == twin_state.keys()
    assert all(torch.equal(state[name], twin_state[name]) for name in state)
    for wide in (False, True):
        losses = [loss_of(p, p.module.double() if wide else p.module) for p in (problem, twin)]
        assert losses[0].dtype == (torch.float64 if wide else torch.float32)
        assert losses[0].isfinite()
        assert torch.equal(*losses)


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("seed", SEEDS)
def test_exactly_the_gradients_named_differ_from_those_of_the_twin(case: WrongBackward, seed: int) -> None:
    found, truth = gradients(case.build(seed)), gradients(case.build_clean(seed))
    larger = {name: torch.maximum(found[name].norm(), truth[name].norm()).item() for name in truth}
    assert min(larger.values()) > 1e-12 * max(larger.values())  # a relative difference of two zeros means nothing
    differing = {name for name in truth if (found[name] - truth[name]).norm().item() > DIFFERENT * larger[name]}
    assert differing == case.wrong_parameters
    assert differing


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_clean_twin_agrees_with_a_centred_difference(case: WrongBackward, seed: int) -> None:
    assert centred_error(case.build_clean(seed)) < CENTRED


@pytest.mark.parametrize("case", WRONG)
def test_the_loss_and_its_batch_are_the_same_at_every_call(case: WrongBackward) -> None:
    problem = case.build(0)
    assert torch.equal(loss_of(problem, problem.module), loss_of(problem, problem.module))
    torch.manual_seed(123)
    again, other = case.build(0), case.build(1)
    assert torch.equal(loss_of(problem, problem.module), loss_of(again, again.module))
    assert not torch.equal(loss_of(problem, problem.module), loss_of(other, other.module))


@pytest.mark.parametrize("case", WRONG)
def test_the_culprit_is_a_module_and_its_line_is_marked(case: WrongBackward) -> None:
    case.build(0).module.get_submodule(case.culprit)
    path, number = case.line
    assert f"# culprit: {case.marker}" in path.read_text(encoding="utf-8").splitlines()[number - 1]


def test_every_mark_of_a_culprit_belongs_to_a_case() -> None:
    assert set(marked_lines()) == {case.marker for case in WRONG_BACKWARDS}


def test_names_of_wrong_backwards_are_unique_and_many() -> None:
    assert max(Counter(case.name for case in WRONG_BACKWARDS).values()) == 1
    assert len(WRONG_BACKWARDS) >= 24
