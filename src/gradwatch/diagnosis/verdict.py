"""What a replay has found, as the origin that an incident names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gradwatch.diagnosis.memory import Leaf
from gradwatch.records import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.diagnosis.slicing import Root
    from gradwatch.diagnosis.trace import Record
    from gradwatch.records import Phase


class Traced(NamedTuple):
    """The result of a replay.

    ``births`` are all that were found, ``root`` the one that counts; without the ``samples`` the step would be finite.
    ``root`` is None if the step came out finite, or if ``reason`` says why it could not be run again. ``is_bad``: loss
    or gradients came out non-finite again; ``losses`` are the bad ones, spelled. ``communicates``: it was not run again
    because it talks to other ranks. ``compiled``: what had been compiled ran as it was written. ``is_harmless``: the
    whole step was seen to do nothing that reaches beyond the copy.
    """

    root: Root | None = None
    births: Sequence[Root] = ()
    samples: frozenset[int] = frozenset()
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
    is_harmless: bool = False
    communicates: bool = False

    @property
    def came_out_finite(self) -> bool:
        """Whether the step was run again and nothing was wrong with it."""
        return self.root is None and self.reason is None

    @property
    def is_remote(self) -> bool:
        """Whether the value came in from another rank."""
        return self.root is not None and not isinstance(self.root, Leaf) and self.root.collective


def origin_of_leaf(leaf: Leaf, ranks: list[int], samples: frozenset[int] = frozenset()) -> Origin:
    """Return the origin of a value that was there before the step; arguments as in ``origin_of_record``."""
    phases: dict[str, Phase] = {"parameter": "parameter", "buffer": "buffer"}
    owner = leaf.name.rpartition(".")[0] if leaf.name and leaf.kind in phases else None
    return Origin(
        phase=phases.get(leaf.kind, "input"),
        module=owner,
        tensor=leaf.name,
        index=leaf.bad_index,
        sample=min(samples, default=None),
        ranks=ranks,
        inputs=[leaf.summary],
    )


def origin_of_record(
    record: Record, ranks: list[int], samples: frozenset[int] = frozenset(), *, loss_is_bad: bool
) -> Origin:
    """Return the origin of a value that an operation of the step has made.

    Args:
        record: the birth.
        ranks: where it was born.
        samples: the guilty positions along dimension 0 of the batch.
        loss_is_bad: otherwise only gradients are, and the operation is named for its derivative.
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
        sample=min(samples, default=None),
        ranks=ranks,
        inputs=record.inputs,
        output=record.output,
    )


def guilty_samples(root: Root | None, batch_size: int | None) -> frozenset[int]:
    """Return the samples that a birth points to; none where its rows are not the batch's, or all of them are bad.

    The rows of a result may be the batch's, or whole blocks of rows may (heads, positions). That is a guess by size:
    it takes a run without these samples to know.
    """
    if root is None or not batch_size or (isinstance(root, Leaf) and root.kind != "batch"):
        return frozenset()
    extent = root.summary.shape[0] if isinstance(root, Leaf) and root.summary.shape else None
    extent = extent if isinstance(root, Leaf) else root.rows
    if not extent or extent % batch_size:
        return frozenset()
    block = extent // batch_size
    samples = frozenset(row // block for row in root.bad_rows)
    whole = len(root.bad_rows) == block * len(samples)
    return samples if whole and len(samples) < batch_size else frozenset()
