"""From what was found at a bad step to where it was first seen, and what to say about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gradwatch.records import Origin

if TYPE_CHECKING:
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

    ``optimizer`` lists state tensors, and weights that the optimizer's last step has made so.
    """

    optimizer: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    batch: list[tuple[str, TensorSummary]] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)
    gradients_read: int = 0

    @property
    def is_local(self) -> bool:
        """Whether it was born on this rank: a gradient alone may have come from another by an all-reduce."""
        return bool(self.optimizer or self.parameters or self.batch or self.buffers or self.losses)


def first_seen(evidence: Evidence) -> FirstSeen:
    """Return what showed it first. What was there before the step goes before what the step made of it.

    A batch goes before a buffer: a buffer that an earlier bad batch has spoilt has been reported with that batch.
    """
    if evidence.optimizer:
        return "optimizer"
    if evidence.parameters:
        return "parameter"
    if evidence.batch:
        return "batch"
    if evidence.buffers:
        return "buffer"
    return "loss" if evidence.losses else "gradient"


def affected(evidence: Evidence) -> list[str]:
    """Return the names of the tensors to look at: the guilty state, or the parameters with bad gradients."""
    state = {"optimizer": evidence.optimizer, "parameter": evidence.parameters, "buffer": evidence.buffers}
    return list(state.get(first_seen(evidence), evidence.gradients))


def origin_of(evidence: Evidence, ranks: list[int]) -> Origin:
    """Return what is known of the origin without a replay."""
    seen = first_seen(evidence)
    names = affected(evidence) if seen in ("parameter", "buffer") else []
    summary = evidence.batch[0] if seen == "batch" else None
    return Origin(
        phase=PHASES[seen],
        tensor=summary[0] if summary else (names[0] if names else None),
        module=names[0].rpartition(".")[0] if names else None,
        ranks=ranks,
        inputs=[summary[1]] if summary else [],
    )
