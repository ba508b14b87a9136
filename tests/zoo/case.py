"""What a zoo case is: a small LightningModule with one real bug, the batch that wakes it, and its true origin.

The truth is written down before the tracer runs. The guilty source line carries a comment ``# born: <case name>``.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gradwatch.records import Cause, Phase, Transition

FP32, BF16, SCALER = "fp32", "bf16-mixed", "scaler"  # scaler: fp16 autocast with a CPU GradScaler


class ZooModule(LightningModule):
    """A module whose whole step is ``loss(batch)``, so that one case runs under every way of training."""

    learning_rate = 1e-3

    def loss(self, batch: Any) -> Tensor:
        """Return the scalar loss of one batch."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Where the value is born. None in a field says that the case does not judge it.

    Attributes:
        phase: the verdict class.
        op: base name of the ATen operation: no namespace, overload, underscore at either end, ``_forward`` suffix,
            ``native_`` prefix or Backward suffix; for a custom Function's derivative its class name.
        module: path of the module whose forward was running, "" for the LightningModule itself.
        line: whether the guilty line is marked in the source and must be named.
        tensor: name of the guilty batch tensor, parameter or buffer.
        sample: index of the guilty element along dimension 0 of the batch.
        incident: False for a healthy look-alike, on which nothing may be reported.
    """

    phase: Phase | None = None
    op: str | None = None
    module: str | None = None
    line: bool = True
    tensor: str | None = None
    sample: int | None = None
    transition: Transition | None = None
    cause: Cause | None = None
    incident: bool = True


HEALTHY = Truth(incident=False, line=False)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One bug (or healthy look-alike).

    Attributes:
        name: unique; the marker of the guilty line is ``# born: <name>``.
        module: makes the module; called after ``torch.manual_seed(0)``.
        batches: makes the list of batches, the same at every call; all but ``bad_batch`` are harmless.
        bad_batch: index of the batch in which the value is born.
        truth: by precision; a precision that makes no sense for the case is left out.
        source: where the bug has been seen: issue or pull request, or the textbook situation.
        variants: whether the case also runs under accumulation, manual optimization, checkpointing and compilation.
            False where the bug lives in what those replace (the optimizer, the training loop), with the reason beside.
    """

    name: str
    module: Callable[[], ZooModule]
    batches: Callable[[], list[Any]]
    truth: dict[str, Truth]
    source: str
    bad_batch: int = 5
    variants: bool = True
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def marked_line(self) -> tuple[str, int] | None:
        """File and line that carry this case's marker."""
        path = Path(inspect.getfile(self.module))
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if text.rstrip().endswith(f"# born: {self.name}"):
                return str(path), number
        return None
