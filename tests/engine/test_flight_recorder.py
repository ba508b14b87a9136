"""The last steps: in the ring file at every step, in the log when something happens."""

from __future__ import annotations

import copy
import logging
import math
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from gradwatch import HealthMonitor, NonFiniteError, load_last_steps
from gradwatch.detectors.alarms import Alarm
from gradwatch.engine import flight_recorder
from gradwatch.engine.flight_recorder import WHOLE_INCIDENTS, FlightRecorder
from gradwatch.engine.watched import Watched
from gradwatch.serialization import load_ring
from gradwatch.sinks.ring import Ring, TooSlowError
from tests.engine.loops import Setup, context, events, one_step, same, setup, spoiled, state, train, watch
from tests.sinks.samples import finding, incident

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gradwatch.records import LastSteps


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of these tests take less than a millisecond; each is written by itself all the same."""
    monkeypatch.setattr(flight_recorder, "PATIENCE", 0.0)


def ring_of(path: Path) -> LastSteps:
    [found] = load_ring(path / "last_steps.bin")
    return found


def always(state: int, _: Any) -> tuple[int, list[Alarm]]:
    """A rule that opens something at every second record."""
    return state + 1, [Alarm(message="alarm")] if state % 2 == 0 else []


def longer(parts: Setup, steps: int) -> list[Any]:
    return (parts.batches * (steps // len(parts.batches) + 1))[:steps]


# -- steps that follow each other quickly ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([0.02] * 6, [1, 2, 3, 4, 5, 6]),  # each at once
        ([0.008] * 6, [1, 1, 1, 1, 5, 5]),  # nothing waits for longer than 30 ms
        ([0.001, 0.001, 0.02, 0.001, 0.02, 0.001], [1, 1, 1, 4, 4, 6]),  # a slow step takes those before it along
        ([-1.0] * 6, [1, 2, 3, 4, 5, 6]),  # a clock that is set back
    ],
)
def test_quick_steps_are_written_together(
    seconds: list[float], expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight_recorder, "PATIENCE", 0.03)
    now = 1e9

    def clock() -> float:
        return now

    def later(_: int) -> None:
        nonlocal now
        seen.append(len(ring_of(tmp_path).steps))
        now += seconds[len(seen) - 1]

    parts, seen = setup(), list[int]()
    monitor = watch(tmp_path, parts, log_every_n_steps=50)
    monkeypatch.setattr("time.time", clock)
    train(monitor, parts, after_step=later)
    assert seen == expected
    assert ring_of(tmp_path).steps == list(range(expected[-1]))
    monitor.scan()  # before a validation, say
    assert ring_of(tmp_path).steps == list(range(6))


def test_many_steps_do_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight_recorder, "QUICK", 1e9)
    monkeypatch.setattr(flight_recorder, "PATIENCE", 1e9)
    monkeypatch.setattr(flight_recorder, "AT_ONCE", 4)
    parts = setup()
    seen: list[int] = []

    def look(_: int) -> None:
        seen.append(len(ring_of(tmp_path).steps))

    train(watch(tmp_path, parts, log_every_n_steps=50), parts, after_step=look)
    assert seen == [1, 1, 1, 1, 5, 5]  # the first at once


def test_a_failing_run_leaves_what_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log cannot be written at the end: the file stays, with the newest steps too."""
    monkeypatch.setattr(flight_recorder, "QUICK", 1e9)
    monkeypatch.setattr(flight_recorder, "PATIENCE", 1e9)
    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=50)
    train(monitor, parts)
    monitor._run.reporter._flight.close(remove=False)  # type: ignore[union-attr]
    assert ring_of(tmp_path).steps == list(range(6))


# -- the ring file -----------------------------------------------------------------------------------------------------


def test_every_step_is_in_the_file_at_once(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=50)
    seen: list[Any] = []
    norms: list[float] = []

    def note(model: Any, _: int) -> None:
        norms.append(float(torch.stack([p.grad.norm() for p in model.head.parameters()]).norm()))

    train(monitor, parts, gradients=note, after_step=lambda _: seen.append(ring_of(tmp_path)))
    assert [found.steps for found in seen] == [list(range(n)) for n in range(1, 7)]
    last = seen[-1]
    assert last.layers["head"] == pytest.approx(norms, rel=1e-5)
    assert list(last.layers) == ["body", "norm", "head"]
    assert (last.lr, last.coefficient, last.skipped) == ([0.01] * 6, [1.0] * 6, [False] * 6)
    assert None not in last.loss


def test_only_64_steps_stay(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=1000)
    train(monitor, parts, longer(parts, 100))
    assert ring_of(tmp_path).steps == list(range(36, 100))


def test_at_the_end_the_steps_are_in_the_log_and_the_file_is_gone(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=1000)
    train(monitor, parts)
    before = ring_of(tmp_path)
    monitor.end("exception", "boom")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.jsonl"]
    [logged] = events(tmp_path, "last_steps")
    assert (logged.reason, logged.steps, logged.loss) == ("end", before.steps, before.loss)
    for layer, values in before.layers.items():
        assert logged.layers[layer] == pytest.approx(values, rel=1e-6)
    assert load_last_steps(tmp_path) == [logged]


def test_what_the_log_could_not_take_stays_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=1000)
    train(monitor, parts)
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    monitor.end("finished")
    monkeypatch.undo()
    assert ring_of(tmp_path).steps == list(range(6))
    assert load_last_steps(tmp_path)[0].reason == "killed"


def test_each_optimizer_has_its_rows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]
    monitor = HealthMonitor(clip=None)
    monitor.start(model, optimizers, context(tmp_path, log_every_n_steps=100))
    for index in range(6):
        monitor.begin_batch(None, index)
        one_step(monitor, optimizers[index % 3 == 0], model(torch.ones(2, 3)).square().mean())
        monitor.end_batch()
    found = load_ring(tmp_path / "last_steps.bin")
    assert [(event.optimizer, event.steps, list(event.layers)) for event in found] == [
        (0, [1, 2, 4, 5], ["0"]),
        (1, [0, 3], ["1"]),
    ]


def test_a_parameter_without_gradient_has_none(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)

    def drop(model: Any, batch: int) -> None:
        if batch == 2:
            for parameter in model.head.parameters():
                parameter.grad = None

    train(monitor, parts, gradients=drop)
    assert [norm is None for norm in ring_of(tmp_path).layers["head"]] == [step == 2 for step in range(6)]
    monitor.end("finished")
    assert [norm is None for norm in events(tmp_path, "last_steps")[0].layers["head"]] == [
        step == 2 for step in range(6)
    ]


def test_new_parameters_join_and_the_steps_before_them_stay(tmp_path: Path) -> None:
    parts = setup()
    parts = parts._replace(optimizer=torch.optim.SGD(parts.model.head.parameters(), lr=0.1))
    monitor = watch(tmp_path, parts)
    train(monitor, parts, parts.batches[:3])
    parts.optimizer.add_param_group({"params": list(parts.model.body.parameters())})
    train(monitor, parts, parts.batches[3:])
    in_file = ring_of(tmp_path)
    monitor.end("finished")
    for found in (in_file, events(tmp_path, "last_steps")[-1]):
        assert found.steps == list(range(6))
        assert [norm is None for norm in found.layers["body"]] == [True] * 3 + [False] * 3
        assert None not in found.layers["head"]


def test_a_second_run_in_the_folder_has_its_own_file_and_leaves_that_of_the_first(tmp_path: Path) -> None:
    parts = setup()
    first = watch(tmp_path, parts, log_every_n_steps=1000)
    train(first, parts)
    second = watch(tmp_path, parts, log_every_n_steps=1000)
    train(second, parts, parts.batches[:2])
    assert [found.steps for found in load_ring(tmp_path / "last_steps.1.bin")] == [[0, 1]]
    assert ring_of(tmp_path).steps == list(range(6))
    assert load_last_steps(tmp_path)[0].steps == [0, 1]
    second.end("finished")
    assert load_last_steps(tmp_path)[0].reason == "end"
    assert ring_of(tmp_path).steps == list(range(6))
    assert first.active


def test_ranks_have_their_own(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, run={"rank": 3, "world_size": 4})
    train(monitor, parts)
    [found] = load_ring(tmp_path / "last_steps.rank3.bin")
    assert found.rank == 3


def test_nothing_is_written_where_nothing_may_be(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, run={"write": False})
    train(monitor, parts)
    monitor.end("finished")
    assert list(tmp_path.iterdir()) == []


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_failing_write_is_one_warning_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts, twin = setup(), setup()
    train(watch(tmp_path / "twin", twin), twin)
    monitor = watch(tmp_path / "a", parts)
    real, calls = os.pwrite, iter(range(10_000))

    def failing(*args: Any) -> int:
        if next(calls) >= 2:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(os, "pwrite", failing)
    train(monitor, parts)
    monitor.end("finished")
    [said] = warnings(caplog)
    assert str(tmp_path / "a" / "last_steps.bin") in said
    assert said.endswith("[Errno 28] No space left on device. Training goes on.")
    assert same(state(parts), state(twin))
    assert [event.reason for event in events(tmp_path / "a", "last_steps")] == ["end"]


def test_a_slow_file_system_is_information(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(*_: Any) -> None:
        raise TooSlowError("writing a step takes 300 µs here")

    caplog.set_level(logging.INFO, "gradwatch")
    parts = setup()
    monitor = watch(tmp_path, parts)
    monkeypatch.setattr(Ring, "write", slow)
    train(monitor, parts)
    assert not (tmp_path / "last_steps.bin").exists()
    told = [record for record in caplog.records if "writing a step takes 300 µs" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.INFO]


@pytest.mark.parametrize("how", ["removed", "cut off"])
def test_a_file_that_somebody_touches_is_begun_anew_with_the_next_record(tmp_path: Path, how: str) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=2)

    def touch(batch: int) -> None:
        if batch == 3:
            (tmp_path / "last_steps.bin").unlink() if how == "removed" else os.truncate(tmp_path / "last_steps.bin", 99)

    train(monitor, parts, after_step=touch)
    assert ring_of(tmp_path).steps == list(range(6))


def test_a_folder_removed_in_mid_run(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path / "run", parts, log_every_n_steps=2)
    train(monitor, parts, after_step=lambda batch: shutil.rmtree(tmp_path / "run") if batch == 2 else None)
    assert ring_of(tmp_path / "run").steps == list(range(6))
    monitor.end("finished")
    assert [event.type for event in events(tmp_path / "run")] == ["run_start", "step", "step", "last_steps", "run_end"]


def test_a_folder_that_is_renamed_in_mid_run_has_every_step(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path / "run", parts, log_every_n_steps=2)
    train(monitor, parts, after_step=lambda batch: rename(tmp_path) if batch == 2 else None)
    assert ring_of(tmp_path / "better").steps == list(range(6))
    monitor.end("finished")
    (last,) = load_last_steps(tmp_path / "better")
    assert (last.reason, last.steps) == ("end", list(range(6)))
    assert not (tmp_path / "run").exists()


def rename(folder: Path) -> None:
    (folder / "run").rename(folder / "better")


def test_copies_write_nothing(tmp_path: Path) -> None:
    parts = setup()
    flight = FlightRecorder(Watched(parts.model, [parts.optimizer], "layer"), 0)
    flight.open(tmp_path / "events.jsonl", "a")
    content = (tmp_path / "last_steps.bin").read_bytes()
    duplicate = copy.deepcopy(flight)
    duplicate.add(0)
    duplicate.close(remove=True)
    assert (tmp_path / "last_steps.bin").read_bytes() == content


# -- events ------------------------------------------------------------------------------------------------------------


def in_a_fork(action: Callable[[], object]) -> None:
    """Run something in a forked process, to its end."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:  # noqa: BLE001 - a child must not go on with the tests
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked off on this system")
@pytest.mark.filterwarnings("ignore:This process")  # is multi-threaded; the child writes and leaves
def test_a_process_that_was_forked_off_leaves_the_files_to_its_parent(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, log_every_n_steps=2)
    train(monitor, parts, parts.batches[:3])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def go_on() -> None:
        train(monitor, parts, parts.batches[3:])
        monitor._run.reporter.incident(incident())
        monitor.end("exception", "RuntimeError: in the child")

    in_a_fork(go_on)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    train(monitor, parts, parts.batches[3:])
    assert ring_of(tmp_path).steps[:3] == [0, 1, 2]
    assert len(ring_of(tmp_path).steps) == 6
    monitor.end("finished")
    assert [event.status for event in events(tmp_path, "run_end")] == ["finished"]
    assert [path.name for path in tmp_path.iterdir()] == ["events.jsonl"]


def stepped(path: Path, steps: int) -> tuple[FlightRecorder, Any]:
    parts = setup()
    monitor = watch(path, parts, log_every_n_steps=10**6)
    train(monitor, parts, longer(parts, steps))
    return FlightRecorder(monitor._run.watched, 0), (monitor, parts)


def test_a_finding_that_opens_has_the_steps_before_it(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts, detectors=[(lambda: 0, always)], log_every_n_steps=3)
    train(monitor, parts)
    monitor.end("finished")
    told = [(event.type, event.step) for event in events(tmp_path) if event.type in {"finding", "last_steps"}]
    assert told == [("finding", 2), ("last_steps", 2), ("last_steps", 5)]
    first = events(tmp_path, "last_steps")[0]
    assert first.steps == [0, 1, 2]
    assert first.reason.startswith("finding ")


@pytest.mark.parametrize("changes", [{"severity": "info"}, {"status": "updated"}, {"status": "closed"}])
def test_other_findings_have_none(tmp_path: Path, changes: Any) -> None:
    flight, _ = stepped(tmp_path, 5)
    assert flight.at_finding(finding(**changes)) == []
    assert len(flight.at_finding(finding())) == 1


def test_findings_share_no_step(tmp_path: Path) -> None:
    flight, (monitor, parts) = stepped(tmp_path, 5)
    covered: list[int] = []
    for round_ in range(40):
        covered += [step for event in flight.at_finding(finding(code=f"c{round_}")) for step in event.steps]
        train(monitor, parts, parts.batches)
    assert len(covered) == len(set(covered))
    assert covered[-1] > 150


def test_incidents_have_them_always_and_after_many_only_now_and_then(tmp_path: Path) -> None:
    flight, (monitor, parts) = stepped(tmp_path, 5)
    counts = []
    for _ in range(WHOLE_INCIDENTS + 30):
        counts.append(len(flight.at_incident(incident())))
        train(monitor, parts, parts.batches)
    assert counts[:WHOLE_INCIDENTS] == [1] * WHOLE_INCIDENTS
    assert 1 <= sum(counts[WHOLE_INCIDENTS:]) <= 30 * 6 / 64 + 1
    assert len(flight.at_end(incident())) == 1


def test_an_incident_leaves_the_bad_step_last(tmp_path: Path) -> None:
    parts = setup()
    monitor = watch(tmp_path, parts)
    with pytest.raises(NonFiniteError):
        train(monitor, parts, spoiled(parts.batches, 3))
    [event] = events(tmp_path, "last_steps")
    assert (event.reason, event.steps, event.step) == ("incident", [0, 1, 2, 3], 3)
    assert math.isnan(event.grad_norm[-1])
    assert event.grad_norm[0] > 0
    assert ring_of(tmp_path).steps == event.steps


def test_before_the_first_step_there_is_nothing_to_tell(tmp_path: Path) -> None:
    parts = setup()
    watch(tmp_path, parts).end("interrupted")
    assert [event.type for event in events(tmp_path)] == ["run_start", "run_end"]


def test_rates_of_any_kind(tmp_path: Path) -> None:
    for lr, known in ((torch.tensor(0.5), 0.5), (0.25, 0.25)):
        parts = setup(lambda parameters, lr=lr: torch.optim.SGD(parameters, lr=lr))  # type: ignore[misc]
        monitor = watch(tmp_path / str(known), parts, log_every_n_steps=100)
        train(monitor, parts, parts.batches[:2])
        assert ring_of(tmp_path / str(known)).lr == [known] * 2
    parts = setup()
    monitor = watch(tmp_path / "meta", parts, log_every_n_steps=100)
    train(monitor, parts, parts.batches[:1])
    history = monitor._run.watched.histories[0]
    odd = [torch.tensor(0.5, device="meta"), torch.ones(3), "fast", None]
    for rate in odd:
        history.add(history.rows[-1]._replace(lr=(rate,)), history.norms[-1], history.sources[-1])
        monitor._run.recorder._flight.add(0)
    assert ring_of(tmp_path / "meta").lr == [0.01, None, None, None, None]
    monitor.end("finished")
    assert events(tmp_path / "meta", "last_steps")[0].lr == [0.01, None, None, None, None]
