"""What the engine does about a bad step, and what it says of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch import NonFiniteError, load_incident
from tests.engine.loops import events, same, setup, spoiled, state, train, watch

if TYPE_CHECKING:
    from pathlib import Path

BAD = [math.nan, math.inf, -math.inf]


# -- on_nonfinite ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("kind", ["batch", "loss", "gradient"])
def test_raise_ends_the_loop_before_anything_has_changed(kind: str, value: float, tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    kept: list[dict[str, Any]] = [state(parts)]
    faults: dict[str, Any] = {
        "batch": {"batches": spoiled(parts.batches, 2, value)},
        "loss": {"loss": lambda loss, batch: loss * value if batch == 2 else loss},
        "gradient": {"gradients": lambda model, batch: model.head.weight.grad[0].fill_(value) if batch == 2 else None},
    }
    with pytest.raises(NonFiniteError) as caught:
        train(monitor, parts, after_step=lambda _: kept.append(state(parts)), **faults[kind])
    assert same(state(parts), kept[2])
    assert [parameter.grad for parameter in parts.model.parameters()] == [None] * 6
    incident = caught.value.incident
    assert (incident.step, incident.batch_idx, incident.epoch) == (2, 2, 0)
    assert (incident.first_seen, incident.action, incident.rank) == (kind, "raised", 0)
    assert incident.origin.ranks == [0]
    assert "head.weight" in incident.affected
    monitor.end("nonfinite", str(caught.value))
    directory = tmp_path / "incidents" / "step=00000002-0"
    assert load_incident(directory) == incident
    assert events(tmp_path, "incident") == [incident]
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize("bad", [0, 2, 5])
def test_skip_drops_the_update_and_nothing_else(bad: int, tmp_path: Path) -> None:
    """The same as a run that never saw the batch; AdamW would move weights with gradients of zero."""
    parts, without = setup(), setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip")
    train(monitor, parts, spoiled(parts.batches, bad))
    monitor.end("finished")
    train(watch(tmp_path / "without", without), without, [b for i, b in enumerate(without.batches) if i != bad])
    assert same(state(parts), state(without))
    end = events(tmp_path, "run_end")[0]
    assert (end.skipped_steps, end.incidents, end.steps) == (1, 1, 6)
    assert [event.action for event in events(tmp_path, "incident")] == ["skipped"]
    record = events(tmp_path, "step")[bad]
    assert record.window.skipped_steps == record.window.nonfinite_steps == 1
    assert {layer.update_ratio for layer in record.layers.values()} <= {0.0, None}
    assert record.layers["head"].nonfinite > 0


@pytest.mark.parametrize("max_skips", [0, 1, 3])
def test_skip_gives_up_after_so_many_in_a_row(max_skips: int, tmp_path: Path) -> None:
    parts = setup(batches=12)
    monitor = watch(tmp_path, parts, on_nonfinite="skip", max_skips=max_skips)
    good = [True, *[False] * max_skips, True, *[False] * (max_skips + 1), True]
    with pytest.raises(NonFiniteError) as caught:
        train(monitor, parts, loss=lambda loss, batch: loss if good[batch] else loss * math.nan)
    assert caught.value.incident.step == len(good) - 2
    assert [event.action for event in events(tmp_path, "incident")] == ["skipped"] * (2 * max_skips) + ["raised"]
    assert monitor.counters.skipped == 2 * max_skips


def test_stop_asks_the_loop_to_end_and_drops_until_it_has(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="stop", max_skips=1)
    assert not monitor.stop_requested
    kept: list[dict[str, Any]] = []

    def stubborn(loss: Tensor, batch: int) -> Tensor:
        if batch >= 2:
            kept.append(state(parts))
        return loss * math.nan if batch >= 2 else loss

    train(monitor, parts, loss=stubborn)
    assert monitor.stop_requested
    assert len(kept) == 1
    before = state(parts)
    for _ in range(4):  # a loop with a minimum of steps goes on
        train(monitor, parts, parts.batches[2:], loss=lambda loss, _: loss * math.nan)
        assert same(state(parts), before)
    assert {event.action for event in events(tmp_path, "incident")} == {"stopped"}
    monitor.end("stopped")
    assert not monitor.stop_requested


def test_warn_changes_nothing(tmp_path: Path) -> None:
    parts, plain = setup(), setup()
    batches = spoiled(parts.batches, 2)
    train(watch(tmp_path, parts, on_nonfinite="warn"), parts, batches)
    for x, y in batches:
        torch.autograd.backward(nn.functional.cross_entropy(plain.model(x), y))
        plain.optimizer.step()
        plain.optimizer.zero_grad()
    assert {name for name, value in state(parts).items() if not same({name: value}, {name: state(plain)[name]})} == {
        name for name, value in state(plain).items() if isinstance(value, Tensor) and bool(value.isnan().any())
    }
    assert bool(parts.model.head.weight.isnan().any())


def test_warn_reports_a_streak_once_and_counts_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="warn")
    train(monitor, parts, spoiled(parts.batches, 2))
    monitor.scan()
    assert [(event.step, event.action) for event in events(tmp_path, "incident")] == [(2, "warned")]
    assert monitor.counters.nonfinite == 4
    assert len([record for record in caplog.records if "Non-finite" in record.message]) == 1


def test_every_skipped_batch_has_its_incident_also_at_the_same_place_of_the_next_epoch(tmp_path: Path) -> None:
    """A loop that does not tell its epoch, over data with one bad sample: each pass meets it again."""
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip")
    for _ in range(3):
        train(monitor, parts, spoiled(parts.batches, 2))
    assert [event.step for event in events(tmp_path, "incident")] == [2, 8, 14]


# -- the micro-batch of the birth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("guilty", [3, 4, 5])
@pytest.mark.parametrize("kind", ["batch", "loss", "gradient"])
def test_accumulation_names_the_micro_batch_and_returns_the_buffers_to_it(
    guilty: int, kind: str, tmp_path: Path
) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip")
    buffers: list[dict[str, Tensor]] = []

    def note(loss: Tensor, batch: int) -> Tensor:
        return loss * math.nan if kind == "loss" and batch == guilty else loss

    def spoil(model: Any, batch: int) -> None:
        if kind == "gradient" and batch == guilty:
            model.head.weight.grad[0, 0] = math.nan

    keep = lambda _: buffers.append({k: v.clone() for k, v in parts.model.named_buffers()})  # noqa: E731
    batches = spoiled(parts.batches, guilty) if kind == "batch" else parts.batches
    train(monitor, parts, batches, loss=note, gradients=spoil, after_step=keep, accumulate=3)
    incident = events(tmp_path, "incident")[0]
    assert (incident.step, incident.batch_idx, incident.first_seen) == (1, guilty, kind)
    expected = buffers[guilty - 1]
    found = dict(parts.model.named_buffers())
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# -- anomaly mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "steps"), [("skip", 2), ("warn", 2), ("skip", 0), ("stop", 2)])
def test_anomaly_mode_is_on_for_the_batches_after_an_incident_only(mode: str, steps: int, tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite=mode, anomaly_steps=steps)
    seen: list[bool] = []

    def note(loss: Tensor, batch: int) -> Tensor:
        seen.append(torch.is_anomaly_enabled())
        return loss * math.nan if batch == 1 and len(seen) == 2 else loss

    train(monitor, parts, loss=note)
    if mode == "warn":  # the weights are spoilt, every further step is bad, and that is one incident
        assert seen == [False, False, True, True, False, False]
    elif mode == "stop":
        assert seen == [False, False]
    else:
        assert seen == [False, False] + [True] * steps + [False] * (4 - steps)
    assert not torch.is_anomaly_enabled()


def test_anomaly_mode_ends_with_the_run(tmp_path: Path) -> None:
    """An exception in the loop: ``end`` is all that is called."""
    parts = setup()
    monitor = watch(tmp_path, parts, on_nonfinite="skip")
    train(monitor, parts, spoiled(parts.batches, 1)[:2])
    monitor.begin_batch(None, 0)
    assert torch.is_anomaly_enabled()
    monitor.end("exception")
    assert not torch.is_anomaly_enabled()
