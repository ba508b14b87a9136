"""Ranks that are no longer one run: different weights, or different gradients after the all-reduce.

Run as ``python -m tests.rules.planted.distributed FOLDER CASE SEED FAULTY`` this is one rank of two.
"""
# ruff: noqa: FBT001 - a builder is called as build(seed, faulty)

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.nn import functional

from tests.distributed.launching import output, two_ranks
from tests.rules.planted.case import ANY, Case, Training, lasting
from tests.rules.planted.models import Convolutional, Perceptron, Recurrent, Transformer, adam, adamw, sgd
from tests.rules.planted.sets import blobs, digits, loader, trend, words

LIMIT = 120.0  # seconds
DONE = "done.rank{}.txt"

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
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def on_train_start(self) -> None:
        if self.unsynced:  # no_sync() was entered for accumulation, and is never left
            wrapped: Any = self.trainer.strategy.model
            wrapped.require_backward_grad_sync = False


def gradients_transformer(seed: int, faulty: bool) -> Training:
    """The all-reduce is switched off for an accumulation that is over."""
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


def launch(case: Case, seed: int, folder: str, *, faulty: bool) -> str | None:
    """Train a case in two processes; return what ended it early."""
    place = Path(folder)
    with two_ranks(__name__, place, case.name, str(seed), str(int(faulty)), limit=LIMIT):
        ends = [place / DONE.format(rank) for rank in (0, 1)]
        missing = [rank for rank, end in enumerate(ends) if not end.exists()]
        if missing:
            return f"rank {missing[0]} did not finish: {output(place, missing[0])[-500:]}"
        return ends[0].read_text() or ends[1].read_text() or None


def main(folder: Path, name: str, seed: int, *, faulty: bool) -> None:
    """Train as one rank, and leave a file that says how it ended."""
    from tests.rules.planted.trial import fit  # noqa: PLC0415 - it imports this module to launch it

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    case = next(case for case in CASES if case.name == name)
    torch.manual_seed(seed)
    strategy = DDPStrategy(process_group_backend="gloo")
    training = case.build(seed, faulty)
    error = fit(training, str(folder), strategy=strategy, devices=2)
    (folder / DONE.format(training.module.global_rank)).write_text(error or "")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), faulty=sys.argv[4] == "1")
