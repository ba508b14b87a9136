"""What a replay has found, as the origin that an incident names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gradwatch.diagnosis.memory import Leaf
from gradwatch.records import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.diagnosis.slicing import Root
    from gradwatch.diagnosis.trace import Record
    from gradwatch.records import Phase, TensorSummary


class Traced(NamedTuple):
    """The result of a replay.

    ``root`` is None if the step came out finite, or if ``reason`` says why it could not be run again. ``is_bad``: loss
    or gradients came out non-finite again; ``losses`` are the bad ones, spelled. ``communicates``: it was not run again
    because it talks to other ranks. ``compiled``: what had been compiled ran as it was written.
    """

    root: Root | None = None
    is_bad: bool = False
    loss_is_bad: bool = False
    losses: Sequence[str] = ()
    bad_gradients: int = 0
    gradients: int = 0
    anomaly: str | None = None
    anomaly_at: int | None = None
    operations: int = 0
    reason: str | None = None
    compiled: bool = False
    communicates: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether the value came in from another rank."""
        return self.root is not None and not isinstance(self.root, Leaf) and self.root.collective


def origin_of_leaf(leaf: Leaf, ranks: list[int], *, batch_size: int | None) -> Origin:
    """Return the origin of a value that was there before the step; arguments as in ``origin_of_record``."""
    phases: dict[str, Phase] = {"parameter": "parameter", "buffer": "buffer"}
    owner = leaf.name.rpartition(".")[0] if leaf.name and leaf.kind in phases else None
    return Origin(
        phase=phases.get(leaf.kind, "input"),
        module=owner,
        tensor=leaf.name,
        index=leaf.bad_index,
        sample=_sample(leaf.bad_rows, _extent(leaf.summary), batch_size) if leaf.kind == "batch" else None,
        ranks=ranks,
        inputs=[leaf.summary],
    )


def origin_of_record(record: Record, ranks: list[int], *, loss_is_bad: bool, batch_size: int | None) -> Origin:
    """Return the origin of a value that an operation of the step has made.

    Args:
        record: the birth.
        ranks: where it was born.
        loss_is_bad: otherwise only gradients are, and the operation is named for its derivative.
        batch_size: elements along dimension 0 of the batch, by which an index names a sample.
    """
    identity = record.identity
    return Origin(
        phase="forward" if loss_is_bad else "backward",
        op=identity.op,
        module=identity.location.path,
        module_type=identity.location.type,
        source=identity.place.source_line() if identity.place else None,
        transition=record.transition,
        index=record.bad_index,
        sample=_sample(record.bad_rows, record.rows, batch_size),
        ranks=ranks,
        inputs=record.inputs,
        output=record.output,
    )


def _sample(rows: list[int], extent: int | None, batch_size: int | None) -> int | None:
    """Return the first guilty sample, if the rows are the batch's, or whole blocks of rows are (heads, positions)."""
    if not rows or not extent or not batch_size or extent % batch_size:
        return None
    block = extent // batch_size
    samples = {row // block for row in rows}
    return min(samples) if len(rows) == block * len(samples) else None


def _extent(summary: TensorSummary) -> int | None:
    return summary.shape[0] if summary.shape else None
