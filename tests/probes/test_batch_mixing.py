"""Samples of a batch that influence one another: found by module and line; what only looks so is left alone."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradwatch.probes.batch_mixing import BatchMixingProbe, Mixing
from gradwatch.replica import memory, randomness
from gradwatch.replica.step_runner import LossFunctionRunner, Moment
from tests.probes import mixing_models as mixing
from tests.probes.unmixed_models import HEALTHY, classify, labels, normal

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = (normal(12, mixing.LENGTH, mixing.FEATURES), labels())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def look(module: nn.Module, batch: Any = BATCH, loss: Callable[[nn.Module, Any], Any] = classify) -> Mixing:
    moment = Moment(batch, 0, randomness.capture(), {})
    return BatchMixingProbe(module, [], LossFunctionRunner(loss), moment, dict(module.named_parameters())).run()


def marked(cls: type) -> int:
    """The line of a class that is marked as the one that mixes."""
    lines, first = inspect.getsourcelines(cls)
    return first + next(i for i, line in enumerate(lines) if line.rstrip().endswith("# mixes"))


@pytest.mark.parametrize(
    ("cls", "module"),
    [
        (mixing.WrongPermute, "body"),
        (mixing.Folded, "body"),
        (mixing.SoftmaxOverBatch, "body"),
        (mixing.MeanOverBatch, "body"),
        (mixing.NormOverBatch, "body"),
        (mixing.Cumulated, "body"),
        (mixing.WrongUnflatten, "body"),
        (mixing.Rolled, "body"),
        (mixing.Shifted, "body"),
        (mixing.AtTheInput, "body"),
        (mixing.SlippedAttention, "body.attention"),
        (mixing.SlippedRecurrence, "body.recurrent"),
        (mixing.SoftmaxAtTheEnd, "body.net.2"),
    ],
)
def test_a_module_that_mixes_is_named_with_its_line(cls: type[nn.Module], module: str) -> None:
    found = look(nn.Sequential(OrderedDict(body=cls())))
    assert (found.module, found.reason) == (module, None)
    assert found.source is not None
    assert (Path(found.source.file).name, found.source.line) == ("mixing_models.py", marked(cls))
    assert 1 <= found.rows < found.samples == 8
    assert 0.001 < found.change <= 1


@pytest.mark.parametrize("size", [2, 3, 5, 8, 9])
def test_small_batches_are_enough(size: int) -> None:
    found = look(mixing.SlippedAttention(), (BATCH[0][:size], BATCH[1][:size]))
    assert found.module == "attention"
    assert found.rows == found.samples - 1


def test_the_innermost_module_that_mixes_is_named() -> None:
    outer = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Tanh(), mixing.Inner()), nn.Flatten(), nn.Linear(30, 3))
    found = look(outer)
    assert (found.module, found.module_type) == ("1.1", "Inner")


def test_code_of_the_step_between_two_modules_is_the_root() -> None:
    parts = nn.ModuleDict({"encoder": nn.Linear(6, 6), "decoder": nn.Linear(6, 3)})

    def step(module: nn.Module, batch: Any) -> Tensor:
        inner: Any = module
        h = inner["encoder"](batch[0])
        h = h - h.mean(0)
        return functional.cross_entropy(inner["decoder"](h).mean(1), batch[1])

    found = look(parts, loss=step)
    assert (found.module, found.reason) == ("", None)
    assert found.source is not None
    assert found.source.code == "h = h - h.mean(0)"


def test_integers_and_dictionaries_are_samples_too() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.body = nn.Embedding(9, 6), mixing.SlippedRecurrence()

        def forward(self, ids: Tensor) -> Tensor:
            return self.body(self.embedding(ids))

    batch = {"ids": torch.arange(60).view(12, 5) % 9, "label": labels()}
    found = look(Tokens(), batch, lambda module, given: functional.cross_entropy(module(given["ids"]), given["label"]))
    assert found.module == "body.recurrent"


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_model_is_left_alone(name: str) -> None:
    case = HEALTHY[name]
    found = look(case.model(), case.batch, case.loss)
    assert found.module is None
    assert (found.reason is None) is case.answered, found.reason


@pytest.mark.parametrize("name", ["time first inside", "memory bank", "adversaries"])
def test_the_check_leaves_no_trace(name: str) -> None:
    case = HEALTHY[name]
    module = case.model()
    state, draws = {key: value.clone() for key, value in module.state_dict().items()}, torch.get_rng_state()
    look(module, case.batch, case.loss)
    assert module.training
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ((normal(4, 6), labels(3, 5)), "the tensors of the batch do not agree on how many samples there are"),
        ((normal(4, 6), torch.tensor(1)), "the tensors of the batch do not agree on how many samples there are"),
        ((normal(1, 6), labels(3, 1)), "the batch has one sample"),
        ((torch.ones(4, 6), torch.ones(4)), "the samples of the batch are all the same"),
    ],
)
def test_what_cannot_be_told_has_a_reason(batch: Any, reason: str) -> None:
    assert look(nn.Linear(6, 3), batch) == Mixing(reason=reason)


def test_a_step_that_fails_is_a_reason() -> None:
    def fails(_module: nn.Module, _batch: Any) -> Tensor:
        raise KeyError("no loss in eval mode")

    assert look(nn.Linear(6, 3), loss=fails).reason == "the step failed on a copy with KeyError: 'no loss in eval mode'"


def test_indices_into_the_batch_are_never_left_without_their_samples() -> None:
    case = HEALTHY["graph with edges of its own"]
    found = look(case.model(), case.batch, case.loss)
    assert found.reason == "the module holds indices that may point at samples of the batch"


def test_a_gradient_inside_of_the_step_is_a_reason() -> None:
    def penalised(module: nn.Module, batch: Any) -> Tensor:
        x = batch[0].requires_grad_()
        (slope,) = torch.autograd.grad(module(x).tanh().sum(), x, create_graph=True)
        return slope.square().sum()

    found = look(nn.Linear(6, 3), loss=penalised)
    assert found.reason == "the step differentiates on its way to the loss"


def test_a_step_that_never_repeats_is_a_reason() -> None:
    noise = iter(normal(100))

    def noisy(module: nn.Module, batch: Any) -> Tensor:
        return classify(module, (batch[0] + next(noise), batch[1]))

    assert look(mixing.SlippedAttention(), loss=noisy).reason is not None


def test_no_memory_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 100)
    assert "memory" in (look(mixing.SlippedAttention()).reason or "")
