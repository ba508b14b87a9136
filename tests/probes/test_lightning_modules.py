"""Every LightningModule of the gradient check trains, in plain Lightning and without gradwatch, and does so again."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.probes.lightning_modules import PROBED, Verdict
from tests.probes.probed import bits, seed_all
from tests.probes.training import STEPS, train
from tests.probes.wrong_backward import marked_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lightning.pytorch import LightningModule

    from tests.probes.probed import Probed

CASES = [pytest.param(case, id=case.name) for case in PROBED]
UNREPEATABLE = [pytest.param(case, id=case.name) for case in PROBED if not case.repeatable]
REPEATABLE = [pytest.param(case, id=case.name) for case in PROBED if case.repeatable]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Losses(Callback):
    """Collects the loss of every backward pass."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_before_backward(self, trainer: Any, module: Any, loss: Tensor) -> None:
        self.values.append(float(loss.detach()))


def fit(case: Probed, folder: Path) -> tuple[LightningModule, list[float]]:
    """Train for four steps."""
    losses = Losses()
    _, module = train(case, folder, losses)
    return module, losses.values


def tensors(batch: Any) -> list[Tensor]:
    """Return the tensors of a nested container, those in dataclasses included."""
    inner = [list(vars(node).values()) if is_dataclass(node) else [node] for node in tree_leaves(batch)]
    return [leaf for leaf in tree_leaves(inner) if isinstance(leaf, Tensor)]


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", CASES)
def test_it_trains_for_four_steps_with_finite_losses(case: Probed, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in bits(case.build()).items()}
    module, losses = fit(case, tmp_path)
    assert len(losses) >= STEPS
    assert np.isfinite(losses).all()
    if case.name != "constant-loss":
        assert not same(bits(module), before)


@pytest.mark.parametrize("case", REPEATABLE)
def test_two_trainings_with_one_seed_end_bitwise_equal(case: Probed, tmp_path: Path) -> None:
    first, second = fit(case, tmp_path), fit(case, tmp_path)
    assert first[1] == second[1]
    assert same(bits(first[0]), bits(second[0]))


@pytest.mark.parametrize("case", UNREPEATABLE)
def test_two_trainings_differ_where_the_source_is_out_of_reach(case: Probed, tmp_path: Path) -> None:
    assert fit(case, tmp_path)[1] != fit(case, tmp_path)[1]


@pytest.mark.parametrize("case", CASES)
def test_building_leaves_the_random_states_alone_and_repeats_itself(case: Probed) -> None:
    seed_all()
    expected = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002 - as above
    seed_all()
    first, first_batches = case.build(), tensors(list(case.loader()))
    seed_all(2)
    second, second_batches = case.build(), tensors(list(case.loader()))
    assert same(bits(first), bits(second))
    assert len(first_batches) == len(second_batches) > 0
    assert all(torch.equal(*pair) for pair in zip(first_batches, second_batches, strict=True))
    seed_all()
    case.build()
    assert (torch.rand(1), random.random(), np.random.rand()) == expected  # noqa: NPY002 - as above


@pytest.mark.parametrize("case", CASES)
def test_what_is_expected_is_a_narrow_choice_of_verdicts(case: Probed) -> None:
    verdicts = set(get_args(Verdict))
    assert case.expected <= verdicts
    assert 1 <= len(case.expected) <= 2
    assert case.why
    names = {name for name, _ in case.build().named_parameters()}
    assert case.single.keys() <= names
    assert all(single <= verdicts for single in case.single.values())


def test_an_explanation_names_marked_lines_and_each_mark_belongs_to_one_case() -> None:
    named = Counter(stop for case in PROBED for stop in case.stops)
    assert set(named) == set(marked_lines("stops"))
    assert set(named.values()) == {1}
    assert all(case.stops for case in PROBED if case.expected == {"explained"})


def test_names_of_modules_are_unique_and_many() -> None:
    assert max(Counter(case.name for case in PROBED).values()) == 1
    assert len(PROBED) >= 44
