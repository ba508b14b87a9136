"""The setting of a run in a few words each: model, precision, strategy, optimizers, clip rule, times."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gradwatch.report.text import clean, count, duration, moment, number, size

if TYPE_CHECKING:
    from gradwatch.records import ClipRule, RunStart
    from gradwatch.report.run import Run

OPTIMIZERS_SHOWN = 2
# Shapes are data too: a product of any size must not overflow a float.
_LARGEST_MODEL = 10**15
# As many characters of an id or a commit tell it from its neighbours.
_ID = 8


def setting(start: RunStart) -> list[str]:
    """Return model, precision, strategy and optimizers."""
    facts = [_model(start)] if start.parameters else []
    precision = start.precision.get("precision")
    if isinstance(precision, (str, int)):
        facts.append(clean(precision))
    facts.append(clean(start.strategy) + (f" on {count(start.world_size, 'rank')}" if start.world_size > 1 else ""))
    facts += [_optimizer(one) for one in start.optimizers[:OPTIMIZERS_SHOWN]]
    more = len(start.optimizers) - OPTIMIZERS_SHOWN
    return facts + [f"{count(more, 'more optimizer')}"] * (more > 0)


def clip_rule(clip: ClipRule) -> str:
    """Return the limit and why it is so."""
    limit = "not clipped" if clip.max_norm is None else f"clipped to norm {number(clip.max_norm)}"
    family = f"{clean(clip.family)}: " if clip.family else ""
    return f"{limit} ({family}{clean(clip.reason)})"


def course_of_time(run: Run) -> list[str]:
    """Return how many steps in how long, and when it began."""
    began = run.start.time if run.start is not None else math.nan
    ended = run.end.time if run.end is not None else run.last_time
    took = f" in {duration(ended - began)}" if math.isfinite(ended - began) else ""
    total, own = steps_taken(run), own_steps(run)
    facts = [("no step was written" if own is None else count(own, "step")) + took]
    if total != own:
        facts.append(f"{total:,} with those before")
    if moment(began):
        facts.append(f"started {moment(began)}")
    if run.start is not None and run.start.resumed_from:
        facts.append(f"resumes {clean(run.start.resumed_from)[:_ID]}")
    return facts + (_commit(run.start.git) if run.start is not None and run.start.git else [])


def steps_taken(run: Run) -> int | None:
    """Return the optimizer steps until the end of a run, of those that it resumes too; None if none was written."""
    if run.end is None:
        return run.last_step + 1 if run.has_stepped else None
    counted = run.start.steps_before if run.start is not None and not run.start.resumed_from else None
    return max(0, run.end.steps - (counted or 0))


def own_steps(run: Run) -> int | None:
    """Return the optimizer steps of a run alone: one that resumes another counts on from where it began."""
    total, start = steps_taken(run), run.start
    if total is None or start is None:
        return total
    if run.end is not None:
        before = (start.step if start.steps_before is None else start.steps_before) if start.resumed_from else 0
    else:  # the last step is the loop's own number, which goes on wherever a checkpoint has been restored
        before = start.step if start.resumed_from or start.steps_before is not None else 0
    return max(0, total - max(0, before))


def _commit(git: dict[str, Any]) -> list[str]:
    commit = git.get("commit")
    if not isinstance(commit, str) or not commit:
        return []
    return [f"commit {clean(commit)[:_ID]}" + (" with changes" if git.get("dirty") is True else "")]


def _model(start: RunStart) -> str:
    elements = min(sum(math.prod(row.shape) for row in start.parameters), _LARGEST_MODEL)
    layers = len({row.layer for row in start.parameters})
    named = f"{clean(start.model)}: " if start.model else ""
    return f"{named}{size(elements)} parameters in {count(layers, 'layer')}"


def _optimizer(described: dict[str, Any]) -> str:
    name = clean(described.get("class", "optimizer"))
    groups = described.get("groups")
    first = groups[0] if isinstance(groups, list) and groups else {}
    rate = first.get("lr") if isinstance(first, dict) else None
    return f"{name}, lr {number(rate)}" if isinstance(rate, float) else name
