"""Forward births in functions of one number: outside of what they are defined on, or beyond the largest float."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.diagnosis.circumstances import Entry, above, below, is_complex, limit, ops
from gradwatch.diagnosis.wording import at, number, off_zero, small, span, where, zeros

if TYPE_CHECKING:
    from gradwatch.diagnosis.circumstances import Birth

LOGS = ops("log log2 log10")
EXPONENTIALS = ops("exp exp2 expm1 sinh cosh")
COMPLEMENTS = ops("sub rsub")


def _log_of_zero(birth: Birth) -> bool:
    return birth.is_inf and birth.input(0).zeros > 0


def _met_zero(birth: Birth) -> str:
    return f"{birth.op} of 0{at(birth)}: {zeros(birth.input(0))}"


def _exponent(birth: Birth) -> float | None:
    """Return the exponent of pow, the number or a constant tensor; None if it varies or is unknown."""
    second = birth.input(1)
    return birth.scalar(0) if len(birth.origin.inputs) < 2 else second.min if second.min == second.max else None  # noqa: PLR2004


def _outside(birth: Birth, low: float, high: float) -> bool:
    return below(birth.input(0), low) or above(birth.input(0), high)


ELEMENTWISE = (
    Entry(
        "log of a softmax that is 0",
        LOGS,
        lambda b: _log_of_zero(b) and b.producer(0) == "softmax",
        lambda b: f"{_met_zero(b)}, written by softmax, which underflows when a logit lies far below the largest.",
        "Take the logarithm in one step: log_softmax(logits) in place of log(softmax(logits)), and cross_entropy on the"
        " logits for a loss. An eps inside the log only hides the wrong gradient.",
    ),
    Entry(
        "log of 1 - p that is 0",
        LOGS,
        lambda b: _log_of_zero(b) and b.producer(0) in COMPLEMENTS,
        lambda b: (
            f"{_met_zero(b)}, written by a subtraction such as 1 - p: a p close to 1 is exactly 1 in {b.dtype}, and a"
            f" clamp to 1 - 1e-8 changes nothing, as that is 1 too in float32."
        ),
        "Work with logits: binary_cross_entropy_with_logits(logits, target), or logsigmoid(-logits) for log(1 - p)."
        " Otherwise clamp the logits, or use a bound that exists in the type: clamp(1e-6, 1 - 1e-6) in float32.",
    ),
    Entry(
        "log of a sigmoid that is 0",
        LOGS,
        lambda b: _log_of_zero(b) and b.producer(0) == "sigmoid",
        lambda b: f"{_met_zero(b)}, written by sigmoid, which underflows for a very negative logit.",
        "Use binary_cross_entropy_with_logits(logits, target), or logsigmoid(logits) in place of log(sigmoid(logits)).",
    ),
    Entry(
        "log after a clamp that lets 0 through",
        LOGS,
        lambda b: _log_of_zero(b) and b.producer(0) in ("clamp", "clamp_min", "clamp_max"),
        lambda b: f"{_met_zero(b)} although clamped before: the lower bound is 0 or rounds to 0 in {b.dtype}.",
        lambda b: (
            f"Clamp to a bound that exists in {b.dtype}: clamp(min={small(b)}); 1e-8 is 0 in float16. If it is a"
            " probability, take log_softmax or logsigmoid of the logits, or binary_cross_entropy_with_logits."
        ),
    ),
    Entry(
        "log of a complex 0",
        LOGS,
        lambda b: is_complex(b.dtype) and not b.of_inf and b.input(0).zeros > 0,
        lambda b: f"{_met_zero(b)}, whose logarithm has the real part -inf and a derivative that divides by 0.",
        lambda b: (
            f"Keep the argument away from 0: {b.op}(x + {small(b)}), or take magnitude and angle apart:"
            f" x.abs().clamp(min={small(b)}).{b.op}() and x.angle(). Complex numbers cannot be clamped."
        ),
    ),
    Entry(
        "log of 0",
        LOGS,
        _log_of_zero,
        lambda b: f"{_met_zero(b)}, and {b.op}(0) is -inf.",
        lambda b: (
            f"Keep the argument above 0: {b.op}(x.clamp(min={small(b)})). If x is a probability, compute its logarithm"
            " from the logits: log_softmax, logsigmoid, or a loss that takes logits."
        ),
    ),
    Entry(
        "log of a negative number",
        LOGS,
        lambda b: b.is_nan and below(b.input(0), 0.0),
        lambda b: f"{b.op} of a negative number{at(b)} is NaN: the argument is {span(b.input(0))}.",
        lambda b: (
            f"Find out why it can be negative. If by rounding, {b.op}(x.clamp(min={small(b)})); if x is a free"
            " parameter such as a variance, learn its logarithm, or pass it through softplus."
        ),
    ),
    Entry(
        "log1p at -1 or below",
        ops("log1p"),
        lambda b: not b.of_inf and below(b.input(0), -1.0 + 1e-12),
        lambda b: f"log1p(x) is log(1 + x) and needs x above -1{where(b)}: the argument is {span(b.input(0))}.",
        "Keep x above -1: x.clamp(min=-1 + 1e-6). For log(1 - p) of a sigmoid use logsigmoid(-logits).",
    ),
    Entry(
        "square root of a negative number",
        ops("sqrt rsqrt"),
        lambda b: b.is_nan and below(b.input(0), 0.0),
        lambda b: f"{b.op} of a negative number{at(b)} is NaN: the argument is {span(b.input(0))}.",
        lambda b: (
            f"If it should be positive and only rounding makes it negative (E[x²] - E[x]², 1 - x²), use"
            f" {b.op}(x.clamp(min={small(b)})); otherwise look for the wrong sign before it."
        ),
    ),
    Entry(
        "one over 0",
        ops("rsqrt reciprocal"),
        lambda b: (b.is_inf or is_complex(b.dtype)) and not b.of_inf and b.input(0).zeros > 0,
        lambda b: f"{b.op} of 0{at(b)} is {'NaN' if b.is_nan else 'infinite'}: {zeros(b.input(0))}.",
        lambda b: (
            f"Add eps to the argument: {b.op}(x + {small(b)})"
            + ("." if is_complex(b.dtype) else f", or clamp it: x.clamp(min={small(b)}).")
        ),
    ),
    Entry(
        "fractional power of a negative number",
        ops("pow"),
        lambda b: b.is_nan and below(b.input(0), 0.0),
        lambda b: (
            f"A negative number has no real power with a fractional exponent{where(b)}: the base is {span(b.input(0))},"
            f" the exponent {number(_exponent(b))}."
        ),
        lambda b: (
            f"Keep the base positive: x.clamp(min={small(b)}) ** p, or x.abs() ** p if the sign carries no meaning."
        ),
    ),
    Entry(
        "negative power of 0",
        ops("pow"),
        lambda b: b.is_inf and b.input(0).zeros > 0 and (_exponent(b) is None or (_exponent(b) or 0.0) < 0),
        lambda b: f"0 to the power {number(_exponent(b))} is infinite{at(b)}: in the base, {zeros(b.input(0))}.",
        lambda b: f"Keep the base away from 0: {off_zero(b)} ** p.",
    ),
    Entry(
        "power beyond the largest number",
        ops("pow square"),
        lambda b: b.is_inf,
        lambda b: (
            f"{b.op} overflowed{at(b)}: the base is {span(b.input(0))}, and {b.dtype} ends at {number(limit(b.dtype))}."
        ),
        "Find out why the base is so large: lower the learning rate, clip the gradients, or normalise what goes in. If"
        " such values are legitimate, work with logarithms.",
    ),
    Entry(
        "exponential beyond the largest number",
        EXPONENTIALS,
        lambda b: b.is_inf,
        lambda b: (
            f"{b.op} overflowed{at(b)}: the argument is {span(b.input(0))}, and {b.dtype} ends at"
            f" {number(limit(b.dtype))}."
        ),
        lambda b: (
            f"Clamp the exponent before {b.op}: "
            + ("x.clamp(max=10)" if b.dtype == "float16" else "log_var.clamp(-30, 20)")
            + ". For a softmax by hand use softmax or logsumexp, which subtract the largest logit; for a positive"
            " parameter softplus grows slower than exp."
        ),
    ),
    Entry(
        "arc function outside of [-1, 1]",
        ops("acos asin atanh arccos arcsin arctanh erfinv"),
        lambda b: b.is_nan and _outside(b, -1.0, 1.0),
        lambda b: f"{b.op} is defined on [-1, 1] only{where(b)}: the argument is {span(b.input(0))}.",
        lambda b: (
            f"Clamp strictly inside: {b.op}(x.clamp(-1 + 1e-6, 1 - 1e-6)) in float32; rounding alone takes a cosine"
            " beyond 1. For an angle between vectors atan2(norm of the cross product, dot product) needs no clamp."
        ),
    ),
    Entry(
        "infinite at ±1",
        ops("atanh arctanh erfinv"),
        lambda b: b.is_inf,
        lambda b: f"{b.op} is infinite at ±1{where(b)}: the argument is {span(b.input(0))}.",
        lambda b: (
            f"Clamp strictly inside: {b.op}(x.clamp(-1 + 1e-6, 1 - 1e-6)) in float32, where tanh(x) is exactly ±1 for x"
            " above 10. If it undoes a tanh, keep the value from before the tanh."
        ),
    ),
    Entry(
        "acosh below 1",
        ops("acosh arccosh"),
        lambda b: b.is_nan and below(b.input(0), 1.0),
        lambda b: f"acosh needs an argument of at least 1{where(b)}: it is {span(b.input(0))}.",
        "Clamp strictly inside: acosh(x.clamp(min=1 + 1e-6)) in float32; at 1 itself its slope is infinite.",
    ),
    Entry(
        "logit at 0 or 1",
        ops("logit"),
        lambda b: not b.of_inf,
        lambda b: f"logit(p) is infinite at 0 and 1 and NaN outside{where(b)}: the argument is {span(b.input(0))}.",
        "Pass eps=1e-6: logit(p, eps=1e-6). An eps of 1e-8 does nothing at 1 in float32, where 1 - 1e-8 is 1. If p came"
        " from a sigmoid, keep the logits.",
    ),
    Entry(
        "gamma function at a pole",
        ops("lgamma digamma polygamma mvlgamma"),
        lambda b: not b.of_inf and below(b.input(0), 1e-30),
        lambda b: f"{b.op} is infinite at 0 and at negative integers{where(b)}: the argument is {span(b.input(0))}.",
        "Keep the argument positive: softplus(x) + 1e-6 for the concentration of a Gamma, Beta or Dirichlet.",
    ),
    Entry(
        "periodic function of an infinity",
        ops("sin cos tan"),
        lambda b: b.of_inf,
        lambda b: f"{b.op} of an infinity is NaN{at(b)}.",
        "Look at where the infinity is written, and fill with a finite value there.",
    ),
    Entry(
        "activation of -inf",
        ops("gelu silu mish hardswish"),
        lambda b: b.of_inf and b.input(0).neginf > 0,
        lambda b: f"{b.op} multiplies its input by 0 at -inf{where(b)}, and 0 times -inf is NaN.",
        lambda b: f"Fill with -inf only right before a softmax; give {b.op} a finite value.",
    ),
)
