"""How a Trainer clips by itself: then gradwatch reports that rule and does not clip."""

from __future__ import annotations

from typing import Any

from gradwatch.records import ClipRule

# Their gradients are shards: a norm over one rank's part is not the model's. They clip, or refuse to, by themselves.
SHARDING_STRATEGIES = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy", "XLAFSDPStrategy")


def trainer_clip_rule(trainer: Any, module: Any) -> ClipRule | None:
    """Return the rule of the Trainer or of the user's module, or None where nobody but gradwatch would clip."""
    strategy = type(trainer.strategy).__name__
    if strategy in SHARDING_STRATEGIES and trainer.gradient_clip_val is None:
        return _none(f"gradients are sharded under {strategy}", "set Trainer(gradient_clip_val=...)")
    if not module.automatic_optimization:
        return None
    if clips_by_itself(module):
        name = f"{type(module).__name__}.configure_gradient_clipping"
        return _none(f"{name} clips", name)
    return None if trainer.gradient_clip_val is None else _argument_rule(trainer)


def _argument_rule(trainer: Any) -> ClipRule:
    value = trainer.gradient_clip_val
    algorithm = str(getattr(trainer.gradient_clip_algorithm, "value", trainer.gradient_clip_algorithm) or "norm")
    source = f"Trainer(gradient_clip_val={value}, gradient_clip_algorithm={algorithm!r})"
    if value <= 0:
        return _none("the Trainer's gradient_clip_val switches clipping off", f"Trainer(gradient_clip_val={value})")
    if algorithm != "norm":
        return _none(f"the Trainer clips each element to ±{value}", source)
    return ClipRule(max_norm=float(value), family=None, reason="the Trainer clips by norm", source=source)


def _none(reason: str, source: str) -> ClipRule:
    return ClipRule(max_norm=None, family=None, reason=reason, source=source)


def clips_by_itself(module: Any) -> bool:
    """Whether the user's class, or an assignment to the instance, replaces ``configure_gradient_clipping``."""
    if "configure_gradient_clipping" in vars(module):
        return True
    owner = next(base for base in type(module).__mro__ if "configure_gradient_clipping" in vars(base))
    return owner.__module__.split(".")[0] not in ("lightning", "pytorch_lightning")
