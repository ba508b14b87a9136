"""The graph lint: unsafe compositions of operations that are not NaN yet, with the user's line and the stable form."""

from __future__ import annotations

from gradwatch.probes.lint.catalogue import RULES
from gradwatch.probes.lint.run import Unsafe, lint

__all__ = ["RULES", "Unsafe", "lint"]
