"""Planted faults are found, and their healthy twins are left alone: the first model of each rule, the rest when long.

``make score-rules`` runs all of them in five seeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rules.planted.families import CASES
from tests.rules.planted.trial import run

if TYPE_CHECKING:
    from tests.rules.planted.case import Case

FIRST = {case.code: case for case in reversed(CASES)}.values()
PARAMETERS = [
    pytest.param(case, id=case.name, marks=() if case in FIRST else pytest.mark.long)
    for case in CASES
    if case.ranks == 1
]


@pytest.mark.parametrize("faulty", [True, False], ids=["faulty", "healthy"])
@pytest.mark.parametrize("case", PARAMETERS)
def test_the_fault_is_found_and_the_twin_is_left_alone(case: Case, faulty: bool) -> None:  # noqa: FBT001
    outcome = run(case, 0, faulty=faulty)
    assert outcome.right, outcome
