"""``run_start`` and ``run_end``: the setting of a run, and how it ended; and what every event begins with."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import torch

from gradwatch.capture import environment, repository
from gradwatch.capture.parameters import orphans, parameter_table
from gradwatch.capture.rollback import evaluates_again
from gradwatch.diagnosis.explanations import names
from gradwatch.records import RunEnd, RunStart

if TYPE_CHECKING:
    from gradwatch.engine.context import RunContext
    from gradwatch.engine.counters import Counters
    from gradwatch.engine.recording import Position
    from gradwatch.engine.settings import Settings
    from gradwatch.engine.watched import Watched
    from gradwatch.records import ClipRule, RunStatus


def event_header(position: Position, *, rank: int) -> dict[str, Any]:
    """Return what every event at a position has."""
    step, epoch, batch_idx, _ = position
    return {"time": time.time(), "step": step, "epoch": epoch, "batch_idx": batch_idx, "rank": rank}


def run_start(
    header: dict[str, Any],
    watched: Watched,
    context: RunContext,
    settings: Settings,
    *,
    run_id: str,
    resumed_from: str | None,
    steps_before: int,
    clip: ClipRule,
) -> RunStart:
    """Return the setting of a run as it is now."""
    device = next((parameter.device for parameter in watched.module.parameters()), torch.device("cpu"))
    return RunStart(
        **header,
        run_id=run_id,
        resumed_from=resumed_from,
        steps_before=steps_before,
        model=type(watched.module).__name__,
        versions=environment.versions(),
        hardware={**environment.hardware(device), "pid": os.getpid()},
        precision={**context.precision, "float32_matmul_precision": torch.get_float32_matmul_precision()},
        strategy=context.strategy,
        world_size=context.world_size,
        optimizers=[environment.describe_optimizer(group.optimizer) for group in watched.groups],
        schedulers=list(context.schedulers),
        script=environment.script(),
        git=repository.state() if context.rank == 0 and context.write else None,
        seeds=environment.seeds(),
        determinism=environment.determinism(),
        clip=clip,
        settings=settings.as_dict(),
        parameters=parameter_table(watched.module, watched.groups, settings.granularity),
    )


def start_warnings(watched: Watched, settings: Settings, event: RunStart) -> list[str]:
    """Return what will not go as the user may expect, to be said once at the start."""
    said = []
    stubborn = [type(group.optimizer).__name__ for group in watched.groups if evaluates_again(group.optimizer)]
    if stubborn and settings.on_nonfinite in ("skip", "stop"):
        said.append(
            f"{stubborn[0]} evaluates its loss several times a step and cannot drop one of them:"
            f" on_nonfinite={settings.on_nonfinite!r} acts as 'raise' for it."
        )
    left_out = orphans(event.parameters)
    if left_out:
        said.append(f"These trainable parameters belong to no optimizer: {names(left_out)}.")
    bad = watched.scanner.baseline()
    return said + [f"The {birth.kind} {birth.name} is non-finite before the first step." for birth in bad]


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
