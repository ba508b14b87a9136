"""What is remembered of each step, and when a record and its findings are written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from gradwatch import HealthMonitor
from gradwatch.capture.history import MAX_ROWS, RING_STEPS
from gradwatch.detectors.alarms import Alarm
from gradwatch.records import ClipRule
from tests.engine.loops import Setup, context, events, one_step, setup, spoiled, train, watch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from gradwatch.observations import Observation


def always(state: list[Observation], seen: Observation) -> tuple[list[Observation], list[Alarm]]:
    """A rule that has something to say of every second record, and keeps them all."""
    alarms = [Alarm(message=f"at {seen.step}")] if len(state) % 2 == 0 else []
    return [*state, seen], alarms


def collector() -> tuple[list[Observation], Any]:
    seen: list[Observation] = []

    def collect(state: Any, record: Observation) -> tuple[Any, list[Alarm]]:
        seen.append(record)
        return state, []

    return seen, (dict, collect)


# -- order -------------------------------------------------------------------------------------------------------------


def test_what_was_found_stands_after_the_record_that_showed_it(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, detectors=[(list, always)], log_every_n_steps=2)
    train(monitor, parts)
    monitor.end("finished")
    told = [(event.type, event.step) for event in events(tmp_path) if event.type in {"step", "finding"}]
    assert told == [("step", 1), ("finding", 1), ("step", 3), ("step", 5)]


def test_a_record_is_written_when_its_optimizer_has_acted(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    written: list[int] = []
    train(
        monitor,
        parts,
        gradients=lambda *_: written.append(len(events(tmp_path, "step"))),
        after_step=lambda _: written.append(len(events(tmp_path, "step"))),
    )
    assert written == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]


# -- steps that do not happen ------------------------------------------------------------------------------------------


def test_a_skipped_step_has_no_update(tmp_path: Path) -> None:
    parts = setup()
    seen, detector = collector()
    monitor = watch(tmp_path, parts, detectors=[detector], on_nonfinite="skip")
    train(monitor, parts, spoiled(parts.batches, 2))
    ratios = [[math.isnan(ratio) for ratio in found.layers.update_ratio] for found in seen]
    assert ratios == [[batch == 2] * 3 for batch in range(6)]
    records = events(tmp_path, "step")
    assert [record.window.skipped_steps for record in records] == [0, 0, 1, 0, 0, 0]
    assert [record.skipped_steps for record in records] == [0, 0, 1, 1, 1, 1]


def test_the_record_of_a_loop_that_never_says_that_it_has_stepped(tmp_path: Path) -> None:
    """A GradScaler may have kept it from stepping."""
    parts = setup()
    seen, detector = collector()
    monitor = watch(tmp_path, parts, detectors=[detector])
    for index, batch in enumerate(parts.batches[:2]):
        monitor.begin_batch(batch, index)
        loss = nn.functional.cross_entropy(parts.model(batch[0]), batch[1])
        monitor.observe_loss(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        monitor.before_step(parts.optimizer)
        assert len(events(tmp_path, "step")) == len(seen) == index
        monitor.end_batch()
    assert [found.rows.step.tolist() for found in seen] == [[0], [1]]
    assert [found.batch_idx for found in seen] == [0, 1]
    for found in seen:
        assert found.layers.update_ratio.tolist() == [0.0] * 3
    assert [record.step for record in events(tmp_path, "step")] == [0, 1]


def test_the_end_writes_what_waits(tmp_path: Path) -> None:
    parts = setup()
    seen, detector = collector()
    monitor = watch(tmp_path, parts, detectors=[detector])

    def leave(_: nn.Module, _batch: int) -> None:
        monitor.before_step(parts.optimizer)
        raise StopIteration

    with pytest.raises(StopIteration):
        train(monitor, parts, gradients=leave)
    monitor.end("interrupted")
    assert [event.type for event in events(tmp_path)] == ["run_start", "step", "last_steps", "run_end"]
    assert len(seen) == 1


# -- a step that is spoilt after it was counted ------------------------------------------------------------------------


def spoilt_after_clipping(path: Path, at: int, every: int, detector: Any) -> HealthMonitor:
    """A loop in which the user's own clipping divides by zero."""
    parts = setup()
    rule = ClipRule(max_norm=None, family=None, reason="own", source="loop")
    run = {"clip_rule": rule, "clips_by_user_code": True}
    monitor = watch(path, parts, detectors=[detector], run=run, on_nonfinite="skip", log_every_n_steps=every)
    for index, batch in enumerate(parts.batches):
        monitor.begin_batch(batch, index)
        loss = nn.functional.cross_entropy(parts.model(batch[0]), batch[1])
        monitor.observe_loss(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        monitor.before_step(parts.optimizer)
        if index == at:
            parts.model.head.weight.grad.fill_(math.nan)  # type: ignore[union-attr]
        monitor.after_clip(parts.optimizer)
        parts.optimizer.step()
        monitor.after_step(parts.optimizer)
        parts.optimizer.zero_grad()
        monitor.end_batch()
    return monitor


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_step_that_is_spoilt_after_it_was_counted_counts_once(at: int, tmp_path: Path) -> None:
    seen, detector = collector()
    monitor = spoilt_after_clipping(tmp_path, at, 3, detector)
    assert [found.rows.step.tolist() for found in seen] == [[0, 1, 2], [3, 4, 5]]
    assert seen[0].rows.skipped.tolist() == [step == at for step in range(3)]
    assert [math.isnan(norm) for norm in seen[0].rows.grad_norm] == [step == at for step in range(3)]
    assert not any(math.isnan(loss) for found in seen for loss in found.rows.loss)
    assert (seen[0].layers.grad_norm_max > 0).all()
    records = events(tmp_path, "step")
    assert [record.window.steps for record in records] == [3, 3]
    assert [record.window.skipped_steps for record in records] == [1, 0]
    assert [record.window.nonfinite_steps for record in records] == [1, 0]
    assert records[0].window.loss_max == max(seen[0].rows.loss)
    assert records[0].loss == seen[0].rows.loss[-1]
    assert (monitor.counters.steps, monitor.counters.skipped, monitor.counters.nonfinite) == (6, 1, 1)


# -- several optimizers ------------------------------------------------------------------------------------------------


class Pair(nn.Module):
    """A network in front of another; each has an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.back = nn.Linear(6, 1)


def alternate(monitor: HealthMonitor, path: Path, batches: Iterable[Any], **run: Any) -> Pair:
    torch.manual_seed(0)
    model = Pair()
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(model.back.parameters(), lr=0.1),
        torch.optim.SGD(model.front.parameters(), lr=0.2),
    ]
    monitor.start(model, optimizers, context(path, **run))
    for index, batch in enumerate(batches):
        monitor.begin_batch(batch, index)
        for optimizer, sign in zip(optimizers, (1.0, -1.0), strict=True):
            one_step(monitor, optimizer, sign * model.back(model.front(batch[0])).square().mean())
            model.zero_grad()  # the other's too
        monitor.end_batch()
    return model


def test_every_optimizer_has_its_own_rows_and_memory(tmp_path: Path) -> None:
    seen, detector = collector()
    monitor = HealthMonitor(clip=None, detectors=[detector, (list, always)], log_every_n_steps=1)
    alternate(monitor, tmp_path, setup(batches=3).batches)
    assert [found.optimizer for found in seen] == [0, 1] * 3
    assert {found.layers.names for found in seen if found.optimizer == 0} == {("back",)}
    assert {found.layers.names for found in seen if found.optimizer == 1} == {("front.0", "front.1")}
    assert {found.rows.lr.item() for found in seen if found.optimizer == 1} == {0.2}
    assert [found.rows.loss.item() for found in seen] == [record.loss for record in events(tmp_path, "step")]
    assert {found.setting.optimizers for found in seen} == {2}
    told = [event.type for event in events(tmp_path) if event.type in {"step", "finding"}]
    # The finding of each stands after its own record; both rest at the second.
    assert told[:4] == ["step", "finding", "step", "finding"]
    assert told[4:6] == ["step", "step"]
    assert set(monitor.state_dict()["rules"]) == {"collect/0", "collect/1"}  # a memory of observations is left out


def test_batch_and_modules_are_shown_to_the_first_optimizer_alone(tmp_path: Path) -> None:
    """Else a bad batch would be found as often as there are optimizers."""
    seen, detector = collector()
    monitor = HealthMonitor(clip=None, detectors=[detector], log_every_n_steps=1)
    batches = [(x, torch.tensor([math.nan])) for x, _ in setup(batches=3).batches]
    alternate(monitor, tmp_path, batches)
    for found in seen:
        first = found.optimizer == 0
        assert found.bad_batch == ((("batch[1]", 1),) if first else None)
        assert found.forward is not None
        assert [entry.layer for entry in found.forward.inputs] == ["front.0", "back"]
        assert bool(found.forward.batch_norms) == first


def test_an_optimizer_that_rests_has_all_its_rows_later(tmp_path: Path) -> None:
    """It acts in every second batch only, and not on the first log step."""
    parts = setup(lambda parameters: torch.optim.SGD(list(parameters)[:2], lr=0.1))
    head = torch.optim.SGD(parts.model.head.parameters(), lr=0.1)
    seen, detector = collector()
    monitor = HealthMonitor(clip=None, detectors=[detector], log_every_n_steps=3)
    monitor.start(parts.model, [parts.optimizer, head], context(tmp_path))
    for index, (x, y) in enumerate(parts.batches):
        monitor.begin_batch((x, y), index, step=index)
        loss = nn.functional.cross_entropy(parts.model(x), y)
        monitor.observe_loss(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in (parts.optimizer, head)[: 1 + index % 2]:
            monitor.before_step(optimizer)
            optimizer.step()
            monitor.after_step(optimizer)
        parts.model.zero_grad()
        monitor.end_batch()
    assert [(found.optimizer, found.rows.step.tolist()) for found in seen] == [
        (0, [0, 1, 2]),
        (1, [1, 3]),  # late for the log step at 2
        (0, [3, 4, 5]),
        (1, [5]),
    ]


# -- many steps --------------------------------------------------------------------------------------------------------


def test_under_accumulation_records_and_rows_count_steps(tmp_path: Path) -> None:
    parts = setup(batches=8)
    seen, detector = collector()
    train(watch(tmp_path, parts, detectors=[detector], log_every_n_steps=2), parts, accumulate=2)
    assert [found.rows.step.tolist() for found in seen] == [[0, 1], [2, 3]]
    assert [found.rows.batch_idx.tolist() for found in seen] == [[1, 3], [5, 7]]
    assert [record.window.steps for record in events(tmp_path, "step")] == [2, 2]


@pytest.mark.parametrize("every", [RING_STEPS + 6, MAX_ROWS + 6])
def test_rows_between_records_may_be_more_than_the_ring(every: int, tmp_path: Path) -> None:
    """Memory stays bounded; the window counts them all."""
    torch.manual_seed(0)
    model: Any = nn.Linear(2, 1)
    parts = Setup(model, torch.optim.SGD(model.parameters(), lr=0.0), [])
    seen, detector = collector()
    monitor = watch(tmp_path, parts, detectors=[detector], log_every_n_steps=every)
    x = torch.ones(1, 2)
    for index in range(2 * every):
        monitor.begin_batch(x, index)
        loss = model(x).sum()
        monitor.observe_loss(loss)
        loss.backward()
        if index in {every - RING_STEPS - 1, every - RING_STEPS}:
            model.weight.grad.mul_(100.0 if index == every - RING_STEPS else 1e4)
        monitor.before_step(parts.optimizer)
        parts.optimizer.step()
        monitor.after_step(parts.optimizer)
        parts.optimizer.zero_grad()
        monitor.end_batch()
    first, second = seen
    kept = min(every, MAX_ROWS)
    assert first.rows.step.tolist() == list(range(every - kept, every))
    assert second.rows.step.tolist() == list(range(2 * every - kept, 2 * every))
    # The largest norm of a layer is that of any step, however long ago.
    assert first.layers.grad_norm_max.tolist() == pytest.approx([1e4 * math.sqrt(2)], rel=1e-2)
    assert next(iter(events(tmp_path, "step")[0].layers.values())).grad_norm_max == first.layers.grad_norm_max[0]
    assert first.rows.grad_norm.max() == pytest.approx(1e4 * math.sqrt(2), rel=1e-2)
    assert second.layers.grad_norm_max.tolist() == pytest.approx([math.sqrt(3)], rel=1e-2)
    assert [record.window.steps for record in events(tmp_path, "step")] == [every, every]


# -- learning rates ----------------------------------------------------------------------------------------------------


def test_a_rate_that_is_a_tensor_is_kept_as_it_was_at_its_step(tmp_path: Path) -> None:
    """Schedulers write into it, and the rows are read much later."""
    parts = setup(lambda parameters: torch.optim.AdamW(parameters, lr=torch.tensor(0.5)))
    scheduler = torch.optim.lr_scheduler.StepLR(parts.optimizer, step_size=1, gamma=0.5)
    seen, detector = collector()
    monitor = watch(tmp_path, parts, detectors=[detector], log_every_n_steps=3)
    train(monitor, parts, after_step=lambda _: scheduler.step())
    assert seen[0].rows.lr.ravel().tolist() == [0.5, 0.25, 0.125]
    assert seen[1].rows.lr.ravel().tolist() == [0.0625, 0.03125, 0.015625]
