"""The derivatives of a step's objectives along directions, measured at one point under one set of circumstances."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from gradwatch.probes.correctness import make_direction, slopes_along
from gradwatch.probes.stop_gradients import StopGradients

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from torch import Tensor
    from torch.overrides import TorchFunctionMode

    from gradwatch.probes.evaluation import Evaluator
    from gradwatch.probes.hooks import HooksSilenced
    from gradwatch.probes.objectives import Objective
    from gradwatch.probes.slopes import Slope
    from gradwatch.replica.copying import SideCopy

JITTER = 1e-2


class Measurement(NamedTuple):
    """How derivatives are measured.

    ``weights`` are where they are taken, and ``objectives`` what autograd says there. ``stops`` are held constant and
    ``hooks`` left out, where they are given.
    """

    evaluator: Evaluator
    objectives: Sequence[Objective]
    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    stops: StopGradients | None = None
    hooks: HooksSilenced | None = None

    def along(self, names: Collection[str], seed: int, tolerance: float) -> dict[str, Slope]:
        """Return the derivative of each objective, by name, along one random direction of the named weights.

        Objectives for which none of them counts are left out.
        """
        found: dict[str, Slope] = {}
        for positions, active in self._groups():
            moved = [name for name in names if name in active]
            if moved:
                direction = make_direction(self.weights, moved, seed, self.masks)
                objectives = [self.objectives[position] for position in positions]
                values = functools.partial(self._values, positions)
                slopes = slopes_along(direction, objectives, self.weights, values, tolerance)
                found |= {objective.name: slope for objective, slope in zip(objectives, slopes, strict=True)}
        return found

    def without_stops(self, stops: StopGradients, hooks: HooksSilenced) -> Measurement:
        """Return the same with everything held constant, or left out, that keeps or changes gradients on purpose."""
        objectives = self.evaluator.gradients(self.weights, hooks, prepare=hooks.strip)
        self.evaluator.values(len(self.objectives), self.weights, hooks, stops.recorder(), prepare=hooks.strip)
        return self._replace(objectives=objectives, stops=stops, hooks=hooks)

    def nearby(self, seed: int) -> Measurement:
        """Return the same at weights a little further on, where no kink of this point is."""
        moved = {}
        for name, weight in self.weights.items():
            change = make_direction(self.weights, [name], seed, self.masks).changes[name]
            moved[name] = weight + JITTER * change
        there = self._replace(weights=moved, stops=None if self.stops is None else StopGradients())
        objectives = self.evaluator.gradients(
            moved,
            *there._modes(recording=True),  # noqa: SLF001 - another of the same class
            prepare=self._prepare,
        )
        return there._replace(objectives=objectives)

    def _groups(self) -> Iterator[tuple[list[int], frozenset[str]]]:
        """Yield the positions of objectives that are functions of the same weights, which share their evaluations."""
        for active in dict.fromkeys(objective.active for objective in self.objectives):
            yield [i for i, objective in enumerate(self.objectives) if objective.active == active], active

    def _values(self, positions: Sequence[int], weights: Mapping[str, Tensor]) -> list[float]:
        given = weights if self.weights is self.evaluator.weights else {**self.weights, **weights}
        values = self.evaluator.values(max(positions) + 1, given, *self._modes(), prepare=self._prepare)
        if len(values) <= max(positions):
            raise RuntimeError("the step has computed fewer losses at moved weights")
        return [values[position] for position in positions]

    def _modes(self, *, recording: bool = False) -> list[TorchFunctionMode]:
        modes: list[TorchFunctionMode] = [] if self.hooks is None else [self.hooks]
        if self.stops is not None:
            modes.append(self.stops.recorder() if recording else self.stops.held())
        return modes

    @property
    def _prepare(self) -> Callable[[SideCopy], None] | None:
        return None if self.hooks is None else self.hooks.strip
