"""Everything that is said of several runs: settings, curves, happenings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.compare.alignment import Alignment, align
from gradwatch.report.compare.curves import LOSS, NORM, QUANTITIES, Curves, layer
from gradwatch.report.compare.differences import ParameterDifferences, SettingRow, differing, parameters_differ
from gradwatch.report.compare.happenings import Happening, happenings
from gradwatch.report.compare.members import Group, Member, named
from gradwatch.report.compare.outcomes import CurveComparison, Outcome, outcome_of
from gradwatch.report.compare.spread import Domain, domain_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from gradwatch.report.compare.arrays import Floats

# How often two groups of one setting may be told apart by mistake, whatever the number of curves.
LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Groups of runs side by side; the first group is the one that the others are compared with.

    ``curves`` are those of the whole model, ``layers`` the gradient norms of the layers that more than one group has;
    ``aligned`` says for each optimizer what is compared. ``parameters`` has an entry for each group but the first.
    """

    groups: tuple[Group, ...]
    settings: tuple[SettingRow, ...]
    parameters: tuple[ParameterDifferences | None, ...]
    curves: tuple[CurveComparison, ...]
    layers: tuple[CurveComparison, ...]
    aligned: dict[int, Alignment]
    happenings: tuple[Happening, ...]
    notes: tuple[str, ...]

    @property
    def one_to_one(self) -> bool:
        """Whether there is one run in every group, so that nobody can tell chance from cause."""
        return all(len(group.members) == 1 for group in self.groups)


def compare(groups: Sequence[Group]) -> Comparison:
    """Compare the groups with the first of them; two seeds of one experiment are compared with one another."""
    if len(groups) == 1 and len(groups[0].members) == 2:  # noqa: PLR2004 - a pair
        groups = named([[member] for member in groups[0].members])
    notes = [f"{member.label}: {note}" for group in groups for member in group.members for note in member.notes]
    notes += [note for group in groups for note in _seed_notes(group)]
    kept = tuple(_without_copies(group, notes) for group in groups)
    aligned, curves, layers = _curves(kept)
    return Comparison(
        groups=tuple(groups),
        settings=tuple(differing([[member.flat for member in group.members] for group in groups])),
        parameters=tuple(_parameters(groups[0], group) for group in groups[1:]),
        curves=tuple(curves),
        layers=tuple(layers),
        aligned=aligned,
        happenings=tuple(happenings(groups)),
        notes=tuple(notes),
    )


def _seed_notes(group: Group) -> Iterator[str]:
    seeds = [member.seed for member in group.members]
    if len(seeds) > 1 and seeds[0] is not None and len(set(seeds)) == 1:
        yield (
            f"all runs of {group.name} have the seed {seeds[0]}: their spread is that of non-determinism alone,"
            " which is smaller than that of seeds"
        )


def _without_copies(group: Group, notes: list[str]) -> Group:
    """Return a group in which runs with the very same curves count once: a copy is no second observation."""
    kept: list[Member] = []
    for member in group.members:
        twin = next((other for other in kept if _same(member, other)), None)
        if twin is None:
            kept.append(member)
        else:
            notes.append(f"{member.label} is identical to {twin.label}, bit for bit: they count as one run")
    return replace(group, members=kept)


def _same(one: Member, other: Member) -> bool:
    if not one.curves or one.curves.keys() != other.curves.keys():
        return False
    return all(_same_curves(one.curves[optimizer], other.curves[optimizer]) for optimizer in one.curves)


def _same_curves(one: Curves, other: Curves) -> bool:
    return np.array_equal(one.steps, other.steps) and all(
        np.array_equal(one.values[name], other.values[name], equal_nan=True) for name in (LOSS, NORM)
    )


def _parameters(first: Group, other: Group) -> ParameterDifferences | None:
    one, two = first.members[0].start, other.members[0].start
    found = parameters_differ(one.parameters, two.parameters) if one and two else None
    return found if found and any(found) else None


# -- curves ------------------------------------------------------------------------------------------------------------


def _curves(groups: Sequence[Group]) -> tuple[dict[int, Alignment], list[CurveComparison], list[CurveComparison]]:
    """Return what is compared for each optimizer, the curves of the model and those of its layers."""
    optimizers = sorted({index for group in groups for member in group.members for index in member.curves})
    aligned: dict[int, Alignment] = {}
    curves: list[CurveComparison] = []
    layers: list[CurveComparison] = []
    for optimizer in optimizers:
        runs = [
            [member.curves[optimizer] for member in group.members if optimizer in member.curves] for group in groups
        ]
        table = _Table(optimizer, runs, LEVEL / len(optimizers) / (len(QUANTITIES) + 1))
        aligned[optimizer] = table.alignment
        curves += table.curves()
        layers += table.layers()
    return aligned, curves, layers


class _Table:
    """The curves of one optimizer in all groups. The level is that of one curve, and of all layers together."""

    def __init__(self, optimizer: int, groups: Sequence[Sequence[Curves]], level: float) -> None:
        self._optimizer, self._groups, self._level = optimizer, groups, level
        self.alignment = align([run.steps for group in groups for run in group])
        self._present = self._where_present()

    def curves(self) -> Iterator[CurveComparison]:
        """Yield the comparisons of the curves of the model that any run has."""
        for name in QUANTITIES:
            values = self._aligned([[run.values[name] for run in group] for group in self._groups])
            if any(np.isfinite(each).any() for each in values):
                yield self._compared(name, None, values, self._level)

    def layers(self) -> Iterator[CurveComparison]:
        """Yield the comparisons of the layers that more than one group has, in the order of the model."""
        seen = dict.fromkeys(name for group in self._groups for run in group for name in run.names)
        shared = [name for name in seen if sum(_has(group, name) for group in self._groups) > 1]
        for name in shared:
            values = self._aligned([[layer(run, name) for run in group] for group in self._groups])
            yield self._compared(NORM, name, values, self._level / len(shared))

    def _aligned(self, groups: list[list[Floats]]) -> tuple[Floats, ...]:
        """Return an array [runs, steps] a group from arrays [records] a run."""
        run, aligned = 0, []
        for group in groups:
            rows = [self.alignment.of(run + index, values) for index, values in enumerate(group)]
            run += len(group)
            aligned.append(np.array(rows).reshape(len(rows), len(self.alignment.steps)))
        return tuple(aligned)

    def _where_present(self) -> list[NDArray[np.bool_]]:
        """Return for each group at which steps any of its runs has a record."""
        present, run = [], 0
        for group in self._groups:
            there = [self.alignment.present(run + index) for index in range(len(group))]
            present.append(np.any(there, axis=0) if there else np.zeros(len(self.alignment.steps), dtype=bool))
            run += len(group)
        return present

    def _outcome(self, values: tuple[Floats, ...], index: int, domain: Domain, level: float) -> Outcome | None:
        both = self._present[0] & self._present[index]
        return outcome_of(values[0][:, both], values[index][:, both], self.alignment.steps[both], domain, level)

    def _compared(self, quantity: str, name: str | None, values: tuple[Floats, ...], level: float) -> CurveComparison:
        domain = domain_of(values, zero_is_a_value=quantity == LOSS)
        steps = self.alignment.steps
        return CurveComparison(
            quantity=quantity,
            layer=name,
            optimizer=self._optimizer,
            domain=domain,
            steps=steps,
            values=values,
            outcomes=tuple(self._outcome(values, index, domain, level) for index in range(1, len(values))),
        )


def _has(group: Sequence[Curves], name: str) -> bool:
    return any(name in run.names for run in group)
