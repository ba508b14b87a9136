"""Activations that pass no gradient on, and a signal that dies or explodes on its way through the layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradwatch.detectors.catalogue import activations as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, detector
from gradwatch.observations import FirstForward

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradwatch.observations import LayerInput, Observation


SMALLEST = 1e-9


def _dead_relu(seen: Observation, limits: Limits) -> Reading | None:
    # As initialised, units of deep layers are off with even odds whatever the input is: few may be mostly off.
    few = (limits["deviations"] * 0.5 / max(limits["share"] - 0.5, SMALLEST)) ** 2

    def limit(entry: LayerInput) -> float:
        if entry.units >= few or not entry.units:
            return limits["share"]
        return min(1.0, 0.5 + limits["deviations"] * 0.5 / math.sqrt(entry.units))

    return _largest_share(seen, "dead", ("relu",), limits["share"], limit)


def _saturated(seen: Observation, limits: Limits) -> Reading | None:
    return _largest_share(seen, "saturated", ("tanh", "sigmoid"), limits["share"], lambda _: limits["share"])


def _largest_share(
    seen: Observation, field: str, activations: tuple[str, ...], plain: float, limit: Callable[[LayerInput], float]
) -> Reading | None:
    """Return for each layer before an activation the largest share seen: its output may enter several layers.

    ``plain`` is the smallest limit that any layer has.
    """
    if seen.forward is None:
        return None
    # Between two networks an activation is an output, as a generator's tanh is; such values may lie at its ends.
    own = set(seen.layers.names)
    found: dict[str, tuple[float, LayerInput]] = {}
    for entry in seen.forward.inputs:
        if entry.activation not in activations or entry.source not in own or entry.layer not in own:
            continue
        share = getattr(entry, field)
        if share > found.get(entry.source, (-1.0,))[0]:  # NaN is not
            found[entry.source] = share, entry
    if not found:
        return None
    entries = list(found.values())
    # Whatever the limit of a layer is, a share below the plain one is under it.
    strengths = [share / (limit(entry) if share >= plain else plain) for share, entry in entries]

    def explain(i: int) -> Sign:
        share, entry = entries[i]
        return Sign({"share": share, "activation": entry.activation, "enters": entry.layer})

    return Reading(np.array(strengths), tuple(found), explain)


def _scale(seen: FirstForward, limits: Limits) -> Reading | None:
    # A layer that begins at zero says nothing, and data has the scale that it comes with.
    inputs = [entry for entry in seen.forward.inputs[1:] if not entry.is_data and 0 < entry.std < math.inf]
    if len(inputs) < rules.MIN_INPUTS:
        return None
    second, deepest = inputs[0], inputs[-1]
    factor = deepest.std / second.std
    strength = max(factor, 1 / factor if factor else math.inf) / limits["factor"]

    def explain(_: int) -> Sign:
        evidence = {"std": deepest.std, "first": second.std, "factor": factor, "second": second.layer}
        return Sign(evidence, layer=deepest.layer)

    return Reading(strength, (None,), explain)


DETECTORS = (
    detector(rules.DEAD_RELU, _dead_relu, needs="forward"),
    detector(rules.SATURATED, _saturated, needs="forward"),
    detector(rules.SCALE, _scale, reads=FirstForward),
)
