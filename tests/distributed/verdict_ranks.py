"""What one rank does in the tests of ``test_verdicts.py``: run after run, in one process.

Run as ``python -m tests.distributed.verdict_ranks FOLDER NAME...``. Every run leaves ``<name>/rank<R>.json`` behind; a
run that hangs ends the process, with the stacks of all threads in its output.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import logging
import os
import sys
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy

from gradwatch.engine import replay
from gradwatch.replica import copying
from tests.distributed.faulty_runs import Network, Run, loader, random_run
from tests.distributed.ranks import digest
from tests.distributed.scenarios import SCENARIOS
from tests.distributed.sync_batch_norm import on_cpu
from tests.integrations.fits import fit, monitor

RANK = int(os.environ.get("LOCAL_RANK", "0"))
COLLECTIVE_TIMEOUT = timedelta(seconds=15)
HANG = 25.0  # seconds for one run, which takes less than one


def train(run: Run, folder: Path) -> dict[str, Any]:
    torch.manual_seed(run.seed)
    module = Network(run)
    if RANK in run.faults:
        module.kind = run.faults[RANK].kind
    strategy = DDPStrategy(process_group_backend="gloo", timeout=COLLECTIVE_TIMEOUT, find_unused_parameters=run.unused)
    options: dict[str, Any] = {} if run.manual else {"accumulate_grad_batches": run.accumulate}
    scaler = None
    if run.scaler:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        options["plugins"] = [MixedPrecision("16-mixed", device="cpu", scaler=scaler)]
    began = time.monotonic()
    fitted = fit(
        folder,
        module,
        monitor(folder, on_nonfinite=run.mode, clip=run.clip),
        expect=Exception,
        train=loader(run, RANK),
        strategy=strategy,
        devices=2,
        max_epochs=1,
        use_distributed_sampler=False,
        **options,
    )
    return {
        "error": None if fitted.error is None else type(fitted.error).__name__,
        "message": str(fitted.error),
        "weights": {name: parameter.tolist() for name, parameter in module.named_parameters()},
        "finite": all(bool(parameter.isfinite().all()) for parameter in module.parameters()),
        "scale": None if scaler is None else scaler.get_scale(),
        "state": digest(module),
        "random_state": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "seconds": time.monotonic() - began,
    }


def hindered(run: Run) -> ExitStack:
    """Let the replay of rank 1 fail: at its beginning, the second time, or in the middle of a step."""
    undo, real, calls = ExitStack(), copying.side_copy, 0

    def copy(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if run.hindrance == "copy" or (run.hindrance == "second copy" and calls > 1):
            raise MemoryError("no memory on purpose")
        made = real(*args, **kwargs)
        if run.hindrance == "step" and calls > 1:
            made.module.get_submodule("norm").register_forward_hook(fail)
        return made

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("failed on purpose")

    if run.hindrance and RANK == 1:
        undo.enter_context(mock.patch.object(replay, "side_copy", copy))
    return undo


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name in names:
        run = SCENARIOS[name] if name in SCENARIOS else random_run(int(name.removeprefix("seed-")))
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        print(f"--- {run}", flush=True)  # noqa: T201 - read where a run has failed
        faulthandler.dump_traceback_later(HANG, exit=True)
        with on_cpu(), hindered(run):
            result = train(run, place)
        faulthandler.cancel_dump_traceback_later()
        (place / f"rank{RANK}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
