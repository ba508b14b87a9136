from __future__ import annotations

import pytest

from gradwatch.engine.context import RunContext
from gradwatch.records import ClipRule


def test_a_loop_that_says_nothing_is_a_single_process() -> None:
    context = RunContext(dirpath="runs")
    assert (context.rank, context.world_size, context.log_every_n_steps, context.write) == (0, 1, 50, True)
    assert context.agree(3) == 3
    assert context.ranks_where(True) == [0]
    assert context.gather is None


def test_alone_a_fault_is_always_ones_own() -> None:
    """A bad gradient alone could have come from another rank by an all-reduce, had there been one."""
    assert RunContext(dirpath="runs").ranks_where(False) == [0]


@pytest.mark.parametrize(("limit", "others"), [(0.5, False), (None, True)])
def test_a_rule_without_a_limit_is_clipping_by_other_means(limit: float | None, *, others: bool) -> None:
    rule = ClipRule(max_norm=limit, family=None, reason="r", source="s")
    assert RunContext(dirpath="runs", clip_rule=rule).clips_by_other_means == others
    assert not RunContext(dirpath="runs").clips_by_other_means


def test_whoever_holds_the_same_weights_can_gather() -> None:
    context = RunContext(dirpath="runs", world_size=2, gather=lambda values: [values, values])
    assert context.gather is not None
    assert context.gather([1.0, 2.0]) == [[1.0, 2.0], [1.0, 2.0]]
