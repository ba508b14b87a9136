"""Promise 2: planted faults are caught when the contract says, named rightly, and leave no trace.

A seed is a plan (``tests/faults/plan.py``); what is expected of it stands in ``tests/faults/expectation.py``. The
default run takes each combination of kind and value three times, ``-m long`` another twenty-five times.
"""

from __future__ import annotations

import pytest

from gradwatch import NumericalHealthMonitor
from tests.faults.plan import COMBINATIONS
from tests.faults.trial import trial

SAMPLE = 3 * COMBINATIONS
ALL = 28 * COMBINATIONS


def check(seed: int) -> None:
    verdict = trial(seed, NumericalHealthMonitor)
    assert not verdict.problems, str(verdict)


@pytest.mark.parametrize("seed", range(SAMPLE))
def test_fault(seed: int) -> None:
    check(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(SAMPLE, ALL))
def test_more_faults(seed: int) -> None:
    check(seed)
