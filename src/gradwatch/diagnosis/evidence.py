"""From what was found at a bad step to where it was first seen, and what to say about it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gradwatch.diagnosis.memory import Leaf
from gradwatch.diagnosis.trace import Record
from gradwatch.diagnosis.verdict import origin_of_leaf, origin_of_record
from gradwatch.records import Origin

if TYPE_CHECKING:
    from gradwatch.diagnosis.dynamics import Growth
    from gradwatch.diagnosis.optimizer_probe import Update
    from gradwatch.diagnosis.verdict import Traced
    from gradwatch.records import FirstSeen, Phase, TensorSummary

PHASES: dict[FirstSeen, Phase] = {
    "optimizer": "optimizer",
    "parameter": "parameter",
    "batch": "input",
    "buffer": "buffer",
    # Which operation it was takes a replay of the step.
    "loss": "not_reproduced",
    "gradient": "not_reproduced",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is non-finite at a bad step, by name; state as it was before the first bad micro-batch.

    ``optimizer`` lists state tensors, and weights that the optimizer's last step has made so. ``traced`` is what a
    replay of the step has found, None without one; ``growth`` how loss or gradient norm had risen before;
    ``finite_at`` the last step at which a scan has found weights, buffers and optimizer state finite; ``update`` what
    the optimizer is known to have done.
    """

    optimizer: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    batch: list[tuple[str, TensorSummary]] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)
    gradients_read: int = 0
    traced: Traced | None = None
    growth: Growth | None = None
    finite_at: int | None = None
    update: Update | None = None

    @property
    def is_local(self) -> bool:
        """Whether it was born on this rank: a gradient alone may have come from another by an all-reduce."""
        traced = self.traced
        if traced is not None and traced.root is not None:
            return not traced.is_remote
        own_losses = [] if traced is not None and traced.communicates else self.losses
        return bool(self.optimizer or self.parameters or self.batch or self.buffers or own_losses)

    @property
    def suspicion(self) -> int:
        """How much speaks for a birth on this rank; the rank for which most does has it.

        A loss may have come from another rank by a collective, and so may a gradient, but a rank whose step could not
        be run again is not cleared. What came in from another rank on every rank was born in the collective itself.
        """
        traced = self.traced
        if self.is_local:
            return 4
        if traced is None or traced.root is None:
            return 3 if self.losses else 2 if traced is not None and traced.reason is not None else 0
        return 1


def first_seen(evidence: Evidence) -> FirstSeen:
    """Return what showed it first. What was there before the step goes before what the step made of it.

    A batch goes before a buffer: a buffer that an earlier bad batch has spoilt has been reported with that batch.
    A replay knows better: what loss and gradients do not depend on has shown nothing.
    """
    root = evidence.traced.root if evidence.traced else None
    if isinstance(root, Leaf) and root.kind != "unknown":
        return _first_seen_in(root, evidence)
    found: dict[FirstSeen, list[Any]] = {
        "optimizer": evidence.optimizer,
        "parameter": evidence.parameters,
        "batch": evidence.batch,
        "buffer": evidence.buffers,
    }
    before_the_step = [kind for kind, names in found.items() if names]
    if before_the_step and root is None:
        return before_the_step[0]
    return "loss" if evidence.losses else "gradient"


def _first_seen_in(leaf: Leaf, evidence: Evidence) -> FirstSeen:
    if leaf.kind == "parameter":
        return "optimizer" if leaf.name in evidence.optimizer else "parameter"
    return "buffer" if leaf.kind == "buffer" else "batch"


def affected(evidence: Evidence) -> list[str]:
    """Return the names of the tensors to look at: the guilty state, or the parameters with bad gradients."""
    state = {"optimizer": evidence.optimizer, "parameter": evidence.parameters, "buffer": evidence.buffers}
    names = list(state.get(first_seen(evidence), evidence.gradients))
    root = evidence.traced.root if evidence.traced else None
    if isinstance(root, Leaf) and root.kind != "batch" and root.name and root.name not in names:
        names.insert(0, root.name)
    return names


def origin_of(evidence: Evidence, ranks: list[int]) -> Origin:
    """Return the origin: of a replay, else what is known without one."""
    seen, traced = first_seen(evidence), evidence.traced
    if traced is not None and isinstance(traced.root, Leaf):
        origin = origin_of_leaf(traced.root, ranks, traced.samples)
        return _by_update(replace(origin, phase="optimizer"), evidence) if seen == "optimizer" else origin
    if traced is not None and isinstance(traced.root, Record):
        return origin_of_record(traced.root, ranks, traced.samples, loss_is_bad=traced.loss_is_bad)
    names = affected(evidence) if seen in ("parameter", "buffer") else []
    summary = evidence.batch[0] if seen == "batch" else None
    origin = Origin(
        phase=PHASES[seen],
        tensor=summary[0] if summary else (names[0] if names else None),
        module=names[0].rpartition(".")[0] if names else None,
        ranks=ranks,
        inputs=[summary[1]] if summary else [],
    )
    if seen != "optimizer":
        return origin
    return _by_update(replace(origin, tensor=_only_one(evidence.optimizer)), evidence)


def _only_one(names: list[str]) -> str | None:
    """Return the first name if the others are optimizer state of it; None if there are several."""
    return names[0] if all(name.startswith(f"{names[0]}.") for name in names[1:]) else None


def _by_update(origin: Origin, evidence: Evidence) -> Origin:
    """Name the operation of the update. Its numbers are not those of the step, whose gradient is gone."""
    birth = evidence.update.birth if evidence.update else None
    if birth is None:
        return origin
    place = birth.identity.place
    source = place.source_line() if place else None
    return replace(origin, op=birth.identity.op, transition=birth.transition, source=source)
