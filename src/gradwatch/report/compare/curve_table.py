"""All curves of one optimizer, of all groups: put on one step axis, and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.compare.alignment import Alignment, align
from gradwatch.report.compare.arrays import Floats
from gradwatch.report.compare.curves import LOSS, NORM, QUANTITIES, RATIO, Curves, layer
from gradwatch.report.compare.outcomes import CurveComparison, Outcome, Prepared, pair_outcome
from gradwatch.report.compare.parting import level_of_each
from gradwatch.report.compare.spread import Domain, domain_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

Values = tuple[Floats, ...]


class CurveTable:
    """The curves of one optimizer.

    Args:
        optimizer: its index.
        groups: the curves of the runs of each group.
        level: how often groups of one setting may be told apart in any of the curves. The curves of the model have
            equal shares of it, and all layers together have one.
        same_layers: whether all runs call the same things layers; without that, a median over them is not compared.
    """

    def __init__(
        self, optimizer: int, groups: Sequence[Sequence[Curves]], level: float, *, same_layers: bool = True
    ) -> None:
        self._optimizer, self._groups = optimizer, groups
        self._quantities = [name for name in QUANTITIES if same_layers or name != RATIO]
        self._level = level / (len(QUANTITIES) + 1)
        self.alignment = align([run.steps for group in groups for run in group])
        self._present = self._where_present()
        everywhere = np.all(self._present, axis=0)
        self._shared = everywhere if everywhere.any() else ~everywhere

    def common(self) -> Alignment:
        """Return where there is something to compare: at the steps that two groups have, if there are two."""
        groups = np.sum(self._present, axis=0)
        return self.alignment.where(groups >= min(2, len(self._groups)))

    def curves(self) -> Iterator[CurveComparison]:
        """Yield the comparisons of the curves of the model that any run has."""
        for name in self._quantities:
            values = self._aligned([[run.values[name] for run in group] for group in self._groups])
            if any(np.isfinite(each).any() for each in values):
                domain = domain_of(values, zero_is_a_value=name == LOSS)
                outcomes = [self._outcomes([values], [domain], index)[0] for index in range(1, len(values))]
                yield self._comparison(name, None, domain, values, outcomes)

    def layers(self) -> Iterator[CurveComparison]:
        """Yield the comparisons of the layers that more than one group has, in the order of the model."""
        seen = dict.fromkeys(name for group in self._groups for run in group for name in run.names)
        names = [name for name in seen if sum(_has(group, name) for group in self._groups) > 1]
        values = [self._aligned([[layer(run, name) for run in group] for group in self._groups]) for name in names]
        domains = [domain_of(each) for each in values]
        columns = [self._outcomes(values, domains, index) for index in range(1, len(self._groups))]
        for row, name in enumerate(names):
            yield self._comparison(NORM, name, domains[row], values[row], [column[row] for column in columns])

    def _outcomes(self, values: Sequence[Values], domains: Sequence[Domain], index: int) -> list[Outcome | None]:
        """Return what is said of several curves of one group against those of the first, which share a level."""
        both = self._present[0] & self._present[index]
        steps = self.alignment.steps[both]
        curves = [(each[0][:, both], each[index][:, both]) for each in values]
        if len(self._groups[0]) == len(self._groups[index]) == 1:
            return [pair_outcome(one[0], other[0], steps) for one, other in curves]
        prepared = [Prepared(*each, steps, domain) for each, domain in zip(curves, domains, strict=True)]
        level = level_of_each([each.windows for each in prepared if each.windows], self._level)
        return [each.outcome(level) for each in prepared]

    def _comparison(
        self, quantity: str, name: str | None, domain: Domain, values: Values, outcomes: Sequence[Outcome | None]
    ) -> CurveComparison:
        return CurveComparison(
            quantity=quantity,
            layer=name,
            optimizer=self._optimizer,
            domain=domain,
            steps=self.alignment.steps,
            values=values,
            shared=self._shared,
            outcomes=tuple(outcomes),
        )

    def _aligned(self, groups: list[list[Floats]]) -> Values:
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


def _has(group: Sequence[Curves], name: str) -> bool:
    return any(name in run.names for run in group)
