"""What hinders a check, and what a check does with few samples of a batch."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

from gradwatch.probes.check import GradientProbe, Request
from gradwatch.probes.investigation import QUICK
from gradwatch.probes.report import not_checkable
from gradwatch.records import Culprit
from gradwatch.replica import memory, randomness
from gradwatch.replica.step_runner import LossFunctionRunner, Moment
from tests.probes.doubled import Doubled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gradwatch.records import GradientCheckReport

CALLS = itertools.count()
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
CULPRIT = Culprit(module="known", module_type="Known", function=None, source=None)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def squared(module: nn.Module, batch: Any) -> Tensor:
    return module(batch).square().mean()


def check(
    module: nn.Module, loss: Callable[[nn.Module, Any], Any] = squared, batch: Any = X, **request: Any
) -> GradientCheckReport:
    moment = Moment(batch, 0, randomness.capture(), {})
    probe = GradientProbe(module, [], LossFunctionRunner(loss), moment, dict(module.named_parameters()))
    return probe.run(Request(**request))


@pytest.mark.parametrize(("free", "verdict"), [(0, "not_checkable"), (2**30, "pass"), (None, "pass")])
def test_a_check_needs_room_for_copies_in_float64(
    free: int | None, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _device: free)
    report = check(perceptron())
    assert report.verdict == verdict
    if verdict == "not_checkable":
        assert report.reason == "memory: a copy in float64 would take more than half of what is free"


def test_the_room_is_two_and_a_half_times_a_copy_and_a_gradient_within_half_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = nn.Linear(100, 100, bias=False)
    needed = int(4 * 10_000 * 2 * 2.5)
    for free, verdict in [(2 * needed - 1, "not_checkable"), (2 * needed, "pass")]:
        monkeypatch.setattr(memory, "free_bytes", lambda _device, free=free: free)
        assert check(module, batch=torch.ones(2, 100)).verdict == verdict


def test_one_rank_alone_does_not_communicate(tmp_path: Path) -> None:
    def averaged(module: nn.Module, batch: Tensor) -> Tensor:
        loss = squared(module, batch)
        dist.all_reduce(loss.detach().clone())
        return loss

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        report = check(perceptron(), averaged)
    finally:
        dist.destroy_process_group()
    assert (report.verdict, report.reason) == (
        "not_checkable",
        "the step talks to other ranks (allreduce), which one rank alone must not repeat",
    )


def test_a_step_that_writes_its_weights_is_no_function_of_them() -> None:
    def decaying(module: nn.Module, batch: Tensor) -> Tensor:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.9)
        return squared(module, batch)

    module = perceptron()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    report = check(module, decaying)
    assert report.verdict == "not_checkable"
    assert report.reason == "the step writes into its own weights (0.weight, 0.bias, 2.weight)"
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_loss_that_is_not_finite_close_by_is_not_checkable() -> None:
    module = nn.Linear(4, 1)
    start = module.weight.detach().double()
    report = check(module, lambda m, _: (1e-20 - (m.get_parameter("weight") - start).square().sum()).log())
    assert (report.verdict, report.reason) == ("not_checkable", "the loss is not finite at weights close by")


@pytest.mark.parametrize("samples", [2, None])
def test_few_samples_are_enough_and_said(samples: int | None) -> None:
    sizes: list[int] = []

    def counting(module: nn.Module, batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return squared(module, batch)

    report = check(perceptron(), counting, samples=samples, effort=QUICK)
    assert (report.verdict, report.samples) == ("pass", samples)
    assert set(sizes) == ({2, 6} if samples else {6})
    assert sizes[-2:] == [6, 6]  # whether it repeats is asked of the step as it trains


def test_a_step_that_insists_on_its_batch_gets_it() -> None:
    def strict(module: nn.Module, batch: Tensor) -> Tensor:
        assert len(batch) == 6
        return squared(module, batch)

    report = check(perceptron(), strict, samples=2)
    assert (report.verdict, report.samples) == ("pass", None)


def test_tensors_that_are_not_asked_have_the_verdict_of_the_whole_and_no_numbers() -> None:
    report = check(perceptron(), each=["0.bias", "unknown"])
    assert {found.correct for found in report.parameters.values()} == {"pass"}
    assert [name for name, found in report.parameters.items() if found.h] == ["0.bias"]


def test_after_a_failure_all_tensors_are_asked() -> None:
    module = nn.Sequential(nn.Linear(4, 5), Doubled(), nn.Linear(5, 2))
    report = check(module, each=[])
    assert {name: found.correct for name, found in report.parameters.items()} == {
        "0.weight": "mismatch",
        "0.bias": "mismatch",
        "2.weight": "pass",
        "2.bias": "pass",
    }


@pytest.mark.parametrize("known", [["0.weight", "0.bias"], ["0.weight"]])
def test_a_culprit_that_is_known_is_not_looked_for_again(known: list[str]) -> None:
    module = nn.Sequential(nn.Linear(4, 5), Doubled(), nn.Linear(5, 2))
    report = check(module, blamed=dict.fromkeys(known, CULPRIT))
    assert report.culprit is not None
    assert report.culprit.module == ("known" if len(known) == 2 else "1")


class Trembling(Function):
    """The identity, whose backward counts its calls where nobody can rewind."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * (1 + 1e-6 * (next(CALLS) % 7))  # never twice the same in a row


def test_a_gradient_that_does_not_repeat_is_traced_to_its_operation() -> None:
    report = check(perceptron(), lambda m, x: Trembling.apply(m(x)).square().mean())  # type: ignore[no-untyped-call]
    assert report.irreproducible is not None
    assert report.irreproducible.startswith("mul (")
    assert report.irreproducible.endswith(
        " was given other values, which come from outside of PyTorch or of the seeded generators"
    )
    assert not any(found.reproducible for found in report.parameters.values())
    assert all(0 < (found.difference or 0) < 1e-5 for found in report.parameters.values())


def test_a_report_without_a_check_has_a_reason_and_every_name() -> None:
    report = not_checkable("why", ["a", "b"])
    assert (report.verdict, report.reason) == ("not_checkable", "why")
    assert {name: found.correct for name, found in report.parameters.items()} == dict.fromkeys("ab", "not_checkable")
