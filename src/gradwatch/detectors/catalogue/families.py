"""All rules, by family, in the order in which they are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.detectors.catalogue import gradients

if TYPE_CHECKING:
    from gradwatch.detectors.catalogue.rule import Rule

FAMILIES: dict[str, tuple[Rule, ...]] = {
    "gradients": gradients.RULES,
}
RULES: dict[str, Rule] = {rule.code: rule for rules in FAMILIES.values() for rule in rules}
