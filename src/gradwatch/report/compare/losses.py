"""Runs that came to be NaN or infinite, where others did not: the first thing to be said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.report.compare import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.report.compare.members import Group

_MOST_NAMED = 4


def lost_alone(groups: Sequence[Group], index: int) -> str:
    """Return that runs of the first group or of another became NaN and none of the other one; empty if not so."""
    sides = {place: _losses(groups[place]) for place in (0, index)}
    if all(sides.values()) or not any(sides.values()):
        return ""
    (lost, steps), (fine, _) = sorted(sides.items(), key=lambda side: not side[1])
    runs = len(groups[lost].members)
    if runs == len(groups[fine].members) == 1:
        return f"{words.letter(lost)} became NaN or infinite at step {steps[0]}, and {words.letter(fine)} did not."
    return (
        f"{len(steps)} of {runs} runs of {words.letter(lost)} became NaN or infinite, from step {steps[0]} on,"
        f" and none of {words.letter(fine)}."
    )


def lost_among(group: Group) -> str:
    """Return which runs of an only group became NaN; empty if none did, or all."""
    labels = [member.label for member in group.members if member.lost_at is not None]
    if not labels or len(labels) == len(group.members):
        return ""
    named = ", ".join([*labels[:_MOST_NAMED], *["..."] * (len(labels) > _MOST_NAMED)])
    steps = _losses(group)
    return f"{len(steps)} of {len(group.members)} runs became NaN or infinite, from step {steps[0]} on ({named})."


def _losses(group: Group) -> list[int]:
    """Return the steps at which runs were lost, the first one first."""
    return sorted(member.lost_at for member in group.members if member.lost_at is not None)
