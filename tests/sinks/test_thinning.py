from __future__ import annotations

import errno
import json
import logging
import math
import os
import random
import shutil
from array import array
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.records import Event, GradientCheck, LayerNorms, ParameterCheck, StepRecord
from gradwatch.serialization import load_events, to_json_line
from gradwatch.sinks import log_budget, temporary
from gradwatch.sinks.event_log import EventLog
from gradwatch.sinks.pooling import METRICS
from gradwatch.sinks.thinning import Thinning
from gradwatch.sinks.thinning_plan import CLOSE, JOIN, KEEP, KEPT_CHECKS, KEPT_INCIDENTS, KEPT_LAST, Lines, plan
from tests.sinks.samples import AT, finding, incident, known, last_steps, run_end, run_start, step_record

if TYPE_CHECKING:
    from collections.abc import Sequence

BUDGET = 40_000


def record(step: int, *, optimizer: int = 0, layers: int = 3, seed: int = 0) -> StepRecord:
    """A record with numbers of its own; now and then they are not finite, or not known."""
    draw = random.Random(f"{step} {optimizer} {seed}")

    def number() -> Any:
        return draw.choice([None, math.nan, math.inf]) if draw.random() < 0.05 else draw.lognormvariate(0, 3)

    norms = {
        f"block.{i}": LayerNorms(
            grad_norm=number(),
            weight_norm=number(),
            update_ratio=number(),
            nonfinite=draw.randrange(2),
            grad_norm_max=draw.choice([None, 0.0, draw.lognormvariate(0, 4)]),
        )
        for i in range(layers)
    }
    window = replace(step_record().window, steps=1, grad_norm_max=draw.random(), grad_norm_max_step=step)
    return step_record(
        step=step, log_step=step, optimizer=optimizer, loss=number(), grad_norm=number(), window=window, layers=norms
    )


def check(step: int, verdict: Any = "pass") -> GradientCheck:
    return GradientCheck(
        **{**AT, "step": step},
        verdict=verdict,
        reason="",
        parameters={"w": ParameterCheck(correct=verdict)},
        log_step=step,
    )


def logged(path: Path, events: Sequence[Event], budget: int = BUDGET) -> EventLog:
    log = EventLog(path, 0, budget)
    for event in events:
        log.write(event)
    return log


def lines(path: Path, name: str = "events.jsonl") -> list[str]:
    return (path / name).read_text().splitlines(keepends=True)


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


def assert_nothing_is_lost(kept: Sequence[StepRecord], written: Sequence[StepRecord]) -> None:
    """Every record written is one of those that a kept one stands for, and its extremes are theirs."""
    waiting = list(written)
    for found in kept:
        count = 1 if found.pooled is None else found.pooled.records
        members, waiting = waiting[:count], waiting[count:]
        assert (found.step, len(members)) == (members[-1].step, count)
        if found.pooled is None:
            assert to_json_line(found) == to_json_line(members[0])
            continue
        assert found.pooled.first_step == members[0].step
        assert found.window.steps == sum(member.window.steps for member in members)
        assert found.window.grad_norm_max == max(member.window.grad_norm_max or 0 for member in members)
        assert_range(found.pooled.loss, [member.loss for member in members])
        assert_range(found.pooled.grad_norm, [member.grad_norm for member in members])
        for place, layer in enumerate(found.layers):
            for metric in METRICS:
                values = [value for member in members for value in known(member.layers[layer], metric)]
                assert_range(getattr(found.pooled, f"layer_{metric}")[place], values)
            assert found.pooled.layer_nonfinite[place] == sum(member.layers[layer].nonfinite for member in members)
    assert waiting == []


def assert_range(found: list[float] | None, values: list[float | None]) -> None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    assert found == ([min(finite), max(finite)] if finite else None)


def of_optimizer(events: Sequence[Event], optimizer: int) -> list[StepRecord]:
    return [event for event in events if isinstance(event, StepRecord) and event.optimizer == optimizer]


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [100, 1000, 5_000])
def test_a_log_stays_within_its_budget_and_loses_no_extreme(tmp_path: Path, count: int) -> None:
    written = [record(step) for step in range(count)]
    log = logged(tmp_path, [run_start(), *written, run_end()])
    log.close()
    assert names(tmp_path) == ["events.jsonl"]
    assert log.dropped == 0
    size = (tmp_path / "events.jsonl").stat().st_size
    assert BUDGET / 2 < size < 1.2 * BUDGET
    events = load_events(tmp_path)
    assert (events[0], events[-1]) == (run_start(), run_end())
    assert_nothing_is_lost(of_optimizer(events, 0), written)


def test_old_and_new_file_together_stay_bounded(tmp_path: Path) -> None:
    log, peak = EventLog(tmp_path, 0, BUDGET), 0
    for step in range(2000):
        log.write(record(step))
        peak = max(peak, sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert 1.3 * BUDGET < peak < 1.9 * BUDGET


def test_the_newest_records_are_whole(tmp_path: Path) -> None:
    written = [record(step) for step in range(1500)]
    logged(tmp_path, written)
    newest = [to_json_line(event) for event in written[-10:]]
    assert lines(tmp_path)[-10:] == newest


def test_resolution_halves_when_a_run_doubles(tmp_path: Path) -> None:
    widths = []
    log = EventLog(tmp_path, 0, BUDGET)
    for step in range(6400):
        log.write(record(step))
        if step in (800, 1600, 3200, 6399):
            kept = of_optimizer(load_events(tmp_path), 0)
            widths.append(max(event.pooled.records for event in kept if event.pooled))
    assert all(a <= b <= 4 * a for a, b in pairwise(widths))
    assert 4 * widths[0] <= widths[-1] <= 16 * widths[0]
    assert all(width & (width - 1) == 0 for width in widths)


@given(
    st.lists(
        st.sampled_from(["step", "step", "step", "other", "wide", "finding", "incident", "check", "bad", "last"]),
        max_size=120,
    ),
    st.integers(2_000, 20_000),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_any_log_keeps_what_it_must(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], budget: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("log")
    events: list[Event] = [run_start()]
    for step, kind in enumerate(kinds * 3):
        made: dict[str, Any] = {
            "step": lambda step=step: record(step, seed=seed),
            "other": lambda step=step: record(step, optimizer=1, layers=1),
            "wide": lambda step=step: record(step, layers=5),
            "finding": lambda step=step: finding(step=step),
            "incident": lambda step=step: incident(step=step),
            "check": lambda step=step: check(step),
            "bad": lambda step=step: check(step, "mismatch"),
            "last": lambda step=step: last_steps(step=step, reason="incident" if step % 3 else "end"),
        }
        events.append(made[kind]())
    logged(path, events, budget).close()
    found = lines(path)
    thinned = ("step", "last_steps")
    whole = [to_json_line(event) for event in events if event.type not in thinned and event.type != "gradient_check"]
    assert [line for line in found if json.loads(line)["type"] not in (*thinned, "gradient_check")] == whole
    kept = load_events(path)
    for optimizer in (0, 1):
        assert_nothing_is_lost(of_optimizer(kept, optimizer), of_optimizer(events, optimizer))
    mismatches = [event for event in events if isinstance(event, GradientCheck) and event.verdict == "mismatch"]
    if len(mismatches) < KEPT_CHECKS:
        assert [event for event in kept if isinstance(event, GradientCheck) and event.verdict == "mismatch"] == (
            mismatches
        )


def lines_of(widths: list[int], budget: int) -> Lines:
    """Old step records of 50 bytes each that stand for so many, and something new that is as large as it may be."""
    count = len(widths)
    steps = {0: array("q", range(count))}
    return Lines(array("q", [50] * count + [budget // 4]), array("q", [*widths, 0]), steps, [], [])


def planned(widths: list[int], width: int) -> list[int]:
    return list(plan(lines_of(widths, 10**4), 10**4, width)[1][:-1])


def test_buckets_are_filled_with_neighbours() -> None:
    assert planned([1] * 10, 4) == [JOIN, JOIN, JOIN, CLOSE] * 2 + [JOIN, CLOSE]
    assert planned([4, 4, 1], 4) == [KEEP] * 3
    assert planned([4, 2, 1, 1, 1], 4) == [KEEP, JOIN, JOIN, CLOSE, KEEP]
    assert planned([1, 1, 8, 1, 1], 4) == [JOIN, CLOSE, KEEP, JOIN, CLOSE]  # nothing across a full one


@pytest.mark.parametrize(("budget", "width"), [(5000, 4), (2500, 8), (1250, 16), (100, 64)])
def test_buckets_become_as_wide_as_the_budget_needs(budget: int, width: int) -> None:
    lines = lines_of([1] * 64, budget)
    assert plan(lines, budget, 4)[0] == width
    assert plan(lines, budget, 32)[0] == max(width, 32)


def test_records_of_other_layers_or_optimizers_are_never_joined(tmp_path: Path) -> None:
    written = [record(step, optimizer=step % 2) for step in range(600)]
    half = {name.upper(): norms for name, norms in written[0].layers.items()}
    written[300:] = [replace(event, layers=half) for event in written[300:]]
    logged(tmp_path, written)
    kept = load_events(tmp_path)
    for optimizer in (0, 1):
        own = of_optimizer(written, optimizer)
        assert_nothing_is_lost(of_optimizer(kept, optimizer), own)
        where = [event.pooled.first_step < 300 for event in kept if isinstance(event, StepRecord) and event.pooled]
        assert any(where)
        assert any(event.pooled and event.step < 300 for event in of_optimizer(kept, optimizer))
        assert not any(
            event.pooled and event.pooled.first_step < 300 <= event.step for event in of_optimizer(kept, optimizer)
        )


def filler(count: int) -> list[Event]:
    return [record(step, layers=20) for step in range(count)]


def test_findings_and_incidents_keep_their_place(tmp_path: Path) -> None:
    events: list[Event] = []
    for step in range(3000):
        events.append(record(step))
        if step % 100 == 50:
            events += [finding(step=step), incident(step=step)]
    logged(tmp_path, events, 100_000)
    kept = [event for event in load_events(tmp_path) if event.type in {"step", "finding", "incident"}]
    steps = [event.step for event in kept]
    assert len(kept) < 1000
    assert steps == sorted(steps)


def test_of_gradient_checks_stay_the_first_the_newest_and_what_did_not_pass(tmp_path: Path) -> None:
    verdicts = ["pass"] * 5 + ["kink"] + ["pass"] * 5 + ["mismatch"] * 3 + ["pass"] * 5
    logged(tmp_path, [*map(check, range(len(verdicts)), verdicts), *filler(60)])
    kept = [event for event in load_events(tmp_path) if isinstance(event, GradientCheck)]
    assert [event.step for event in kept] == [0, 5, 11, 12, 13, 18]


def test_very_many_checks_that_do_not_pass_are_bounded_too(tmp_path: Path) -> None:
    verdicts: list[Any] = ["explained"] * 500
    verdicts[250] = "mismatch"
    logged(tmp_path, [*map(check, range(500), verdicts), *filler(60)])
    kept = [event.step for event in load_events(tmp_path) if event.type == "gradient_check"]
    assert kept == [*range(KEPT_CHECKS), 250, 251, *range(500 - KEPT_CHECKS, 500)]


def test_of_last_steps_stay_those_of_incidents_and_the_newest(tmp_path: Path) -> None:
    reasons = ["incident" if step % 2 else "finding x" for step in range(200)]
    events = [last_steps(step=step, reason=reason) for step, reason in enumerate(reasons)]
    logged(tmp_path, [*events, *filler(60)])
    kept = [event.step for event in load_events(tmp_path) if event.type == "last_steps"]
    assert kept == [*range(1, 2 * KEPT_INCIDENTS, 2), *range(200 - KEPT_LAST, 200)]


def test_a_log_of_what_must_stay_is_not_written_over_and_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swaps: list[int] = []
    real = Thinning.replace

    def counted(thinning: Thinning) -> None:
        swaps.append(1)
        real(thinning)

    monkeypatch.setattr(Thinning, "replace", counted)
    events = [incident(step=step) for step in range(2000)]
    logged(tmp_path, events)
    assert load_events(tmp_path) == events
    assert 3 <= len(swaps) <= 12


def test_torn_and_foreign_lines_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = [
        b'{"schema_version": 1, "type": "step", "time": 1, "optimizer": 0, "layers": 3}\n',
        b'{"schema_version": 1, "type": "step", "time": 1, "optim\n',
        b"\xff\xfe\n",
        b"\n",
        b'{"schema_version": 9, "type": "new"}\n',
    ]
    log = logged(tmp_path, [record(step) for step in range(20)])
    for line in odd:
        log._append(line)
    for step in range(20, 600):
        log.write(record(step))
    content = (tmp_path / "events.jsonl").read_bytes()
    assert content.count(b'"pooled": {') > 2
    places = [content.index(line) for line in odd]
    assert places[:3] == sorted(places[:3])


def test_a_line_that_could_not_be_finished_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the old file is copied as it is; the next line closes it."""
    log = logged(tmp_path, [record(step) for step in range(100)])
    begun = 100
    while log._budget._thinning is not None:
        log.write(record(begun))
        begun += 1
    assert log._descriptor is not None
    os.write(log._descriptor, b'{"schema_version": 1, "ty')
    log._torn = True
    for step in range(begun, 600):
        log.write(record(step))
    with pytest.warns(UserWarning, match="cut off"):
        assert_nothing_is_lost(of_optimizer(load_events(tmp_path), 0), [record(step) for step in range(600)])


# -- while it happens --------------------------------------------------------------------------------------------------


def test_a_reader_always_finds_a_whole_log(tmp_path: Path) -> None:
    log, written, thinning = EventLog(tmp_path, 0, 12_000), [], 0
    for step in range(200):
        written.append(record(step))
        log.write(written[-1])
        thinning += log._budget._thinning is not None
        assert_nothing_is_lost(of_optimizer(load_events(tmp_path), 0), written)
    assert thinning > 5


def test_each_line_does_a_bounded_part_of_the_work(tmp_path: Path) -> None:
    """The work is spread over many lines: none waits for all of it."""
    log, most, before = EventLog(tmp_path, 0, 200_000), 0, 0
    for step in range(1500):
        log.write(record(step))
        file = tmp_path / "events.jsonl.tmp"
        size = file.stat().st_size if file.exists() else 0
        most, before = max(most, size - before), size
    assert 0 < most < 200_000 / 3


def test_the_end_of_the_run_leaves_the_log_as_it_is(tmp_path: Path) -> None:
    log, step = EventLog(tmp_path, 0, BUDGET), 0
    while log._budget._thinning is None:
        log.write(record(step))
        step += 1
    log.close()
    assert names(tmp_path) == ["events.jsonl"]
    assert len(lines(tmp_path)) == step


def test_a_log_removed_while_it_is_thinned_is_not_written_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, step = EventLog(tmp_path / "run", 0, BUDGET), 0
    log.write(run_start())
    while log._budget._thinning is None:
        log.write(record(step))
        step += 1
    shutil.rmtree(tmp_path / "run")
    for later in range(step, step + 20):
        log.write(record(later))
    assert [event.step for event in load_events(tmp_path / "run") if event.type == "step"] == [*range(step, step + 20)]
    assert names(tmp_path / "run") == ["events.jsonl"]
    assert len(warned(caplog)) == 1


def test_a_log_that_another_one_has_replaced_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, step = EventLog(tmp_path, 0, BUDGET), 0
    while log._budget._thinning is None:
        log.write(record(step))
        step += 1
    (tmp_path / "events.jsonl").rename(tmp_path / "moved.jsonl")
    (tmp_path / "events.jsonl").write_text("mine")
    for later in range(step, step + 100):
        log.write(record(later))
    assert (tmp_path / "events.jsonl").read_text() == "mine"
    assert len(lines(tmp_path, "moved.jsonl")) == step + 100


CALLS = ["write", "fsync", "replace", "open"]


@pytest.mark.parametrize("call", CALLS)
def test_a_failure_leaves_the_old_log_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    real = getattr(os, call)
    failing = True

    def fail(first: Any, *rest: Any) -> Any:
        of_thinning = isinstance(first, int) and Path(f"/proc/self/fd/{first}").readlink().suffix == ".tmp"
        if failing and (of_thinning or str(first).endswith(".tmp")):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(first, *rest)

    monkeypatch.setattr(os, call, fail)
    written = [record(step) for step in range(400)]
    log = logged(tmp_path, written[:200])
    assert [to_json_line(event) for event in written[:200]] == lines(tmp_path)
    assert len(warned(caplog)) == 1
    assert "could not be thinned, and grows" in warned(caplog)[0]
    failing = False
    for event in written[200:]:
        log.write(event)
    assert (tmp_path / "events.jsonl").stat().st_size < 1.3 * BUDGET
    assert_nothing_is_lost(of_optimizer(load_events(tmp_path), 0), written)
    assert log.dropped == 0
    log.close()
    assert names(tmp_path) == ["events.jsonl"]


def test_ranks_have_budgets() -> None:
    assert EventLog("x", 0)._budget.bytes == log_budget.BUDGET
    assert EventLog("x", 5)._budget.bytes == log_budget.BUDGET_OF_OTHER_RANKS
    assert (1 + log_budget.RETRY_AFTER + 0.6) * log_budget.BUDGET < 200e6


# -- what a killed process leaves --------------------------------------------------------------------------------------


def test_leftovers_of_a_dead_process_are_removed_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    for name in ("events.jsonl.tmp", "events.rank3.12.jsonl.tmp", "last_steps.1.bin.tmp", "mine.tmp", "events.txt.tmp"):
        (tmp_path / name).write_text("left behind")
    (tmp_path / "events.7.jsonl.tmp").mkdir()
    alive = temporary.create(tmp_path / "events.2.jsonl.tmp", append=True)
    log = EventLog(tmp_path, 0)
    log.write(run_start())
    assert names(tmp_path) == ["events.2.jsonl.tmp", "events.7.jsonl.tmp", "events.jsonl", "events.txt.tmp", "mine.tmp"]
    os.close(alive)
    EventLog(tmp_path, 0).write(run_start())
    assert "events.2.jsonl.tmp" not in names(tmp_path)


def test_leftovers_are_no_logs(tmp_path: Path) -> None:
    EventLog(tmp_path, 0).write(run_start())
    (tmp_path / "events.jsonl.tmp").write_text(to_json_line(finding()))
    assert load_events(tmp_path) == [run_start()]


def test_without_locks_leftovers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events.jsonl.tmp").write_text("left behind")
    monkeypatch.setattr(temporary, "fcntl", None)
    log = logged(tmp_path, [record(step) for step in range(200)])
    assert (tmp_path / "events.jsonl.tmp").read_text() == "left behind"
    assert log.dropped == 0
    assert len(lines(tmp_path)) == 200
    (tmp_path / "events.jsonl.tmp").unlink()
    for step in range(200, 400):
        log.write(record(step))
    assert (tmp_path / "events.jsonl").stat().st_size < 1.3 * BUDGET
