"""The verdict: how a run ended, in a headline, whether it was healthy, and why."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gradwatch.records import GradientCheck, Origin
from gradwatch.report import process
from gradwatch.report.run import read_runs
from gradwatch.report.verdict import verdict_of
from tests.report.logs import at, incident, last_steps, run_end, run_start, told, write_log
from tests.sinks.samples import AT, with_layer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gradwatch.records import Event, Incident, RunStart
    from gradwatch.report.verdict import Verdict


def judge(folder: Path, *events: Event) -> Verdict:
    write_log(folder, *events)
    (run,) = read_runs(folder)
    return verdict_of(run)


def on_this_machine(**changes: Any) -> RunStart:
    hardware = {"hostname": platform.node(), "pid": os.getpid(), **changes}
    return run_start(hardware=hardware, time=2**40)


def born(**changes: Any) -> Incident:
    """The incident of the samples with another origin."""
    event = incident(action="raised")
    return replace(event, origin=replace(event.origin, **changes))


def test_a_healthy_run(tmp_path: Path) -> None:
    verdict = judge(tmp_path, run_start(), at(10), run_end(incidents=0, steps=1234))
    assert (verdict.healthy, verdict.state) == (True, "healthy")
    assert verdict.headline == "finished healthy after 1,234 steps"
    assert (verdict.reasons, verdict.advice) == ([], [])


def test_who_has_ended_a_run_early_is_told(tmp_path: Path) -> None:
    end = run_end(incidents=0, steps=80, reason="max_time is over")
    assert judge(tmp_path, run_start(), at(10), end).headline == (
        "finished healthy after 80 steps; stopped early: max_time is over"
    )
    assert judge(tmp_path, run_start(), at(10), told(12), end).headline == (
        "finished with 1 finding (1 warning), open to the end; stopped early: max_time is over"
    )
    long = replace(end, reason=f"EarlyStopping: {'x' * 1000}\x1b")
    assert len(judge(tmp_path, run_start(), at(10), long).headline) < 400


def test_information_is_no_trouble(tmp_path: Path) -> None:
    verdict = judge(tmp_path, run_start(), told(10, severity="info"), run_end())
    assert (verdict.healthy, verdict.state, verdict.reasons) == (True, "healthy", [])


def test_findings_are_counted_and_the_worst_comes_first(tmp_path: Path) -> None:
    verdict = judge(
        tmp_path,
        told(10, code="dead-units", message="Dead.", advice="Use another activation."),
        told(11, layer="block.1"),
        told(12, severity="error", message="Explodes."),
        told(20, "closed", layer="block.1", since_step=11),
        run_end(),
    )
    assert (verdict.healthy, verdict.state) == (False, "findings")
    assert verdict.headline == "finished with 3 findings (1 error, 2 warnings), 2 of them open to the end"
    assert verdict.reasons == [
        "exploding-gradient, since step 12: Explodes. The same in 1 more layer.",
        "dead-units, since step 10: Dead.",
    ]
    assert verdict.advice == ["Lower the learning rate.", "Use another activation."]


def test_a_finding_that_is_over_is_a_finding(tmp_path: Path) -> None:
    verdict = judge(tmp_path, told(10), told(30, "closed", since_step=10), run_end())
    assert not verdict.healthy
    assert verdict.headline == "finished with 1 finding (1 warning), over before the end"
    assert verdict.reasons == ["exploding-gradient, steps 10 to 30: The gradient of block.0 grows."]


def test_a_severity_of_a_newer_version_is_trouble(tmp_path: Path) -> None:
    assert not judge(tmp_path, told(10, severity="fatal"), run_end()).healthy


def test_incidents_that_were_survived(tmp_path: Path) -> None:
    verdict = judge(tmp_path, incident(step=3), incident(step=9), run_end())
    assert (verdict.healthy, verdict.state) == (False, "findings")
    assert verdict.headline == "finished with 2 incidents"
    (reason,) = verdict.reasons
    assert reason == (
        "An infinity in a gradient at step 3 (and 1 more like it, the last at step 9): sqrt of encoder.norm"
        " (LayerNorm) made it in the backward pass, model.py:42."
    )
    assert verdict.advice == ["Add a small constant under the root."]


ORIGINS: dict[str, tuple[Incident, str]] = {
    "an operation": (born(), "sqrt of encoder.norm (LayerNorm) made it in the backward pass, model.py:42"),
    "of the model": (
        born(module="", module_type="Net", source=None, phase="forward"),
        "sqrt of Net made it in the forward pass",
    ),
    "a module": (born(op=None, source=None), "an operation of encoder.norm (LayerNorm) made it in the backward pass"),
    "the data": (born(phase="input", tensor="batch['x']"), "it came with the data, batch['x']"),
    "a weight": (born(phase="parameter", tensor="head.weight"), "the weight head.weight held it before the step"),
    "a buffer": (born(phase="buffer", tensor="norm.var"), "the buffer norm.var held it before the step"),
    "the optimizer": (born(phase="optimizer", tensor="head.bias"), "the optimizer's step made it in head.bias"),
    "dynamics": (born(cause="dynamics"), "the run had been growing for steps, and no single operation is to blame"),
    "not known": (
        born(phase="not_reproduced", op=None, module=None),
        "no operation could be named, as the step did not show it when it was run again",
    ),
}


@pytest.mark.parametrize("name", ORIGINS)
def test_a_death_of_a_nan_names_its_origin(name: str, tmp_path: Path) -> None:
    fatal, origin = ORIGINS[name]
    verdict = judge(tmp_path, at(10), fatal, run_end(status="nonfinite"))
    assert (verdict.healthy, verdict.state) == (False, "nonfinite")
    assert verdict.headline == f"died of an infinity in a gradient at step 12: {origin}"


def test_a_nan_that_is_the_last_line_was_the_end(tmp_path: Path) -> None:
    verdict = judge(tmp_path, run_start(), incident(action="raised"))
    assert verdict.state == "nonfinite"


def test_a_stop_after_a_nan(tmp_path: Path) -> None:
    verdict = judge(tmp_path, incident(action="stopped"), run_end(status="stopped"))
    assert verdict.headline.startswith("stopped by gradwatch after an infinity in a gradient at step 12: sqrt of ")


def test_a_death_of_a_nan_without_an_incident(tmp_path: Path) -> None:
    verdict = judge(tmp_path, run_end(status="nonfinite", step=5, reason="NaN"))
    assert (verdict.healthy, verdict.headline) == (False, "died of a non-finite value at step 5: NaN")


@pytest.mark.parametrize(
    ("status", "state", "healthy", "headline"),
    [
        ("exception", "exception", False, "ended by an exception at step 12: ValueError: no"),
        ("interrupted", "interrupted", True, "interrupted at step 12: ValueError: no"),
        ("stopped", "stopped", True, "stopped at step 12: ValueError: no"),
        ("evaporated", "exception", False, "ended (evaporated) at step 12: ValueError: no"),
    ],
)
def test_other_ways_to_end(status: Any, state: str, *, healthy: bool, headline: str, tmp_path: Path) -> None:
    verdict = judge(tmp_path, at(10), run_end(status=status, reason="ValueError: no"))
    assert (verdict.state, verdict.healthy, verdict.headline) == (state, healthy, headline)


def test_an_interrupted_run_with_a_finding(tmp_path: Path) -> None:
    verdict = judge(tmp_path, told(10), run_end(status="interrupted"))
    assert not verdict.healthy
    assert verdict.headline == "interrupted at step 12; until then 1 finding (1 warning), open to the end"


def test_a_killed_run(tmp_path: Path) -> None:
    verdict = judge(tmp_path, run_start(), at(10), at(20))
    assert (verdict.healthy, verdict.state) == (False, "killed")
    assert verdict.headline == "was killed, lost power, or could not write its end (a full disk?) at step 20"


def test_a_gradient_check_that_found_a_mismatch(tmp_path: Path) -> None:
    check = GradientCheck(**AT, log_step=12, verdict="mismatch", reason="fc is wrong.", parameters={})
    verdict = judge(tmp_path, check, run_end())
    assert (verdict.healthy, verdict.headline) == (False, "finished with a gradient mismatch")
    assert verdict.reasons == ["A gradient check at step 12 found a mismatch: fc is wrong."]


def test_names_are_shown_as_they_are_and_act_on_nothing(tmp_path: Path) -> None:
    hostile = "\x1b[2J[bold]</script>\n\ud800"
    fatal = born(module=hostile, module_type=hostile, op=hostile)
    verdict = judge(tmp_path, told(1, message=hostile, code=hostile), fatal, run_end(status="nonfinite"))
    text = " ".join([verdict.headline, *verdict.reasons])
    assert text.isprintable()
    assert "\\x1b[2J[bold]</script>\\n\\ud800" in text


# -- still running -------------------------------------------------------------------------------------------------


def test_a_run_whose_process_lives(tmp_path: Path) -> None:
    verdict = judge(tmp_path, on_this_machine(), at(10))
    assert (verdict.healthy, verdict.state, verdict.headline) == (True, "running", "still running, at step 12")


def test_a_running_run_with_a_finding(tmp_path: Path) -> None:
    assert not judge(tmp_path, on_this_machine(), told(10)).healthy


@pytest.mark.parametrize("pid", [None, "1", True, 0, -1, 2**22 + 1, 10**30, 1.5])
def test_what_is_no_process(pid: Any) -> None:
    assert not process.is_running(on_this_machine(pid=pid))


def test_a_process_of_another_machine_is_not_looked_for() -> None:
    assert not process.is_running(on_this_machine(hostname="elsewhere"))
    assert not process.is_running(None)


def test_a_machine_without_a_name_is_not_known_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "")
    assert not process.is_running(on_this_machine(hostname=""))


def test_a_process_that_began_after_the_run_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    start = replace(on_this_machine(), time=1e9)
    assert not process.is_running(start)
    monkeypatch.setattr(process, "_state", lambda _: ("", None))  # a system that does not tell
    assert process.is_running(start)


def test_a_process_that_has_ended_is_not_running_even_if_nobody_has_waited_for_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()
    start = on_this_machine(pid=child.pid)
    while process._state(child.pid)[0] not in ("Z", ""):
        pass
    assert not process.is_running(start)
    child.stdout.close()
    child.wait()
    assert not process.is_running(start)


@pytest.mark.parametrize(("error", "alive"), [(PermissionError, True), (ProcessLookupError, False), (OSError, False)])
def test_what_the_system_says_of_a_process(
    error: type[OSError], *, alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise error

    monkeypatch.setattr(os, "kill", refuse)
    assert process.is_running(on_this_machine()) is alive


def of_two_ranks(folder: Path) -> None:
    """A NaN that was born on rank 1; rank 0 saw it 4 ms later, in what the ranks exchange."""
    there = incident(rank=1, action="raised", advice="Clamp it.", time=AT["time"])
    there = replace(there, origin=replace(there.origin, ranks=[1]))
    echo = Origin(phase="not_reproduced", ranks=[1])
    here = replace(there, rank=0, origin=echo, advice="Look at the incident of rank 1.", time=AT["time"] + 0.004)
    write_log(folder, run_start(world_size=2), here, run_end(status="nonfinite"))
    write_log(folder, run_start(world_size=2, rank=1), there, run_end(status="nonfinite", rank=1), rank=1)


def test_of_several_ranks_the_one_where_the_value_was_born_speaks(tmp_path: Path) -> None:
    of_two_ranks(tmp_path)
    (run,) = read_runs(tmp_path)
    verdict = verdict_of(run)
    assert "sqrt of encoder.norm (LayerNorm) made it in the backward pass" in verdict.headline
    assert [reason[:13] for reason in verdict.reasons] == ["An infinity i"]
    assert verdict.advice == ["Clamp it."]


def test_an_echo_is_told_where_the_birth_was_not_written(tmp_path: Path) -> None:
    of_two_ranks(tmp_path)
    (tmp_path / "events.rank1.jsonl").unlink()
    (run,) = read_runs(tmp_path)
    assert "no operation could be named" in verdict_of(run).headline
    assert verdict_of(run).advice == ["Look at the incident of rank 1."]


# -- several ranks that end in several ways ----------------------------------------------------------------------------

LOST_TOUCH = "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2345"


def raised(rank: int, reason: str, *, time: float, step: int = 70) -> Event:
    return run_end(rank=rank, status="exception", reason=reason, step=step, time=AT["time"] + time, incidents=0)


def judge_ranks(folder: Path, *logs: Sequence[Event]) -> Verdict:
    for rank, events in enumerate(logs):
        write_log(folder, run_start(rank=rank), *events, rank=rank)
    (run,) = read_runs(folder)
    return verdict_of(run)


@pytest.mark.parametrize("later", [-1.0, 1.0])
def test_the_rank_that_failed_speaks_and_not_the_one_that_lost_it(later: float, tmp_path: Path) -> None:
    """Clocks of machines differ: the one that only lost touch may seem to have been first."""
    verdict = judge_ranks(
        tmp_path, [raised(0, LOST_TOUCH, time=100 + later)], [raised(1, "ValueError: label 1001", time=100)]
    )
    assert (verdict.state, verdict.healthy) == ("exception", False)
    assert verdict.headline == "ended by an exception on rank 1 at step 70: ValueError: label 1001"


def test_of_two_that_failed_the_first_speaks(tmp_path: Path) -> None:
    verdict = judge_ranks(
        tmp_path, [raised(0, "KeyError: 'b'", time=101)], [raised(1, "ValueError: a", time=100, step=69)]
    )
    assert verdict.headline == "ended by an exception on rank 1 at step 69: ValueError: a"


def test_a_rank_that_was_killed_is_named_before_what_follows_from_it(tmp_path: Path) -> None:
    verdict = judge_ranks(tmp_path, [raised(0, LOST_TOUCH, time=100)], [last_steps(60, 8, rank=1, reason="incident")])
    assert (verdict.state, verdict.healthy) == ("killed", False)
    assert verdict.headline == (
        "rank 1 was killed or lost power after step 67, and could not write its end;"
        f" then rank 0 ended by an exception at step 70: {LOST_TOUCH}"
    )


def test_a_rank_that_is_still_at_work_is_not_lost(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(), raised(0, "ValueError: a", time=100))
    write_log(tmp_path, replace(on_this_machine(), rank=1), rank=1)
    (run,) = read_runs(tmp_path)
    assert verdict_of(run).headline == "ended by an exception on rank 0 at step 70: ValueError: a"


def test_ranks_that_all_finish_are_one_run(tmp_path: Path) -> None:
    ends = [run_end(rank=rank, incidents=0, steps=10) for rank in (0, 1)]
    verdict = judge_ranks(tmp_path, *[[end] for end in ends])
    assert (verdict.state, verdict.headline) == ("healthy", "finished healthy after 10 steps")


# -- a run that went on with numbers that mean nothing -----------------------------------------------------------------


def test_a_run_whose_loss_stays_nan_is_not_just_one_with_an_incident(tmp_path: Path) -> None:
    bad = [at(step, loss=math.nan) for step in (30, 40, 50)]
    survived = incident(step=29, action="warned")
    verdict = judge(tmp_path, run_start(), at(10), at(20), survived, *bad, run_end(incidents=1))
    assert verdict.headline == "finished with 1 incident; at the end its numbers were not finite"
    assert verdict.reasons[0] == "The loss was not finite from step 30 to the end, at every record."


def test_an_overflow_under_a_loss_scale_at_the_last_record_is_routine(tmp_path: Path) -> None:
    verdict = judge(tmp_path, run_start(), at(10), at(20, grad_norm=math.inf, loss_scale=2.0**16), run_end())
    assert (verdict.healthy, verdict.reasons) == (True, [])


def test_weights_that_became_nan_are_lost_whatever_the_loss_is(tmp_path: Path) -> None:
    bad = with_layer(at(30), "block.1", weight_norm=math.nan)
    verdict = judge(tmp_path, run_start(), at(10), at(20), bad, run_end(incidents=0))
    assert verdict.reasons == ["Weights were not finite from step 30 to the end, at every record."]
    assert (verdict.state, verdict.healthy) == ("findings", False)


def test_a_nan_that_is_over_is_not_the_end(tmp_path: Path) -> None:
    verdict = judge(tmp_path, run_start(), at(10, loss=math.nan), at(20, grad_norm=math.inf), at(30), run_end())
    assert (verdict.state, verdict.reasons) == ("healthy", [])


@pytest.mark.parametrize(("ago", "state"), [(30.0, "running"), (-30.0, "running"), (3600.0, "killed")])
def test_a_run_on_another_machine_is_alive_while_it_writes(ago: float, state: str, tmp_path: Path) -> None:
    start = run_start(hardware={"hostname": "node7", "pid": 1})
    verdict = judge(tmp_path, start, at(120, time=time.time() - ago))
    assert (verdict.state, verdict.healthy) == (state, state == "running")
    if state == "running":
        assert verdict.headline == "still running on node7, as it wrote something in the last minutes, at step 120"
