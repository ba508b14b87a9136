"""The families of the zoo, and all of their cases."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.zoo.case import Case

FAMILIES = (
    "logarithms",
    "square_roots",
    "powers_and_angles",
    "attention",
    "statistics",
    "losses",
    "linear_algebra",
    "precision",
    "optimizers",
    "state",
    "dynamics",
    "custom_functions",
    "domains",
    "combined",
    "healthy_losses",
    "healthy_masks",
    "healthy_training",
)
CASES: tuple[Case, ...] = tuple(case for name in FAMILIES for case in import_module(f"tests.zoo.{name}").CASES)
