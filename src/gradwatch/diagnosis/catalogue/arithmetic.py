"""Forward births in +, -, * and /: divisions by zero, and infinities that meet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradwatch.diagnosis.circumstances import LARGE, UNKNOWN, Entry, infinities, is_complex, limit, magnitude, ops, size
from gradwatch.diagnosis.wording import at, infinite, number, small, span, zeros

if TYPE_CHECKING:
    from gradwatch.diagnosis.circumstances import Birth
    from gradwatch.records import TensorSummary

DIVISIONS = ops("div true_divide divide floor_divide remainder fmod")
SUMS = ops("add sub rsub")
PRODUCTS = ops("mul addcmul addcdiv lerp")
LOGS = ops("log log2 log10 log_softmax")
COUNTS = ops("sum nansum mean nanmean count_nonzero bincount histc index_add scatter_add scatter_reduce")
CASTS = ops("to_copy copy")
RANGES = ops("max min amax amin")


def _divisor(birth: Birth) -> TensorSummary:
    return birth.input(1)


def _by_integer(birth: Birth) -> bool:
    """Whether one operand is a tensor of integers, such as a count: those are not among the inputs."""
    return len(birth.origin.inputs) == 1 and not birth.circumstances.scalars


def _by_zero(birth: Birth) -> bool:
    ordinary = birth.largest < limit(birth.dtype) ** LARGE
    unseen = len(birth.origin.inputs) == 1 and (birth.scalar(0) == 0 or (_by_integer(birth) and ordinary))
    return not birth.of_inf and (_divisor(birth).zeros > 0 or unseen)


def _zero_over_zero(birth: Birth) -> bool:
    return birth.is_nan and birth.input(0).zeros > 0 and _by_zero(birth)


def _what_is_zero(birth: Birth) -> str:
    if _divisor(birth) is not UNKNOWN and size(_divisor(birth)) == 1:
        return "the divisor is 0"
    if _divisor(birth) is not UNKNOWN:
        return f"in the divisor, {zeros(_divisor(birth))}"
    return "the divisor is an integer 0" if _by_integer(birth) else "the divisor is the number 0"


def _scaled(birth: Birth) -> bool:
    """Whether it looks like (x - min) / (max - min)."""
    return _zero_over_zero(birth) and birth.producer(0) in SUMS and birth.producer(1) in SUMS | RANGES


def _is_count(birth: Birth) -> bool:
    return _by_zero(birth) and birth.producer(1) in COUNTS


def _may_be_count(birth: Birth) -> bool:
    """Whether the divisor is an integer, or was one before a cast: nobody knows what it counts."""
    cast = birth.producer(1) in CASTS and not _divisor(birth).shape
    return _by_zero(birth) and (_by_integer(birth) or cast)


def _by_number(birth: Birth) -> bool:
    return _by_zero(birth) and len(birth.origin.inputs) == 1


def _quotient(birth: Birth) -> str:
    return "0/0, NaN" if birth.is_nan else "infinite"


def _bad_number(birth: Birth) -> float | None:
    """Return a number among the arguments that is not finite; an infinite summand is meant as a mask."""
    numbers = birth.circumstances.scalars
    wrong = (x for x in numbers if math.isnan(x) or (math.isinf(x) and birth.op not in SUMS))
    return next(wrong, None)


def _spelled(value: float | None) -> str:
    return "NaN" if value is None or math.isnan(value) else f"{value:+}"


def _zero_times_log(birth: Birth) -> bool:
    return birth.of_inf and any(
        birth.producer(i) in LOGS and infinities(birth.input(i)) > 0 and birth.input(1 - i).zeros > 0 for i in (0, 1)
    )


def _zero_times_inf(birth: Birth) -> bool:
    inputs = birth.origin.inputs
    return birth.of_inf and any(x.zeros for x in inputs) and any(infinities(x) for x in inputs)


def _factors(birth: Birth) -> str:
    return " and ".join(span(summary) for summary in birth.origin.inputs[:3])


def _apart(birth: Birth) -> str:
    """Return how to keep a divisor y away from 0."""
    if is_complex(birth.dtype):
        return f"x / (y + {small(birth)})"
    return f"x / y.clamp(min={small(birth)}) for a positive y, or x / (y + {small(birth)})"


ARITHMETIC = (
    Entry(
        "number that is not finite",
        PRODUCTS | SUMS | DIVISIONS,
        lambda b: _bad_number(b) is not None,
        lambda b: (
            f"{b.op} was called with the number {_spelled(_bad_number(b))}{at(b)}: a coefficient computed in Python is"
            f" not finite" + (", and 0 * inf or inf / inf is NaN." if b.of_inf else ".")
        ),
        "Look at where that number comes from: a schedule, a division or an exponential in Python, a mean of nothing, a"
        " loss weight.",
    ),
    Entry(
        "scaling of a constant to [0, 1]",
        DIVISIONS,
        _scaled,
        lambda b: f"0/0 is NaN{at(b)}: {_what_is_zero(b)}, as in (x - min) / (max - min) of a constant tensor.",
        lambda b: f"Keep the range away from 0: (x - lo) / (hi - lo).clamp(min={small(b)}).",
    ),
    Entry(
        "division by a count of 0",
        DIVISIONS,
        _is_count,
        lambda b: (
            f"A division by a count or sum that is 0{at(b)}: {_what_is_zero(b)}, so nothing was selected in this batch,"
            f" and the quotient is {_quotient(b)}."
        ),
        "Guard the count: total / count.clamp(min=1), or skip the term when the selection is empty.",
    ),
    Entry(
        "division by an integer 0",
        DIVISIONS,
        _may_be_count,
        lambda b: f"A division by 0{at(b)}: {_what_is_zero(b)}, and the quotient is {_quotient(b)}.",
        "If the divisor is a count, guard it: total / count.clamp(min=1), or skip the term when nothing was selected."
        " Otherwise look at why it can be 0.",
    ),
    Entry(
        "division by the number 0",
        DIVISIONS,
        _by_number,
        lambda b: f"A division by 0{at(b)}: {_what_is_zero(b)}, and the quotient is {_quotient(b)}.",
        "Look at where that number comes from: a schedule or rate that reaches its end, a difference of two bounds that"
        " meet, or the length of something empty: max(n, 1).",
    ),
    Entry(
        "zero divided by zero",
        DIVISIONS,
        _zero_over_zero,
        lambda b: f"0/0 is NaN{at(b)}: {_what_is_zero(b)}, where the numerator is 0 too.",
        lambda b: (
            f"Keep the divisor away from 0: {_apart(b)}. To leave those elements out, mask the divisor before dividing:"
            " x / torch.where(y == 0, 1, y)."
        ),
    ),
    Entry(
        "division by zero",
        DIVISIONS,
        _by_zero,
        lambda b: f"A division by 0 gives {'NaN' if b.is_nan else 'an infinity'}{at(b)}: {_what_is_zero(b)}.",
        lambda b: f"Keep the divisor away from 0: {_apart(b)}; an eps such as 1e-8 is 0 in float16.",
    ),
    Entry(
        "quotient beyond the largest number",
        DIVISIONS | ops("reciprocal rsqrt"),
        lambda b: b.is_inf,
        lambda b: (
            f"The quotient overflowed{at(b)}: {_factors(b)} went in, and {b.dtype} ends at {number(limit(b.dtype))}."
        ),
        lambda b: f"The divisor is tiny: clamp it, y.clamp(min={small(b)}), or add an eps of that size to it.",
    ),
    Entry(
        "infinity over infinity",
        DIVISIONS,
        lambda b: b.of_inf,
        lambda b: f"inf / inf is NaN{at(b)}: {infinite(b.input(0))} in the numerator; the divisor is infinite there.",
        "Find what overflowed on both sides. exp(x) / exp(x).sum() is softmax(x), which subtracts the largest first.",
    ),
    Entry(
        "zero times the log of zero",
        PRODUCTS,
        _zero_times_log,
        lambda b: f"0 * log(0) is 0 * -inf, which is NaN{at(b)}: a probability has reached 0.",
        "For p * log(p) take both from the logits: softmax(x) * log_softmax(x). If log_softmax itself is -inf, a logit"
        " is -inf: fill masked logits with -1e4. torch.xlogy does not help: its derivative at 0 is not finite.",
    ),
    Entry(
        "zero times infinity",
        PRODUCTS,
        _zero_times_inf,
        lambda b: f"0 * inf is NaN{at(b)}: one factor holds 0 where the other is infinite.",
        "Multiplying by a mask of 0 does not remove an infinity: use torch.where(mask, x, 0), and mask the input of"
        " whatever makes the infinity too, so that its derivative stays finite.",
    ),
    Entry(
        "infinity minus infinity",
        SUMS,
        lambda b: b.of_inf,
        lambda b: f"inf - inf is NaN{at(b)}: both operands are infinite there.",
        "Find what overflowed on both sides, or which two masks meet: join boolean masks before filling once, and"
        " fill with a large finite number where two additive masks can meet.",
    ),
    Entry(
        "arithmetic beyond the largest number",
        SUMS | PRODUCTS,
        lambda b: b.is_inf and max(map(magnitude, b.origin.inputs), default=0.0) > 0,
        lambda b: f"{b.op} overflowed{at(b)}: {_factors(b)} went in, and {b.dtype} ends at {number(limit(b.dtype))}.",
        "The numbers have grown out of bounds: lower the learning rate, clip the gradients, normalise or bound what"
        " goes in. Two additive masks of finfo.min overflow too: use one, of half that size.",
    ),
)
