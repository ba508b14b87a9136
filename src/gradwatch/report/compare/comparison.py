"""Everything that is said of several runs: settings, curves, happenings."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.compare.curve_table import CurveTable
from gradwatch.report.compare.curves import LOSS, NORM, RATE, RATIO, Curves
from gradwatch.report.compare.differences import ParameterDifferences, SettingRow, differing, parameters_differ
from gradwatch.report.compare.happenings import Happening, happenings
from gradwatch.report.compare.members import Group, Member, named
from gradwatch.report.compare.strays import Stray, strays

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradwatch.report.compare.alignment import Alignment
    from gradwatch.report.compare.outcomes import CurveComparison

# How often two groups of one setting may be told apart by mistake, whatever the number of curves.
LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Groups of runs side by side; the first group is the one that the others are compared with.

    ``curves`` are those of the whole model, ``layers`` the gradient norms of the layers that more than one group has;
    ``aligned`` says for each optimizer what is compared. ``parameters`` has an entry for each group but the first.
    ``strays`` are runs of an only group that leave the others.
    """

    groups: tuple[Group, ...]
    settings: tuple[SettingRow, ...]
    parameters: tuple[ParameterDifferences | None, ...]
    curves: tuple[CurveComparison, ...]
    layers: tuple[CurveComparison, ...]
    aligned: dict[int, Alignment]
    strays: tuple[Stray, ...]
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
    same_layers = _same_layers(groups)
    if not same_layers:
        notes.append(f"the {RATIO} is left out: it is the median over the layers, and not all runs have the same ones")
    aligned, curves, layers = _curves(kept, same_layers=same_layers)
    settings = tuple(differing([[member.flat for member in group.members] for group in groups]))
    notes += _rate_notes(curves, settings)
    return Comparison(
        groups=tuple(groups),
        settings=settings,
        parameters=tuple(_parameters(groups[0], group) for group in groups[1:]),
        curves=tuple(curves),
        layers=tuple(layers),
        aligned=aligned,
        strays=tuple(strays([member.label for member in kept[0].members], curves, LEVEL) if len(kept) == 1 else ()),
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


def _rate_notes(curves: Sequence[CurveComparison], settings: Sequence[SettingRow]) -> Iterator[str]:
    """Yield what the settings do not say: a schedule made of a function, or a rate that a callback sets."""
    step = min((curve.step for curve in curves if curve.quantity == RATE and curve.step is not None), default=None)
    if step is not None and not any(re.match("optimizer|scheduler", row.name) for row in settings):
        yield f"the learning rates differ from step {step} on, and no setting that was recorded says why"


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


def _same_layers(groups: Sequence[Group]) -> bool:
    known = [member.layers for group in groups for member in group.members if member.layers is not None]
    return len(set(known)) <= 1


def _curves(
    groups: Sequence[Group], *, same_layers: bool
) -> tuple[dict[int, Alignment], list[CurveComparison], list[CurveComparison]]:
    """Return what is compared for each optimizer, the curves of the model and those of its layers."""
    optimizers = sorted({index for group in groups for member in group.members for index in member.curves})
    aligned: dict[int, Alignment] = {}
    curves: list[CurveComparison] = []
    layers: list[CurveComparison] = []
    for optimizer in optimizers:
        runs = [
            [member.curves[optimizer] for member in group.members if optimizer in member.curves] for group in groups
        ]
        table = CurveTable(optimizer, runs, LEVEL / len(optimizers), same_layers=same_layers)
        aligned[optimizer] = table.common()
        curves += table.curves()
        layers += table.layers()
    return aligned, curves, layers
