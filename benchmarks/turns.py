"""Trainings that take turns: each in a process of its own, one of them running at a time, a few steps each.

What one training costs against another is a small difference between large times, on machines whose speed changes from
one second to the next. Turns of a fraction of a second let such a change hit both sides alike.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

_SPAWN = multiprocessing.get_context("spawn")


class Batches:
    """The same batch again and again, for a training that runs while it has its turn.

    Args:
        batch: what every step gets.
        steps: how many there are, a multiple of ``turn``.
        turn: steps a turn.
        baton: where the turns come from, and the seconds of each step go to.
    """

    def __init__(self, batch: Any, steps: int, turn: int, baton: Connection) -> None:
        self.batch, self.steps, self.turn, self.baton = batch, steps, turn, baton

    def __len__(self) -> int:
        return self.steps + 1  # a turn ends where the next batch is asked for

    def __iter__(self) -> Iterator[Any]:
        seconds: list[float] = []
        begun = self._wait()
        for i in range(len(self)):
            if i:
                now = time.perf_counter()
                seconds.append(now - begun)
                begun = now
            if len(seconds) == self.turn:
                self.baton.send(seconds)
                seconds, begun = [], self._wait()
            yield self.batch

    def _wait(self) -> float:
        self.baton.recv()
        return time.perf_counter()


def take_turns(train: Callable[..., None], variants: Sequence[str], turns: int, *arguments: Any) -> list[list[float]]:
    """Run ``train(variant, *arguments, baton)`` for each variant, in turns; return the seconds of each step by variant.

    ``train`` and its arguments must be importable by a fresh process; it iterates over ``Batches`` with that baton.
    The order is drawn anew for each round of turns: a turn is slower or quicker for the one that came before it.
    """
    ends, processes, chance = [], [], random.Random(0)
    for variant in variants:
        mine, theirs = _SPAWN.Pipe()
        processes.append(_SPAWN.Process(target=train, args=(variant, *arguments, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a process that dies is the end of its pipe, not a wait for ever
        ends.append(mine)
    seconds: list[list[float]] = [[] for _ in variants]
    try:
        for _ in range(turns):
            for i in chance.sample(range(len(variants)), len(variants)):
                ends[i].send("go")
                seconds[i] += ends[i].recv()
        for end, process in zip(ends, processes, strict=True):
            end.send("the last step, of which no time is taken")
            process.join()
    finally:
        for process in processes:
            process.kill()  # nothing is left of them unless one has failed: the others would wait for their turn
    return seconds
