"""From a bad loss or gradient backwards, through bad inputs only, to where the value was born."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.diagnosis.memory import Leaf
from gradwatch.diagnosis.responsibility import Explanation
from gradwatch.diagnosis.trace import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.diagnosis.responsibility import Kind

Root = Record | Leaf


def births(writers: Sequence[Root]) -> list[Root]:
    """Return the births that the given writers depend on, in order; what was bad before the step comes first of all.

    A NaN is followed to what explains NaN, an infinity to what explains infinities: one tensor may hold both, of
    different origins. Where nothing but deliberate infinities is found (the logit of a masked class reaches the loss),
    the operation that picks one of them out of the rest is returned: the first that has fewer results than inputs.
    """
    found: list[Root] = []
    context: list[Root] = []
    waiting: list[tuple[Root, Kind]] = [(writer, "nan" if writer.special.nan else "inf") for writer in writers]
    seen = {(id(root), kind) for root, kind in waiting}
    while waiting:
        root, kind = waiting.pop()
        explained = _explanation(root, kind)
        if explained.context:
            context.append(root)
        elif explained.is_birth:
            found.append(root)
        for source in [*explained.causes, *explained.parents]:
            needed: Kind = "nan" if explained.via == "nan" and source.special.nan else "inf"
            if (id(source), needed) not in seen:
                seen.add((id(source), needed))
                waiting.append((source, needed))
    if found:
        return sorted(dict.fromkeys(found), key=_order)
    last = _where_context_matters(list(dict.fromkeys(context)))
    return [] if last is None else [last]


def first_birth(writers: Sequence[Root]) -> Root | None:
    """Return the earliest of the births."""
    return next(iter(births(writers)), None)


def _explanation(root: Root, kind: Kind) -> Explanation:
    if isinstance(root, Leaf):
        return Explanation(context=root.context)
    asked, other = (root.of_nan, root.of_infinity) if kind == "nan" else (root.of_infinity, root.of_nan)
    return asked or other or Explanation()


def _order(found: Root) -> int:
    return -1 if isinstance(found, Leaf) else found.index


def _where_context_matters(context: Sequence[Root]) -> Root | None:
    # What has no line is the loop's own, as the division of the loss by the number of accumulated batches.
    records = [found for found in context if isinstance(found, Record)]
    records = [record for record in records if record.identity.place is not None] or records
    picking = [record for record in records if record.shrinks]
    if picking:
        return min(picking, key=_order)
    if records:
        return max(records, key=_order)
    return context[0] if context else None
