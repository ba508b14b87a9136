"""From a Trainer to what the engine needs to know of a run."""

from __future__ import annotations

import dataclasses
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gradwatch.engine.context import RunContext
from gradwatch.integrations.lightning_step import LightningStep
from gradwatch.integrations.loop_clipping import clips_by_itself, trainer_clip_rule
from gradwatch.integrations.run_facts import schedulers_of

if TYPE_CHECKING:
    from collections.abc import Callable


def dirpath_of(trainer: Any, chosen: str | os.PathLike[str] | None) -> str:
    """Return where the files of a run go: ``chosen``, or ``gradwatch`` beside the logs; every rank has to ask."""
    log_dir = trainer.log_dir
    return os.fspath(chosen) if chosen is not None else str(Path(log_dir or trainer.default_root_dir) / "gradwatch")


def context_of(trainer: Any, module: Any, dirpath: str) -> RunContext:
    """Return what the engine is to know of a run; talks to the other ranks, so every rank asks."""
    strategy = trainer.strategy
    context = RunContext(
        dirpath=dirpath,
        log_every_n_steps=trainer.log_every_n_steps,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        strategy=type(strategy).__name__,
        precision={"precision": str(trainer.precision), "plugin": type(trainer.precision_plugin).__name__},
        scaler=_enabled_scaler(trainer.precision_plugin),
        loggers=tuple(trainer.loggers) if trainer.is_global_zero and not trainer.fast_dev_run else (),
        clip_rule=trainer_clip_rule(trainer, module),
        clips_by_user_code=module.automatic_optimization and clips_by_itself(module),
        manual_optimization=not module.automatic_optimization,
        schedulers=schedulers_of(trainer),
        step=trainer.global_step,
        epoch=trainer.current_epoch,
        write=not trainer.fast_dev_run,
        run_id=strategy.broadcast(uuid.uuid4().hex),
        runner=LightningStep(trainer),
    )
    if trainer.world_size == 1:
        return context
    gather = _gather(strategy) if "DDP" in type(strategy).__name__ else None
    return dataclasses.replace(context, agree=_agree(strategy), ranks_where=_ranks_where(strategy), gather=gather)


def _enabled_scaler(plugin: Any) -> Any:
    scaler = getattr(plugin, "scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def _agree(strategy: Any) -> Callable[[int], int]:
    def agree(value: int) -> int:
        return int(strategy.reduce(torch.tensor(value, device=strategy.root_device), reduce_op="max"))

    return agree


def _ranks_where(strategy: Any) -> Callable[[bool], list[int]]:
    def ranks_where(flag: bool) -> list[int]:  # noqa: FBT001 - one flag, the whole message
        flags = strategy.all_gather(torch.tensor(int(flag), device=strategy.root_device))
        return [int(rank) for rank in torch.nonzero(flags.flatten()).flatten()]

    return ranks_where


def _gather(strategy: Any) -> Callable[[list[float]], list[list[float]]]:
    def gather(values: list[float]) -> list[list[float]]:
        wide = torch.float32 if strategy.root_device.type == "mps" else torch.float64
        rows: list[list[float]] = strategy.all_gather(
            torch.tensor(values, dtype=wide, device=strategy.root_device)
        ).tolist()
        return rows

    return gather
