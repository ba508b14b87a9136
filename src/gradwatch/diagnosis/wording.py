"""The phrases that entries share: numbers, places, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gradwatch.diagnosis.circumstances import infinities, is_complex, is_half, ops, size

if TYPE_CHECKING:
    from gradwatch.diagnosis.circumstances import Birth
    from gradwatch.records import TensorSummary

DIGITS = 6  # as many as tell 65504 from 65536
MASKED_BY = ops("where masked_fill")


class Text(NamedTuple):
    """What happened, and what to change."""

    explanation: str
    advice: str


def number(value: float | None) -> str:
    """Return a number in a few digits."""
    return "unknown" if value is None else f"{value + 0.0:.{DIGITS}g}"  # -0 would look like a number below 0


def span(summary: TensorSummary) -> str:
    """Return the range of the finite elements: ``from -4 to 95``, or the value if it is one."""
    if summary.min is None or summary.max is None:
        return "no finite value"
    return number(summary.min) if summary.min == summary.max else f"from {number(summary.min)} to {number(summary.max)}"


def some(count: int, summary: TensorSummary, what: str) -> str:
    """Return ``2 of 30 values are 0``, with the verb in the right number."""
    total = size(summary)
    if total == 1:
        return f"its value is {what}"
    return f"{count} of {total} values {'is' if count == 1 else 'are'} {what}"


def zeros(summary: TensorSummary) -> str:
    """Return how many elements are 0."""
    return some(summary.zeros, summary, "0")


def infinite(summary: TensorSummary) -> str:
    """Return how many elements are infinite, and with which sign."""
    sign = "±inf" if summary.posinf and summary.neginf else "+inf" if summary.posinf else "-inf"
    return some(infinities(summary), summary, sign)


def at(birth: Birth) -> str:
    """Return `` at [3, 7] (sample 3)``, what of it is known, with a blank before it."""
    index, sample = birth.circumstances.index, birth.circumstances.sample
    place = f" at {list(index)}" if index else ""
    return place + (f" (sample {sample})" if sample is not None else "")


def where(birth: Birth) -> str:
    """Return `` (at [3, 7], sample 3)``: the place where a sentence speaks of another point already."""
    index, sample = birth.circumstances.index, birth.circumstances.sample
    parts = [f"at {list(index)}"] if index else []
    parts += [f"sample {sample}"] if sample is not None else []
    return f" ({', '.join(parts)})" if parts else ""


def off_zero(birth: Birth, name: str = "x") -> str:
    """Return how to keep an argument away from 0: complex numbers have no order to clamp by."""
    return f"({name} + {small(birth)})" if is_complex(birth.dtype) else f"{name}.clamp(min={small(birth)})"


def small(birth: Birth) -> str:
    """Return an eps that does not round to zero in the type, nor makes the slope overflow."""
    return "1e-4" if is_half(birth.dtype) else "1e-6"


def shape(summary: TensorSummary) -> str:
    """Return ``(1, 3)``."""
    return str(tuple(summary.shape))


def consequence(birth: Birth) -> str:
    """Return what became of loss and gradients; "" if neither is known to be bad."""
    known = birth.circumstances
    bad = gradients(known.bad_gradients, known.gradients)
    if known.losses:
        loss = f"The loss is {known.losses[0]}"
        if known.bad_gradients:
            return f"{loss} and {bad} non-finite."
        if known.gradients:
            return f"{loss}, but all gradients are finite: this step would not harm the weights."
        return f"{loss}."
    if not known.bad_gradients:
        return ""
    if birth.is_hidden:
        masked = any(name in MASKED_BY for name in known.producers)
        hidden = "a mask hides that value" if masked else "that value does not reach it"
        return f"The loss is finite as {hidden}, but its derivative comes back: {bad} not."
    return f"The loss is finite, but {bad} not."


def gradients(count: int, total: int) -> str:
    """Return ``3 of 12 gradients are``, with the verb in the right number."""
    if count == total == 1:
        return "the only gradient is"
    return f"{count} of {total} gradients {'is' if count == 1 else 'are'}"
