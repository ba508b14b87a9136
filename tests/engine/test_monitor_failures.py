"""What the engine leaves behind when it fails itself, and what it keeps alive."""

from __future__ import annotations

import gc
import math
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch import HealthMonitor, NonFiniteError
from tests.engine.loops import context, one_step, setup, spoiled, train, watch

if TYPE_CHECKING:
    from pathlib import Path


# -- a monitor that fails --------------------------------------------------------------------------------------------


def test_a_failure_to_read_still_takes_part_in_the_ranks_decision_and_closes_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = setup()
    asked: list[int] = []

    def agree(value: int) -> int:
        asked.append(value)
        return value

    monitor = watch(tmp_path, parts, run={"agree": agree})

    def fail(*_: Any) -> None:
        message = "broken"
        raise RuntimeError(message)

    train(monitor, parts, parts.batches[:1])
    for place in ("gradwatch.engine.step_judge.read_gradients", "gradwatch.engine.watched.Watched.group_of"):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            asked.clear()
            monitor.begin_batch(None, 1)
            with pytest.raises(RuntimeError, match="broken"):
                monitor.before_step(parts.optimizer)
            assert asked == [1], place  # odd: this rank has failed
            assert monitor._run.window.starts_anew, place


def test_buffers_that_cannot_be_copied_do_not_keep_the_monitor_from_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        message = "broken"
        raise RuntimeError(message)

    parts = setup()
    monitor = watch(tmp_path, parts)
    monkeypatch.setattr("gradwatch.capture.buffers.BufferGuard.before_batch", fail)
    for index, (x, y) in enumerate(parts.batches[:3]):
        with pytest.raises(RuntimeError, match="broken"):
            monitor.begin_batch((x, y), index)
        loss: Any = nn.functional.cross_entropy(parts.model(x), y) * (math.nan if index == 2 else 1.0)
        monitor.observe_loss(loss)
        loss.backward()
        if index == 2:
            with pytest.raises(NonFiniteError) as caught:
                monitor.before_step(parts.optimizer)
            assert (caught.value.incident.batch_idx, caught.value.incident.step) == (2, 2)
        else:
            monitor.before_step(parts.optimizer)
            parts.optimizer.step()


def test_a_failure_to_announce_still_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lazy modules are announced at the first step, where the other ranks wait."""
    module = nn.LazyLinear(2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    asked: list[int] = []

    def agree(value: int) -> int:
        asked.append(value)
        return value

    monitor = HealthMonitor(clip=None)
    monitor.start(module, optimizer, context(tmp_path, agree=agree))
    monitor.begin_batch(None, 0)
    module(torch.ones(1, 3)).sum().backward()

    def fail(*_: Any, **__: Any) -> None:
        message = "broken"
        raise RuntimeError(message)

    monkeypatch.setattr("gradwatch.engine.run.run_start", fail)
    with pytest.raises(RuntimeError, match="broken"):
        monitor.before_step(optimizer)
    assert asked == [1]  # odd: this rank has failed


def test_a_cause_that_cannot_be_looked_for_leaves_the_incident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        message = "broken"
        raise RuntimeError(message)

    parts = setup()
    monitor = watch(tmp_path, parts)
    monkeypatch.setattr("gradwatch.engine.response.evidence_of_batch", fail)
    with pytest.raises(NonFiniteError) as caught:
        train(monitor, parts, spoiled(parts.batches, 1))
    assert caught.value.incident.first_seen == "loss"
    assert any("could not look for the cause: RuntimeError: broken" in message for message in caplog.messages)


# -- memory ----------------------------------------------------------------------------------------------------------


def test_batches_are_given_up_with_the_step_that_used_them(tmp_path: Path) -> None:
    class Images(list[Tensor]):
        """A batch that can be referred to weakly."""

    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=2)
    alive = []
    for index, (x, y) in enumerate(parts.batches):
        batch = Images([x, y])
        alive.append(weakref.ref(batch))
        monitor.begin_batch(batch, index)
        one_step(monitor, parts.optimizer, nn.functional.cross_entropy(parts.model(x), y))
        monitor.end_batch()
    del batch
    gc.collect()
    assert [ref() is not None for ref in alive] == [False] * 5 + [True]
