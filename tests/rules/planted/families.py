"""The families of planted faults, and all of their cases."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.rules.planted.case import Case

FAMILIES = (
    "gradients",
    "updates",
    "clipping",
    "learning_rate",
    "loss",
    "mixed_precision",
    "activations",
    "data",
    "normalisation",
    "probes",
    "distributed",
)
CASES: tuple[Case, ...] = tuple(
    case for name in FAMILIES for case in import_module(f"tests.rules.planted.{name}").CASES
)
