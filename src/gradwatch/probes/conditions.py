"""What must hold before anything is said about the gradients of a step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradwatch.probes.narrow import NarrowWatch
from gradwatch.replica.memory import bytes_needed, fits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from torch.optim import Optimizer

    from gradwatch.probes.evaluation import Evaluator
    from gradwatch.probes.objectives import Objective

# Random operations whose derivative is no derivative of their result for fixed random numbers: M. Figurnov, S. Mohamed,
# A. Mnih, Implicit Reparameterization Gradients (NeurIPS 2018).
IMPLICIT = frozenset({"standard_gamma", "sample_dirichlet"})
# Beside a copy and a gradient as trained, in their bytes: weights and gradients in float64, and a direction in float32.
WIDENING = 2.5
# A loss that comes out twice, in float64, must be the same but for round-off.
REPEATS = 1e-9


class NotCheckableError(RuntimeError):
    """A reason why nothing can be said."""


def make_sure_of_memory(module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Refuse a check that would take more than half of what is free.

    Raises:
        NotCheckableError: it would.
    """
    needed = bytes_needed(module, optimizers, with_optimizer_state=False, share_weights=False)
    if not fits({device: int(size * WIDENING) for device, size in needed.items()}):
        raise NotCheckableError("memory: a copy in float64 would take more than half of what is free")


def make_sure_of_gradients(trained: Sequence[Objective]) -> None:
    """Refuse a step that differentiates nothing of the module.

    Raises:
        NotCheckableError: there is no loss, or none that a weight has a gradient of.
    """
    if not trained:
        raise NotCheckableError("the step has returned no loss")
    if not any(objective.gradients for objective in trained):
        raise NotCheckableError("no gradient reaches any weight of the module: does the loss use the one it is given?")


def make_sure_of_finiteness(objectives: Sequence[Objective]) -> None:
    """Refuse a loss that is NaN or infinite.

    Raises:
        NotCheckableError: it is.
    """
    for objective in objectives:
        if not math.isfinite(objective.value):
            raise NotCheckableError(f"the {objective.name} is {objective.value}")


def make_sure_of_repetition(evaluator: Evaluator, wide: Sequence[Objective]) -> None:
    """Run the step once more, and refuse one that does not come out the same.

    Raises:
        NotCheckableError: it does not.
    """
    again = evaluator.values(len(wide))
    for objective, value in zip(wide, again, strict=False):
        if abs(value - objective.value) > REPEATS * max(abs(objective.value), abs(value)):
            raise NotCheckableError(
                f"the step does not repeat: the same batch, weights and random states gave a {objective.name} of"
                f" {objective.value:.9g} and then of {value:.9g}. It has side effects outside of the module, or draws"
                " from a source that cannot be rewound"
            )
    if len(again) != len(wide):
        raise NotCheckableError("the step does not repeat: it backpropagated another number of losses")


def make_sure_of_derivatives(evaluator: Evaluator) -> None:
    """Before a backward is called wrong: is all of the step in float64, and are samples differentiated as such.

    Raises:
        NotCheckableError: it is not, or they are not.
    """
    implicit = sorted(evaluator.drawn & IMPLICIT)
    if implicit:
        raise NotCheckableError(
            f"the step draws by {' and '.join(implicit)}, whose samples are differentiated implicitly, not as a"
            " function of fixed random numbers"
        )
    watch = NarrowWatch()
    evaluator.gradients(None, watch)
    if watch.found is not None:
        raise NotCheckableError(
            f"part of the step computes in a narrower format than float64, whatever is asked: {watch.found}"
        )
