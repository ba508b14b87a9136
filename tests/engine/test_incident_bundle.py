"""The failing step becomes a bundle, and the bundle the same failing step, by way of the disk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from gradwatch.engine.failure import Failure
from gradwatch.engine.incident_bundle import bundle_of, failure_of
from gradwatch.replica import randomness
from gradwatch.replica.bundle import Bundle, BundleError, load, save
from gradwatch.replica.step_runner import LossFunctionRunner, Moment
from tests.engine.loops import Net

if TYPE_CHECKING:
    from pathlib import Path


def _loss(module: nn.Module, batch: Any) -> torch.Tensor:
    return module(batch).sum()


def _failure(module: nn.Module) -> Failure:
    buffers = {"norm.running_mean": torch.full((6,), 7.0)}  # as they were before the step
    attributes = {"tau": 0.25, "warm": True, "bound": torch.ones(2)}
    moments = [Moment(torch.full((2, 4), float(i)), 4 + i, randomness.capture(), buffers, attributes) for i in range(2)]
    return Failure(moments, 1, steps_before=2, with_step=False, loss_scale=8.0, born=frozenset({"head.bias", "a"}))


def _bundle(module: nn.Module, *optimizers: torch.optim.Optimizer) -> Bundle:
    made = optimizers or (torch.optim.SGD(module.parameters(), lr=0.1),) * 2
    return bundle_of(module, made, _failure(module), LossFunctionRunner(_loss))


def test_a_failure_comes_back_from_the_disk(tmp_path: Path) -> None:
    module = Net()
    before = _failure(module)
    save(tmp_path, _bundle(module))
    back = failure_of(load(tmp_path))
    assert back._replace(moments=[]) == before._replace(moments=[])
    assert [m.batch_idx for m in back.moments] == [4, 5]
    for mine, theirs in zip(back.moments, before.moments, strict=True):
        assert torch.equal(mine.batch, theirs.batch)  # type: ignore[arg-type]
        assert torch.equal(mine.random_state.cpu, theirs.random_state.cpu)  # type: ignore[union-attr]
        assert torch.equal(mine.buffers["norm.running_mean"], torch.full((6,), 7.0))
        numbers = {name: value for name, value in mine.attributes.items() if name != "bound"}
        assert numbers == {"tau": 0.25, "warm": True}
        assert torch.equal(mine.attributes["bound"], torch.ones(2))  # type: ignore[arg-type]


def test_an_attribute_of_another_kind_is_not_set() -> None:
    """Whoever has changed the file must not be able to put anything else into a module."""
    bundle = replace(_bundle(Net()), attributes={"tau": 0.5, "forward": "no", "head": None, "norm": []})
    assert failure_of(bundle).moments[0].attributes == {"tau": 0.5}


def test_buffers_are_those_from_before_the_step_and_the_others_as_they_are() -> None:
    module = Net()
    module.norm.running_var.fill_(3.0)  # type: ignore[union-attr,operator]
    buffers = _bundle(module).buffers
    assert buffers["norm.running_mean"].tolist() == [7.0] * 6
    assert buffers["norm.running_var"].tolist() == [3.0] * 6
    assert set(buffers) == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def test_tensors_are_referred_to() -> None:
    module = Net()
    weights: Any = _bundle(module).weights
    assert {name: weight.data_ptr() for name, weight in weights.items()} == {
        name: parameter.data_ptr() for name, parameter in module.named_parameters()
    }
    assert not any(weight.requires_grad for weight in weights.values())


def test_flags_are_facts() -> None:
    module = Net()
    module.body.requires_grad_(requires_grad=False)
    module.norm.eval()
    facts = _bundle(module).facts
    assert facts["frozen"] == ["body.weight", "body.bias"]
    assert facts["evaluating"] == ["norm"]
    assert facts["born"] == ["a", "head.bias"]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.LBFGS])
def test_optimizer_state_is_saved_where_the_step_moves_the_weights(kind: Any) -> None:
    module = Net()
    optimizer = kind(module.parameters(), lr=0.1)
    optimizer.step(lambda: _backward(module))
    state = _bundle(module, torch.optim.SGD(module.parameters()), optimizer).optimizer_state
    if kind is torch.optim.Adam:
        assert state is None
    else:
        assert state is not None
        assert state[0]["state"][0]["func_evals"] > 0


def _backward(module: nn.Module) -> torch.Tensor:
    loss = module(torch.randn(4, 4)).square().sum()
    loss.backward()
    return loss


def test_a_moment_without_random_state_stays_without() -> None:
    module = Net()
    failure = _failure(module)
    failure = failure._replace(moments=[failure.moments[0]._replace(random_state=None)])
    optimizers = [torch.optim.SGD(module.parameters())] * 2
    bundle = bundle_of(module, optimizers, failure, LossFunctionRunner(_loss))
    assert failure_of(bundle).moments[0].random_state is None


def test_a_batch_that_was_left_out_is_said() -> None:
    bundle = replace(_bundle(Net()), batches=[], notes=["batches take 4 bytes: left out"])
    with pytest.raises(BundleError, match="nothing to replay: batches take 4 bytes: left out"):
        failure_of(bundle)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_idx", 3),
        ("batch_idx", [0, "1"]),
        ("optimizer", "0"),
        ("optimizer", True),
        ("steps_before", 1.5),
        ("steps_before", False),
        ("with_step", 1),
        ("loss_scale", None),
        ("loss_scale", True),
        ("born", "head"),
        ("born", [["head"]]),
    ],
)
def test_a_fact_of_another_kind_is_named(name: str, value: Any) -> None:
    bundle = _bundle(Net())
    bundle.facts[name] = value
    with pytest.raises(BundleError, match=f"replay.json: fact {name} is "):
        failure_of(bundle)


def test_a_missing_fact_is_named() -> None:
    bundle = _bundle(Net())
    del bundle.facts["loss_scale"]
    with pytest.raises(BundleError, match="fact loss_scale is 'None'"):
        failure_of(bundle)
