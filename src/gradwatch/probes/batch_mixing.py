"""Do the samples of a batch influence one another where they should not?

The step runs in float64 and in eval mode, where neither dropout nor the statistics of a batch have a part, three times:
on a few samples twice over, which tells the dimensions that grow with the batch; on these samples; and with one of them
replaced. The first module in which rows of other samples change while at its entry they do not is the one that mixes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gradwatch.probes.conditions import NotCheckableError, make_sure_of_memory
from gradwatch.probes.evaluation import Evaluator
from gradwatch.probes.forwards import BATCH_STATISTICS, OUTSIDE, Forwards, Key, Passage
from gradwatch.probes.row_changes import UNKNOWN, Change, compared
from gradwatch.probes.samples import rearranged, sample_count
from gradwatch.replica.guard import CommunicationNeeded
from gradwatch.replica.tensors import held_tensors, tensors_in
from gradwatch.tracing.source import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch.optim import Optimizer

    from gradwatch.records import SourceLine
    from gradwatch.replica.step_runner import Moment, StepRunner

# Even numbers, for code that folds pairs of samples.
SIZES = (8, 4, 2)
# What mixes because that is its purpose, by the name of its class.
_MEANT = re.compile(
    r"(batch|ghost|virtual|sync)_?(re)?_?(norm|std|stdev|statistic|discrimination|whiten|top_?k|quant)|mini_?batch|mbstd"
    r"|mix_?up|cut_?mix|moe|expert|router|quant|observer|running|inter_?sample|cross_?sample|(loss|criterion)$",
    re.IGNORECASE,
)
_UNBATCHED = (nn.RNNBase, nn.MultiheadAttention, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)


class Mixing(NamedTuple):
    """What the check says. ``module`` is None where nothing mixes, or where that is not known and ``reason`` says why.

    ``rows`` is how many other samples of ``samples`` change at the output of the module, ``change`` the largest of
    these changes by the largest of all.
    """

    module: str | None = None
    module_type: str | None = None
    source: SourceLine | None = None
    change: float = 0.0
    rows: int = 0
    samples: int = 0
    reason: str | None = None


class _Found(NamedTuple):
    """A passage at which samples are mixed, and how."""

    passage: Passage
    change: Change
    entry: Passage | None = None


class _Chosen(NamedTuple):
    """A few samples, and another one that comes in the place of one of them."""

    rows: list[int]
    place: int
    other: int


class _Runs(NamedTuple):
    """The passages of two runs: ``before`` and ``after`` another sample has come in at ``place``."""

    before: Sequence[Passage]
    after: Mapping[tuple[Key, str, int], Passage]
    place: int
    samples: int
    root: type

    def changes(self, passage: Passage) -> list[Change]:
        """Return how each tensor has changed at a passage."""
        other = self.after.get((passage.key, passage.what, passage.operation))
        if other is None or len(other.prints) != len(passage.prints):
            return [UNKNOWN] * len(passage.prints)
        pairs = zip(passage.prints, other.prints, strict=True)
        sorts = passage.sorts or other.sorts
        return [compared(one, two, self.place, self.samples, sorts=sorts) for one, two in pairs]


class BatchMixingProbe:
    """Looks once at the step of one moment.

    Args:
        module: stays as it is, as do random generators and the batch.
        optimizers: what steps it; none will act.
        runner: knows how a step runs.
        moment: the batch and the random states.
        named: the parameters by name.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[Optimizer],
        runner: StepRunner,
        moment: Moment,
        named: Mapping[str, Tensor],
    ) -> None:
        self._evaluator = Evaluator(module, optimizers, runner, moment, named)
        self._module, self._optimizers, self._batch = module, list(optimizers), moment.batch

    def run(self) -> Mixing:
        """Return what there is to say. Whatever hinders the check is its reason, never an error."""
        try:
            make_sure_of_memory(self._module, self._optimizers)
            found = self._along(0)
        except (NotCheckableError, CommunicationNeeded) as error:
            return Mixing(reason=str(error))
        except Exception as error:  # noqa: BLE001 - the user's step on a copy, on samples that it was not written for
            lines = str(error).splitlines() or [""]
            return Mixing(reason=f"the step failed on a copy with {type(error).__name__}: {lines[0]}")
        return Mixing() if found.module is not None and self._is_second() else found

    def _is_second(self) -> bool:
        """Whether dimension 1 is that of the batch, dimension 0 being time: its samples leave one another alone."""
        try:
            found = self._along(1)
        except Exception:  # noqa: BLE001 - as above
            return False
        return found.module is None and found.reason is None

    def _along(self, axis: int) -> Mixing:
        chosen = _chosen(self._batch, axis)
        _make_sure_of_indices(self._module, len(chosen.rows), sample_count(self._batch, axis) or 0)
        runs = self._pair(chosen, axis, None)
        found = _first(runs)
        if found is None:
            return Mixing(samples=runs.samples)
        again = self._pair(chosen, axis, found.passage.key)
        _make_sure_of_repetition(runs, again)
        return Mixing(
            module=found.passage.key.path,
            module_type=found.passage.kind.__name__,
            source=_line(again, found),
            change=found.change.share,
            rows=found.change.others,
            samples=runs.samples,
        )

    def _pair(self, chosen: _Chosen, axis: int, traced: Key | None) -> _Runs:
        """Run the step on the samples twice over, on them, and with another in place of one."""
        rows, place = chosen.rows, chosen.place
        twice = self._forwards([*rows, *rows], axis, Forwards(None, 0, traced))
        before = self._forwards(rows, axis, Forwards(twice, len(rows), traced))
        replaced = [*rows[:place], chosen.other, *rows[place + 1 :]]
        after = self._forwards(replaced, axis, Forwards(twice, len(rows), traced))
        if not before.drew_like(after):
            raise NotCheckableError("the step draws other random numbers when a sample is another")
        if not np.array_equal(before.weights, after.weights, equal_nan=True):
            raise NotCheckableError("the step changes its weights by what is in the batch")
        alike = {path for path, count in before.calls.items() if count == after.calls[path] == twice.calls[path]}
        known = [passage for passage in before.passages if passage.key == OUTSIDE or passage.key.path in alike]
        return _Runs(known, _by_place(after.passages), place, len(rows), before.root)

    def _forwards(self, rows: list[int], axis: int, forwards: Forwards) -> Forwards:
        """Run the forward of the step on these samples."""
        evaluator = self._evaluator.with_batch(rearranged(self._batch, rows, axis))
        forgetful = torch.autograd.graph.saved_tensors_hooks(_forget, _refuse)
        evaluator.values(1, None, forgetful, forwards, prepare=lambda copy: forwards.attach(copy.module))
        return forwards


def _forget(_tensor: Tensor) -> None:
    """Keep nothing for a backward pass: whether gradients flow is all that is asked of the graph."""


def _refuse(_nothing: None) -> Tensor:
    raise NotCheckableError("the step differentiates on its way to the loss")


def _by_place(passages: Iterable[Passage]) -> dict[tuple[Key, str, int], Passage]:
    return {(passage.key, passage.what, passage.operation): passage for passage in passages}


def _chosen(batch: Any, axis: int) -> _Chosen:
    count = sample_count(batch, axis)
    if count is None:
        raise NotCheckableError("the tensors of the batch do not agree on how many samples there are")
    if count < SIZES[-1]:
        raise NotCheckableError("the batch has one sample")
    # Fewer than all, where that is possible: the nodes of a graph cannot be cut like samples.
    size = next((size for size in SIZES if size < count), SIZES[-1])
    place = (size - 1) // 2
    others = [*range(size, min(count, size + 8)), *(row for row in range(size) if row != place)]
    for other in others:
        if _differ(batch, place, other, axis):
            return _Chosen(list(range(size)), place, other)
    raise NotCheckableError("the samples of the batch are all the same")


def _make_sure_of_indices(module: nn.Module, few: int, count: int) -> None:
    """Refuse a module that holds what may point at samples, as the edges of a graph: few samples have no such place.

    On a GPU, an index out of range would end the process and not just the check.

    Raises:
        NotCheckableError: it holds integers that point at samples beyond the few.
    """
    for held in held_tensors(module):
        integers = not (held.is_floating_point() or held.is_complex() or held.dtype == torch.bool)
        if integers and held.dim() and held.numel() and few <= int(held.max()) < count:
            raise NotCheckableError("the module holds indices that may point at samples of the batch")


def _differ(batch: Any, one: int, other: int, axis: int) -> bool:
    tensors = tensors_in(batch)
    return any(not torch.equal(tensor.select(axis, one), tensor.select(axis, other)) for tensor in tensors)


def _first(runs: _Runs) -> _Found | None:
    """Return the first module that mixes.

    Raises:
        NotCheckableError: samples are mixed on purpose from some module on, or nothing is known of any.
    """
    entries: dict[Key, tuple[int, Passage, list[Change]]] = {}
    quiet: list[tuple[int, _Found]] = []
    seen = False
    for index, passage in enumerate(runs.before):
        changes = runs.changes(passage)
        seen = seen or any(change.kind == "own" for change in changes)
        if passage.what == BATCH_STATISTICS:
            raise NotCheckableError("the step normalises by the statistics of the batch, in eval mode too")
        if passage.what == "in":
            entries[passage.key] = index, passage, changes
            if passage.outermost and _between_modules(passage, changes, runs.samples):
                return _Found(Passage(OUTSIDE, "out", 0, (), runs.root), _worst(changes))
        if passage.what != "out" or passage.key not in entries:
            continue
        began, entry, entered = entries[passage.key]
        mixed = [change for change in changes if change.kind == "others"]
        if not mixed or not _clean(entered):
            continue
        _make_sure_of_purpose(passage, entry, entered)
        found = _Found(passage, _worst(changes), entry)
        if not _counts(passage, changes):
            quiet.append((index, found))
            continue
        return next((within for at, within in quiet if at > began), found)
    if not seen:
        raise NotCheckableError("no module takes samples along a dimension that grows with the batch")
    return None


def _clean(changes: list[Change]) -> bool:
    kinds = {change.kind for change in changes}
    return "own" in kinds and kinds <= {"own", "same"}


def _worst(changes: list[Change]) -> Change:
    return max(changes, key=lambda change: (change.kind == "others", change.others, change.share))


def _counts(passage: Passage, changes: list[Change]) -> bool:
    """Whether this is more than an augmentation, or one number a sample, as a loss is before its mean."""
    graded = any(print_.grad for print_ in passage.prints)
    mixed = [p for p, change in zip(passage.prints, changes, strict=True) if change.kind == "others"]
    if not passage.has_weights and all(len(print_.shape) == 1 for print_ in mixed):
        return False
    return any(print_.grad for print_ in mixed) or (passage.has_weights and not graded)


def _between_modules(passage: Passage, changes: list[Change], samples: int) -> bool:
    """Whether code of the step has mixed all of what it gives to a module with weights.

    Data may be mixed on purpose (mixup), and samples be picked from among others (negatives, partners).
    """
    return passage.has_weights and any(
        change.kind == "others" and change.others == samples - 1 and print_.grad
        for print_, change in zip(passage.prints, changes, strict=True)
    )


def _make_sure_of_purpose(passage: Passage, entry: Passage, entered: list[Change]) -> None:
    """Refuse what mixes because it should, or treats the batch as one sample.

    Raises:
        NotCheckableError: it does.
    """
    where = f"{passage.key.path or 'the module itself'} ({passage.kind.__name__})"
    if passage.key.path and _MEANT.search(passage.kind.__name__):
        raise NotCheckableError(f"samples are mixed on purpose from {where} on")
    own = [print_ for print_, change in zip(entry.prints, entered, strict=True) if change.kind == "own"]
    unbatched = issubclass(passage.kind, _UNBATCHED) and all(
        len(print_.shape) == len(print_.dims) + 1 for print_ in own
    )
    if unbatched or any(print_.shape[0] == 1 and print_.dims != (0,) for print_ in own):
        raise NotCheckableError(f"{where} takes the batch as one sequence")


def _make_sure_of_repetition(runs: _Runs, again: _Runs) -> None:
    """Refuse a step that does not come out the same.

    Raises:
        NotCheckableError: it does not.
    """
    repeated = runs._replace(after=_by_place(again.before))
    for passage in runs.before:
        if any(change.kind not in {"same", "unknown"} for change in repeated.changes(passage)):
            raise NotCheckableError("the step does not repeat: the same batch and random states gave another output")


def _line(runs: _Runs, found: _Found) -> SourceLine | None:
    """Return the line of the first operation that mixes; where it lies within PyTorch, the one that calls the module.

    Raises:
        NotCheckableError: the operation takes the batch as one sequence.
    """
    for taken, given in _operations(runs):
        before, after = runs.changes(taken), runs.changes(given)
        if any(change.kind == "others" for change in before) or not any(change.kind == "others" for change in after):
            continue
        for print_, change in zip(taken.prints, before, strict=True):
            if change.kind == "own" and print_.shape[0] == 1 and print_.dims != (0,):
                raise NotCheckableError("an operation takes the batch as one sequence")
        if given.place is not None and kind_of(given.place.file) == "user":
            return given.place.source_line()
    place = found.entry.place if found.entry is not None else None
    return place.source_line() if place is not None else None


def _operations(runs: _Runs) -> Iterator[tuple[Passage, Passage]]:
    taken = {(p.key, p.operation): p for p in runs.before if p.what == "takes"}
    for passage in runs.before:
        if passage.what == "gives" and (passage.key, passage.operation) in taken:
            yield taken[passage.key, passage.operation], passage
