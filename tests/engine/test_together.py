from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from gradwatch.engine.together import Parted, Together
from gradwatch.replica.guard import CommunicationNeeded

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT = 5.0  # seconds after which a rank that waits alone gives up


def on_two_ranks(*steps: Callable[[Together], bool]) -> list[bool]:
    """Run one step a rank at the same time, with a real exchange between them."""
    words, barrier = [0, 0], Barrier(2)

    def run(rank: int) -> bool:
        def agree(value: int) -> int:
            words[rank] = value
            barrier.wait(WAIT)
            largest = max(words)
            barrier.wait(WAIT)
            return largest

        return steps[rank](Together(agree))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (0, 1)))


def step(collectives: int, *, fails: bool = False) -> Callable[[Together], bool]:
    def run(together: Together) -> bool:
        try:
            for _ in range(collectives):
                together.before_collective("allreduce")
        except Parted:
            assert not together.finish(failed=True)
            return False
        return together.finish(failed=fails)

    return run


def test_all_come_to_the_end() -> None:
    assert on_two_ranks(step(3), step(3)) == [True, True]


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_rank_that_fails_ends_it_for_all(before: int) -> None:
    assert on_two_ranks(step(3), step(before, fails=True)) == [False, False]


def test_a_rank_that_ends_early_leaves_nobody_waiting() -> None:
    assert on_two_ranks(step(3), step(2)) == [False, True]


def test_a_step_that_goes_on_after_parting_stays_apart() -> None:
    def stubborn(together: Together) -> bool:
        for _ in range(3):
            with pytest.raises(Parted, match="another rank"):
                together.before_collective("allreduce")
        return together.finish(failed=False)

    assert on_two_ranks(stubborn, step(0, fails=True)) == [False, False]


def test_messages_from_one_rank_to_another_are_refused() -> None:
    with pytest.raises(CommunicationNeeded, match="send"):
        Together(lambda value: value).before_collective("send")
