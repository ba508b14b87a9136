"""Memory: what the monitor holds between log steps, and whether anything grows with the number of records."""

from __future__ import annotations

import gc
import tempfile
import tracemalloc
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from benchmarks.steps import Workload
from gradwatch import HealthMonitor, NumericalHealthMonitor
from gradwatch.engine.context import RunContext

MIB = 1024 * 1024


@dataclass(frozen=True)
class HeldMemory:
    """Bytes of live tensors at the end of steps that are not log steps: the model's, and what the monitor adds."""

    model: int
    added: int

    @property
    def limit(self) -> int:
        """One percent of the model and one MiB."""
        return self.model // 100 + MIB


@dataclass(frozen=True)
class Growth:
    """Bytes of Python memory after ``early`` and after ``late`` records."""

    early: int
    late: int
    bytes_early: int
    bytes_late: int


class LiveTensors(Callback):
    """Notes the largest sum of live tensor storages at the end of a batch."""

    def __init__(self) -> None:
        self.most = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:  # noqa: ARG002
        """Look at every tensor that Python can reach."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's deprecated attributes are among the objects looked at
            tensors = [item for item in gc.get_objects() if isinstance(item, Tensor)]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        self.most = max(self.most, sum(storages.values()))


def _train(callbacks: list[Callback], batch: tuple[Tensor, Tensor]) -> int:
    gc.collect()  # the optimizer of the training before is part of a cycle
    seed_everything(0, verbose=False)
    live = LiveTensors()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_epochs=1,
            logger=False,
            default_root_dir=folder,
            log_every_n_steps=1000,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks, live],
        )
        trainer.fit(Workload(_network()), [batch] * 8)
    return live.most


def held_between_log_steps() -> HeldMemory:
    """Train a network of 25M parameters with and without the monitor."""
    batch = (torch.randn(2, 1250), torch.randn(2, 1250))
    plain = _train([], batch)
    watched = _train([NumericalHealthMonitor()], batch)
    return HeldMemory(sum(p.numel() * p.element_size() for p in _network().parameters()), watched - plain)


def _network() -> nn.Module:
    return nn.Sequential(*[nn.Linear(1250, 1250) for _ in range(16)])


def growth(records: int = 100_000) -> Growth:
    """Write that many records of a small network and compare the Python memory in use along the way."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    batch = torch.randn(2, 4)
    early = records // 10
    with tempfile.TemporaryDirectory() as folder:
        monitor = HealthMonitor()
        monitor.start(network, optimizer, RunContext(dirpath=folder, log_every_n_steps=1))
        tracemalloc.start()
        used = {}
        for step in range(records):
            monitor.begin_batch(batch, step)
            optimizer.zero_grad()
            loss = network(batch).square().mean()
            monitor.observe_loss(loss)
            loss.backward()
            monitor.before_step(optimizer)
            optimizer.step()
            monitor.after_step(optimizer)
            monitor.end_batch()
            if step + 1 in (early, records):
                gc.collect()
                used[step + 1] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        monitor.end("finished")
    return Growth(early, records, used[early], used[records])
