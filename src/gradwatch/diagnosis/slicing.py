"""From a bad loss or gradient backwards, through bad inputs only, to where the value was born."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.diagnosis.memory import Leaf
from gradwatch.diagnosis.trace import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

Root = Record | Leaf


def first_birth(writers: Sequence[Root]) -> Root | None:
    """Return the earliest birth that the given writers depend on; what was bad before the step comes first of all.

    Where nothing but deliberate infinities is found (the logit of a masked class reaches the loss), the operation
    that picks one of them out of the rest is returned: the first that has fewer results than inputs.
    """
    births: list[Root] = []
    context: list[Root] = []
    waiting, seen = list(writers), set(map(id, writers))
    while waiting:
        found = waiting.pop()
        before = _before(found)
        if isinstance(found, Leaf) or found.context:
            (context if found.context else births).append(found)
        elif not found.causes:
            births.append(found)
        new = [root for root in before if id(root) not in seen]
        seen.update(map(id, new))
        waiting += new
    if births:
        return min(births, key=_order)
    return _where_context_matters(context)


def _before(found: Root) -> Sequence[Root]:
    return () if isinstance(found, Leaf) else (found.causes or found.parents)


def _order(found: Root) -> int:
    return -1 if isinstance(found, Leaf) else found.index


def _where_context_matters(context: Sequence[Root]) -> Root | None:
    # What has no line is the loop's own, as the division of the loss by the number of accumulated batches.
    records = [found for found in context if isinstance(found, Record) and found.identity.place is not None]
    picking = [record for record in records if record.shrinks]
    if picking:
        return min(picking, key=_order)
    if records:
        return max(records, key=_order)
    return context[0] if context else None
