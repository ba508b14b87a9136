"""What a detector is: two pure functions, ``init() -> state`` and ``update(state, record, limits) -> state, reading``.

A reading says how strongly a sign shows, in units of its threshold; ``episodes`` makes findings of that which open,
update and close. A state is a NamedTuple of numbers, strings, lists and numpy arrays. Where an array has an entry a
layer, layers are its last axis, and its field is named in ``by_layer``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gradwatch.observations import Observation

if TYPE_CHECKING:
    from gradwatch.detectors.catalogue.rule import Rule
    from gradwatch.records import Severity

Limits = Mapping[str, float]


class Sign(NamedTuple):
    """What is to be said of one subject: the numbers, and what differs from the catalogue.

    ``layer`` names one where the subject is the run as a whole; it stays that of the opening.
    """

    evidence: dict[str, Any]
    layer: str | None = None
    severity: Severity | None = None
    message: str | None = None
    advice: str | None = None


class Reading(NamedTuple):
    """How strongly a sign shows in each subject: 1 is the threshold, NaN is not known. A float has one subject.

    ``subjects`` are layer names, or None for the run as a whole; ``explain(i)`` is asked only of what is told.
    """

    strength: np.ndarray | float
    subjects: Sequence[str | None]
    explain: Callable[[int], Sign]


Update = Callable[[Any, Any, Limits], tuple[Any, Reading | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A rule and what finds it. ``limits`` are the rule's thresholds, as the user may have changed them.

    ``needs`` names a field of the record; while that is None there is nothing to look at, and nothing is asked.
    """

    rule: Rule
    init: Callable[[], Any]
    update: Update
    limits: Limits
    reads: type | tuple[type, ...] = Observation
    by_layer: tuple[str, ...] = ()
    needs: str | None = None


class NoState(NamedTuple):
    """The state of a detector that needs none: persistence is the business of ``episodes``."""


def detector(
    rule: Rule,
    read: Callable[[Any, Limits], Reading | None],
    *,
    reads: type | tuple[type, ...] = Observation,
    needs: str | None = None,
) -> Detector:
    """Return a detector that looks at each record by itself."""

    def update(state: NoState, record: Any, limits: Limits) -> tuple[NoState, Reading | None]:
        return state, read(record, limits)

    return Detector(rule=rule, init=NoState, update=update, limits=rule.limits, reads=reads, needs=needs)


def remembering(
    rule: Rule,
    init: Callable[[], Any],
    update: Update,
    *,
    by_layer: Sequence[str] = (),
    reads: type | tuple[type, ...] = Observation,
    needs: str | None = None,
) -> Detector:
    """Return a detector with a memory."""
    layers = tuple(by_layer)
    return Detector(rule=rule, init=init, update=update, limits=rule.limits, by_layer=layers, reads=reads, needs=needs)


def whole_run(strength: float, explain: Callable[[], Sign]) -> Reading:
    """Return a reading with one subject, the run."""
    return Reading(strength, (None,), lambda _: explain())


def ratio(values: np.ndarray, limit: float) -> np.ndarray:
    """Return values / limit, NaN staying NaN."""
    return values / limit if limit else np.where(values > 0, np.inf, values)
