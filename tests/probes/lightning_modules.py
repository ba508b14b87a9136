"""All LightningModules on which the gradient check is tried, by family."""

from __future__ import annotations

from tests.probes import (
    modules_generative,
    modules_losses,
    modules_sequence,
    modules_state,
    modules_stops,
    modules_surrogates,
    modules_training,
    modules_vision,
)
from tests.probes.probed import Probed, Verdict

__all__ = ["PROBED", "Probed", "Verdict"]

FAMILIES = (
    modules_vision,
    modules_sequence,
    modules_generative,
    modules_stops,
    modules_surrogates,
    modules_losses,
    modules_state,
    modules_training,
)
PROBED: tuple[Probed, ...] = tuple(case for family in FAMILIES for case in family.CASES)
