"""The demo: its bug, its figures, its looks, and one quick run from end to end."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.nn import functional

from gradwatch.demo.commands import TAB_NAME, next_commands
from gradwatch.demo.digits import ClassBalancedCNN
from gradwatch.demo.progress import LineDisplay, LiveDisplay
from gradwatch.demo.render import Report, print_end, print_report
from gradwatch.demo.setting import DemoError, fresh_folder
from gradwatch.demo.summary import summarize
from gradwatch.demo.text import english_characters, unigram_cross_entropy
from gradwatch.demo.trainings import TRAININGS
from gradwatch.records import (
    ClipRule,
    ClipState,
    Event,
    Finding,
    Incident,
    LayerNorms,
    Origin,
    RunStart,
    StepRecord,
    Window,
)
from gradwatch.tensorboard_plugin import plugin

HEALTHY, BUGGY = TRAININGS[0], TRAININGS[-1]
RULE = ClipRule(max_norm=0.25, family="recurrent", reason="1 LSTM module", source="awd-lstm-lm main.py")


def _start(clip: ClipRule = RULE) -> RunStart:
    return RunStart(
        time=0.0,
        step=0,
        epoch=0,
        batch_idx=None,
        rank=0,
        run_id="run",
        resumed_from=None,
        versions={},
        hardware={},
        precision={},
        strategy="single",
        world_size=1,
        optimizers=[],
        seeds={},
        determinism={},
        clip=clip,
        settings={},
        parameters=[],
    )


def _step(step: int, norms: dict[str, float], *, peak: tuple[float, int] | None = None, clipped: int = 0) -> StepRecord:
    total = math.hypot(*norms.values())
    peak_norm, peak_step = peak or (total, step)
    return StepRecord(
        time=0.0,
        step=step,
        epoch=0,
        batch_idx=step,
        rank=0,
        optimizer=0,
        log_step=step,
        loss=1.0,
        grad_norm=total,
        clip=ClipState(max_norm=0.25, coefficient=1.0, clipped=clipped > 0, rate=0.0, largest_layer=None),
        lr=0.1,
        lr_groups=[0.1],
        loss_scale=None,
        skipped_steps=0,
        nonfinite_steps=0,
        window=Window(
            steps=10,
            grad_norm_max=peak_norm,
            grad_norm_max_step=peak_step,
            loss_max=1.0,
            clipped_steps=clipped,
            skipped_steps=0,
            nonfinite_steps=0,
        ),
        layers={
            name: LayerNorms(grad_norm=norm, weight_norm=1.0, update_ratio=0.1, nonfinite=0)
            for name, norm in norms.items()
        },
    )


def _finding(status: str, since_step: int) -> Finding:
    return Finding(
        time=0.0,
        step=since_step,
        epoch=0,
        batch_idx=0,
        rank=0,
        code="huge-gradient",
        status=status,  # type: ignore[arg-type] # a test of the three literals
        since_step=since_step,
        severity="warning",
        layer="head",
        message="it is huge",
        evidence={},
        advice="look at it",
    )


def _incident() -> Incident:
    return Incident(
        time=0.0,
        step=106,
        epoch=4,
        batch_idx=18,
        rank=0,
        world_size=1,
        first_seen="loss",
        origin=Origin(phase="not_reproduced"),
        reproduced=False,
        affected=["features.0.weight", "features.0.bias", "head.weight", "head.bias"],
        explanation="The loss is NaN [sic].",
        advice="Guard the division.",
        anomaly_traceback=None,
        action="raised",
    )


def _report(folder: Path, events: list[Event], *, problem: str | None = None, buggy: bool = False) -> Report:
    return Report(
        training=BUGGY if buggy else HEALTHY,
        summary=summarize(events),
        result="accuracy 99%",
        folder=folder,
        weights_finite=True,
        problem=problem,
    )


def _printed(report: Report, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_report(console, report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- the bug and the yardstick ---------------------------------------------------------------------------------------


def test_the_buggy_loss_is_the_class_balanced_one_while_every_class_is_there() -> None:
    logits = torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.cat([torch.arange(10), torch.zeros(30, dtype=torch.int64)])
    by_class = [functional.cross_entropy(logits[labels == digit], labels[labels == digit]) for digit in range(10)]
    torch.testing.assert_close(ClassBalancedCNN().loss(logits, labels), torch.stack(by_class).mean())


def test_the_buggy_loss_ruins_every_gradient_once_a_class_is_missing() -> None:
    logits = torch.zeros(40, 10, requires_grad=True)
    loss = ClassBalancedCNN().loss(logits, torch.arange(40) % 9)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isnan()
    assert gradient.isnan().all()


def test_unigram_cross_entropy_of_even_letters_is_the_log_of_their_number() -> None:
    letters = torch.arange(400) % 4
    assert unigram_cross_entropy(letters, letters, 4) == pytest.approx(math.log(4))


def test_unigram_cross_entropy_counts_on_train_and_scores_on_test() -> None:
    train, test = torch.tensor([0, 0, 1]), torch.tensor([1, 2])
    assert unigram_cross_entropy(train, test, 3) == pytest.approx(-(math.log(2 / 6) + math.log(1 / 6)) / 2)


def test_the_text_is_large_enough_and_split_in_order() -> None:
    train, test, alphabet = english_characters()
    assert len(train) > 300_000
    assert len(train) // 9 == pytest.approx(len(test), rel=1e-3)
    assert max(train.max(), test.max()) < alphabet


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_missing_or_empty_folder_is_used_as_it_is(tmp_path: Path) -> None:
    assert fresh_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert fresh_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list((tmp_path / "a" / "b").iterdir())


def test_a_used_folder_gets_numbered_subfolders(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    assert [fresh_folder(tmp_path).name for _ in range(3)] == ["run-2", "run-3", "run-4"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DemoError, match=r"cannot write to .*file: File exists; name another --dir"):
        fresh_folder(tmp_path / "file")


# --- the figures -----------------------------------------------------------------------------------------------------


def test_the_norm_range_takes_its_maximum_from_every_step() -> None:
    steps = [_step(9, {"a": 3.0, "b": 4.0}), _step(19, {"a": 1.0, "b": 0.0}, peak=(9.0, 13)), _step(29, {"a": 2.0})]
    norm = summarize([_start(), *steps]).grad_norm
    assert norm is not None
    assert (norm.minimum, norm.median, norm.maximum, norm.maximum_step) == (1.0, 2.0, 9.0, 13)


def test_clipped_steps_are_counted_over_the_windows() -> None:
    summary = summarize([_start(), _step(9, {"a": 1.0}, clipped=4), _step(19, {"a": 1.0}, clipped=1)])
    assert (summary.clipped_steps, summary.steps) == (5, 20)


def test_the_largest_layer_is_the_one_that_leads_most_often() -> None:
    steps = [_step(n, {"a": 1.0, "b": 2.0}) for n in range(3)]
    assert summarize([_start(), *steps, _step(3, {"a": 99.0, "b": 2.0})]).largest == ("b", 0.75)


def test_a_finding_is_told_once_with_its_last_status() -> None:
    findings = summarize([_start(), _finding("opened", 3), _finding("closed", 3), _finding("opened", 9)]).findings
    assert [(finding.since_step, finding.status) for finding in findings] == [(3, "closed"), (9, "opened")]


def test_a_log_without_steps_is_summed_up_too(tmp_path: Path) -> None:
    assert "not recorded" in _printed(_report(tmp_path, [_start()]))


def test_a_log_without_a_start_is_refused() -> None:
    with pytest.raises(ValueError, match="no run_start"):
        summarize([_step(0, {"a": 1.0})])


# --- the looks -------------------------------------------------------------------------------------------------------


def test_a_healthy_report_tells_rule_reason_source_and_figures(tmp_path: Path) -> None:
    text = _printed(_report(tmp_path, [_start(), _step(9, {"a": 3.0, "b": 4.0}, clipped=5)]), width=100)
    assert "digits CNN  ok" in text
    assert "at a total norm of 0.25 (recurrent: 1 LSTM module)" in text
    assert "awd-lstm-lm main.py" in text
    assert "min 5, median 5, max 5 (step 9)" in text
    assert "5 of 10 steps (50.0%)" in text
    assert "most often in b (100% of the records)" in text
    assert "findings   none" in text


def test_a_report_without_clipping_says_none(tmp_path: Path) -> None:
    rule = ClipRule(max_norm=None, family="convnet", reason="3 Conv2d modules", source="torchvision")
    assert "none (convnet: 3 Conv2d modules)" in _printed(_report(tmp_path, [_start(rule)]))


def test_an_incident_tells_where_what_and_which_file(tmp_path: Path) -> None:
    file = tmp_path / "gradwatch" / "incidents" / "step=00000106-1" / "incident.json"
    file.parent.mkdir(parents=True)
    file.touch()
    text = _printed(_report(tmp_path, [_start(), _incident()], buggy=True), width=200)
    assert "digits CNN + bug  caught" in text
    assert "step 106, epoch 4, batch 18: first seen in the loss" in text
    assert "4 affected (features.0.weight, features.0.bias, head.weight and 1 more)" in text
    assert "The loss is NaN [sic]." in text
    assert "Guard the division." in text
    assert "NonFiniteError raised before the optimizer could use it; every weight is still finite" in text
    assert str(file) in text


def test_a_problem_is_not_called_ok(tmp_path: Path) -> None:
    text = _printed(_report(tmp_path, [_start()], problem="it did not learn"))
    assert "not as expected" in text
    assert "it did not learn" in text
    assert "ok" not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_report_fits_the_terminal(width: int, tmp_path: Path) -> None:
    report = _report(tmp_path, [_start(), _step(9, {"a" * 90: 1.0}), _finding("opened", 3), _incident()], buggy=True)
    text = _printed(report, width)
    assert max(map(len, text.splitlines())) <= width
    assert "a" * 90 in "".join(text.split())  # wrapped, not cut


def test_a_report_can_be_written_in_ascii(tmp_path: Path) -> None:
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=80)
    print_report(console, _report(tmp_path, [_start(), _step(9, {"a": 1.0}), _incident()], buggy=True))


@pytest.mark.parametrize("width", [80, 120])
def test_live_bars_fit_the_terminal_and_show_the_state(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with LiveDisplay(console, [(training, training.steps) for training in TRAININGS]) as display:
        display.start(HEALTHY, HEALTHY.steps)
        display.update(100, 0.125, 3.5)
        display.finish(HEALTHY.steps, "")
        display.start(BUGGY, BUGGY.steps)
        display.finish(106, "stopped at step 106")
    assert isinstance(console.file, io.StringIO)
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, screen)) <= width
    assert any("400/400" in line and "loss 0.125  grad norm 3.500" in line for line in screen)
    assert any("waiting" in line for line in screen)
    assert any("106/300" in line and "stopped at step 106" in line for line in screen)


def test_a_log_gets_a_few_plain_lines_per_training() -> None:
    console = Console(file=io.StringIO(), width=80)
    with LineDisplay(console) as display:
        display.start(HEALTHY, 100)
        for step in range(1, 101):
            display.update(step, 0.5, None if step < 50 else 2.0)
        display.finish(100, "")
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "digits CNN: 100 steps"
    assert [line.split()[2] for line in lines[1:]] == ["20/100", "40/100", "60/100", "80/100", "100/100"]
    assert "grad norm -" in lines[1]
    assert "grad norm 2.000" in lines[-1]


# --- what to type next -----------------------------------------------------------------------------------------------


def test_the_commands_can_be_pasted_where_no_environment_is_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for program in ("gradwatch", "tensorboard"):
        (python.parent / program).touch()
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert [command.line for command in next_commands(Path("my demo"), Path("my demo/nan_bug"))] == [
        ".venv/bin/gradwatch show 'my demo/nan_bug'",
        ".venv/bin/gradwatch report 'my demo/nan_bug' -o report.html",
        ".venv/bin/tensorboard --logdir 'my demo'",
    ]


def test_programs_on_the_path_are_called_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("gradwatch", "tensorboard"):
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = [command.line for command in next_commands(Path("out"), Path("out/nan_bug"))]
    assert [line.split()[0] for line in lines] == ["gradwatch", "gradwatch", "tensorboard"]


def test_the_tab_is_called_as_the_plugin_calls_it() -> None:
    assert TAB_NAME == plugin.TAB_NAME


def _end(folder: Path, reports: list[Report], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_end(console, reports, folder, 75.2)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_end_leads_to_the_run_with_the_bug_and_names_the_tab(tmp_path: Path) -> None:
    fine, bug = tmp_path / "digits_cnn", tmp_path / "nan_bug"
    text = _end(tmp_path, [_report(fine, [_start()]), _report(bug, [_start(), _incident()], buggy=True)])
    assert "All as expected after 75 s. Look closer with:" in text
    assert f" show {bug}\n" in text  # in one line, however long
    assert f" report {bug} -o report.html\n" in text
    assert f" --logdir {tmp_path}\n" in text
    assert "in the tab Numerical Health" in text


def test_the_end_leads_to_the_run_that_went_otherwise_than_expected(tmp_path: Path) -> None:
    odd, bug = tmp_path / "digits_cnn", tmp_path / "nan_bug"
    reports = [_report(odd, [_start()], problem="it did not learn"), _report(bug, [_start()], buggy=True)]
    text = _end(tmp_path, reports)
    assert "Not as expected: digits CNN after 75 s" in text
    assert f" show {odd}\n" in text


# --- all of it, quickly ----------------------------------------------------------------------------------------------


def test_a_quick_demo_runs_from_end_to_end(tmp_path: Path) -> None:
    environment = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "gradwatch.cli", "demo", "--quick", "--dir", "out"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # no warnings between the lines
    for training in TRAININGS:
        assert f"\n{training.title}  {'caught' if training.bug else 'ok'} " in done.stdout
        assert list((tmp_path / "out" / training.name).glob("events.out.tfevents.*"))
        assert (tmp_path / "out" / training.name / "gradwatch" / "events.jsonl").is_file()
    (file,) = (tmp_path / "out" / "nan_bug").glob("gradwatch/incidents/*/incident.json")
    assert str(file.relative_to(tmp_path)) in done.stdout
    assert json.loads(file.read_text(encoding="utf-8"))["action"] == "raised"
    assert "every weight is still finite" in " ".join(done.stdout.split())
    _check_commands(tmp_path, done.stdout)


def _check_commands(folder: Path, printed: str) -> None:
    """Type the last lines of the demo, as they stand there, except the server's, which does not end."""
    lines = printed[printed.index("Look closer with:") :].splitlines()
    (show, report) = (line for line in lines if re.search("gradwatch (show|report) ", line))
    shown = _type(show, folder)
    assert "Guard the count" in shown
    _type(report, folder)
    assert "Guard the count" in (folder / "report.html").read_text(encoding="utf-8")
    assert printed.endswith("tensorboard --logdir out\n\n")


def _type(line: str, folder: Path) -> str:
    done = subprocess.run(shlex.split(line), cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
