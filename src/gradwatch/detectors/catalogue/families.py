"""All rules, by family, in the order in which they are printed."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from gradwatch.detectors.catalogue import (
    activations,
    clipping,
    data,
    distributed,
    gradients,
    learning_rate,
    loss,
    mixed_precision,
    normalisation,
    probes,
    updates,
)

if TYPE_CHECKING:
    from gradwatch.detectors.catalogue.rule import Rule

FAMILIES: dict[str, tuple[Rule, ...]] = {
    "gradients": gradients.RULES,
    "updates": updates.RULES,
    "clipping": clipping.RULES,
    "learning rate": learning_rate.RULES,
    "loss": loss.RULES,
    "mixed precision": mixed_precision.RULES,
    "activations": activations.RULES,
    "data": data.RULES,
    "normalisation": normalisation.RULES,
    "distributed": distributed.RULES,
    "probes": probes.RULES,
}
RULES: dict[str, Rule] = {rule.code: rule for rules in FAMILIES.values() for rule in rules}


def closest(code: str) -> str | None:
    """Return the rule that a misspelt code may have meant."""
    return next(iter(difflib.get_close_matches(code, RULES, n=1)), None)
