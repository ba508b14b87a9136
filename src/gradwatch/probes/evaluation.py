"""One step, run again and again on fresh copies of its module: as it trains, or in float64 with weights moved."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradwatch.probes.float64 import WIDE, Float64Mode, widened
from gradwatch.probes.objectives import EnoughError, Objective, Objectives
from gradwatch.probes.random_tape import RandomTape
from gradwatch.replica import randomness
from gradwatch.replica.batches import copy_batch
from gradwatch.replica.copying import side_copy
from gradwatch.replica.guard import GuardMode, StepGuard
from gradwatch.replica.tensors import held_tensors, weights_of
from gradwatch.replica.unnoticed import unnoticed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn
    from torch.optim import Optimizer

    from gradwatch.replica.copying import SideCopy
    from gradwatch.replica.step_runner import Moment, StepRunner

    Around = Callable[[nn.Module, Callable[[], None]], None]

Mode = contextlib.AbstractContextManager[Any]


class WritesWeightsError(RuntimeError):
    """The step changes its own weights: what it computes is no function of them."""


class Evaluator:
    """Runs the step of one moment.

    A copy serves once: counters, buffers and metrics move with every step.

    Args:
        module: it stays as it is.
        optimizers: what steps it; the copy's act on nothing.
        runner: knows how a step runs.
        moment: batch and random states.
        named: the parameters of which derivatives are taken, by name.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[Optimizer],
        runner: StepRunner,
        moment: Moment,
        named: Mapping[str, Tensor],
    ) -> None:
        self.named = dict(named)
        self.module, self._optimizers = module, list(optimizers)
        self._runner, self._moment = runner, moment
        self._tape = RandomTape()
        self._guarded = True
        self.weights = WideWeights(self.named)

    def with_batch(self, batch: object) -> Evaluator:
        """Return an evaluator of the same step on another batch, which knows whether the step needs a guard."""
        moment = self._moment._replace(batch=batch)
        other = Evaluator(self.module, self._optimizers, self._runner, moment, self.named)
        other._guarded = self._guarded
        return other

    @property
    def precision(self) -> str | None:
        """The narrowest format that the step computes in, once it has run as it trains."""
        return self._tape.narrowest

    @property
    def drawn(self) -> frozenset[str]:
        """The names of the random operations of the recorded step."""
        return self._tape.drawn

    def as_trained(self, *modes: Mode, record: bool = False, around: Around | None = None) -> list[Objective]:
        """Run the step at the precision of the training; return its objectives with their gradients.

        Args:
            modes: entered around the step.
            record: what it draws is drawn again by every later run in float64.
            around: called with the copied module and what runs the step.

        Raises:
            CommunicationNeeded: the step talks to other ranks.
            WritesWeightsError: the step changes its own weights.
        """
        objectives, guard = Objectives(self.named), StepGuard()
        recorder = [self._tape.recorder()] if record else []
        self._run(objectives, guard if self._guarded else None, [*recorder, *modes], around=around)
        self._guarded = self._guarded and not guard.is_idle
        written = [name for name, copied in objectives.copies.items() if _differ(copied, self.named[name])]
        if written:
            raise WritesWeightsError(f"the step writes into its own weights ({', '.join(written[:3])})")
        return objectives.finish()

    def forget_random_numbers(self) -> None:
        """Let the step draw in float64 what the random states give there."""
        self._tape = RandomTape()

    def gradients(
        self,
        weights: Mapping[str, Tensor] | None = None,
        *modes: Mode,
        prepare: Callable[[SideCopy], None] | None = None,
    ) -> list[Objective]:
        """Run the step in float64; return its objectives with their gradients.

        Args:
            weights: float64 values that take the place of parameters, by name.
            modes: entered around the step.
            prepare: called with the copy before the step runs.
        """
        objectives = Objectives(self.named)
        self._run_wide(objectives, weights or {}, modes, prepare)
        return objectives.finish()

    def values(
        self,
        count: int,
        weights: Mapping[str, Tensor] | None = None,
        *modes: Mode,
        prepare: Callable[[SideCopy], None] | None = None,
    ) -> list[float]:
        """Run the step in float64 until its first ``count`` objectives are known; return their values.

        Gradients stay switched on, for hooks that are registered on the way and for gradients inside of the loss.
        """
        objectives = Objectives(self.named, stop_after=count)
        self._run_wide(objectives, weights or {}, modes, prepare)
        return [objective.value for objective in objectives.found]

    def _run_wide(
        self,
        objectives: Objectives,
        weights: Mapping[str, Tensor],
        modes: Sequence[Mode],
        prepare: Callable[[SideCopy], None] | None,
    ) -> None:
        def widen(copy: SideCopy) -> None:
            self._widen(copy, weights)
            if prepare is not None:
                prepare(copy)

        played = [self._tape.player()] if self._tape.matters else []
        self._run(objectives, StepGuard() if self._guarded else None, [*played, Float64Mode(), *modes], widen)

    def _run(
        self,
        objectives: Objectives,
        guard: StepGuard | None,
        modes: Sequence[Mode],
        prepare: Callable[[SideCopy], None] | None = None,
        around: Around | None = None,
    ) -> None:
        with contextlib.ExitStack() as entered:
            entered.enter_context(unnoticed(self.module))
            copy = side_copy(
                self.module,
                self._optimizers,
                replaced=self._runner.replaced(),
                share_weights=prepare is not None,  # they are replaced at once
            )
            moment = self._moment._replace(batch=copy_batch(self._moment.batch))
            if prepare is not None:
                prepare(copy)
                moment = moment._replace(batch=widened(moment.batch))
            if moment.random_state is not None:
                randomness.restore(moment.random_state, randomness.generators_in(copy.module))
            objectives.begin(copy)
            entered.callback(objectives.give_back)
            if guard is not None:
                entered.enter_context(guard)
                entered.enter_context(GuardMode(guard))
            for mode in modes:
                entered.enter_context(mode)

            def run() -> None:
                with contextlib.suppress(EnoughError):
                    self._runner(copy, moment, objectives, loss_scale=1.0, with_step=False)

            run() if around is None else around(copy.module, run)

    @torch.no_grad()
    def _widen(self, copy: SideCopy, moved: Mapping[str, Tensor]) -> None:
        """Give the copy float64 tensors of its own in place of all that it holds."""
        for name, original in self.named.items():
            copy.parameter_of(original).data = moved[name] if name in moved else self.weights[name]
        known = {id(copy.parameter_of(original)) for original in self.named.values()}
        rest = [*weights_of(copy.module, copy.optimizers), *held_tensors(copy.module)]
        for tensor in {id(tensor): tensor for tensor in rest if id(tensor) not in known}.values():
            tensor.data = _wide_clone(tensor)


class WideWeights(Mapping[str, Tensor]):
    """The parameters in float64, exactly as they are in training; made anew at each look-up, and never kept."""

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self._named = named

    def __getitem__(self, name: str) -> Tensor:
        return _wide_clone(self._named[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)


def _differ(one: Tensor, other: Tensor) -> bool:
    if torch.equal(one, other):
        return False
    return not (one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all()))


def _wide_clone(tensor: Tensor) -> Tensor:
    data = tensor.detach()
    return data.clone() if data.dtype not in WIDE else data.to(WIDE[data.dtype])
