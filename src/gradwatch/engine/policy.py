"""What to do about a non-finite step: pure rules, so that every combination can be tabulated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gradwatch.records import Action


class Decision(NamedTuple):
    """``drop``: keep the optimizer from using these gradients. ``raises``, ``stops``: end the run so."""

    action: Action
    drop: bool
    raises: bool = False
    stops: bool = False


def decide(on_nonfinite: str, *, skips_in_a_row: int, max_skips: int, can_skip: bool) -> Decision:
    """Return what happens at a step whose loss or gradients are non-finite.

    Args:
        on_nonfinite: the user's choice: ``raise``, ``stop``, ``skip`` or ``warn``.
        skips_in_a_row: updates dropped immediately before this one.
        max_skips: after so many in a row, ``skip`` raises.
        can_skip: False for an optimizer that evaluates its closure again (LBFGS): it cannot drop one evaluation.
    """
    if on_nonfinite == "warn":
        return Decision("warned", drop=False)
    if on_nonfinite == "raise" or not can_skip:
        return Decision("raised", drop=True, raises=True)
    if on_nonfinite == "stop":
        return Decision("stopped", drop=True, stops=True)
    if skips_in_a_row >= max_skips:
        return Decision("raised", drop=True, raises=True)
    return Decision("skipped", drop=True)


def decide_on_state(on_nonfinite: str) -> Decision:
    """Return what happens when a scan finds a non-finite weight, buffer or optimizer state.

    Such a value is named, not repaired, and there is no update to drop: ``skip`` can only warn.
    """
    if on_nonfinite == "raise":
        return Decision("raised", drop=False, raises=True)
    if on_nonfinite == "stop":
        return Decision("stopped", drop=False, stops=True)
    return Decision("warned", drop=False)
