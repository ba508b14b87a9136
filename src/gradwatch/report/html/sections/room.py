"""What there is room for in a section: rows of a page that stays small, and the names of what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gradwatch.report.html.formats import count
from gradwatch.report.html.markup import Markup, element, join, short
from gradwatch.report.html.page import folded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from gradwatch.report.html.sections.view import Group

T = TypeVar("T")

MOST_NAMED = 5000


def fitting(things: Iterable[T], row: Callable[[T], Markup], room: int) -> tuple[list[tuple[T, Markup]], list[T]]:
    """Return things with their rows as long as there is room, and the things for which there is none.

    Args:
        things: the most important first.
        row: makes the row of one of them; not called any more where next to nothing is left.
        room: in bytes.
    """
    shown, left_out, left = [], [], room
    for thing in things:
        made = row(thing) if left > room // 100 else None
        if made is None or size_of([made]) > left:
            left_out.append(thing)
        else:
            shown.append((thing, made))
            left -= size_of([made])
    return shown, left_out


def size_of(rows: Iterable[Markup]) -> int:
    """Return how large rows are, in bytes."""
    return sum(len(row.encode()) for row in rows)


def named(groups: Sequence[Group], folder: Path) -> Markup | None:
    """Return the codes of findings for which there was no room, and where they are told; None if there are none.

    Each code is an anchor, so that the marks of curves lead somewhere.
    """
    if not groups:
        return None
    times = sum(len(group.episodes) for group in groups)
    where = f"With them the page would be too large. All are in the event log, {folder}, and in gradwatch show --json."
    names = [
        element("span", f"{short(group.worst.code, 80)} (step {count(group.since)})", id=group.name)
        for group in groups[:MOST_NAMED]
    ]
    ellipsis = ", …" if len(groups) > MOST_NAMED else None
    return folded(
        f"{count(times, 'more finding')} of {count(len(groups), 'code')} without their text",
        element("p", where),
        element("p", join(names, ", "), ellipsis),
    )
