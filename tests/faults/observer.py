"""What really happens in a training, seen without the monitor: every bad value, every place to scan, every state.

The observer runs in two trainings of a plan. In the one without the monitor it is the ground truth; in the one with
it (as the callback after it) it notes at which moment the first incident lay on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Callback
from torch import Tensor

from tests.noninterference.fingerprint import Bits

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.faults.plan import Model

Snapshot = dict[str, Any]


class Moment(NamedTuple):
    """One hook of the training, in order. ``scan`` marks those at which the contract has weights read."""

    name: str
    epoch: int
    batch_idx: int
    step: int
    scan: bool
    known: bool


class Bad(NamedTuple):
    """Something non-finite: what kind, whose (parameter or buffer names), and in which optimizer step it was born."""

    kind: str
    names: frozenset[str]
    step: int
    epoch: int
    batch_idx: int
    moment: int


@dataclass
class Seen:
    """Everything that an observer wrote down."""

    moments: list[Moment] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    weights: dict[int, Snapshot] = field(default_factory=dict)  # before the optimizer step of that number
    buffers: dict[tuple[int, int], Snapshot] = field(default_factory=dict)  # before the batch of that position
    after: dict[tuple[int, int], Snapshot] = field(default_factory=dict)  # weights and state at the end of a batch
    norms: dict[int, float] = field(default_factory=dict)  # of the gradient before clipping, in float64

    def first(self, *kinds: str) -> Bad | None:
        """Return the first bad thing of these kinds, or of any kind."""
        return next((bad for bad in self.bad if not kinds or bad.kind in kinds), None)

    def end_of(self, step: int) -> int:
        """Return the index of the moment that ends the batch in which that optimizer step was taken."""
        return next(i for i, moment in enumerate(self.moments) if moment.name == "batch_end" and moment.step > step)


class Observer(Callback):
    """Writes down what it sees; changes nothing and draws no random number."""

    def __init__(self, model: Model, incidents: Path, *, log_every_n_steps: int) -> None:
        self.seen = Seen()
        self.model = model
        self.incidents = incidents
        self.log_every_n_steps = log_every_n_steps
        self.windows = 0
        self.at = (0, -1)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.at = (trainer.current_epoch, batch_idx)
        self._moment("batch_start", trainer)
        self.seen.buffers[self.at] = buffers_of(pl_module)
        self._note(trainer, "batch", {"x"} if not _finite(batch[0]) else set())

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        self._note(trainer, "loss", {"loss"} if not _finite(loss) else set())
        self._note(trainer, "buffer", _nonfinite(pl_module.named_buffers()))

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        gradients = [(n, p.grad) for n, p in pl_module.named_parameters() if p.grad is not None]
        self._note(trainer, "backward", _nonfinite(gradients))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._note_state(trainer, pl_module)
        self.seen.weights[trainer.global_step] = weights_of(trainer, pl_module)
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        gradients = {n: p.grad for n, p in pl_module.named_parameters() if id(p) in own and p.grad is not None}
        self._note(trainer, "gradient", _nonfinite(gradients.items()))
        norms = [gradient.double().norm() for gradient in gradients.values()]
        norm = torch.stack(norms).norm().item() if norms else 0.0
        self.seen.norms[trainer.global_step] = norm / (_scale(trainer) if optimizer.param_groups[0].get("fused") else 1)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, _outputs: Any, _batch: Any, batch_idx: int) -> None:
        last = (batch_idx + 1) % self.model.accumulate == 0 or batch_idx + 1 == self.model.batches
        self.windows += last
        self._note_state(trainer, pl_module)
        self._note(trainer, "buffer", _nonfinite(pl_module.named_buffers()))
        self.seen.after[self.at] = {**weights_of(trainer, pl_module), **buffers_of(pl_module)}
        self._moment("batch_end", trainer, scan=last and self.windows % self.log_every_n_steps == 0)

    def on_validation_end(self, trainer: Any, _pl_module: Any) -> None:
        self._moment("validation_end", trainer, scan=True)

    def on_save_checkpoint(self, trainer: Any, _pl_module: Any, _checkpoint: Any) -> None:
        self._moment("save", trainer, scan=True)

    def on_fit_end(self, trainer: Any, _pl_module: Any) -> None:
        self._moment("fit_end", trainer, scan=True)

    def _moment(self, name: str, trainer: Any, *, scan: bool = False) -> None:
        known = any(self.incidents.glob("*/incident.json"))
        self.seen.moments.append(Moment(name, *self.at, trainer.global_step, scan, known))

    def _note_state(self, trainer: Any, module: Any) -> None:
        """Look at what the last optimizer step left: its number is one less than the count of steps."""
        self._note(trainer, "parameter", _nonfinite(module.named_parameters()), back=1)
        self._note(trainer, "optimizer", _nonfinite(_state(trainer, module)), back=1)

    def _note(self, trainer: Any, kind: str, names: set[str], back: int = 0) -> None:
        if names and not any(bad.kind == kind and names <= bad.names for bad in self.seen.bad if kind != "loss"):
            where = (trainer.global_step - back, *self.at, len(self.seen.moments))
            self.seen.bad.append(Bad(kind, frozenset(names), *where))


def _scale(trainer: Any) -> float:
    """Return the factor of a GradScaler, which is still in the gradients of a fused optimizer."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _nonfinite(named: Iterable[tuple[str, Tensor]]) -> set[str]:
    return {name for name, tensor in named if not _finite(tensor)}


def _state(trainer: Any, module: Any) -> list[tuple[str, Tensor]]:
    """List the tensors of all optimizers' states with the name of the parameter that each belongs to."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [
        (names[id(parameter)], value)
        for optimizer in trainer.optimizers
        for parameter, state in optimizer.state.items()
        for value in state.values()
        if isinstance(value, Tensor)
    ]


def weights_of(trainer: Any, module: Any) -> Snapshot:
    """Copy parameters and optimizer states, by parameter name."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    copied: Snapshot = {f"weights/{name}": Bits.of(parameter) for name, parameter in module.named_parameters()}
    for optimizer in trainer.optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if value is not None:
                    copied[f"state/{names[id(parameter)]}/{key}"] = (
                        Bits.of(value) if isinstance(value, Tensor) else value
                    )
    return copied


def buffers_of(module: Any) -> Snapshot:
    return {f"buffers/{name}": Bits.of(buffer) for name, buffer in module.named_buffers()}
