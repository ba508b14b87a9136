"""The engine's clipping, and gradients whose squares overflow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch import NonFiniteError
from tests.engine.loops import events, same, setup, state, train, watch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("limit", [0.01, 0.3, 1e3])
def test_clipping_is_that_of_clip_grad_norm(limit: float, tmp_path: Path) -> None:
    ours, theirs = setup(norm=False), setup(norm=False)
    monitor = watch(tmp_path, ours, clip=limit)
    train(monitor, ours)
    plain = watch(tmp_path / "plain", theirs)
    train(plain, theirs, gradients=lambda model, _: nn.utils.clip_grad_norm_(model.parameters(), limit))
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    for event in events(tmp_path, "step"):
        assert event.clip.max_norm == limit
        assert event.clip.clipped == (event.grad_norm > limit)
        assert event.clip.coefficient == pytest.approx(min(1.0, limit / (event.grad_norm + 1e-6)), rel=1e-6)
    clipped = sum(event.clip.clipped for event in events(tmp_path, "step"))
    assert clipped == {0.01: 6, 1e3: 0}.get(limit, clipped)
    assert monitor.counters.clip_rate == clipped / 6


def test_a_gradient_within_the_limit_is_not_touched(tmp_path: Path) -> None:
    plain, watched = setup(), setup()
    train(watch(tmp_path / "plain", plain), plain)
    train(watch(tmp_path, watched, clip=1e3), watched)
    assert same(state(plain), state(watched))


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_huge_gradient_is_clipped_and_reported_not_dropped(
    clip: float | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = setup(lambda parameters: torch.optim.SGD(parameters, lr=0.1), norm=False)

    def explode(model: Any, batch: int) -> None:
        if batch == 2:
            model.head.weight.grad.fill_(1e30)
            before.update(state(parts))

    before: dict[str, Tensor] = {}
    train(watch(tmp_path, parts, clip=clip, on_nonfinite="warn"), parts, parts.batches[:3], gradients=explode)
    finding = events(tmp_path, "finding")[0]
    assert (finding.code, finding.layer, finding.step) == ("huge-gradient", "head", 2)
    record = events(tmp_path, "step")[2]
    assert record.grad_norm == pytest.approx(math.sqrt(12) * 1e30, rel=1e-5)
    assert record.layers["head"].grad_norm == pytest.approx(math.sqrt(12) * 1e30, rel=1e-5)
    moved = parts.model.head.weight.detach() - before["head.weight"]
    assert float(moved.double().norm()) == pytest.approx(0.1 if clip else 0.1 * math.sqrt(12) * 1e30, rel=1e-4)
    assert any("huge" in record.message or "overflows float32" in record.message for record in caplog.records)
    assert events(tmp_path, "incident") == []


def test_a_huge_gradient_that_ruins_adam_is_caught_in_the_same_batch(tmp_path: Path) -> None:
    """Its square is infinite in the second moment: the scan after such a step does not wait for a log step."""
    parts = setup(norm=False)

    def explode(model: Any, batch: int) -> None:
        if batch == 2:
            model.head.weight.grad.fill_(1e30)

    with pytest.raises(NonFiniteError) as caught:
        train(watch(tmp_path, parts, log_every_n_steps=100), parts, gradients=explode)
    incident = caught.value.incident
    assert (incident.first_seen, incident.step, incident.batch_idx) == ("optimizer", 2, 2)
    assert "head.weight.exp_avg_sq" in incident.affected
