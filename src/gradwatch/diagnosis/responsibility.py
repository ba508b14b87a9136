"""Which inputs explain a non-finite output: the rule by which only births are blamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from gradwatch.diagnosis.summary import any_true

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.diagnosis.memory import Leaf, Read, Special
    from gradwatch.diagnosis.trace import Record
    from gradwatch.records import Transition


Kind = Literal["nan", "inf"]
Test = Callable[[Tensor], Tensor]
HEAD = 4096


class Explanation(NamedTuple):
    """Why an output is not finite, asked of its NaN or of its infinities.

    ``causes`` made the bad inputs, by their ``via``: NaN may come of NaN or of an infinity. A birth has none.
    ``context``: only deliberate infinities went in and came out, from ``parents``.
    """

    causes: Sequence[Record | Leaf] = ()
    via: Kind = "nan"
    context: bool = False
    parents: Sequence[Record | Leaf] = ()
    transition: Transition | None = None

    @property
    def is_birth(self) -> bool:
        """Whether nothing that went in explains what came out."""
        return not self.causes and not self.context


class Literals(NamedTuple):
    """Infinities among the plain numbers of a call; ``written``: they are meant to come out, as those of a mask."""

    posinf: bool = False
    neginf: bool = False
    written: bool = False


def explain_nan(
    output: Tensor, reads: Sequence[Read], literals: Literals, *, pointwise: bool, selects: bool = True
) -> Explanation:
    """Return what explains the NaN in ``output``: a NaN that went in, else an infinity that is itself a fault.

    Args:
        output: the result.
        reads: the inputs.
        literals: infinities that the user has written as plain numbers.
        pointwise: element i of the output depends on element i of the inputs alone, so that an input counts only
            where the output is bad.
        selects: it may leave out a NaN of an input.
    """
    with_nan = [read for read in reads if read.special.nan]
    # Arithmetic carries every NaN on: only what selects must be asked which of them it has taken.
    asked = with_nan and pointwise and selects
    guilty = _writers(_at(torch.isnan, output, with_nan, torch.isnan, pointwise=True) if asked else with_nan)
    if guilty:
        return Explanation(guilty)
    with_infinity = [read for read in reads if _has_infinity(read)]
    sources = _writers(_at(torch.isnan, output, with_infinity, torch.isinf, pointwise=pointwise))
    faults = [source for source in sources if not source.context]
    if faults:
        return Explanation(faults, via="inf")
    of_infinity = sources or literals.posinf or literals.neginf
    return Explanation(transition="inf->nan" if of_infinity else "finite->nan")


def explain_infinity(
    output: Tensor, special: Special, reads: Sequence[Read], literals: Literals, *, pointwise: bool
) -> Explanation:
    """Return what explains the infinities in ``output``; a deliberate one (a mask) is no fault.

    Arguments as in ``explain_nan``; ``special``: what the output holds.
    """
    with_infinity = [read for read in reads if _has_infinity(read)]
    sources = _writers(_at(torch.isinf, output, with_infinity, torch.isinf, pointwise=pointwise))
    faults = [source for source in sources if not source.context]
    if faults:
        return Explanation(faults, via="inf")
    meant = literals.written and (not special.posinf or literals.posinf) and (not special.neginf or literals.neginf)
    if sources or meant:
        return Explanation(via="inf", context=True, parents=sources)
    nans = [] if special.nan else _writers([read for read in reads if read.special.nan])
    return Explanation(nans) if nans else Explanation(transition="finite->inf")


def _has_infinity(read: Read) -> bool:
    return read.special.posinf or read.special.neginf


def _writers(reads: Sequence[Read]) -> list[Record | Leaf]:
    return list(dict.fromkeys(writer for read in reads for writer in read.writers))


def _at(is_bad: Test, output: Tensor, reads: Sequence[Read], test: Test, *, pointwise: bool) -> list[Read]:
    """Return the inputs that pass a test at one of the output's bad elements."""
    if not pointwise:
        return list(reads)
    return [read for read in reads if _coincide(is_bad, output, test, read.before)]


def _coincide(is_bad: Test, output: Tensor, test: Test, tensor: Tensor) -> bool:
    try:
        heads = _heads(output, tensor)
        if heads is not None and _meet(is_bad(heads[0]), test(heads[1])):
            return True
        return _meet(is_bad(output), test(tensor))
    except RuntimeError:  # lists of tensors of different shapes, as in the fused optimizers
        return True


def _heads(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the first elements of large tensors: where much is bad, some of it is there, and the rest need no look."""
    alike = first.shape == second.shape and first.numel() > HEAD
    if not (alike and first.layout is second.layout is torch.strided):
        return None
    if not (first.is_contiguous() and second.is_contiguous()):
        return None
    return first.view(-1)[:HEAD], second.view(-1)[:HEAD]


def _meet(first: Tensor, second: Tensor) -> bool:
    return any_true(torch.logical_and(first, second.to(first.device)))
