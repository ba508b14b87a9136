"""Student's t distribution, from the standard library alone: the report must run without SciPy."""

from __future__ import annotations

import math
from functools import lru_cache

_TINY = 1e-300
_MOST_TERMS = 500


def two_sided_tail(t: float, df: int) -> float:
    r"""Return P(|T| > t) for Student's t with ``df`` degrees of freedom.

    .. math:: P(|T| > t) = I_x(\nu / 2, 1 / 2), \quad x = \nu / (\nu + t^2)

    with I the regularised incomplete beta function. The result is exact to about 12 digits however small it is, which
    1 - CDF would not be.

    Reference: NIST Digital Library of Mathematical Functions, 8.17.22 (the continued fraction); Abramowitz and Stegun
    (1964), 26.5.27 (t by the beta function).
    """
    if math.isinf(t):
        return 0.0
    x, a, b = df / (df + t * t), 0.5 * df, 0.5
    if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges slowly there, and its mirror image fast
        return 1.0 - _incomplete_beta(b, a, t * t / (df + t * t))
    return _incomplete_beta(a, b, x)


@lru_cache(maxsize=256)
def limit(level: float, df: int) -> float:
    """Return the t that |T| exceeds with probability ``level``, by bisection; infinite without a degree of freedom."""
    if df < 1:
        return math.inf
    low, high = 0.0, 1.0
    while two_sided_tail(high, df) > level:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if two_sided_tail(middle, df) > level else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float) -> float:
    if x <= 0.0:
        return 0.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * _continued_fraction(a, b, x))


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Evaluate 1 + d1 / (1 + d2 / (1 + ...)) by Lentz's method, which needs no number of terms in advance."""
    value, c, d = 1.0, 1.0, 0.0
    for term in range(1, _MOST_TERMS):
        coefficient = _coefficient(a, b, x, term)
        d = 1.0 / _not_zero(1.0 + coefficient * d)
        c = _not_zero(1.0 + coefficient / c)
        value *= c * d
        if abs(c * d - 1.0) < 1e-15:  # noqa: PLR2004 - the precision of a float
            break
    return value


def _coefficient(a: float, b: float, x: float, term: int) -> float:
    half, odd = divmod(term, 2)
    if odd:
        return -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
    return half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
