"""Which limit on the gradient norm suits a model: architecture families, how they are recognised, what they ship."""

from __future__ import annotations

from gradwatch.clipping.choose import choose_clip_rule
from gradwatch.clipping.families import Family, families, families_markdown

__all__ = ["Family", "choose_clip_rule", "families", "families_markdown"]
