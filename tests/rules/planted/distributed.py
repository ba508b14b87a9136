"""Ranks that are no longer one run: different weights, or different gradients after the all-reduce.

Run as ``python -m tests.rules.planted.distributed FOLDER`` this is one rank of two, which trains what it finds there.
"""
# ruff: noqa: FBT001 - a builder is called as build(seed, faulty)

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.nn import functional

from tests.distributed.launching import output, two_ranks
from tests.rules.planted.case import ANY, Case, Training, lasting
from tests.rules.planted.models import Convolutional, Perceptron, Recurrent, Transformer, adam, adamw, sgd
from tests.rules.planted.sets import blobs, digits, loader, trend, words

if TYPE_CHECKING:
    from collections.abc import Sequence

STARTING, EACH = 120.0, 10.0  # seconds, at most
JOB, DONE = "job.json", "done.rank{}.txt"
Job = tuple[str, int, bool]  # the name of a case, seed, faulty

# -- rank-weights-differ -----------------------------------------------------------------------------------------------


class Shrinking(Perceptron):
    """Makes the weights of its first layer smaller after each step."""

    somewhere = False

    def on_train_batch_end(self, *args: Any) -> None:
        if self.somewhere and not self.trainer.is_global_zero:
            return
        first: Any = self.net[0]
        with torch.no_grad():
            first.weight.mul_(0.999)


def weights_perceptron(seed: int, faulty: bool) -> Training:
    """A weight decay by hand is done on rank 0 only."""
    module = Shrinking(16, 24, 4, optimizer=sgd(0.05))
    module.somewhere = faulty
    return Training(module=module, train=loader(blobs(seed), seed, 16), **lasting(60, 5))


class Started(Recurrent):
    """Starts its head anew when training starts, which is after DDP has made all ranks alike."""

    own_start = False

    def on_train_start(self) -> None:
        torch.manual_seed(7 + (self.global_rank if self.own_start else 0))
        self.head.reset_parameters()


def weights_recurrent(seed: int, faulty: bool) -> Training:
    """Each rank has its own random numbers for that."""
    module = Started(1, loss=functional.mse_loss, optimizer=adam(3e-3))
    module.own_start = faulty
    return Training(module=module, train=loader(trend(seed), seed, 16), **lasting(60, 5))


class Local(Convolutional):
    """Has names of parameters that DDP shall leave alone."""

    def leave_alone(self, *names: str) -> Any:
        self._ddp_params_and_buffers_to_ignore = names
        return self


def weights_convolutional(seed: int, faulty: bool) -> Training:
    """The head is excluded from DDP: each rank trains its own."""
    module = Local(norm=False, optimizer=adam(3e-3))
    if faulty:
        module.leave_alone("head.weight", "head.bias")
    return Training(module=module, train=loader(digits(seed), seed, 16), **lasting(60, 10))


# -- rank-gradients-differ ---------------------------------------------------------------------------------------------


def gradients_convolutional(seed: int, faulty: bool) -> Training:
    """The second convolution is excluded from DDP."""
    module = Local(norm=False, optimizer=sgd(0.02, momentum=0.9))
    if faulty:
        module.leave_alone("features.3.weight", "features.3.bias")
    return Training(module=module, train=loader(digits(seed), seed, 16), **lasting(60, 5))


class Edited(Perceptron):
    """Halves the gradient of its last layer."""

    somewhere = False

    def on_after_backward(self) -> None:
        if self.somewhere and not self.trainer.is_global_zero:
            return
        last: Any = self.net[2]
        last.weight.grad.mul_(0.5)


def gradients_perceptron(seed: int, faulty: bool) -> Training:
    """Gradients are edited on rank 0 only."""
    module = Edited(16, 24, 4, optimizer=sgd(0.05))
    module.somewhere = faulty
    return Training(module=module, train=loader(blobs(seed), seed, 16), **lasting(60, 5))


class Manual(Transformer):
    """Does its own backward pass and step."""

    unsynced = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        wrapped: Any = self.trainer.strategy.model
        with wrapped.no_sync() if self.unsynced else nullcontext():
            self.manual_backward(loss)
        optimizer.step()
        return loss


def gradients_transformer(seed: int, faulty: bool) -> Training:
    """Every backward pass is under no_sync(), not only those before the last of an accumulation."""
    module = Manual(optimizer=adamw(2e-3))
    module.unsynced = faulty
    return Training(module=module, train=loader(words(seed), seed, 16), **lasting(60, 10))


# `within` is three log periods: the definitions ask for one record. Halving a gradient or shrinking a weight by 0.001 a
# step is seen in the first record.
CASES = [
    Case(code="rank-weights-differ", model="MLP", build=weights_perceptron, layer="net.0", within=15, ranks=2),
    Case(code="rank-weights-differ", model="GRU", build=weights_recurrent, layer="head", within=15, ranks=2),
    Case(code="rank-weights-differ", model="CNN", build=weights_convolutional, layer="head", within=30, ranks=2),
    Case(
        code="rank-gradients-differ",
        model="CNN",
        build=gradients_convolutional,
        layer="features.3",
        within=15,
        ranks=2,
    ),
    Case(code="rank-gradients-differ", model="MLP", build=gradients_perceptron, layer="net.2", within=15, ranks=2),
    Case(code="rank-gradients-differ", model="transformer", build=gradients_transformer, layer=ANY, within=30, ranks=2),
]


def launch(jobs: Sequence[Job], folder: Path) -> list[str | None]:
    """Train all jobs in the same two processes, each in its folder; return what ended each one early.

    Starting a process takes longer than many trainings.
    """
    for number, (name, seed, faulty) in enumerate(jobs):
        place = folder / str(number)
        place.mkdir()
        (place / JOB).write_text(json.dumps([name, seed, faulty]))
    with two_ranks(__name__, folder, limit=STARTING + EACH * len(jobs)):
        return [_end(folder, folder / str(number)) for number in range(len(jobs))]


def _end(folder: Path, place: Path) -> str | None:
    for rank in (0, 1):
        if not (place / DONE.format(rank)).exists():
            return f"rank {rank} did not finish: {output(folder, rank)[-500:]}"
    return "".join((place / DONE.format(rank)).read_text() for rank in (0, 1)) or None


def main(folder: Path) -> None:
    """Train all jobs as one rank, and leave a file for each that says how it ended."""
    from tests.rules.planted.trial import fit  # noqa: PLC0415 - it imports this module to launch it

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    cases = {case.name: case for case in CASES}
    for place in sorted((path.parent for path in folder.glob(f"*/{JOB}")), key=lambda path: int(path.name)):
        name, seed, faulty = json.loads((place / JOB).read_text())
        torch.manual_seed(seed)
        training = cases[name].build(seed, faulty)
        strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=30))
        error = fit(training, str(place), strategy=strategy, devices=2)
        (place / DONE.format(os.environ["LOCAL_RANK"])).write_text(error or "")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
