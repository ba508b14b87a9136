"""``run_start`` and ``run_end``: the setting of a run, and how it ended."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from gradwatch.capture import environment
from gradwatch.capture.parameters import parameter_table
from gradwatch.records import RunEnd, RunStart

if TYPE_CHECKING:
    from gradwatch.engine.context import RunContext
    from gradwatch.engine.counters import Counters
    from gradwatch.engine.settings import Settings
    from gradwatch.engine.watched import Watched
    from gradwatch.records import ClipRule, RunStatus


def run_start(
    header: dict[str, Any],
    watched: Watched,
    context: RunContext,
    settings: Settings,
    *,
    run_id: str,
    resumed_from: str | None,
    clip: ClipRule,
) -> RunStart:
    """Return the setting of a run as it is now."""
    device = next((parameter.device for parameter in watched.module.parameters()), torch.device("cpu"))
    return RunStart(
        **header,
        run_id=run_id,
        resumed_from=resumed_from,
        versions=environment.versions(),
        hardware={**environment.hardware(device), "pid": os.getpid()},
        precision={**context.precision, "float32_matmul_precision": torch.get_float32_matmul_precision()},
        strategy=context.strategy,
        world_size=context.world_size,
        optimizers=[environment.describe_optimizer(group.optimizer) for group in watched.groups],
        seeds=environment.seeds(),
        determinism=environment.determinism(),
        clip=clip,
        settings=settings.as_dict(),
        parameters=parameter_table(watched.module, watched.groups, settings.granularity),
    )


def run_end(
    header: dict[str, Any],
    run_id: str,
    status: RunStatus,
    reason: str | None,
    counters: Counters,
) -> RunEnd:
    """Return how a run ended."""
    return RunEnd(
        **header,
        run_id=run_id,
        status=status,
        reason=reason,
        steps=counters.steps,
        skipped_steps=counters.skipped,
        incidents=counters.incidents,
    )
