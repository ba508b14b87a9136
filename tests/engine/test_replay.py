from __future__ import annotations

import gc
import logging
import math
import random
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradwatch.diagnosis.memory import Leaf
from gradwatch.diagnosis.trace import Record
from gradwatch.engine import replay
from gradwatch.engine.failure import Failure
from gradwatch.engine.replay import Replayer
from gradwatch.replica import randomness
from gradwatch.replica.copying import side_copy
from gradwatch.replica.step_runner import LossFunctionRunner, Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradwatch.diagnosis.verdict import Traced
    from gradwatch.replica.copying import SideCopy

    Loss = Callable[[Any, Any], Tensor]

ONES = torch.ones(2, 3)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def replayer(loss: Loss, module: nn.Module | None = None, optimizer: Any = torch.optim.SGD) -> Replayer:
    module = module or network()
    return Replayer(module, [optimizer(module.parameters(), lr=0.1)], LossFunctionRunner(loss))


def failure(*batches: object, **options: Any) -> Failure:
    moments = [Moment(batch, index, None, {}) for index, batch in enumerate(batches or (ONES,))]
    return Failure(moments, 0, **options)


def trace(loss: Loss, *batches: object, module: nn.Module | None = None, **options: Any) -> Traced:
    return replayer(loss, module).trace(failure(*batches, **options))


def root_of(traced: Traced) -> Record:
    assert isinstance(traced.root, Record)
    return traced.root


def mean(module: Any, batch: Any) -> Tensor:
    return module(batch).mean()


def bad_loss(module: Any, batch: Any) -> Tensor:
    return (module(batch) * 0.0).log().mean()


def bad_gradient(module: Any, batch: Any) -> Tensor:
    return (module(batch) * 0.0).sum().sqrt()


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_unchanged(module: nn.Module, before: dict[str, Tensor]) -> None:
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in module.parameters())


# -- what is found ---------------------------------------------------------------------------------------------------


def test_a_bad_loss_is_traced_to_its_birth() -> None:
    traced = trace(bad_loss)
    assert root_of(traced).identity.op == "log"
    assert (traced.is_bad, traced.loss_is_bad, traced.reason) == (True, True, None)
    assert traced.operations > 0


def test_a_bad_gradient_of_a_good_loss_is_traced_to_its_derivative() -> None:
    traced = trace(bad_gradient)
    assert (root_of(traced).identity.op, root_of(traced).identity.derivative) == ("sqrt", True)
    assert (traced.is_bad, traced.loss_is_bad) == (True, False)
    assert traced.anomaly is not None
    assert traced.anomaly.startswith("Function 'MulBackward0' returned nan values.")  # infinity times zero


@pytest.mark.parametrize("bad", [bad_loss, bad_gradient])
def test_nothing_of_a_copy_stays_in_memory(bad: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that ends a backward pass leaves the rest of it waiting, and with it the weights."""
    weights: list[weakref.ref[torch.UntypedStorage]] = []

    def watched(*args: Any, **kwargs: Any) -> SideCopy:
        copy = side_copy(*args, **kwargs)
        weights.extend(weakref.ref(parameter.untyped_storage()) for parameter in copy.module.parameters())
        return copy

    monkeypatch.setattr(replay, "side_copy", watched)
    assert trace(lambda module, batch: mean(module, batch) + bad(module, batch)).anomaly is not None
    gc.collect()
    assert len(weights) == 2 * len(list(network().parameters()))  # one trace, one pass for the traceback
    assert [weight for weight in weights if weight() is not None] == []


def test_bad_batches_and_buffers_are_found_by_name() -> None:
    batch = {"x": ONES.clone()}
    batch["x"][1, 2] = math.nan
    found = trace(lambda module, given: module(given["x"]).mean(), batch).root
    assert isinstance(found, Leaf)
    assert (found.name, found.bad_index) == ("batch['x']", [1, 2])
    module = network().eval()
    module.get_buffer("1.running_mean").fill_(math.nan)
    found = trace(mean, module=module).root
    assert isinstance(found, Leaf)
    assert (found.kind, found.name) == ("buffer", "1.running_mean")


def test_a_bad_weight_is_blamed_before_any_operation() -> None:
    module = network()
    module.get_parameter("2.bias").data.fill_(math.inf)
    found = trace(bad_loss, module=module).root
    assert isinstance(found, Leaf)
    assert (found.kind, found.name) == ("parameter", "2.bias")


def test_a_bad_weight_that_the_step_does_not_use_is_not_blamed() -> None:
    module = network()
    module.register_parameter("unused", nn.Parameter(torch.full((2,), math.nan)))
    assert root_of(trace(bad_loss, module=module)).identity.op == "log"


def test_buffers_are_as_they_were_before_the_step() -> None:
    module = network().eval()
    module.get_buffer("1.running_var").fill_(math.nan)
    before = {"1.running_var": torch.ones(4)}
    fine = replayer(mean, module).trace(Failure([Moment(ONES, 0, None, before)], 0))
    assert (fine.root, fine.reason) == (None, None)
    assert bool(module.get_buffer("1.running_var").isnan().all())


def test_a_mask_that_was_finite_once_is_no_mask() -> None:
    module = network()
    module.register_buffer("shift", torch.tensor([0.0, -math.inf]))

    def loss(module: Any, batch: Any) -> Tensor:
        return module(batch).mean() - module.shift.sum()

    assert not isinstance(trace(loss, module=module).root, Leaf)
    found = trace(loss, module=module, born=frozenset({"shift"})).root
    assert isinstance(found, Leaf)
    assert found.name == "shift"


def test_the_step_runs_under_the_loss_scale_that_it_had() -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        return (module(batch) * 1e30).mean()

    assert trace(loss).root is None
    assert trace(loss, loss_scale=2.0**60).is_bad


def test_compiled_functions_run_as_they_were_written() -> None:
    @torch.compile(backend="aot_eager")
    def inside(x: Tensor) -> Tensor:
        return (x * 0.0).log().mean()  # the birth

    traced = trace(lambda module, batch: inside(module(batch)))
    place = root_of(traced).identity.place
    assert place is not None
    assert place.source_line().code.endswith("# the birth")


def test_autocast_of_the_step_is_seen() -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return module[0](batch * 1e5).float().mean()

    assert (root_of(trace(loss)).identity.op, root_of(trace(loss)).transition) == ("to_copy", "finite->inf")


# -- several births, and the one that matters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "argument", "suspected"),
    [(torch.log, 0.0, 1), (torch.log, -1.0, 2), (torch.sqrt, -1.0, 2)],
    ids=["infinity", "nan", "nan-with-derivative"],
)
def test_a_label_that_is_indexed_away_is_not_blamed_beside_a_fault(
    function: Callable[[Tensor], Tensor], argument: float, suspected: int
) -> None:
    """Rows without a label are taken out at the end: the label is harmless by itself.

    An infinity has an origin of its own; of two NaN both are found, and it takes a run without each. The derivative of
    sqrt at a result that was set to 0 is infinite, but it is the loss that was bad.
    """

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch
        bad = function(module(x) * 0.0 + argument)
        return torch.cat([bad, y[:, None]], dim=1).sum(1)[~y.isnan()].mean()

    traced = trace(loss, (ONES, torch.tensor([math.nan, 1.0])))
    assert root_of(traced).identity.op == function.__name__
    assert len(traced.births) == suspected


def test_a_label_that_reaches_the_loss_is_blamed_beside_what_does_not() -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch
        both = torch.cat([(module(x) * 0.0 - 1.0).sqrt(), y[:, None]], dim=1)
        return both[:, 1].mean() + 0.0 * module(x).mean()

    found = trace(loss, (ONES, torch.tensor([math.nan, 1.0]))).root
    assert isinstance(found, Leaf)
    assert found.name == "batch[1]"


@pytest.mark.parametrize("shift", [0.0, -1.0], ids=["infinity", "nan"])
def test_of_stacked_tasks_the_one_that_is_left_out_is_not_blamed(shift: float) -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        out = module(batch)
        nothing_valid = out[:0].mean()
        tasks = torch.stack([nothing_valid, (out * 0.0 + shift).log().mean()])
        return tasks[1] * 2.0

    assert root_of(trace(loss)).identity.op == "log"


def test_where_each_of_several_births_is_enough_the_first_is_named() -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        zero = module(batch) * 0.0
        return (zero - 1.0).sqrt().mean() + (zero - 2.0).log().mean()

    traced = trace(loss)
    assert root_of(traced).identity.op == "sqrt"
    assert [record.identity.op for record in traced.births] == ["sqrt", "log"]  # type: ignore[union-attr]


# -- the samples -------------------------------------------------------------------------------------------------------


def logarithm(module: Any, batch: Any) -> Tensor:
    return (module[0](batch).mean() * 0.0 + batch[:, 0]).log().mean()


def test_samples_are_named_without_which_the_step_is_finite() -> None:
    batch = torch.ones(4, 3)
    batch[[1, 3], 0] = 0.0
    traced = trace(logarithm, batch)
    assert root_of(traced).identity.op == "log"
    assert traced.samples == {1, 3}


def test_samples_are_not_named_where_the_step_stays_bad_without_them() -> None:
    """Rows of a result of the batch's extent that are not the samples'."""

    def loss(module: Any, batch: Any) -> Tensor:
        return module[0](batch).mean() + (torch.arange(4.0) - 1.0).abs().log().mean()

    traced = trace(loss, torch.ones(4, 3))
    assert (root_of(traced).identity.op, root_of(traced).bad_rows, root_of(traced).rows) == ("log", [1], 4)
    assert traced.samples == frozenset()


def test_a_bad_sample_of_the_batch_is_named_and_the_batch_is_left_alone() -> None:
    batch = torch.ones(4, 3)
    batch[2, 1] = math.nan
    before = batch.clone()
    traced = trace(lambda module, given: module[0](given).mean(), batch)
    assert traced.samples == {2}
    assert torch.equal(batch.nan_to_num(7.0), before.nan_to_num(7.0))


# -- state that the module keeps by itself -----------------------------------------------------------------------------


class Tempered(nn.Module):
    """Lowers its own temperature at every step: a number, or a tensor that is no buffer."""

    def __init__(self, tau: float | Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.tau = tau

    def forward(self, x: Tensor) -> Tensor:
        self.tau = self.tau - 0.25
        return self.linear(x).mean() / self.tau


@pytest.mark.parametrize("tau", [0.25, torch.tensor(0.25)], ids=["number", "tensor"])
def test_attributes_are_as_they_were_before_the_step(tau: float | Tensor) -> None:
    module = Tempered(tau)
    assert not bool(mean(module, ONES).isfinite())  # the step itself; tau is 0 now
    moment = Moment(ONES, 0, None, {}, {"tau": tau})
    traced = replayer(mean, module).trace(Failure([moment], 0))
    assert root_of(traced).identity.op == "div"
    assert float(module.tau) == 0.0
    as_it_is_now = replayer(mean, module).trace(failure(ONES))
    assert as_it_is_now.root is None


def test_a_tensor_that_the_step_writes_into_is_not_the_one_that_was_kept() -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        module.tau -= 0.25
        return module.linear(batch).mean() / module.tau

    module, kept = Tempered(torch.tensor(0.0)), torch.tensor(0.25)
    traced = replayer(loss, module).trace(Failure([Moment(ONES, 0, None, {}, {"tau": kept})], 0))
    assert root_of(traced).identity.op == "div"
    assert float(kept) == 0.25


# -- one micro-batch, then the window --------------------------------------------------------------------------------


def counted(loss: Loss) -> tuple[Loss, list[object]]:
    seen: list[object] = []

    def counting(module: Any, batch: Any) -> Tensor:
        seen.append(batch)
        return loss(module, batch)

    return counting, seen


def test_a_step_that_comes_out_well_is_run_twice_before_it_is_not_reproduced() -> None:
    loss, seen = counted(mean)
    traced = trace(loss)
    assert (traced.root, traced.is_bad, traced.reason) == (None, False, None)
    assert len(seen) == 2


def test_a_step_that_comes_out_badly_at_the_second_attempt_is_reproduced() -> None:
    attempts: list[int] = []

    def loss(module: Any, batch: Any) -> Tensor:
        attempts.append(1)
        return bad_loss(module, batch) if len(attempts) == 2 else mean(module, batch)

    assert root_of(trace(loss)).identity.op == "log"


def test_the_guilty_micro_batch_runs_alone_where_that_is_enough() -> None:
    loss, seen = counted(bad_loss)
    trace(loss, ONES, ONES * 2, ONES * 3)
    assert {float(batch[0, 0]) for batch in seen} == {3.0}  # type: ignore[index]


def test_gradients_that_overflow_in_their_sum_are_traced_through_the_window() -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        return (module[2].bias * batch).sum()

    traced = trace(loss, torch.tensor([2e38]), torch.tensor([2e38]))
    assert (root_of(traced).identity.op, root_of(traced).transition) == ("add", "finite->inf")
    assert (traced.is_bad, traced.loss_is_bad) == (True, False)
    assert trace(loss, torch.tensor([2e38]), torch.tensor([1.0])).root is None


def test_the_batch_of_the_window_is_left_alone() -> None:
    batch = {"x": ONES.clone()}

    def loss(module: Any, batch: Any) -> Tensor:
        batch["x"].mul_(0.0)
        return mean(module, batch.pop("x")).log()

    module = network()
    nn.init.zeros_(module.get_parameter("2.weight"))
    nn.init.zeros_(module.get_parameter("2.bias"))
    assert root_of(trace(loss, batch, module=module)).identity.op == "log"
    assert torch.equal(batch["x"], ONES)


# -- what keeps it from running --------------------------------------------------------------------------------------


def test_a_step_that_raises_gives_its_error_as_the_reason() -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        raise ValueError("as it likes")

    traced = trace(loss)
    assert traced.reason == "running the step again failed with ValueError: as it likes"
    assert (traced.root, traced.communicates, traced.is_bad) == (None, False, False)


def test_a_module_that_would_not_fit_twice_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "fits", lambda _needed: False)
    loss, seen = counted(bad_loss)
    assert trace(loss).reason == "a copy of the module would not fit into the free memory"
    checked = replayer(loss).check(failure())
    assert (checked.is_bad, checked.reason) == (False, "a copy of the module would not fit into the free memory")
    assert seen == []


@pytest.fixture
def only_shared_fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Memory for gradients and buffers, and for no second set of weights."""
    asked: list[int] = []

    def fits(needed: dict[torch.device, int]) -> bool:
        asked.append(sum(needed.values()))
        return len(asked) % 2 == 0

    monkeypatch.setattr(replay, "fits", fits)
    return asked


@pytest.mark.parametrize("loss", [bad_loss, bad_gradient])
def test_with_shared_weights_the_verdict_is_the_same(
    loss: Loss, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    module = network()
    before = state_of(module)
    copied = root_of(trace(loss, module=module))
    asked = request.getfixturevalue("only_shared_fits")
    shared = root_of(trace(loss, module=module))
    assert asked[1] < asked[0]
    assert shared.identity == copied.identity
    assert (shared.transition, shared.inputs, shared.output) == (copied.transition, copied.inputs, copied.output)
    assert_unchanged(module, before)


def test_shared_weights_that_the_step_writes_get_their_values_back(only_shared_fits: list[int]) -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            module[2].weight.mul_(0.0)
        module[2].bias.data.zero_()
        return mean(module, batch).log()

    module = network()
    before = state_of(module)
    assert root_of(trace(loss, module=module)).identity.op == "log"
    assert_unchanged(module, before)
    assert len(only_shared_fits) == 2


@pytest.fixture
def alone() -> Any:
    """A process group of one rank."""
    from torch import distributed  # noqa: PLC0415 - for this test only

    distributed.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_step_that_communicates_is_not_run_by_one_rank_alone(alone: None) -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        value = mean(module, batch)
        torch.distributed.all_reduce(value.detach())
        return value.log() * math.nan

    traced = trace(loss)
    assert traced.communicates
    assert traced.root is None
    assert traced.reason is not None
    assert "communicates" in traced.reason
    assert "allreduce" in traced.reason


# -- what nobody notices ---------------------------------------------------------------------------------------------


def drawing(module: Any, batch: Any) -> Tensor:
    """Draw from everything random."""
    noise = torch.rand(1) + random.random() + np.random.rand()  # noqa: NPY002 - the global one is the point
    noise = noise + torch.rand(1, generator=module.source) + torch.rand(1, generator=EXPLICIT)
    return functional.dropout(module(batch)).mean() * 0.0 + noise.sum() * math.nan


EXPLICIT = torch.Generator().manual_seed(5)


def random_states(module: Any) -> list[Any]:
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - as above
    states = [torch.get_rng_state(), module.source.get_state(), EXPLICIT.get_state()]
    return [*(state.tolist() for state in states), numpy["state"]["pos"], random.getstate()]


def test_random_generators_stand_where_they_stood() -> None:
    module: Any = network()
    module.source = torch.Generator().manual_seed(4)
    before = random_states(module)
    traced = trace(drawing, module=module)
    assert traced.is_bad
    assert random_states(module) == before
    drawing(module, ONES)
    assert all(a != b for a, b in zip(random_states(module), before, strict=True))


def test_the_step_draws_the_numbers_that_it_drew() -> None:
    module: Any = network()
    module.source = torch.Generator().manual_seed(4)
    drawn: list[list[float]] = []

    def loss(module: Any, batch: Any) -> Tensor:
        noise = torch.stack([torch.rand(()), torch.rand((), generator=module.source)])
        drawn.append([*noise.tolist(), random.random(), float(np.random.rand())])  # noqa: NPY002 - as above
        return mean(module, batch) * math.nan

    state = randomness.capture(randomness.generators_in(module))
    loss(module, ONES)
    replayer(loss, module).trace(Failure([Moment(ONES, 0, state, {})], 0))
    first, *later = drawn
    assert later
    assert all(numbers == first for numbers in later)


def test_prints_and_warnings_of_the_step_are_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        print("as it likes")  # noqa: T201 - the point
        warnings.warn("as it likes", UserWarning, stacklevel=1)
        return bad_loss(module, batch)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert trace(loss).is_bad
    assert [str(warning.message) for warning in caught if "likes" in str(warning.message)] == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("loss", [bad_loss, bad_gradient, mean], ids=["loss", "gradient", "fine"])
def test_the_module_is_left_as_it_was(loss: Loss) -> None:
    module = network()
    before, training = state_of(module), torch.is_grad_enabled()
    trace(loss, module=module)
    assert_unchanged(module, before)
    assert torch.is_grad_enabled() == training
    assert not torch.is_anomaly_enabled()


def test_the_replay_follows_gradients_where_they_are_switched_off() -> None:
    with torch.no_grad():
        assert root_of(trace(bad_gradient)).identity.op == "sqrt"
        assert not torch.is_grad_enabled()


# -- without a trace, and optimizers that evaluate again -------------------------------------------------------------


def test_whether_a_step_is_bad_is_told_without_a_trace() -> None:
    module = network()
    before = state_of(module)
    assert replayer(bad_loss, module).check(failure()).is_bad
    assert replayer(bad_gradient, module).check(failure()).is_bad
    assert not replayer(mean, module).check(failure()).is_bad
    assert_unchanged(module, before)


def test_a_generator_of_the_step_is_rewound_without_a_trace_too() -> None:
    module: Any = network()
    module.source = torch.Generator().manual_seed(4)
    before = random_states(module)
    assert replayer(drawing, module).check(failure()).is_bad
    assert random_states(module) == before


def test_what_hinders_a_replay_is_logged_for_the_curious(caplog: pytest.LogCaptureFixture) -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        raise ValueError("as it likes")

    with caplog.at_level(logging.DEBUG, "gradwatch"):
        trace(loss)
    assert "as it likes" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


def test_a_value_made_behind_the_dispatchers_back_is_bad_and_has_no_root() -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        value = mean(module, batch)
        value.detach().numpy()[...] = math.nan
        return value

    traced = trace(loss)
    assert traced.root is None
    assert traced.reason is not None
    assert "dispatcher" in traced.reason


def test_an_empty_gradient_is_no_bad_one() -> None:
    module = network()
    module.register_parameter("unused", nn.Parameter(torch.ones(2)))
    assert trace(mean, module=module).root is None
