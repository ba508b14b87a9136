"""Which clip rule is in force: the loop's own, the user's number, or the architecture's default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.clipping import choose_clip_rule
from gradwatch.records import ClipRule

if TYPE_CHECKING:
    from torch import nn

    from gradwatch.engine.context import RunContext


def resolve_clip_rule(clip: float | str | None, module: nn.Module, context: RunContext) -> ClipRule:
    """Return the rule: what the loop does by itself always wins."""
    if context.clip_rule is not None:
        return context.clip_rule
    if clip is None:
        return ClipRule(max_norm=None, family=None, reason="clip=None: never clip", source="argument clip")
    if clip == "auto":
        if context.manual_optimization:
            reason = "manual optimization: gradwatch clips there only if clip is a number"
            return ClipRule(max_norm=None, family=None, reason=reason, source="gradwatch")
        return choose_clip_rule(module)
    return ClipRule(max_norm=float(clip), family=None, reason=f"clip={clip}", source="argument clip")
