"""The families of healthy trainings, and all of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.rules.healthy.case import Case

FAMILIES = (
    "vision",
    "optimization",
    "sequence",
    "generative",
    "regression",
    "transfer",
    "unsupervised",
    "structured",
    "unusual",
)
CASES: tuple[Case, ...] = tuple(
    case for name in FAMILIES for case in import_module(f"tests.rules.healthy.{name}").CASES
)
