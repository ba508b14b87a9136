"""Runs on two ranks with faults planted in the data of some: what is planted, and what the incidents must say of it."""

from __future__ import annotations

import math
import random
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, distributed, nn
from torch.distributed._functional_collectives import all_reduce
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

BATCHES, SIZE = 4, 6
KINDS = ("input", "before", "forward", "derivative")
OPS = {"input": None, "before": "div", "forward": "div", "derivative": "sqrt"}
PHASES = {"input": "input", "before": "forward", "forward": "forward", "derivative": "backward"}
LINES = {
    "before": "return x / share",
    "forward": "return energy / share",
    "derivative": "return (energy * share).sqrt()",
}


class Fault(NamedTuple):
    """In which batch of a rank, and how a value is born there."""

    batch: int
    kind: str


class Run(NamedTuple):
    """One training run. ``faults`` by rank; ``gather``: "" for no all_gather, "value" if the loss depends on it.

    ``hindrance``: how the replay of rank 1 is made to fail; ``twist``: something else about the step.
    """

    name: str
    faults: dict[int, Fault]
    mode: str = "skip"
    accumulate: int = 1
    sync_norm: bool = False
    gather: str = ""
    sync_log: bool = False
    unused: bool = False
    scaler: bool = False
    manual: bool = False
    clip: float | None = None
    seed: int = 0
    hindrance: str = ""
    twist: str = ""


class Network(LightningModule):
    """A perceptron. The last element of a batch is 1, and 0 for a sample that is to break a step."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.automatic_optimization = not run.manual
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 2)
        self.norm = nn.SyncBatchNorm(5) if run.sync_norm else nn.BatchNorm1d(5)
        self.unused = nn.Linear(3, 3) if run.unused else None
        self.kind = ""

    def before(self, x: Tensor, share: Tensor) -> Tensor:
        return x / share

    def forward_fault(self, energy: Tensor, share: Tensor) -> Tensor:
        return energy / share

    def derivative_fault(self, energy: Tensor, share: Tensor) -> Tensor:
        return (energy * share).sqrt()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, share = batch
        hidden = self.norm(self.body(self.before(x, share if self.kind == "before" else torch.ones_like(share))))
        energy = hidden.square().sum(1, keepdim=True) + 1.0
        other = torch.ones_like(share)
        ratio = self.forward_fault(energy, share if self.kind == "forward" else other)
        root = self.derivative_fault(energy, share if self.kind == "derivative" else other)
        loss = functional.cross_entropy(self.head(torch.tanh(hidden)), y) + 1e-3 * (ratio + root).mean()
        loss = self.twisted(loss, hidden, share)
        if self.run.gather:
            everywhere: Any = self.all_gather(loss.detach())
            mean = everywhere.mean()
            loss = loss + 0.1 * mean if self.run.gather == "value" else loss
        if self.run.sync_log:
            self.log("loss", loss.detach(), sync_dist=True)
        return self.step_by_hand(loss, batch_idx) if self.run.manual else loss

    def twisted(self, loss: Tensor, hidden: Tensor, share: Tensor) -> Tensor:
        """What only some runs do."""
        if self.run.twist == "point-to-point":
            exchange(loss.detach().clone(), self.global_rank)
        elif self.run.twist == "functional":
            # A collective whose result is not there yet when its operation returns.
            everyone: Any = distributed.group.WORLD
            loss = loss + 0.1 * all_reduce(loss.detach(), "sum", everyone)
        elif self.run.twist == "caught":
            loss = loss + 0.1 * all_gathered_or_zero(loss.detach())
        elif self.run.twist == "transient" and self.kind == "transient":
            self.kind = "" if share.min() == 0.0 else self.kind
            loss = loss if self.kind else loss * math.nan
        elif self.kind == "overflow":  # in float16 the gradient of the scaled loss, and only that
            loss = loss + 300.0 * (1.0 - share.min()) * self.head(hidden).sum()
        return loss

    def step_by_hand(self, loss: Tensor, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(loss / self.run.accumulate)
        if (batch_idx + 1) % self.run.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def exchange(value: Tensor, rank: int) -> None:
    """Send from rank 0 to rank 1."""
    if rank == 0:
        distributed.send(value, 1)
    else:
        distributed.recv(value, 0)


def all_gathered_or_zero(value: Tensor) -> Tensor:
    """Return the mean over the ranks, in the way of code that must also run alone."""
    everywhere = [torch.empty_like(value) for _ in range(2)]
    try:
        distributed.all_gather(everywhere, value)
    except RuntimeError:
        return torch.zeros_like(value)
    return torch.stack(everywhere).mean()


def loader(run: Run, rank: int) -> DataLoader[Any]:
    """The batches of one rank."""
    generator = torch.Generator().manual_seed(1000 * run.seed + rank)
    x = torch.randn(BATCHES * SIZE, 4, generator=generator)
    y = torch.randint(2, (BATCHES * SIZE,), generator=generator)
    share = torch.ones(BATCHES * SIZE, 1)
    fault = run.faults.get(rank)
    if fault is not None:
        row = fault.batch * SIZE + int(torch.randint(SIZE, (1,), generator=generator))
        if fault.kind == "input":
            x[row, 1] = math.nan
        else:
            share[row] = 0.0
    return DataLoader(TensorDataset(x, y, share), batch_size=SIZE)


class Expected(NamedTuple):
    """An incident: its step, where it was born, and by rank the fault that is to blame."""

    step: int
    ranks: list[int]
    faults: dict[int, Fault]


def expected(run: Run) -> list[Expected]:
    """Return the incidents that a run must leave on both ranks."""
    found = []
    for window in range(BATCHES // run.accumulate):
        faults = {
            rank: fault
            for rank, fault in run.faults.items()
            if fault.batch // run.accumulate == window and fault.kind != "overflow"
        }
        births = {rank: fault for rank, fault in faults.items() if not _comes_too_late(rank, fault, faults, run)}
        if births:
            found.append(Expected(window, sorted(births), births))
    if run.mode == "warn" and run.scaler:  # the scaler skips the step: good ones follow, and end the streak
        return [birth for birth in found if birth.step - 1 not in {other.step for other in found}]
    return found if run.mode == "skip" else found[:1]


def _comes_too_late(rank: int, fault: Fault, faults: dict[int, Fault], run: Run) -> bool:
    """Whether another rank's value has arrived here before: what it spoils is no birth any more."""
    others = [other for where, other in faults.items() if where != rank]
    return any(_spreads(other, run) and other.batch < fault.batch for other in others)


def _spreads(fault: Fault, run: Run) -> bool:
    exchanges_loss = run.gather == "value" or run.twist in {"functional", "caught"}
    return run.sync_norm or (exchanges_loss and fault.kind != "derivative")


def random_run(seed: int) -> Run:
    """Draw a run. Faults of both ranks in one micro-batch are of one kind: which comes first is then no question."""
    draw = random.Random(seed)
    kind, batch = draw.choice(KINDS), draw.randrange(BATCHES)
    faults = {rank: Fault(batch, kind) for rank in draw.choice([(), (0,), (1,), (1,), (1,), (0, 1)])}
    if len(faults) > 1 and draw.random() < 0.7:
        faults[1] = Fault(draw.randrange(BATCHES), draw.choice(KINDS))
        if faults[1].batch == faults[0].batch:
            faults[1] = faults[0]
    return Run(
        name=f"seed-{seed}",
        faults=faults,
        mode=draw.choice(["skip", "skip", "stop", "raise", "warn"]),
        accumulate=draw.choice([1, 2, 4]),
        sync_norm=draw.random() < 0.5,
        gather=draw.choice(["", "", "only", "value"]),
        sync_log=draw.random() < 0.3,
        unused=draw.random() < 0.3,
        scaler=draw.random() < 0.2,
        manual=draw.random() < 0.2,
        clip=draw.choice([None, 0.5]),
        seed=seed,
    )
