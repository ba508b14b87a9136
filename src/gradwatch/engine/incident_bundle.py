"""What is saved beside an incident, so that ``gradwatch replay`` can run the failing step on another machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from gradwatch.capture.rollback import evaluates_again
from gradwatch.engine.failure import Failure
from gradwatch.replica import randomness
from gradwatch.replica.bundle import Bundle, BundleError
from gradwatch.replica.step_runner import Moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from torch.optim import Optimizer

    from gradwatch.replica.step_runner import StepRunner


def bundle_of(module: nn.Module, optimizers: Sequence[Optimizer], failure: Failure, runner: StepRunner) -> Bundle:
    """Return the state from before the failing step; tensors are referred to, not copied.

    Optimizer state is in it where the step depends on it: with LBFGS, which moves the weights within the step.
    """
    optimizer = optimizers[failure.optimizer]
    kept = failure.moments[0].buffers
    return Bundle(
        weights={name: parameter.detach() for name, parameter in module.named_parameters()},
        buffers={name: kept.get(name, buffer).detach() for name, buffer in module.named_buffers()},
        batches=[moment.batch for moment in failure.moments],
        random_states=[
            {} if moment.random_state is None else randomness.as_dict(moment.random_state) for moment in failure.moments
        ],
        optimizer_state=[optimizer.state_dict()] if evaluates_again(optimizer) else None,
        attributes=dict(failure.moments[0].attributes),
        facts={
            "batch_idx": [moment.batch_idx for moment in failure.moments],
            "optimizer": failure.optimizer,
            "steps_before": failure.steps_before,
            "with_step": failure.with_step,
            "loss_scale": failure.loss_scale,
            "born": sorted(failure.born),
            "frozen": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
            "evaluating": [name for name, part in module.named_modules() if not part.training],
            "runner": runner.facts(module),
        },
    )


def failure_of(bundle: Bundle) -> Failure:
    """Return the failing step that a bundle describes.

    Raises:
        BundleError: a fact is missing or of the wrong kind.
    """
    facts = bundle.facts
    # Whoever has changed the file must not be able to put anything else into a module.
    attributes = {k: v for k, v in bundle.attributes.items() if isinstance(v, (bool, int, float, Tensor))}
    moments = [
        Moment(batch, index, randomness.from_dict(state) if state else None, bundle.buffers, attributes)
        for batch, index, state in zip(
            bundle.batches, _list_of(int, facts, "batch_idx"), bundle.random_states, strict=False
        )
    ]
    if not moments:
        raise BundleError("the batch was left out, so that there is nothing to replay: " + "; ".join(bundle.notes))
    return Failure(
        moments,
        _of(int, facts, "optimizer"),
        steps_before=_of(int, facts, "steps_before"),
        with_step=_of(bool, facts, "with_step"),
        loss_scale=float(_of((int, float), facts, "loss_scale")),
        born=frozenset(_list_of(str, facts, "born")),
    )


def _of(kind: Any, facts: dict[str, Any], name: str) -> Any:
    value = facts.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BundleError(f"replay.json: fact {name} is {str(value)[:60]!r}, which is not what gradwatch writes there")
    return value


def _list_of(kind: type, facts: dict[str, Any], name: str) -> list[Any]:
    return [_of(kind, {name: item}, name) for item in _of(list, facts, name)]
