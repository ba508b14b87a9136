"""Every wrong backward is found, blamed on its module and line, and nothing else is; clean twins pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from gradwatch import check_gradients
from tests.probes.hosts import WIDTH, Convolutional, Perceptron, Recurrent, Transformer, problem
from tests.probes.wrong_backwards import WRONG_BACKWARDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gradwatch.records import GradientCheckReport
    from tests.probes.hosts import Host, Problem
    from tests.probes.wrong_backward import WrongBackward

# A hook that changes a gradient is a decision of its author: its line is named, and it is nobody's fault.
HOOKS = frozenset({"backward-hook-scales"})

SEEDS = [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 20))]
FAULTY = [pytest.param(case, id=case.name) for case in WRONG_BACKWARDS if case.name not in HOOKS]
HOOKED = [pytest.param(case, id=case.name) for case in WRONG_BACKWARDS if case.name in HOOKS]
EVERY = [pytest.param(case, id=case.name) for case in WRONG_BACKWARDS]
CLEAN: list[tuple[type[Host], str, Callable[[], nn.Module]]] = [
    (Transformer, "norm", lambda: nn.LayerNorm(WIDTH)),
    (Convolutional, "act1", nn.GELU),
    (Recurrent, "middle", nn.Tanh),
    (Perceptron, "act1", nn.Tanh),
]
CLEAN_SEEDS = [*range(100, 105), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(105, 150))]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check(problem: Problem) -> GradientCheckReport:
    """Check the gradients of a problem under a random state that is always the same."""
    torch.manual_seed(0)
    return check_gradients(problem.module, problem.loss)


def named(report: GradientCheckReport, verdict: str) -> set[str]:
    """Return the tensors with one verdict."""
    return {name for name, found in report.parameters.items() if found.correct == verdict}


@pytest.mark.parametrize("case", FAULTY)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_wrong_backward_is_found_and_its_module_blamed(case: WrongBackward, seed: int) -> None:
    report = check(case.build(seed))
    assert report.verdict == "mismatch", report.reason
    assert named(report, "mismatch") <= case.wrong_parameters
    assert report.culprit is not None
    assert report.culprit.module == case.culprit
    if report.culprit.function:
        source = report.culprit.source
        assert source is not None
        assert (Path(source.file), source.line) == case.line


@pytest.mark.parametrize("case", HOOKED)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_hook_that_changes_a_gradient_explains_the_difference(case: WrongBackward, seed: int) -> None:
    report = check(case.build(seed))
    assert report.verdict == "explained", report.reason
    assert report.culprit is None
    assert named(report, "explained") <= case.wrong_parameters
    (explanation,) = report.explanations
    assert (explanation.kind, explanation.message) == ("hook", "a hook changes the gradient on its way")
    assert explanation.source is not None
    assert explanation.source.code == "def scale_in_place(module: nn.Module, by_input: Any, by_output: Any) -> None:"
    lines = case.line[0].read_text(encoding="utf-8").splitlines()
    assert lines[explanation.source.line - 1] == explanation.source.code


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_clean_twin_passes(case: WrongBackward, seed: int) -> None:
    report = check(case.build_clean(seed))
    assert report.verdict == "pass", report.reason
    assert not named(report, "mismatch") | named(report, "explained")
    assert report.culprit is None


@pytest.mark.parametrize(("host", "slot", "block"), CLEAN, ids=[host.__name__ for host, _, _ in CLEAN])
@pytest.mark.parametrize("seed", CLEAN_SEEDS)
def test_a_clean_network_passes_with_any_weights_and_directions(
    host: type[Host], slot: str, block: Callable[[], nn.Module], seed: int
) -> None:
    clean = problem(host, slot, block, seed)
    report = check_gradients(clean.module, clean.loss, seed=seed)
    assert report.verdict == "pass", report.reason
    assert {found.correct for found in report.parameters.values()} <= {"pass", "not_resolvable"}
    assert report.imprecise == []
    assert report.irreproducible is None
