"""What the rules are shown of a loop that a user has written by hand, and what becomes of what they find."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradwatch import HealthMonitor
from gradwatch.capture.batch import bad_tensors
from gradwatch.capture.history import StepRow
from gradwatch.detectors.alarms import Alarm, own_detector
from gradwatch.engine.health_rules import rows_of
from gradwatch.observations import BatchMixing, FirstForward, LossFacts, Observation, Validation
from gradwatch.records import GradientCheck
from tests.engine.loops import context, events, one_step, setup, spoiled, train, watch

if TYPE_CHECKING:
    from pathlib import Path

LOSS = 0.5


# -- steps as columns --------------------------------------------------------------------------------------------------


def row(step: int = 0, **changes: Any) -> StepRow:
    return StepRow(step, 1, 2, LOSS, 3.0, 0.25, (0.1,), 1024.0, 8)._replace(**changes)


def same_numbers(values: np.ndarray, expected: Any) -> bool:
    return bool(np.array_equal(values, np.array(expected, dtype=float), equal_nan=True))


def test_every_column_has_its_values() -> None:
    rows = rows_of([row(5), row(6, epoch=2, batch_idx=0, loss=0.25, grad_norm=4.0, skipped=True)])
    assert rows.step.tolist() == [5, 6]
    assert rows.epoch.tolist() == [1, 2]
    assert rows.batch_idx.tolist() == [2, 0]
    assert rows.loss.tolist() == [0.5, 0.25]
    assert rows.grad_norm.tolist() == [3.0, 4.0]
    assert rows.coefficient.tolist() == [0.25, 0.25]
    assert rows.loss_scale.tolist() == [1024.0, 1024.0]
    assert rows.batch_size.tolist() == [8, 8]
    assert rows.skipped.tolist() == [False, True]
    assert rows.lr.tolist() == [[0.1], [0.1]]
    assert [str(column.dtype) for column in (rows.step, rows.epoch, rows.skipped)] == ["int64", "int64", "bool"]


@pytest.mark.parametrize("value", [None, math.nan])
@pytest.mark.parametrize("field", ["loss", "grad_norm", "coefficient", "loss_scale", "batch_size", "batch_idx"])
def test_what_is_not_known_is_nan(field: str, value: float | None) -> None:
    column = getattr(rows_of([row(0), row(1, **{field: value}), row(2)]), field)
    assert np.isnan(column).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((torch.tensor(0.5), torch.tensor(0.25)), [0.5, 0.25]),
        ((torch.tensor(0.5), 0.25), [0.5, 0.25]),
        ((torch.tensor(0.5, dtype=torch.bfloat16),), [0.5]),
        ((torch.tensor(0.5, dtype=torch.float64),), [0.5]),
        ((torch.tensor([0.5]),), [0.5]),
        ((torch.tensor([0.5]), torch.tensor([0.25])), [0.5, 0.25]),
        ((torch.tensor([0.5, 0.25]),), [math.nan]),
        ((np.float32(0.5), 1), [0.5, 1.0]),
        ((None, 0.25), [math.nan, 0.25]),
        ((math.inf, math.nan), [math.inf, math.nan]),
        (("cosine", 0.25), [math.nan, 0.25]),
        ((object(),), [math.nan]),
        (([0.5, 0.25],), [math.nan]),
        ((torch.ones((), device="meta"), 0.25), [math.nan, 0.25]),
    ],
    ids=map(str, range(14)),
)
def test_a_rate_may_be_anything(rates: tuple[Any, ...], expected: list[float]) -> None:
    """It must cost no more than itself: the other columns are needed."""
    assert same_numbers(rows_of([row(lr=rates)]).lr, [expected])


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")
def test_a_rate_that_is_being_learnt_is_read() -> None:
    assert rows_of([row(lr=(torch.tensor(0.5, requires_grad=True),))]).lr.tolist() == [[0.5]]


def test_parameter_groups_that_join_later_have_no_rate_before() -> None:
    rows = rows_of([row(0), row(1, lr=(0.1, 0.2, 0.3)), row(2, lr=())])
    nan = math.nan
    assert same_numbers(rows.lr, [[0.1, nan, nan], [0.1, 0.2, 0.3], [nan, nan, nan]])


def test_no_rows_and_no_groups() -> None:
    rows = rows_of([])
    assert [column.shape for column in rows] == [(0,)] * 9 + [(0, 0)]
    assert rows_of([row(lr=()), row(lr=())]).lr.shape == (2, 0)


# -- an observation ----------------------------------------------------------------------------------------------------


def collecting(reads: Any = Observation) -> tuple[list[Any], Any]:
    """A rule that finds nothing and keeps all it is shown."""
    seen: list[Any] = []

    def collect(state: Any, record: Any) -> tuple[Any, list[Alarm]]:
        seen.append(record)
        return state, []

    return seen, replace(own_detector("collecting", dict, collect), reads=reads)


def observed(path: Path, parts: Any = None, *, run: dict[str, Any] | None = None, **arguments: Any) -> list[Any]:
    """What the rules are shown in an epoch of six batches."""
    seen, detector = collecting()
    parts = parts or setup()
    loop = {name: arguments.pop(name) for name in ("loss", "gradients", "accumulate", "batches") if name in arguments}
    train(watch(path, parts, detectors=[detector], run=run, **arguments), parts, **loop)
    return seen


def test_an_observation_says_where_it_stands(tmp_path: Path) -> None:
    parts = setup()
    seen = observed(tmp_path, parts, run={"rank": 0, "world_size": 1}, log_every_n_steps=2)
    assert [(found.step, found.epoch, found.batch_idx, found.rank) for found in seen] == [
        (1, 0, 1, 0),
        (3, 0, 3, 0),
        (5, 0, 5, 0),
    ]
    records = events(tmp_path, "step")
    assert [found.time for found in seen] == [record.time for record in records]
    assert {found.optimizer for found in seen} == {0}


def test_rows_are_all_steps_since_the_last_record(tmp_path: Path) -> None:
    seen = observed(tmp_path, log_every_n_steps=4, clip=0.1)
    (first,) = seen
    assert first.rows.step.tolist() == [0, 1, 2, 3]
    assert first.rows.batch_idx.tolist() == [0, 1, 2, 3]
    assert first.rows.batch_size.tolist() == [8] * 4
    assert first.rows.lr.tolist() == [[0.01]] * 4
    assert np.isfinite(first.rows.loss).all()
    assert np.allclose(first.rows.coefficient, 0.1 / first.rows.grad_norm, rtol=1e-4)
    assert np.isnan(first.rows.loss_scale).all()
    (record,) = events(tmp_path, "step")
    assert first.rows.loss[-1] == record.loss
    assert first.rows.grad_norm[-1] == record.grad_norm
    assert first.rows.loss.max() == record.window.loss_max


def test_rows_are_handed_out_once(tmp_path: Path) -> None:
    seen = observed(tmp_path, log_every_n_steps=2)
    assert [found.rows.step.tolist() for found in seen] == [[0, 1], [2, 3], [4, 5]]


def test_layers_are_those_of_the_record(tmp_path: Path) -> None:
    seen = observed(tmp_path)
    for found, record in zip(seen, events(tmp_path, "step"), strict=True):
        layers = found.layers
        assert layers.names == tuple(record.layers) == ("body", "norm", "head")
        assert layers.elements.tolist() == [30, 12, 14]
        assert layers.is_weight.tolist() == [True, False, True]
        told = list(record.layers.values())
        assert layers.grad_norm.tolist() == [layer.grad_norm for layer in told]
        assert layers.weight_norm.tolist() == [layer.weight_norm for layer in told]
        assert layers.update_ratio.tolist() == [layer.update_ratio for layer in told]
        assert layers.grad_norm_max.tolist() == layers.grad_norm.tolist()  # of one row
        assert np.isnan(layers.unchanged).all()  # a share of narrow weights only
        assert np.isnan(layers.subnormal).all()  # of fp16 only
        body, norm, head = layers.below_epsilon.tolist()
        assert 0 <= body < 0.5
        assert 0 <= head < 0.5
        assert math.isnan(norm)  # nothing but a scale and a shift


def test_a_spike_between_two_records_is_in_the_largest_norm(tmp_path: Path) -> None:
    def spike(model: Any, batch: int) -> None:
        if batch == 1:
            model.head.weight.grad.fill_(100.0)

    found = observed(tmp_path, log_every_n_steps=4, gradients=spike)[0]
    head = found.layers.names.index("head")
    assert found.layers.grad_norm_max[head] > 100.0 > found.layers.grad_norm[head]
    assert int(np.argmax(found.rows.grad_norm)) == 1


def test_a_layer_without_a_gradient_has_no_norm(tmp_path: Path) -> None:
    def drop(model: Any, batch: int) -> None:
        model.norm.weight.grad = model.norm.bias.grad = None

    found = observed(tmp_path, gradients=drop)[0]
    assert np.isnan(found.layers.grad_norm).tolist() == [False, True, False]
    assert found.layers.grad_norm_max[1] == 0.0


# -- parameters without a gradient -------------------------------------------------------------------------------------


def without(*names: str, at: tuple[int, ...] = tuple(range(6))) -> Any:
    """Take the gradients of some parameters away."""

    def drop(model: nn.Module, batch: int) -> None:
        for name, parameter in model.named_parameters():
            if name in names and batch in at:
                parameter.grad = None

    return drop


def test_parameters_that_never_have_a_gradient_are_named(tmp_path: Path) -> None:
    seen = observed(tmp_path, gradients=without("head.bias", "norm.weight"), log_every_n_steps=3)
    assert [found.without_gradient for found in seen] == [(("norm.weight", "norm"), ("head.bias", "head"))] * 2


@pytest.mark.parametrize("at", [(0,), (0, 1), (2,)])
def test_one_gradient_since_the_last_record_is_enough(at: tuple[int, ...], tmp_path: Path) -> None:
    seen = observed(tmp_path, gradients=without("head.bias", at=at), log_every_n_steps=3)
    assert [found.without_gradient for found in seen] == [(), ()]


def test_frozen_parameters_are_not_missed(tmp_path: Path) -> None:
    parts = setup()
    parts.model.body.requires_grad_(requires_grad=False)
    assert [found.without_gradient for found in observed(tmp_path, parts)] == [()] * 6


def test_a_skipped_step_misses_nothing(tmp_path: Path) -> None:
    """A backward pass that went wrong need not have come to every parameter."""
    parts = setup()
    drop = without("head.bias", at=(2,))
    seen = observed(tmp_path, parts, batches=spoiled(parts.batches, 2), gradients=drop, on_nonfinite="skip")
    assert [found.rows.skipped.tolist() for found in seen] == [[batch == 2] for batch in range(6)]
    assert [found.without_gradient for found in seen] == [()] * 6
    bad = seen[2].layers
    assert np.isnan(bad.update_ratio).all()
    assert np.isnan(bad.unchanged).all()
    assert not np.isinf(bad.grad_norm).any()
    assert np.isfinite(bad.weight_norm).all()
    assert np.isnan(seen[2].rows.loss).all()


def test_layers_that_no_optimizer_steps_are_named(tmp_path: Path) -> None:
    parts = setup(lambda parameters: torch.optim.SGD(list(parameters)[2:], lr=0.1))
    assert {found.orphans for found in observed(tmp_path, parts)} == {("body",)}
    assert {found.orphans for found in observed(tmp_path / "all")} == {()}


# -- batch, loss and forward pass --------------------------------------------------------------------------------------


def test_a_bad_batch_is_looked_at_on_log_steps_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []

    def look(batch: Any) -> Any:
        looked.append(batch)
        return bad_tensors(batch)

    monkeypatch.setattr("gradwatch.engine.closer_look.bad_tensors", look)
    parts = setup()
    batches: list[Any] = [(x, y, torch.tensor([math.nan, math.inf, -math.inf, 1.0])) for x, y in parts.batches]
    seen, detector = collecting()
    monitor = watch(tmp_path, parts, detectors=[detector], log_every_n_steps=3)
    for index, batch in enumerate(batches):
        step(monitor, parts, batch, index)
    assert [found.bad_batch for found in seen] == [(("batch[2]", 2),)] * 2  # -inf is a mask
    assert [id(batch) for batch in looked] == [id(batches[2]), id(batches[5])]


def step(monitor: HealthMonitor, parts: Any, batch: Any, index: int, loss: Any = functional.cross_entropy) -> None:
    monitor.begin_batch(batch, index)
    one_step(monitor, parts.optimizer, loss(parts.model(batch[0]), batch[1]))
    monitor.end_batch()


def test_a_forward_pass_is_sampled_on_log_steps(tmp_path: Path) -> None:
    parts = setup()
    hooked: list[bool] = []

    def hooks(model: nn.Module, _batch: int) -> None:
        hooked.append(any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()))

    during: list[bool] = []
    parts.model.body.forward = noting(parts.model.body, during)  # type: ignore[method-assign]
    seen = observed(tmp_path, parts, gradients=hooks, log_every_n_steps=3)
    assert during == [batch in (0, 2, 5) for batch in range(6)]  # the first one too
    assert hooked == [False] * 6  # gone before the backward pass
    for found in seen:
        assert [entry.layer for entry in found.forward.inputs] == ["body", "head"]
        assert [entry.is_data for entry in found.forward.inputs] == [True, False]
        assert found.forward.inputs[1].activation == "tanh"
        assert [state.module for state in found.forward.batch_norms] == ["norm"]
        assert found.forward.outputs == ()  # no other format than float16 comes near its end


def noting(module: nn.Module, during: list[bool]) -> Any:
    """The module's forward, which notes whether hooks are on."""
    forward = module.forward

    def noted(x: Tensor) -> Tensor:
        during.append(bool(module._forward_pre_hooks))
        return forward(x)

    return noted


def test_the_first_forward_pass_is_shown_once_whatever_the_log_steps(tmp_path: Path) -> None:
    seen, detector = collecting(FirstForward)
    parts = setup()
    train(watch(tmp_path, parts, detectors=[detector], log_every_n_steps=5), parts)
    (first,) = seen
    assert (first.step, first.epoch, first.batch_idx, first.rank) == (0, 0, 0, 0)
    assert [entry.layer for entry in first.forward.inputs] == ["body", "head"]


def test_between_log_steps_nothing_is_kept_of_a_batch(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, detectors=[collecting()[1]], log_every_n_steps=2)
    look = monitor._run.look
    kept: list[tuple[bool, bool]] = []
    train(
        monitor,
        parts,
        gradients=lambda *_: kept.append((look.bad_batch() is None, look.loss == LossFacts())),
    )
    assert [nothing for nothing, _ in kept] == [True, False] * 3
    assert (look.bad_batch(), look.forward(), look.loss) == (None, None, LossFacts())


def test_in_float16_the_outputs_are_looked_at_too(tmp_path: Path) -> None:
    seen, detector = collecting()
    parts = setup()
    train(watch(tmp_path, parts, detectors=[detector], run={"precision": {"precision": "16-mixed"}}), parts)
    assert {output.module for output in seen[0].forward.outputs} >= {"body", "norm", "head"}


@pytest.mark.parametrize("index", [2, 5])
def test_facts_of_the_loss_are_those_of_a_log_step(index: int, tmp_path: Path) -> None:
    seen, detector = collecting()
    parts = setup()
    monitor = watch(tmp_path, parts, detectors=[detector], log_every_n_steps=3)

    def squares(y: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(y, functional.one_hot(target, 2).float())

    for at, batch in enumerate(parts.batches):
        step(monitor, parts, batch, at, squares if at == index else functional.cross_entropy)
    functions = {found.batch_idx: found.loss.function for found in seen}
    assert functions.pop(index) == "mse_loss"
    assert "mse_loss" not in functions.values()


def test_under_accumulation_one_observation_is_of_one_step(tmp_path: Path) -> None:
    seen = observed(tmp_path, accumulate=3)
    assert [found.rows.step.tolist() for found in seen] == [[0], [1]]
    assert [found.batch_idx for found in seen] == [2, 5]
    losses = [record.loss for record in events(tmp_path, "step")]
    assert [found.rows.loss.tolist() for found in seen] == [[loss] for loss in losses]
    assert all(found.forward is not None for found in seen)


@pytest.mark.parametrize("detectors", [[], ["default", {"loss-spike": False}]], ids=["none", "some"])
def test_without_rules_nothing_is_looked_at(
    detectors: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: set[str] = set()
    places = (
        "health_rules.rows_of",
        "closer_look.is_surely_finite",
        "closer_look.loss_facts",
        "closer_look.ForwardWatch.begin",
        "watched.Watched.orphans_with_gradient",
        "health_rules.HealthRules.read",
    )
    for place in places:
        monkeypatch.setattr(f"gradwatch.engine.{place}", counting(place, called))
    gathered: list[int] = []

    def gather(values: list[float]) -> list[list[float]]:
        gathered.append(len(values))
        return [values, values]

    parts = setup()
    train(watch(tmp_path, parts, detectors=detectors, run={"gather": gather, "world_size": 2}), parts)
    assert called == (set(places) if detectors else set())
    assert gathered == ([6] * 6 if detectors else [])
    assert len(events(tmp_path, "step")) == 6


def counting(place: str, called: set[str]) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        called.add(place)
        return LossFacts() if place.endswith("loss_facts") else ()

    return call


# -- ranks -------------------------------------------------------------------------------------------------------------


def test_norms_of_all_ranks_are_shown(tmp_path: Path) -> None:
    def gather(values: list[float]) -> list[list[float]]:
        return [values, [2 * value for value in values]]

    seen = observed(tmp_path, run={"gather": gather, "world_size": 2}, log_every_n_steps=3, clip=0.01)
    assert len(seen) == 2
    for found in seen:
        assert found.setting.world_size == 2
        assert np.allclose(found.ranks.weight_norm, [found.layers.weight_norm, 2 * found.layers.weight_norm])
        assert np.allclose(found.ranks.grad_norm, [found.layers.grad_norm, 2 * found.layers.grad_norm])
    assert {found.ranks for found in observed(tmp_path / "alone")} == {None}


def test_what_another_rank_does_not_know_is_no_difference(tmp_path: Path) -> None:
    seen = observed(tmp_path, run={"gather": lambda values: [values, [math.nan] * len(values)], "world_size": 2})
    assert [found.ranks for found in seen] == [None] * 6


def test_a_rank_that_cannot_compare_has_clipped_and_sends_what_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have clipped, and wait for its numbers."""
    sent: list[list[float]] = []

    def gather(values: list[float]) -> list[list[float]]:
        sent.append(values)
        return [values, values]

    def fail(*_: Any) -> None:
        message = "broken on purpose"
        raise ZeroDivisionError(message)

    parts = setup()
    monitor = watch(tmp_path, parts, clip=0.01, run={"gather": gather, "world_size": 2})
    monkeypatch.setattr("gradwatch.engine.health_rules.host_norms", fail)
    with pytest.raises(ZeroDivisionError):
        train(monitor, parts)
    assert [math.isnan(value) for value in sent[0]] == [True] * 6
    norms = [float(parameter.grad.norm()) for parameter in parts.model.parameters() if parameter.grad is not None]
    assert math.hypot(*norms) == pytest.approx(0.01, rel=1e-3)


# -- the setting -------------------------------------------------------------------------------------------------------


def test_the_setting_is_that_of_the_run(tmp_path: Path) -> None:
    parts = setup(lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3))
    setting = observed(tmp_path, parts, clip=0.5)[0].setting
    assert (setting.optimizers, setting.optimizer, setting.max_norm) == (1, "RMSprop", 0.5)
    assert (setting.compute, setting.has_bf16, setting.has_scaler, setting.world_size) == ("fp32", True, False, 1)
    assert observed(tmp_path / "none")[0].setting.max_norm is None


@pytest.mark.parametrize(
    ("precision", "dtype", "expected"),
    [
        ("32-true", torch.float32, "fp32"),
        ("16-mixed", torch.float32, "fp16"),
        ("16-true", torch.float32, "fp16"),
        ("16", torch.float32, "fp16"),
        (16, torch.float32, "fp16"),
        ("bf16-mixed", torch.float32, "bf16"),
        ("bf16-true", torch.float32, "bf16"),
        ("transformer-engine", torch.float32, "fp32"),
        ("64-true", torch.float64, "fp64"),
        (None, torch.bfloat16, "bf16"),
        (None, torch.float64, "fp64"),
        (None, torch.float32, "fp32"),
    ],
)
def test_the_format_is_the_narrowest_of_the_step(
    precision: object, dtype: torch.dtype, expected: str, tmp_path: Path
) -> None:
    parts = setup(lambda parameters: torch.optim.SGD(parameters, lr=1e-3))
    parts.model.to(dtype)
    batches = [(x.to(dtype), y) for x, y in parts.batches[:1]]
    run = {"precision": {} if precision is None else {"precision": precision}}
    assert observed(tmp_path, parts, batches=batches, run=run)[0].setting.compute == expected


# -- what else is shown ------------------------------------------------------------------------------------------------


def test_validation_losses_are_shown_with_their_place(tmp_path: Path) -> None:
    seen, detector = collecting(Validation)
    parts = setup()
    monitor = watch(tmp_path, parts, detectors=[detector])
    train(monitor, parts, epoch=2)
    losses = {"val_loss": 0.5, "val_loss/b": math.nan}
    monitor.observe_validation(losses)
    monitor.observe_validation({})
    monitor.end("finished")
    monitor.observe_validation(losses)
    (found,) = seen
    assert (found.step, found.epoch, found.batch_idx, found.rank) == (5, 2, None, 0)
    assert found.losses is not losses
    assert found.losses["val_loss"] == 0.5


def test_gradient_checks_and_mixed_samples_are_shown(tmp_path: Path) -> None:
    seen, detector = collecting((GradientCheck, BatchMixing))
    parts = setup(norm=False)
    monitor = HealthMonitor(clip=None, detectors=[detector], gradient_check_every_n_steps=3)
    monitor.start(
        parts.model,
        parts.optimizer,
        context(tmp_path),
        loss_function=lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
    )
    train(monitor, parts)
    assert {type(found) for found in seen} == {BatchMixing, GradientCheck}
    checks = [found for found in seen if isinstance(found, GradientCheck)]
    assert checks == events(tmp_path, "gradient_check")


# -- what they find ----------------------------------------------------------------------------------------------------


def count(state: int, seen: Observation) -> tuple[int, list[Alarm]]:
    """A user's rule with a memory: an alarm at every record from the third on."""
    alarms = [Alarm(message=f"record {state + 1}", layer="head")] if state + 1 >= 3 else []
    return state + 1, alarms


def statuses(path: Path) -> list[tuple[str, str, int]]:
    return [(found.code, found.status, found.step) for found in events(path, "finding")]


def test_what_a_rule_finds_is_an_event(tmp_path: Path) -> None:
    parts = setup()
    train(watch(tmp_path, parts, detectors=[(int, count)]), parts)
    assert statuses(tmp_path) == [("count", "opened", 2)]
    (found,) = events(tmp_path, "finding")
    assert (found.layer, found.message, found.severity) == ("head", "record 3", "warning")


def test_a_rule_that_fails_is_off_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(state: Any, seen: Observation) -> Any:
        message = "not like this"
        raise LookupError(message)

    parts = setup()
    train(watch(tmp_path, parts, detectors=[(int, fail), (int, count)]), parts)
    assert statuses(tmp_path) == [("count", "opened", 2)]
    assert [message for message in caplog.messages if "not like this" in message] == [
        "gradwatch: the rule fail failed and is off from now on: LookupError: not like this"
    ]


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_memory_goes_on_in_the_next_run(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path / "a", parts, detectors=[(int, count)])
    train(monitor, parts, parts.batches[:2])
    saved = json.loads(json.dumps(monitor.state_dict()))
    resumed = HealthMonitor(clip=None, detectors=[(int, count)])
    resumed.load_state_dict(saved)
    assert resumed.state_dict()["rules"] == saved["rules"]  # saved once more before it starts
    resumed.start(parts.model, parts.optimizer, context(tmp_path / "b"))
    train(resumed, parts, parts.batches[:2])
    assert statuses(tmp_path / "a") == []
    assert statuses(tmp_path / "b") == [("count", "opened", 2)]


def test_a_finding_that_is_open_is_not_opened_again(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path / "a", parts, detectors=[(int, count)])
    train(monitor, parts)
    resumed = HealthMonitor(clip=None, detectors=[(int, count)])
    resumed.load_state_dict(monitor.state_dict())
    resumed.start(parts.model, parts.optimizer, context(tmp_path / "b"))
    train(resumed, parts)
    assert statuses(tmp_path / "a") == [("count", "opened", 2)]
    assert statuses(tmp_path / "b") == []


def test_a_second_run_with_the_same_monitor_remembers(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path / "a", parts, detectors=[(int, count)])
    train(monitor, parts, parts.batches[:2])
    monitor.end("finished")
    monitor.start(parts.model, parts.optimizer, context(tmp_path / "b"))
    train(monitor, parts, parts.batches[:2])
    assert statuses(tmp_path / "b") == [("count", "opened", 2)]  # its third record


@pytest.mark.parametrize("rules", [{}, {"count/0": {}}, {"count/0": None}, {"gone/0": {"state": 1}}])
def test_a_memory_of_another_version_begins_anew(rules: dict[str, Any], tmp_path: Path) -> None:
    parts = setup()
    monitor = HealthMonitor(clip=None, detectors=[(int, count)])
    monitor.load_state_dict({"version": 1, "run_id": "a", "counters": {}, "rules": rules})
    monitor.start(parts.model, parts.optimizer, context(tmp_path))
    train(monitor, parts)
    assert statuses(tmp_path) == [("count", "opened", 2)]


def test_a_monitor_that_cannot_start_still_has_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is saved all the same, and what was loaded is passed on."""

    def fail(*_: Any, **__: Any) -> None:
        message = "broken on purpose"
        raise ZeroDivisionError(message)

    parts = setup()
    monitor = watch(tmp_path / "a", parts, detectors=[(int, count)])
    train(monitor, parts, parts.batches[:2])
    monkeypatch.setattr("gradwatch.engine.run.Watched", fail)
    for loaded in ({}, monitor.state_dict()):
        fresh = HealthMonitor(clip=None)
        if loaded:
            fresh.load_state_dict(loaded)
        with pytest.raises(ZeroDivisionError):
            fresh.start(parts.model, parts.optimizer, context(tmp_path / "b"))
        assert fresh.state_dict()["rules"] == loaded.get("rules", {})


def test_a_checkpoint_from_before_the_rules_is_loaded(tmp_path: Path) -> None:
    parts = setup()
    monitor = HealthMonitor(clip=None, detectors=[(int, count)])
    monitor.load_state_dict({"version": 1, "run_id": "a", "counters": {"steps": 7}})
    monitor.start(parts.model, parts.optimizer, context(tmp_path))
    train(monitor, parts, parts.batches[:1])
    assert monitor.counters.steps == 8
