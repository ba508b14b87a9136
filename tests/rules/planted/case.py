"""What a planted fault is: a small training that is wrong in one way, its healthy twin, and what must be said of it.

Code, layer and step are written down from the catalogue of rules, before any rule has seen the training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule
    from torch.utils.data import DataLoader

ANY = "*"  # a layer that is not judged: the fault hits all layers alike


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that a run needs. ``trainer`` and ``monitor`` are keyword arguments; ``max_steps`` is among the former."""

    module: LightningModule
    train: DataLoader[Any]
    validation: DataLoader[Any] | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    monitor: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault in one model.

    Attributes:
        code: of the finding that must be opened.
        model: what kind of network it is; the cases of a code have different ones.
        build: makes the training from a seed; with ``faulty=False`` the same one without the fault.
        layer: that the finding must name; None where the catalogue says null, ``ANY`` where it is not judged.
        also: layers that are right as well, because the fault does not tell them apart.
        within: optimizer steps from the start by which the finding must be open.
        fault_step: where the fault begins, if not at the start.
        ranks: 2 for a case that needs two processes.
    """

    code: str
    model: str
    build: Callable[[int, bool], Training]
    layer: str | None
    within: int
    also: tuple[str, ...] = ()
    fault_step: int | None = None
    ranks: int = 1

    @property
    def name(self) -> str:
        """What tells this case from all others."""
        return f"{self.code}, {self.model}"

    def names(self, layer: str | None) -> bool:
        """Whether ``layer`` is a right answer."""
        return self.layer in {ANY, layer} or layer in self.also


def lasting(steps: int, every: int, *, monitor: dict[str, Any] | None = None, **trainer: Any) -> dict[str, Any]:
    """Return the keyword arguments of a :class:`Training` of so many steps with so many between log steps."""
    return {
        "trainer": {"max_steps": steps, **trainer},
        "monitor": {"log_every_n_steps": every, **(monitor or {})},
    }
