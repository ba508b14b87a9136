"""What thinning will do with each line of an event log, and how wide its buckets are.

What stays: everything but step records, gradient checks and last steps; all of the newest quarter's records. Older step
records are joined, per optimizer, into buckets of ``width`` records. The width doubles whenever it would not make the
log small enough: a run twice as long has half as many records of its past. Of gradient checks stay the first, the
newest, and those that do not pass (of very many: the first and newest ``KEPT_CHECKS``, and each whose verdict differs
from that of the check before it); of last steps the first ``KEPT_INCIDENTS`` of incidents and the newest ``KEPT_LAST``.
"""

from __future__ import annotations

import re
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import BinaryIO

FIRST_WIDTH = 4
NEWEST = 0.25  # of the budget: what is left as it is
TARGET = 0.6  # of the budget: how large the log may be after thinning
# Ranges and values of a pooled record, against the values alone.
POOLED_SIZE = 2.0
KEPT_CHECKS = 32
KEPT_INCIDENTS = 20
KEPT_LAST = 16
# Longer lines are no records of ours, and are copied in pieces.
_MAX_LINE = 64 * 2**20

_EVENT = re.compile(rb'\{"schema_version": 1, "type": "(step|gradient_check|last_steps)", ')
_OPTIMIZER = re.compile(rb'"optimizer": ([0-9]+), ')
_POOLED = re.compile(rb'"pooled": \{"records": ([0-9]+), ')
_VERDICT = re.compile(rb'"verdict": "([a-z_]+)", ')
_HEAD = 512  # bytes of a line in which its event's place and kind stand

KEEP, DROP, JOIN, CLOSE = range(4)


class Lines(NamedTuple):
    """What the lines of a log are, by number."""

    sizes: array[int]
    widths: array[int]  # log steps for which a step record stands; 0 for other lines
    steps: dict[int, array[int]]  # optimizer: line numbers
    checks: list[tuple[int, bytes]]  # line number and verdict
    last_steps: list[tuple[int, bool]]  # line number, and whether it belongs to an incident


def scan(log: BinaryIO, lines: Lines) -> Generator[int]:
    """Find out what each line is; yield how many bytes have been looked at."""
    number = 0
    while line := log.readline(_MAX_LINE):
        lines.sizes.append(len(line))
        lines.widths.append(0)
        _classify(line, number, lines)
        number += 1
        yield len(line)


def _classify(line: bytes, number: int, lines: Lines) -> None:
    event = _EVENT.match(line)
    if event is None or not line.endswith(b"\n"):
        return
    if event[1] == b"gradient_check":
        verdict = _VERDICT.search(line, 0, _HEAD)
        if verdict is not None:
            lines.checks.append((number, verdict[1]))
    elif event[1] == b"last_steps":
        lines.last_steps.append((number, b'"reason": "incident", ' in line[:_HEAD]))
    else:
        optimizer = _OPTIMIZER.search(line, 0, _HEAD)
        if optimizer is not None:
            pooled = _POOLED.search(line)  # no name can hold it: its quotes would be escaped
            lines.steps.setdefault(int(optimizer[1]), array("q")).append(number)
            lines.widths[number] = int(pooled[1]) if pooled else 1


def plan(lines: Lines, budget: int, width: int) -> tuple[int, bytearray]:
    """Return the width of the buckets, ``width`` or more, and what to do with each line."""
    kept = bytearray(len(lines.sizes))
    for number in [*_stale_checks(lines.checks), *_stale_last_steps(lines.last_steps)]:
        kept[number] = DROP
    first_new = _first_of_the_newest(lines.sizes, int(budget * NEWEST))
    old = [[number for number in numbers if number < first_new] for numbers in lines.steps.values()]
    largest = max((sum(lines.widths[number] for number in numbers) for numbers in old), default=0)
    while True:
        actions = kept[:]
        for numbers in old:
            _fill_buckets(numbers, lines.widths, width, actions)
        if _size_after(lines, actions) <= TARGET * budget or width >= largest:
            return width, actions
        width *= 2


def _first_of_the_newest(sizes: array[int], limit: int) -> int:
    """Return the number of the first of the lines at the end that take no more than ``limit`` bytes."""
    total = 0
    for number in range(len(sizes) - 1, -1, -1):
        total += sizes[number]
        if total > limit:
            return number + 1
    return 0


def _fill_buckets(numbers: list[int], widths: array[int], width: int, actions: bytearray) -> None:
    """Mark neighbours that stand for ``width`` records together; more may join those that are left over, next time."""
    bucket: list[int] = []
    filled = 0
    for number in numbers:
        if widths[number] >= width:  # full as it is, and nothing is joined across it
            _mark(bucket, actions)
            bucket, filled = [], 0
            continue
        bucket.append(number)
        filled += widths[number]
        if filled >= width:
            _mark(bucket, actions)
            bucket, filled = [], 0
    _mark(bucket, actions)


def _mark(bucket: list[int], actions: bytearray) -> None:
    if len(bucket) > 1:
        for member in bucket[:-1]:
            actions[member] = JOIN
        actions[bucket[-1]] = CLOSE


def _size_after(lines: Lines, actions: bytearray) -> float:
    total = 0.0
    for size, width, action in zip(lines.sizes, lines.widths, actions, strict=True):
        if action == KEEP or (action == CLOSE and width > 1):
            total += size
        elif action == CLOSE:
            total += POOLED_SIZE * size
    return total


def _stale_checks(checks: list[tuple[int, bytes]]) -> list[int]:
    """Return the lines of gradient checks that say nothing new."""
    bad = [number for number, verdict in checks if verdict != b"pass"]
    telling = {*bad[:KEPT_CHECKS], *bad[-KEPT_CHECKS:]}
    stale = []
    for (_, before), (number, verdict) in pairwise(checks[:-1]):
        if verdict == b"pass" or (number not in telling and verdict == before):
            stale.append(number)
    return stale


def _stale_last_steps(events: list[tuple[int, bool]]) -> list[int]:
    """Return the lines of last steps that others have outdated."""
    of_incidents = [number for number, is_incident in events if is_incident]
    kept = {*of_incidents[:KEPT_INCIDENTS], *(number for number, _ in events[-KEPT_LAST:])}
    return [number for number, _ in events if number not in kept]
