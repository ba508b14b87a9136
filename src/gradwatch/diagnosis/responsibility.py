"""Which inputs explain a non-finite output: the rule by which only births are blamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gradwatch.diagnosis.memory import Leaf, Read, Special
    from gradwatch.diagnosis.trace import Record
    from gradwatch.records import Transition


class Explanation(NamedTuple):
    """``causes``: who made the bad inputs; ``context``: only deliberate infinities went in and came out."""

    causes: list[Record | Leaf]
    context: bool = False
    parents: list[Record | Leaf] = []  # noqa: RUF012 - never changed
    transition: Transition | None = None

    @property
    def is_birth(self) -> bool:
        """Whether nothing that went in explains what came out."""
        return not self.causes and not self.context


def explain_output(
    output: Tensor, special: Special, reads: Sequence[Read], *, pointwise: bool, literals: tuple[bool, bool]
) -> Explanation:
    """Return what explains the non-finite elements of ``output``.

    NaN is explained by a NaN that went in, else by an infinity that is itself a fault; a deliberate infinity (a mask)
    explains infinities only. In pointwise operations an input counts only where the output is bad.

    Args:
        output: the result.
        special: what it holds.
        reads: the inputs.
        pointwise: element i of the output depends on element i of the inputs alone.
        literals: whether the user has written +inf, -inf as a plain number into the call.
    """
    with_nan = [read for read in reads if read.special.nan]
    with_inf = [read for read in reads if read.special.posinf or read.special.neginf]
    if special.nan:
        guilty = _writers(_at(output.isnan(), with_nan, "nan", pointwise=pointwise))
        if guilty:
            return Explanation(guilty)
        sources = _writers(_at(output.isnan(), with_inf, "inf", pointwise=pointwise))
        faults = [source for source in sources if not source.context]
        if faults:
            return Explanation(faults)
        return Explanation([], transition="inf->nan" if sources or any(literals) else "finite->nan")
    sources = _writers(_at(output.isinf(), with_inf, "inf", pointwise=pointwise))
    faults = [source for source in sources if not source.context]
    if faults:
        return Explanation(faults)
    written = (not special.posinf or literals[0]) and (not special.neginf or literals[1])
    if sources or written:
        return Explanation([], context=True, parents=sources)
    nans = _writers(with_nan)
    return Explanation(nans) if nans else Explanation([], transition="finite->inf")


def _writers(reads: Sequence[Read]) -> list[Record | Leaf]:
    return list(dict.fromkeys(writer for read in reads for writer in read.writers))


def _at(bad: Tensor, reads: Sequence[Read], kind: str, *, pointwise: bool) -> list[Read]:
    """Return the inputs that are bad at one of the output's bad elements."""
    if not pointwise:
        return list(reads)
    return [read for read in reads if _coincides(bad, read.before, kind)]


def _coincides(bad: Tensor, tensor: Tensor, kind: str) -> bool:
    try:
        here = tensor.isnan() if kind == "nan" else tensor.isinf()
        return bool(torch.logical_and(bad, here.to(bad.device)).any())
    except RuntimeError:  # lists of tensors of different shapes, as in the fused optimizers
        return True
