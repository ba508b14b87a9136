"""The gradient check as a function, for tests and notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradwatch.errors import GradientMismatchError
from gradwatch.probes.check import GradientProbe, Request
from gradwatch.probes.investigation import THOROUGH
from gradwatch.probes.table import format_check
from gradwatch.replica import randomness
from gradwatch.replica.step_runner import LossFunctionRunner, Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from gradwatch.records import GradientCheckReport


def check_gradients(module: nn.Module, loss_fn: Callable[[nn.Module], Tensor], *, seed: int = 0) -> GradientCheckReport:
    """Check whether the gradients of a loss are correct, precise and reproducible, on copies of the module.

    Correct: autograd in float64 against centred differences in float64, for all weights together and for each
    tensor. Precise: the gradient at the module's own precision against float64. Reproducible: twice the same.

    Args:
        module: stays as it is, as do the random generators.
        loss_fn: returns the scalar loss of the module that it is given (a copy, in float64 most of the time), or a
            mapping with the key ``"loss"`` whose other scalars are checked as terms of their own. Float32 data from
            outside of the module is widened where it is used.
        seed: of the random directions.

    Returns:
        The report. What hinders the check is its ``reason``; no error of ``loss_fn`` comes out of here.

    Example:
        >>> import torch, gradwatch
        >>> x = torch.randn(4, 3)
        >>> gradwatch.check_gradients(torch.nn.Linear(3, 1), lambda linear: linear(x).square().mean()).verdict
        'pass'
    """

    def loss_of(copied: nn.Module, _batch: Any) -> Any:
        return loss_fn(copied)

    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    moment = Moment(None, 0, randomness.capture(randomness.generators_in(module)), {})
    probe = GradientProbe(module, [], LossFunctionRunner(loss_of), moment, named)
    return probe.run(Request(effort=THOROUGH._replace(seed=seed)))


def assert_gradients(module: nn.Module, loss_fn: Callable[[nn.Module], Tensor], *, seed: int = 0) -> None:
    """Raise if the gradients of a loss are wrong; the arguments are those of ``check_gradients``.

    A stop-gradient that explains a difference is no error, nor is a tensor too small to resolve.

    Raises:
        GradientMismatchError: autograd and finite differences disagree; the message has the table.
        ValueError: nothing could be checked; the message says why.
    """
    report = check_gradients(module, loss_fn, seed=seed)
    if report.verdict == "mismatch":
        raise GradientMismatchError(format_check(report), report)
    if report.verdict == "not_checkable":
        raise ValueError(f"the gradients cannot be checked: {report.reason}")
