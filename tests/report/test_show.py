"""``gradwatch show``: what is on the screen, what is in the JSON, and one line on stderr for what cannot be read."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradwatch import cli
from gradwatch.records import Origin
from gradwatch.serialization import to_json_line
from tests.report.logs import (
    at,
    incident,
    last_steps,
    pooled_record,
    run_end,
    run_start,
    told,
    write_incident,
    write_log,
)
from tests.sinks.samples import with_layer

if TYPE_CHECKING:
    from gradwatch.records import Event

HOSTILE = "</script><img onerror=x>[bold red]\x1b[2J\x1b]0;owned\x07\r\n\ud800" + "x" * 5000
HEALTHY: list[Event] = [run_start(time=1.0), at(10), at(20), run_end(step=20, time=61.0, incidents=0)]


def show(*arguments: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of the command, its output a pipe."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(["show", *arguments])
    return status, out.getvalue(), err.getvalue()


def shown(folder: Path, *events: Event) -> str:
    write_log(folder, *events)
    status, out, err = show(str(folder))
    assert (status, err) == (cli.DONE, "")
    return out


def fresh(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gradwatch.cli", "show", *map(str, arguments)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def a_death(folder: Path) -> str:
    """A run with something in every section."""
    fatal = incident(step=30, action="raised", time=50.0)
    write_log(
        folder,
        run_start(time=1.0),
        *(with_layer(at(step, loss=1 / step, loss_scale=64.0), "block.0", grad_norm=0.1) for step in range(1, 11)),
        told(12, advice="Lower the rate."),
        told(13, layer="block.1"),
        told(15, "closed", layer="block.1", since_step=13),
        told(16, code="loss-plateau", severity="info", layer=None, message="Flat."),
        with_layer(at(20, loss_scale=64.0), "block.0", grad_norm=5.0),
        with_layer(at(25, loss=math.nan, loss_scale=32.0), "block.1", grad_norm=math.nan, nonfinite=12),
        last_steps(28, loss=[0.5, 0.4, math.nan], grad_norm=[1.0, 2.0, math.inf], reason="incident"),
        fatal,
        run_end(step=30, status="nonfinite", time=61.0, steps=31),
    )
    (write_incident(folder, fatal) / "weights.pt").touch()
    with (folder / "events.jsonl").open("a") as log:
        log.write('{"schema_version": 1, "ty')
    return str(folder)


# -- the screen ------------------------------------------------------------------------------------------------------


def test_every_section_of_a_death(tmp_path: Path) -> None:
    status, out, err = show(a_death(tmp_path))
    assert (status, err) == (cli.DONE, "")
    screen = out.replace(str(tmp_path), "DIR")
    assert screen == (
        " NOT FINITE   died of an infinity in a gradient at step 30: sqrt of encoder.norm\n"
        "              (LayerNorm) made it in the backward pass, model.py:42\n"
        "\n"
        "  run run-a · 31 steps in 1 min · started " + out.partition("started ")[2].partition("\n")[0] + "\n"
        "  24 parameters in 2 layers · single process · AdamW\n"
        "  clipped to norm 1 (transformer: 12 MultiheadAttention modules)\n"
        "\n"
        "timeline\n"
        "  12 - end        warning   exploding-gradient in block.0 +1\n"
        "                  The gradient of block.0 grows.\n"
        "  16 - end        info      loss-plateau\n"
        "  30              incident  an infinity in a gradient, raised in encoder.norm\n"
        "                  The slope of sqrt at zero is infinite, and 3 of 32 inputs are\n"
        "                  zero.\n"
        "\n"
        "curves\n"
        "                                             first       min       max      last\n"
        "  loss       █▁▁▁▁▁▁▁▁▁▁!                        1       0.1         1       NaN\n"
        "  grad norm  ▁▁▁▁▁▁▁▁▁▁▁▁                        2         2       2.5         2\n"
        "  lr         ▁▁▁▁▁▁▁▁▁▁▁▁                    0.001     0.001     0.001     0.001\n"
        "  loss scale ███████████▁                       64        32        64        32\n"
        "  steps 1 to 25 in 12 records\n"
        "\n"
        "layers\n"
        "  gradient norm                  usual      peak   at step    growth  non-finite\n"
        "  block.1                          1.1       1.1         5        1x          12\n"
        "  block.0                          0.1         5        20       50x            \n"
        "\n"
        "last steps\n"
        "  step 30 (epoch 0) · loss NaN · grad norm inf · clip coefficient 1 · lr 0.001\n"
        "  loss       █▁!\n"
        "  grad norm  ▁█!\n"
        "\n"
        "advice\n"
        "  1. Add a small constant under the root.\n"
        "  2. Lower the rate.\n"
        "\n"
        "files\n"
        "  DIR\n"
        "  gradwatch replay DIR/incidents/step=00000030-0\n"
        "\n"
        "notes\n"
        "  events.jsonl:21: a line that was cut off while it was written is left out\n"
    )


def test_a_healthy_run_is_short(tmp_path: Path) -> None:
    out = shown(tmp_path, *HEALTHY)
    assert out.startswith(" HEALTHY   finished healthy after 1,234 steps\n")
    assert "timeline" not in out
    assert "advice" not in out
    assert "  2 layers, none non-finite or dead; too few records to tell growth\n" in out


def test_it_fits_a_screen_of_100_by_40(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = show(a_death(tmp_path))[1].splitlines()
    assert len(lines) <= 40 + len(["notes", "the note", ""])  # notes are not the usual
    assert max(map(len, (line for line in lines if str(tmp_path) not in line))) <= 100


@pytest.mark.parametrize(("columns", "width"), [("20", 60), ("60", 60), ("80", 80), ("100", 100), ("300", 100)])
def test_no_line_is_wider_than_the_screen(
    columns: str, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    long = "the quick brown fox jumps over the lazy dog " * 30
    layer = "encoder.layers.11.attention." * 10
    record = at(10, layers={layer: at(1).layers["block.0"], "層" * 100: at(1).layers["block.1"]})
    write_log(
        tmp_path,
        run_start(run_id="a" * 500, strategy="s" * 300, time=1.0),
        told(3, code="c" * 300, message=long, advice=long, layer=layer),
        *[record] * 3,
        with_layer(record, layer, nonfinite=10**15),
        last_steps(28),
        run_end(status="exception", reason="x" * 1000),
    )
    lines = [line for line in show(str(tmp_path))[1].splitlines() if str(tmp_path) not in line]
    too_wide = [line for line in lines if len(line) > width and "層" not in line and "ccc" not in line]
    assert too_wide == []


def test_a_text_is_cut_between_words(tmp_path: Path) -> None:
    out = shown(tmp_path, told(3, message="abcdefgh " * 40))
    assert ("abcdefgh " * 6).strip() + " …\n" in out
    assert "x" * 60 + " …\n" in shown(tmp_path, told(3, message="x" * 500))


def test_findings_of_many_layers_are_one_line_and_the_rest_is_counted(tmp_path: Path) -> None:
    findings = [told(step, layer=f"block.{step}") for step in range(50)]
    findings += [told(60 + place, code=f"rule-{place}", layer=None, severity="info") for place in range(20)]
    out = shown(tmp_path, *findings)
    assert "  0 - end         warning   exploding-gradient in block.0 +49\n" in out
    assert "  and 12 more\n" in out


def test_the_timeline_explains_as_much_as_there_is_room_for(tmp_path: Path) -> None:
    few = [told(place, code=f"rule-{place}", message=f"Message {place}.") for place in range(3)]
    assert shown(tmp_path, *few).count("Message") == 3
    many = [told(place, code=f"rule-{place}", message=f"Message {place}. {'word ' * 60}") for place in range(7)]
    fatal = incident(step=9, action="raised")
    out = shown(tmp_path, run_start(), *(at(step) for step in range(9)), *many, last_steps(7), fatal)
    assert len(out.splitlines()) <= 40
    assert "The slope of sqrt at zero is infinite" in out
    assert "Message 6" not in out
    severe = [replace(one, severity="error") if one.code == "rule-6" else one for one in many]
    assert "Message 6" in shown(tmp_path, *severe)


def test_information_is_left_out_first(tmp_path: Path) -> None:
    findings = [told(place, code=f"said-{place}", severity="info") for place in range(20)]
    out = shown(tmp_path, *findings, told(100, layer=None))
    assert "  100 - end       warning   exploding-gradient\n" in out


def test_several_runs_and_the_choice(tmp_path: Path) -> None:
    for number in range(8):
        write_log(tmp_path, run_start(run_id=f"run{number}-and-more", time=float(number)), number=number)
    _, out, _ = show(str(tmp_path))
    assert "  run run7-and " in out
    assert (
        "also in this folder: run2-and, run3-and, run4-and, run5-and, run6-and and 2\n  more (choose with --run)" in out
    )
    assert "  run run3-and " in show(str(tmp_path), "--run", "run3")[1]
    status, out, err = show(str(tmp_path), "--run", "ran")
    assert (status, out) == (cli.UNUSABLE, "")
    assert err.startswith("gradwatch show: no run begins with 'ran': 'run0-and-more', ")


def test_several_optimizers_have_curves_each(tmp_path: Path) -> None:
    out = shown(tmp_path, *(at(step, optimizer=which) for step in (1, 2) for which in range(5)))
    assert [line for line in out.splitlines() if line.startswith("curves")] == [
        "curves of optimizer 0",
        "curves of optimizer 1",
        "curves of optimizer 2",
    ]
    assert "  optimizer 2 · step 2 (epoch 1) · loss 0.5" in out


def test_a_run_that_has_only_begun_or_left_nothing(tmp_path: Path) -> None:
    for events in ([run_start()], []):
        out = shown(tmp_path, *events)
        assert out.startswith(" KILLED   was killed, lost power, or could not write its end (a full disk?)\n")
        assert "(a full disk?) before a step was written run" in " ".join(out.split())
        assert " · no step was written" in out
    assert "\n  run events.jsonl · 1 step\n" in shown(tmp_path, told(0))
    assert "\n  run events.jsonl · 1 step\n" in shown(tmp_path, at(0))
    assert "15 steps" in shown(tmp_path, run_start(), told(14))


def test_a_wide_curve_is_logarithmic_and_says_so_but_a_schedule_is_not(tmp_path: Path) -> None:
    out = shown(tmp_path, *(at(step, grad_norm=10.0**step, lr=10.0**-step) for step in range(1, 5)))
    assert "  grad norm  ▁▃▆█ " in out
    assert "  lr         █▁▁▁ " in out
    assert "in 4 records; logarithmic: grad norm\n" in out


def test_the_commit_that_a_run_was_started_from(tmp_path: Path) -> None:
    git = {"commit": "0123456789abcdef", "branch": "main", "dirty": True}
    assert "commit 01234567 with changes\n" in shown(tmp_path, run_start(git=git))
    assert "commit 01234567\n" in shown(tmp_path, run_start(git={**git, "dirty": None}))
    assert "  commit" not in shown(tmp_path, run_start(git={"commit": 7}))


def test_a_run_that_goes_on_where_another_ended(tmp_path: Path) -> None:
    assert "resumes 89abcdef\n" in shown(tmp_path, run_start(resumed_from="89abcdef-0123"))


def test_thinned_records_keep_their_extremes(tmp_path: Path) -> None:
    out = shown(tmp_path, pooled_record(20), at(30), run_end())
    assert "                         2         1        50         2\n" in out
    assert "  steps 17 to 30 in 2 records" in out


def test_a_dead_layer(tmp_path: Path) -> None:
    out = shown(tmp_path, *(with_layer(at(step), "block.1", grad_norm=0.0) for step in range(3)))
    assert "  block.1                            0         0         0                  dead\n" in out


def test_a_model_of_absurd_size(tmp_path: Path) -> None:
    start = run_start()
    row = replace(start.parameters[0], shape=(10**200, 10**200))
    assert "  1000T parameters in 1 layer" in shown(tmp_path, replace(start, parameters=[row]))


# -- names are data --------------------------------------------------------------------------------------------------


def hostile_events() -> list[Event]:
    fatal = incident(action="raised", advice=HOSTILE, explanation=HOSTILE)
    origin = replace(fatal.origin, module=HOSTILE, module_type=HOSTILE, op=HOSTILE)
    start = run_start(run_id=HOSTILE, strategy=HOSTILE, precision={"precision": HOSTILE}, resumed_from=HOSTILE)
    layers = {HOSTILE: at(1).layers["block.0"]}
    return [
        replace(start, clip=replace(start.clip, reason=HOSTILE, family=HOSTILE), optimizers=[{"class": HOSTILE}]),
        *(at(step, layers=layers) for step in range(8)),
        at(9, layers={HOSTILE: replace(layers[HOSTILE], grad_norm=1e9)}),
        told(1, code=HOSTILE, layer=HOSTILE, message=HOSTILE, advice=HOSTILE, severity=HOSTILE),
        last_steps(3, layers={HOSTILE: [1.0, 2.0, 3.0]}),
        replace(fatal, origin=origin),
        run_end(run_id=HOSTILE, status="exception", reason=HOSTILE),
    ]


def test_hostile_names_are_text_on_a_terminal(tmp_path: Path) -> None:
    write_log(tmp_path, *hostile_events())
    done = fresh(tmp_path, FORCE_COLOR="1", COLUMNS="80", TERM="xterm-256color")
    assert done.returncode == cli.DONE
    assert done.stderr == ""
    for active in ("\x1b[2J", "\x1b]", "\x07", "\r"):
        assert active not in done.stdout
    assert "</script><img onerror=x>[bold red]\\x1b[2J\\x1b]0;owned\\x07" in done.stdout
    assert len(done.stdout) < 20_000


def test_hostile_names_are_strings_in_json(tmp_path: Path) -> None:
    write_log(tmp_path, *hostile_events())
    done = fresh(tmp_path, "--json")
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["run_id"] == HOSTILE
    assert done.stdout.count("\n") == 1


def test_hostile_names_of_folders_are_one_line(tmp_path: Path) -> None:
    for name in ("a\x1b[2J\nb", "c"):
        write_log(tmp_path / name, run_start())
    status, _, err = show(str(tmp_path))
    assert status == cli.UNUSABLE
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert "a\\x1b[2J\\nb" in err


# -- JSON ------------------------------------------------------------------------------------------------------------

KEYS = {
    "schema_version",
    "type",
    "run_id",
    "runs",
    "folder",
    "healthy",
    "state",
    "headline",
    "reasons",
    "advice",
    "start",
    "end",
    "ranks",
    "last_step",
    "last_time",
    "findings",
    "incidents",
    "curves",
    "layers",
    "last_states",
    "notes",
}


def test_json_has_the_documented_keys(tmp_path: Path) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "show.md").read_text(encoding="utf-8")
    assert [key for key in sorted(KEYS) if f"`{key}`" not in documented] == []
    status, out, err = show(a_death(tmp_path), "--json")
    assert (status, err) == (cli.DONE, "")
    found = json.loads(out)
    assert set(found) == KEYS
    assert (found["healthy"], found["state"], found["run_id"]) == (False, "nonfinite", "run-a")
    assert found["start"]["parameters"][0]["name"] == "block.0.weight"
    assert found["end"]["status"] == "nonfinite"
    assert [one["closed_step"] for one in found["findings"]] == [None, 15, None]
    assert found["incidents"][0]["folder"] == str(tmp_path / "incidents" / "step=00000030-0")
    assert found["incidents"][0]["replayable"] is True
    (curves,) = found["curves"]
    assert curves["records"] == 12
    assert curves["loss"] == {
        "first": 1.0,
        "min": 0.1,
        "max": 1.0,
        "max_step": 1,
        "last": "NaN",
        "nonfinite": 1,
    }
    assert [layer["name"] for layer in found["layers"]] == ["block.1", "block.0"]
    assert found["last_states"][0] == {
        "optimizer": 0,
        "source": "last_steps",
        "step": 30,
        "epoch": 0,
        "loss": "NaN",
        "grad_norm": "Infinity",
        "coefficient": 1.0,
        "lr": 1e-3,
        "loss_scale": None,
    }


def test_json_of_a_run_of_which_nothing_is_known(tmp_path: Path) -> None:
    write_log(tmp_path)
    found = json.loads(show(str(tmp_path), "--json")[1])
    assert (found["start"], found["end"], found["last_time"], found["curves"]) == (None, None, "NaN", [])


# -- status ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_check_is_status_1_for_an_unhealthy_run(form: list[str], tmp_path: Path) -> None:
    write_log(tmp_path, *HEALTHY)
    assert show(str(tmp_path), "--check", *form)[0] == cli.DONE
    write_log(tmp_path, *HEALTHY[:-1], told(15), HEALTHY[-1])
    status, out, _ = show(str(tmp_path), "--check", *form)
    assert (status, bool(out)) == (cli.UNHEALTHY, True)
    assert show(str(tmp_path), *form)[0] == cli.DONE


def test_an_interruption_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradwatch.report.terminal.command.show", interrupt)
    assert show(str(tmp_path)) == (cli.INTERRUPTED, "", "gradwatch show: interrupted\n")


def test_what_the_system_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_log(tmp_path, *HEALTHY)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    status, out, err = show(str(tmp_path))
    assert (status, out) == (cli.UNUSABLE, "")
    assert err == f"gradwatch show: [Errno 13] Permission denied: '{path}'\n"


# -- pipes, colours, encodings ---------------------------------------------------------------------------------------


def test_a_pipe_gets_80_columns_and_no_colours(tmp_path: Path) -> None:
    done = fresh(a_death(tmp_path), COLUMNS="", TERM="xterm-256color", NO_COLOR="")
    assert "\x1b" not in done.stdout
    assert max(map(len, (line for line in done.stdout.splitlines() if str(tmp_path) not in line))) == 80


def test_a_terminal_gets_colours_unless_it_wants_none(tmp_path: Path) -> None:
    folder = a_death(tmp_path)
    colours = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    assert "\x1b[37;41m NOT FINITE \x1b[0m" in fresh(folder, **colours).stdout
    assert "\x1b[37;41m" not in fresh(folder, **colours, NO_COLOR="1").stdout


def test_what_is_not_finite_is_red_in_a_curve(tmp_path: Path) -> None:
    write_log(tmp_path, at(1), at(2, loss=math.nan))
    assert "\x1b[36m▁\x1b[0m\x1b[1;31m!\x1b[0m" in fresh(tmp_path, FORCE_COLOR="1", TERM="xterm-256color").stdout


def test_a_terminal_without_utf8_gets_ascii(tmp_path: Path) -> None:
    write_log(tmp_path, *HEALTHY[:-1], told(15, layer="層"), HEALTHY[-1])
    done = fresh(tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == cli.DONE
    assert done.stdout.isascii()
    assert "  loss       __" in done.stdout
    assert "exploding-gradient in ?" in done.stdout


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("check", [[], ["--check"]])
def test_a_reader_that_leaves_is_no_error(form: list[str], check: list[str], tmp_path: Path) -> None:
    folder = a_death(tmp_path)
    command = [sys.executable, "-m", "gradwatch.cli", "show", folder, *form, *check]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, check=False, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == (cli.UNHEALTHY if check else cli.DONE)


def test_it_starts_in_less_than_half_a_second_of_processor_time(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(), *(at(step) for step in range(500)), run_end())
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert fresh(tmp_path).returncode == cli.DONE
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert sorted(times)[2] < 0.5


# -- fuzzed logs -----------------------------------------------------------------------------------------------------

WHOLE = "".join(
    map(
        to_json_line,
        [
            run_start(),
            at(1),
            pooled_record(9),
            told(10),
            last_steps(9),
            incident(action="raised"),
            told(11, "closed"),
            run_end(),
        ],
    )
).encode()
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["NaN", "Infinity", "", HOSTILE, 10**400, -1, 2**63, [], {}, [[]], [None, 1.0], {"a": {}}]),
    st.text(max_size=5),
)


def acceptable(folder: Path, content: bytes) -> None:
    """Whatever a log holds: a screen, or one line on stderr that says more than the name of an exception."""
    (folder / "events.jsonl").write_bytes(content)
    for form in ([], ["--json"]):
        status, out, err = show(str(folder), *form)
        if status == cli.DONE:
            assert err == ""
            assert out
            assert "\x1b" not in out
        else:
            assert status == cli.UNUSABLE
            assert out == ""
            assert err.startswith("gradwatch show: ")
            assert err.count("\n") == 1
            assert len(err) < 1000
    if status == cli.DONE:
        json.loads(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


fuzz = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@fuzz
@given(st.integers(0, len(WHOLE)))
def test_a_log_cut_off_anywhere(folder: Path, end: int) -> None:
    acceptable(folder, WHOLE[:end])


@fuzz
@given(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)), st.binary(max_size=20))
def test_a_log_with_a_hole_or_a_patch(folder: Path, start: int, length: int, patch: bytes) -> None:
    acceptable(folder, WHOLE[:start] + patch + WHOLE[start + length :])


@fuzz
@given(st.binary(max_size=200))
def test_a_log_of_anything(folder: Path, content: bytes) -> None:
    acceptable(folder, content)


@fuzz
@given(st.data())
def test_a_log_with_odd_values(folder: Path, data: st.DataObject) -> None:
    events = [json.loads(line) for line in WHOLE.splitlines()]
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = data.draw(st.sampled_from(events))
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            deeper = isinstance(place[key], (dict, list)) and place[key]
            if not deeper or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = copy.deepcopy(data.draw(ODD))  # a strategy's own lists must stay as they are
    acceptable(folder, "".join(json.dumps(event) + "\n" for event in events).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("depth", [50, 200, 300, 400, 450, 900, 100_000])
def test_values_nested_deeply(depth: int, folder: Path) -> None:
    line = to_json_line(told(1, evidence={"deep": 0}))
    acceptable(folder, line.replace('{"deep": 0}', '{"deep": ' + "[" * depth + "]" * depth + "}").encode())


@pytest.mark.parametrize("error", [MemoryError, OverflowError, RecursionError])
@pytest.mark.parametrize(
    ("command", "called"),
    [
        ("show", "terminal.command.show"),
        ("report", "html.command.write_report"),
        ("compare", "compare.command.compare_runs"),
    ],
)
def test_what_cannot_be_computed_is_one_line(
    *,
    command: str,
    called: str,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise error

    monkeypatch.setattr(f"gradwatch.report.{called}", refuse)
    assert cli.main([command, "."]) == cli.UNUSABLE
    assert capsys.readouterr() == ("", f"gradwatch {command}: {error.__name__}\n")


@pytest.mark.parametrize("name", ["a list", "zeros", "a longer line than any event", "a directory", "a pipe"])
def test_other_things_than_logs(name: str, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    if name == "a directory":
        path.mkdir()
    elif name == "a pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.write(b"[]\n" if name == "a list" else b"")
            file.truncate({"a list": 3, "zeros": 5000}.get(name, 2 * 2**30))
    for named in (tmp_path, path):
        status, out, err = show(str(named))
        assert (status, out, err.count("\n")) == (cli.UNUSABLE, "", 1)


def test_the_rank_where_a_value_was_born_is_the_one_to_look_at(tmp_path: Path) -> None:
    there = incident(rank=1, action="raised")
    there = replace(there, origin=replace(there.origin, ranks=[1]))
    echo = Origin(phase="not_reproduced", ranks=[1])
    here = replace(there, rank=0, origin=echo, time=there.time + 0.004)
    for event in (here, there):
        folder = write_incident(tmp_path, event)
        write_log(tmp_path, run_start(rank=event.rank), event, rank=event.rank)
    (folder / "weights.pt").touch()
    _, out, _ = show(str(tmp_path))
    assert "a non-finite value in a gradient, raised on rank 0" in out
    assert "an infinity in a gradient, raised on rank 1 in encoder.norm" in out
    assert out.splitlines()[-1] == f"  gradwatch replay {folder}"


def test_a_run_that_resumes_another_tells_its_own_steps_beside_all(tmp_path: Path) -> None:
    start = run_start(step=50, time=1.0, resumed_from="run-before")
    out = shown(tmp_path, start, at(120), run_end(step=129, steps=130, time=3.0, incidents=0))
    assert "  run run-a · 80 steps in 2.0 s · 130 with those before\n" in out
    assert "  run run-a · 71 steps" in shown(tmp_path, start, at(120))
    assert "  run run-a · no step was written in 0.0 s · started" in shown(tmp_path, start)
    assert "  run run-a · 130 steps in 2.0 s · started" in shown(
        tmp_path, run_start(step=50, time=1.0), at(120), run_end(step=129, steps=130, time=3.0)
    )


def test_a_run_that_was_counted_on_tells_its_own_steps_and_no_others(tmp_path: Path) -> None:
    """One monitor in a second fit counts on, also where the model is another one."""
    start, end = run_start(step=0, time=1.0, steps_before=20), run_end(step=20, steps=41, time=3.0, incidents=0)
    out = shown(tmp_path, start, at(9), end)
    assert "finished healthy after 21 steps" in out
    assert "  run run-a · 21 steps in 2.0 s · started" in out
    same_model = run_start(step=0, time=1.0, steps_before=20, resumed_from="run-before")
    out = shown(tmp_path, same_model, at(9), end)
    assert "finished healthy after 21 steps" in out
    assert "  run run-a · 21 steps in 2.0 s · 41 with those before\n" in out


def test_a_killed_run_from_a_checkpoint_without_counts_tells_its_own_steps(tmp_path: Path) -> None:
    out = shown(tmp_path, run_start(step=50, steps_before=0), at(120))
    assert "  run run-a · 71 steps in" in out
    assert " · 121 with those before" in out
