from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch

from gradwatch import load_events, load_incident
from gradwatch.engine.context import RunContext
from gradwatch.engine.reporter import ALL_LOGGED, MAX_INCIDENTS, Reporter
from gradwatch.replica import randomness
from gradwatch.replica.bundle import Bundle, load
from tests.sinks.samples import finding, incident, run_end, run_start, step_record

if TYPE_CHECKING:
    from pathlib import Path


class ListLogger:
    def __init__(self) -> None:
        self.calls: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.calls.append(metrics)


class Broken:
    """A sink that fails at everything."""

    def write(self, event: Any) -> None:
        message = "no"
        raise OSError(message)

    def close(self) -> None:
        message = "never"
        raise OSError(message)


def reporter(path: Path, *, max_incident_bytes: int = 2**20, **context: Any) -> Reporter:
    return Reporter(
        RunContext(dirpath=str(path), **context), layer_scalars="auto", max_incident_bytes=max_incident_bytes
    )


def bundle_of(weights: int = 100, batch: int = 1) -> Bundle:
    """A bundle of so many numbers."""
    state = randomness.as_dict(randomness.capture())
    return Bundle({"weight": torch.ones(weights)}, {}, [torch.ones(batch)], [state], None, {})


def test_events_go_to_the_log_and_scalars_to_the_loggers(tmp_path: Path) -> None:
    logger = ListLogger()
    out = reporter(tmp_path, loggers=(logger,))
    out.start(run_start())
    for event in (step_record(), finding()):
        out.write(event)
    out.end(run_end(), clip_rate=0.0)
    assert [event.type for event in load_events(tmp_path)] == ["run_start", "step", "finding", "run_end"]
    assert len(logger.calls) == 1


def test_the_end_tells_how_many_events_could_not_be_written(tmp_path: Path) -> None:
    place = tmp_path / "gradwatch"
    place.write_text("in the way")
    out = reporter(place)
    out.start(run_start())
    for event in (step_record(), finding()):
        out.write(event)
    place.unlink()
    out.end(run_end(), clip_rate=0.0)
    assert load_events(place) == [run_start(), run_end(dropped_events=2)]


def test_the_start_says_clip_rule_and_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reporter(tmp_path).start(run_start())
    assert any("gradients are clipped to L2 norm 1" in message for message in caplog.messages)
    assert any(str(tmp_path) in message for message in caplog.messages)


def test_only_rank_zero_says_what_all_ranks_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    out = reporter(tmp_path, rank=1)
    out.start(run_start(rank=1))
    out.end(run_end(rank=1), clip_rate=0.0)
    assert caplog.messages == []
    assert [event.type for event in load_events(tmp_path)] == ["run_start", "run_end"]


def test_an_incident_has_its_folder_and_its_message_names_it(tmp_path: Path) -> None:
    message = reporter(tmp_path).incident(incident())
    directory = tmp_path / "incidents" / "step=00000012-0"
    assert str(directory) in message
    assert load_incident(directory) == incident()
    assert load_events(tmp_path) == [incident()]


def test_incidents_beyond_a_limit_are_in_the_log_only(tmp_path: Path) -> None:
    out = reporter(tmp_path)
    messages = [out.incident(incident(step=step)) for step in range(MAX_INCIDENTS + 3)]
    assert len(list((tmp_path / "incidents").iterdir())) == MAX_INCIDENTS
    assert len(load_events(tmp_path)) == MAX_INCIDENTS + 3
    assert "incidents" not in messages[-1]


def test_very_many_incidents_leave_some_of_them_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = reporter(tmp_path)
    monkeypatch.setattr(Reporter, "_write_incident", lambda *_: None)
    for step in range(10 * ALL_LOGGED):
        out.incident(incident(step=step))
    steps = [event.step for event in load_events(tmp_path)]
    assert steps[:ALL_LOGGED] == list(range(ALL_LOGGED))
    assert 2.5 * ALL_LOGGED < len(steps) < 3.5 * ALL_LOGGED
    assert steps[-1] >= 10 * ALL_LOGGED - 12


def test_a_finding_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reporter(tmp_path).finding(finding())
    assert caplog.messages == ["The gradient of block.0 grows. Lower the learning rate."]


def test_nothing_is_written_where_nothing_may_be(tmp_path: Path) -> None:
    out = reporter(tmp_path / "none", write=False)
    out.start(run_start())
    assert "step 12" in out.incident(incident())
    out.end(run_end(), clip_rate=0.0)
    assert not (tmp_path / "none").exists()


def test_a_sink_that_fails_is_one_warning_of_each_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gradwatch")  # whatever a callback has made visible before
    logger = ListLogger()
    out = reporter(tmp_path, loggers=(logger,))
    out._sinks.insert(0, Broken())
    for _ in range(5):
        out.write(step_record())
    out.end(run_end(), clip_rate=0.0)
    assert len(logger.calls) == 5
    assert caplog.messages == [
        "gradwatch: Broken failed: OSError: no. Training goes on.",
        "gradwatch: closing Broken failed: OSError: never. Training goes on.",
    ]


def test_an_incident_that_cannot_be_written_still_has_its_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    assert "head.weight" in reporter(place).incident(incident())
    assert any("cannot be written" in message or "could not be written" in message for message in caplog.messages)
    assert place.read_text() == "in the way"


def test_a_bundle_makes_the_incident_replayable(tmp_path: Path) -> None:
    message = reporter(tmp_path).incident(incident(), bundle_of)
    directory = tmp_path / "incidents" / "step=00000012-0"
    assert f"gradwatch replay '{directory}'" in message or f"gradwatch replay {directory}" in message
    assert load(directory).weights is not None


@pytest.mark.parametrize(
    ("limit", "batch", "note"),
    [
        (0, 1, "batches take 4 bytes, over the limit of 0: left out"),
        (100, 1, "weights take 400 bytes, over the limit of 100: left out"),
        (1000, 500, "batches take 2,000 bytes, over the limit of 1,000: left out"),
    ],
)
def test_what_is_over_the_limit_is_left_out_and_there_is_no_replay(
    limit: int, batch: int, note: str, tmp_path: Path
) -> None:
    out = reporter(tmp_path, max_incident_bytes=limit)
    message = out.incident(incident(), lambda: bundle_of(batch=batch))
    directory = tmp_path / "incidents" / "step=00000012-0"
    assert str(directory) in message
    assert "gradwatch replay" not in message
    assert load_incident(directory) == incident()
    back = load(directory)
    assert (back.weights, back.notes) == (None, [note])


def test_the_limit_is_for_all_incidents_together(tmp_path: Path) -> None:
    out = reporter(tmp_path, max_incident_bytes=100_000)
    replayable = ["gradwatch replay" in out.incident(incident(step=i), lambda: bundle_of(10_000)) for i in range(4)]
    assert replayable == [True, True, False, False]
    # What says why is small, and always there.
    sizes = [sum(file.stat().st_size for file in path.iterdir()) for path in sorted((tmp_path / "incidents").iterdir())]
    assert max(sizes[2:]) < 20_000


def test_a_bundle_that_cannot_be_made_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Bundle:
        raise MemoryError

    message = reporter(tmp_path).incident(incident(), fail)
    assert "head.weight" in message
    assert "gradwatch replay" not in message
    assert load_incident(tmp_path / "incidents" / "step=00000012-0") == incident()
    assert caplog.messages == ["gradwatch: what a replay needs could not be saved: MemoryError: . Training goes on."]


# -- what is said of findings ------------------------------------------------------------------------------------------


def said(out: Reporter, caplog: pytest.LogCaptureFixture, *findings: Any) -> list[tuple[int, str]]:
    """Level and message of what is said of these findings."""
    caplog.set_level(logging.INFO, "gradwatch")
    caplog.clear()
    out.findings(findings)
    return [(record.levelno, record.message) for record in caplog.records]


GROWS = "The gradient of block.0 grows. Lower the learning rate."


def test_what_opens_closes_or_becomes_worse_is_said_and_an_update_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = reporter(tmp_path)
    assert said(out, caplog, finding(severity="info")) == [(logging.INFO, GROWS)]
    assert said(out, caplog, finding(severity="info", status="updated")) == []
    assert said(out, caplog, finding(status="updated")) == [(logging.WARNING, GROWS)]
    assert said(out, caplog, finding(status="updated")) == []
    closed = finding(status="closed", severity="info", message="exploding-gradient: no longer seen.", advice="")
    assert said(out, caplog, closed) == [(logging.INFO, "exploding-gradient: no longer seen.")]
    assert said(out, caplog, finding()) == [(logging.WARNING, GROWS)]
    assert len(load_events(tmp_path)) == 6  # every one is an event


@pytest.mark.parametrize(
    ("severity", "level"), [("info", logging.INFO), ("warning", logging.WARNING), ("error", logging.WARNING)]
)
def test_the_level_is_a_warning_unless_it_is_mere_information(
    severity: Any, level: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert said(reporter(tmp_path), caplog, finding(severity=severity)) == [(level, GROWS)]


def test_layers_are_told_apart_and_said_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = reporter(tmp_path)
    said(out, caplog, finding())
    worse = [finding(layer=layer, status="updated", severity="error") for layer in ("block.0", "block.1")]
    assert len(said(out, caplog, *worse)) == 1
    assert said(out, caplog, *worse) == []
    mixed = [finding(code="new", severity="info"), finding(code="new", layer="b"), finding(code="other")]
    assert [level for level, _ in said(out, caplog, *mixed)] == [logging.WARNING] * 2


def test_a_finding_that_a_resumed_run_has_open_is_said_once_it_is_told_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reader of this console has not heard of it."""
    out = reporter(tmp_path)
    assert said(out, caplog, finding(status="updated")) == [(logging.WARNING, GROWS)]
    assert said(out, caplog, finding(status="updated")) == []


def test_the_code_goes_with_the_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said(reporter(tmp_path), caplog, finding())
    assert [vars(record)["finding"] for record in caplog.records] == ["exploding-gradient"]


def test_no_findings_are_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert said(reporter(tmp_path), caplog) == []
    assert list(tmp_path.iterdir()) == []
