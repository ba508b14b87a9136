from __future__ import annotations

import random

import numpy as np
import pytest
from torch import nn

from gradwatch.replica.code_generators import generators_beside, rewound

MODERN = np.random.default_rng(0)
LEGACY = np.random.RandomState(0)
PYTHON = random.Random(0)
SYSTEM = random.SystemRandom()


class Noisy(nn.Module):
    """Its file holds the generators above."""


def draws() -> tuple[float, float, float]:
    return MODERN.normal(), LEGACY.normal(), PYTHON.gauss(0.0, 1.0)  # normal numbers come in pairs: half may be kept


@pytest.mark.parametrize("model", [Noisy(), nn.Sequential(nn.Linear(1, 1), Noisy())], ids=["itself", "a part"])
def test_generators_beside_the_code_of_a_module_are_found_once(model: nn.Module) -> None:
    found = [g for g in generators_beside(model) if any(g is mine for mine in (MODERN, LEGACY, PYTHON, SYSTEM))]
    assert len(found) == 3
    assert not any(g is SYSTEM for g in found)  # it has no state


def test_a_module_of_other_code_does_not_reach_them() -> None:
    assert not any(g is MODERN for g in generators_beside(nn.Linear(1, 1)))


def test_they_go_on_as_if_nothing_had_been_drawn() -> None:
    draws()
    with rewound(Noisy()):
        inside = draws()
    assert draws() == inside


def test_they_are_set_back_after_an_error() -> None:
    inside: list[object] = []
    with pytest.raises(ValueError, match="step"), rewound(Noisy()):  # noqa: PT012 - what is drawn comes before
        inside.append(draws())
        raise ValueError("step")
    assert inside == [draws()]
