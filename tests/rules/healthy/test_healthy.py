"""Healthy trainings: all of them where long runs are wanted, two otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rules.healthy.families import CASES
from tests.rules.healthy.trial import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rules.healthy.case import Case

QUICK = ("sgd", "in-turn")


def test_every_name_is_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=() if case.name in QUICK else pytest.mark.long) for case in CASES],
)
def test_nothing_is_found_where_all_is_well(case: Case, tmp_path: Path) -> None:
    outcome = run(case, folder=tmp_path)
    assert outcome.alarms == []
    assert outcome.failures == []
    assert outcome.learned, f"{case.learned.words}: {outcome.value}"
    assert outcome.steps >= 1000
