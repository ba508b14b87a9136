"""One directional derivative: what autograd says, against centred differences at smaller and smaller steps."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.records import CheckVerdict

EPS = sys.float_info.epsilon

# From 1e-6 downwards, since kinks are met less often the closer one stays: P. E. Gill, W. Murray, M. H. Wright,
# Practical Optimization (1981), section 8.6, puts the optimum of a smooth function at cbrt(eps) = 6e-6.
FIRST_STEP = 1e-6
RUNGS = 3
# A loss that hardly depends on the direction needs larger steps before its difference stands out from round-off.
LARGEST_STEP = 1e-3
# Round-off of a loss in float64: 0.5 to 2.2 eps |L| measured over healthy networks.
ROUND_OFF = 4.0
# A difference counts as known where its round-off is this much smaller than what is to be seen.
MARGIN = 10.0
UNRESOLVABLE = 0.1
# Of three numerical slopes that all differ from autograd's: as close to one another as this share of the difference.
CONSISTENT = 1 / 3


class Rung(NamedTuple):
    """The loss a step of ``h`` along the direction, and a step against it."""

    h: float
    plus: float
    minus: float


class Slope(NamedTuple):
    """The derivative of one objective along one direction.

    ``autograd`` is <gradient, direction>, ``scale`` the typical size of it: sqrt(Σ (‖g_t‖ rms(d_t))²) over the tensors
    t. ``value`` is the objective where the direction starts. All rungs so far, the largest step first.
    """

    autograd: float
    scale: float
    value: float
    tolerance: float
    rungs: tuple[Rung, ...] = ()

    @property
    def next_step(self) -> float | None:
        """The step to try next; None once a rung has passed, or there are enough."""
        if not self.rungs:
            return self._first_step()
        if self.passed or len(self.rungs) >= RUNGS:
            return None
        return self.rungs[-1].h / 10

    def with_rung(self, rung: Rung) -> Slope:
        """Return the slope with one more rung."""
        return self._replace(rungs=(*self.rungs, rung))

    @property
    def is_flat(self) -> bool:
        """Whether the objective does not move at all, although autograd says that it does."""
        return self.autograd != 0 and all(rung.plus == rung.minus for rung in self.rungs)

    @property
    def passed(self) -> bool:
        """Whether the last rung agrees with autograd."""
        return bool(self.rungs) and self.error_of(self.rungs[-1]) <= self._allowed(self.rungs[-1])

    @property
    def numeric(self) -> float:
        """The centred difference of the rung that agrees best."""
        return _centred(min(self.rungs, key=self.error_of))

    @property
    def error(self) -> float:
        """The relative error of the rung that agrees best."""
        return min(map(self.error_of, self.rungs))

    @property
    def ladder(self) -> dict[str, float]:
        """Relative error by step."""
        return {f"{rung.h:.0e}": self.error_of(rung) for rung in self.rungs}

    def error_of(self, rung: Rung) -> float:
        """Return |a-n| / max(scale, |n|): near-zero derivatives do not count as large errors."""
        numeric = _centred(rung)
        largest = max(self.scale, abs(numeric))
        difference = abs(self.autograd - numeric)
        if math.isnan(difference) or (difference and not largest):  # the square of 1e-200 is zero, and so is its scale
            return math.inf
        return difference / largest if difference else 0.0

    @property
    def verdict(self) -> CheckVerdict:
        """What the rungs together say.

        ``mismatch``: they agree with one another and not with autograd, and the slopes to the two sides come together.
        """
        if not all(map(math.isfinite, (self.value, self.autograd, self.scale, *self._losses()))):
            return "not_checkable"
        if self._is_nothing():
            return "not_resolvable"
        if min(map(self._relative_round_off, self.rungs)) > UNRESOLVABLE:
            return "not_resolvable"
        if self.passed:
            return "pass"
        if self._is_consistent() and self._sides_meet():
            return "mismatch"
        return "not_resolvable" if self._is_noise() else "kink"

    def _first_step(self) -> float:
        """The step whose round-off is a tenth of the tolerance, but no smaller than the one that suits most losses."""
        if not self.scale:  # no gradient: is there a slope, however small?
            return LARGEST_STEP
        smallest = self.tolerance * self.scale * FIRST_STEP
        times = MARGIN * _round_off(self.value) / smallest if smallest else 0.0
        if not math.isfinite(times):  # there is nothing to measure; the verdict will say so
            return FIRST_STEP
        return FIRST_STEP * 10.0 ** min(math.ceil(math.log10(max(times, 1.0))), _LARGEST_POWER)

    def _allowed(self, rung: Rung) -> float:
        return max(self.tolerance, self._relative_round_off(rung))

    def _relative_round_off(self, rung: Rung) -> float:
        largest = max(self.scale, abs(_centred(rung)))
        return MARGIN * _round_off(self.value) / rung.h / largest if largest else 0.0

    def _is_nothing(self) -> bool:
        """Autograd says that the loss does not depend on the direction, and the loss does not move."""
        noise = MARGIN * _round_off(self.value)
        return self.scale == 0 and all(abs(rung.plus - rung.minus) <= 2 * noise for rung in self.rungs)

    def _losses(self) -> list[float]:
        return [loss for rung in self.rungs for loss in (rung.plus, rung.minus)]

    def _is_consistent(self) -> bool:
        slopes = [_centred(rung) for rung in self.rungs if self._relative_round_off(rung) <= UNRESOLVABLE]
        difference = abs(self.autograd - slopes[-1])
        return len(slopes) > 1 and max(slopes) - min(slopes) <= CONSISTENT * difference

    def _sides_meet(self) -> bool:
        """Whether the one-sided slopes approach each other as the step shrinks, as they do where there is no kink."""
        first, last = self.rungs[0], self.rungs[-1]
        noise = 2 * MARGIN * _round_off(self.value) / last.h
        gap = self._gap(last)
        return gap <= max(self._gap(first) / 3, noise) or gap <= CONSISTENT / 10 * abs(self.autograd - _centred(last))

    def _gap(self, rung: Rung) -> float:
        return abs(rung.plus - 2 * self.value + rung.minus) / rung.h

    def _is_noise(self) -> bool:
        """Whether the error grows as the step shrinks, as that of a loss with more round-off than float64 has.

        That of round-off grows as 1/h, give or take its luck, and that of a kink stays: halfway between is the limit.
        """
        first, last = self.rungs[0], self.rungs[-1]
        return self.error_of(last) > self.error_of(first) * math.sqrt(first.h / last.h) > 0


_LARGEST_POWER = round(math.log10(LARGEST_STEP / FIRST_STEP))


def worst(verdicts: Sequence[CheckVerdict]) -> CheckVerdict:
    """Return the verdict that says most against the gradients."""
    order: tuple[CheckVerdict, ...] = ("mismatch", "kink", "explained", "not_checkable", "not_resolvable", "pass")
    return min(verdicts, key=order.index, default="pass")


def _centred(rung: Rung) -> float:
    return (rung.plus - rung.minus) / (2 * rung.h)


def _round_off(loss: float) -> float:
    return ROUND_OFF * EPS * abs(loss)
