"""Promise 3: a failure of the monitor itself is a warning, never the end of a run, and training is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integrations.fits import Classifier, Manual, data, equal, fit, monitor, seeded, watched_nowhere, weights

if TYPE_CHECKING:
    from pathlib import Path

PLACES = [
    "engine.monitor.HealthMonitor.start",
    "engine.run.run_start",
    "engine.monitor.has_lazy_parameters",
    "engine.run.resolve_clip_rule",
    "engine.step_judge.read_gradients",
    "engine.recorder.begin_record",
    "engine.monitor.HealthMonitor.begin_batch",
    "engine.monitor.HealthMonitor.observe_loss",
    "engine.step_judge.StepJudge._accept",
    "engine.monitor.HealthMonitor.health",
    "engine.run.run_end",
    "engine.recording.layer_updates",
    "engine.health_rules.rows_of",
    "engine.health_rules.HealthRules.read",
    "engine.closer_look.ForwardWatch.begin",
    "engine.closer_look.ForwardWatch.end",
    "engine.closer_look.ForwardWatch.take",
    "engine.closer_look.loss_facts",
    "engine.watched.Watched.group_of",
    "capture.buffers.BufferGuard.before_batch",
    "capture.state_scan.StateScanner.scan",
    "capture.window.StepWindow.begin",
    "capture.window.StepWindow.take",
    "integrations.callback_hooks.batches_that_stepped",
    "integrations.run_context.trainer_clip_rule",
    "integrations.callback_hooks.callback_metrics",
    "integrations.callback_hooks.around_clipping",
    "engine.reporter.Reporter.write",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [Classifier, Manual], ids=["automatic", "manual"])
def test_a_monitor_that_fails_is_a_warning_and_training_is_the_same(
    place: str,
    kind: type[Classifier],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = fit(tmp_path / "plain", seeded(kind), validation=data(2))

    def fail(*_: Any, **__: Any) -> None:
        message = "broken on purpose"
        raise ZeroDivisionError(message)

    monkeypatch.setattr(f"gradwatch.{place}", fail)
    watch = monitor(tmp_path)
    fitted = fit(tmp_path, seeded(kind), watch, validation=data(2))
    assert equal(weights(fitted.module), weights(plain.module))
    assert watched_nowhere(fitted.trainer)
    told = [message for message in caplog.messages if "broken on purpose" in message]
    assert 1 <= len(told) <= 6  # one for each hook that it reaches
    assert len(told) == len(set(told))
    run = getattr(watch._engine, "_run", None)
    assert run is None or len(run.window.micro_batches) <= 2
