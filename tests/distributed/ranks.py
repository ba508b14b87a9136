"""What one rank does in the tests of ``test_ranks.py``: all scenarios, one after the other, in one process.

Starting a process takes longer than all the fits together. Run as ``python -m tests.distributed.ranks FOLDER`` with the
environment that Lightning expects of a launcher. Every scenario leaves ``<scenario>/rank<R>.json`` behind.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import pkgutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from gradwatch.capture import gradients
from gradwatch.engine import step_judge
from tests.integrations.fits import data, fit, monitor, seeded, weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

RANK = int(os.environ.get("LOCAL_RANK", "0"))
BAD_RANK, BAD_BATCH = 1, 2
COLLECTIVE_TIMEOUT = timedelta(seconds=20)  # a rank that waits alone gives up, and its scenario says so


def spoiled_loss(_module: Any, loss: Tensor, batch: int) -> Tensor:
    return loss * math.nan if (RANK, batch) == (BAD_RANK, BAD_BATCH) else loss


class SpoiledWeight(Callback):
    """A weight of one rank turns bad by itself, as memory may."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (RANK, batch_idx) == (BAD_RANK, BAD_BATCH):
            with torch.no_grad():
                pl_module.head.bias[0] = math.nan


def digest(module: nn.Module) -> str:
    """Weights and buffers, bitwise."""
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in weights(module).values())).hexdigest()


def train(folder: Path, *callbacks: Any, module: Any = None, **trainer: Any) -> dict[str, Any]:
    strategy = DDPStrategy(process_group_backend="gloo", timeout=COLLECTIVE_TIMEOUT)
    fitted = fit(
        folder,
        module or seeded(),
        *callbacks,
        expect=Exception,
        **{"strategy": strategy, "devices": 2, "max_epochs": 1, "train": data(10), **trainer},
    )
    parameters = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in fitted.module.parameters()))
    return {
        "error": None if fitted.error is None else type(fitted.error).__name__,
        "message": str(fitted.error),
        "parameters": parameters.hexdigest(),
        "digest": digest(fitted.module),
        "finite": all(bool(parameter.isfinite().all()) for parameter in fitted.module.parameters()),
        "steps": fitted.trainer.global_step,
    }


def faulty(mode: str, **trainer: Any) -> Callable[[Path], dict[str, Any]]:
    """A NaN loss on one rank only."""

    def run(folder: Path) -> dict[str, Any]:
        return train(folder, monitor(folder, on_nonfinite=mode), module=seeded(fault=spoiled_loss), **trainer)

    return run


def bad_batch(folder: Path) -> dict[str, Any]:
    """A NaN in the data of one rank: the sampler gives every second sample to rank 1."""
    loader = data(10)
    x = loader.dataset.tensors[0]  # type: ignore[attr-defined]
    x[2 * (8 * BAD_BATCH + 3) + BAD_RANK, 0] = math.nan
    return train(folder, monitor(folder, on_nonfinite="skip"), train=loader)


def bad_weight(folder: Path) -> dict[str, Any]:
    return train(folder, SpoiledWeight(), monitor(folder))


def broken_monitor(folder: Path) -> dict[str, Any]:
    """The monitor of one rank fails at one step, where the other rank waits for its word."""
    calls = 0
    real = gradients.read_gradients

    def read(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if (RANK, calls) == (BAD_RANK, BAD_BATCH):
            message = "broken on purpose"
            raise ZeroDivisionError(message)
        return real(*args)

    with mock.patch.object(step_judge, "read_gradients", read):
        return train(folder, monitor(folder))


def broken_log_step(place: str, at: int) -> Callable[[Path], dict[str, Any]]:
    """The monitor of one rank fails on a log step, between deciding and comparing or after it."""

    def run(folder: Path) -> dict[str, Any]:
        owner, _, name = f"gradwatch.engine.{place}".rpartition(".")
        holder = pkgutil.resolve_name(owner)
        real, calls = getattr(holder, name), 0

        def fail(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if (RANK, calls) == (BAD_RANK, at):
                message = f"broken on purpose: {folder.name}"
                raise ZeroDivisionError(message)
            return real(*args, **kwargs)

        with mock.patch.object(holder, name, fail):
            return train(folder, monitor(folder, clip=0.01), log_every_n_steps=2)

    return run


SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "plain": train,
    "healthy": lambda folder: train(folder, monitor(folder)),
    "clipped": lambda folder: train(folder, monitor(folder, clip=0.01)),
    "broken-monitor": broken_monitor,
    "broken-comparison": broken_log_step("health_rules.host_norms", 1),
    "broken-record": broken_log_step("recorder.begin_record", 1),
    "broken-reading": broken_log_step("health_rules:HealthRules.read_step", 1),
    "skip": faulty("skip"),
    "stop": faulty("stop"),
    "warn": faulty("warn"),
    "skip-accumulated": faulty("skip", accumulate_grad_batches=5),
    "bad-batch": bad_batch,
    "raise": faulty("raise"),
    "bad-weight": bad_weight,
}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name, run in SCENARIOS.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        result = run(place)
        (place / f"rank{RANK}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
