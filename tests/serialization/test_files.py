from __future__ import annotations

import json
import os
import tracemalloc
import warnings
from typing import TYPE_CHECKING

import pytest

from gradwatch.serialization import (
    SchemaError,
    files,
    iter_events,
    load_events,
    load_incident,
    log_name,
    to_dict,
    to_json_line,
)
from tests.sinks.samples import finding, incident, run_end, run_start, step_record

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.records import Event


def lines(*events: Event) -> bytes:
    return "".join(map(to_json_line, events)).encode()


@pytest.mark.parametrize(
    ("rank", "number", "name"),
    [
        (0, 0, "events.jsonl"),
        (0, 2, "events.2.jsonl"),
        (3, 0, "events.rank3.jsonl"),
        (3, 1, "events.rank3.1.jsonl"),
    ],
)
def test_log_names(rank: int, number: int, name: str) -> None:
    assert log_name(rank, number) == name


def test_a_file_and_its_directory_give_the_same_events(tmp_path: Path) -> None:
    events = [run_start(), step_record(), finding(), incident(), run_end()]
    (tmp_path / "events.jsonl").write_bytes(lines(*events))
    assert load_events(tmp_path) == events
    assert load_events(str(tmp_path / "events.jsonl")) == events
    assert list(iter_events(tmp_path)) == events


def test_a_file_of_any_name_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "copy.txt").write_bytes(lines(run_end()))
    assert load_events(tmp_path / "copy.txt") == [run_end()]


def test_ranks_follow_one_another_and_runs_follow_their_start(tmp_path: Path) -> None:
    def run(name: str, rank: int, start: float) -> list[Event]:
        return [run_start(run_id=name, rank=rank, time=start), run_end(run_id=name, rank=rank, time=start + 5)]

    # The names say nothing about the order: the second file was begun first, and ranks' clocks differ.
    a0, a2, a10 = run("a", 0, 20.0), run("a", 2, 19.0), run("a", 10, 18.0)
    b0, b10 = run("b", 0, 10.0), run("b", 10, 21.0)
    (tmp_path / "events.jsonl").write_bytes(lines(*a0))
    (tmp_path / "events.rank10.jsonl").write_bytes(lines(*a10))
    (tmp_path / "events.rank2.jsonl").write_bytes(lines(*a2))
    (tmp_path / "events.1.jsonl").write_bytes(lines(*b0))
    (tmp_path / "events.rank10.1.jsonl").write_bytes(lines(*b10))
    (tmp_path / "events.backup.jsonl").write_text("not ours")
    assert load_events(tmp_path) == [*b0, *b10, *a0, *a2, *a10]
    assert load_events(tmp_path, run_id="b") == [*b0, *b10]
    with pytest.raises(ValueError, match=r"no run 'c' here, only 'b', 'a'"):
        load_events(tmp_path, run_id="c")


def test_a_log_without_run_start_is_read_by_the_time_of_its_first_event(tmp_path: Path) -> None:
    early, late = step_record(time=1.0), step_record(time=3.0)
    (tmp_path / "events.jsonl").write_bytes(lines(late))
    (tmp_path / "events.2.jsonl").write_bytes(lines(early))
    (tmp_path / "events.1.jsonl").write_bytes(lines(run_start(time=2.0)))
    (tmp_path / "events.3.jsonl").write_bytes(b"")  # killed before its first line
    assert load_events(tmp_path) == [early, run_start(time=2.0), late]
    with pytest.raises(ValueError, match=r"only 'run-a'"):
        load_events(tmp_path, run_id="x")


@pytest.mark.parametrize("length", range(1, len(lines(run_end())) - 1, 7))
def test_a_line_torn_anywhere_is_skipped_with_a_warning(tmp_path: Path, length: int) -> None:
    file = tmp_path / "events.jsonl"
    torn = lines(run_end())[:length]
    file.write_bytes(lines(run_start()) + torn)
    with pytest.warns(UserWarning, match=r"events\.jsonl:2: skipped a line that was cut off"):
        assert load_events(tmp_path) == [run_start()]
    file.write_bytes(lines(run_start()) + torn + b"\n" + lines(finding()))
    with pytest.warns(UserWarning, match=r"events\.jsonl:2: skipped a line that was cut off"):
        assert load_events(tmp_path) == [run_start(), finding()]


def test_a_line_torn_within_a_text_full_of_brackets_is_skipped_too(tmp_path: Path) -> None:
    whole = lines(finding(message="}}}]]]"))
    (tmp_path / "events.jsonl").write_bytes(whole[: whole.index(b"]]]")] + b"\n" + lines(run_end()))
    with pytest.warns(UserWarning, match=":1: skipped"):
        assert load_events(tmp_path) == [run_end()]


def test_the_first_line_may_be_torn_too(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(lines(run_start())[:40])
    with pytest.warns(UserWarning, match=":1: skipped"):
        assert load_events(tmp_path) == []


def test_a_last_line_without_newline_counts_if_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(lines(run_start(), run_end())[:-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_events(tmp_path) == [run_start(), run_end()]


def test_zeros_left_by_a_power_cut_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(lines(run_start()) + bytes(4096))
    with pytest.warns(UserWarning, match=":2: skipped"):
        assert load_events(tmp_path) == [run_start()]


def test_blank_lines_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b"\n" + lines(run_start()) + b"\r\n\n" + lines(run_end()))
    assert load_events(tmp_path) == [run_start(), run_end()]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"garbage", "not a line of JSON"),
        (b"\x80\x04\x95\xff", "not a line of JSON"),
        (b"[1, 2]", "expected an object, got a JSON list"),
        (b'{"a": 1}', "not a gradwatch event: schema_version is None"),
        (b'{"schema_version": 1, "type": "step"}', "key 'time' is missing"),
        (b'{"schema_version": 2, "type": "step"}', "schema_version 2 is newer"),
        (b'{"schema_version": 1, "type": "step", oops}', "not a line of JSON"),
        (b'{"other": [1, 2', "not a line of JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "not a line of JSON"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_line_in_the_middle_is_an_error_with_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "events.jsonl").write_bytes(lines(run_start()) + line + b"\n" + lines(run_end()))
    with pytest.raises(SchemaError) as caught:
        load_events(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'events.jsonl'}:2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n\x1a\n\0", b"epoch,loss\n0,1.5\n", b"\0" * 100])
def test_a_foreign_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events.jsonl").write_bytes(content)
    with pytest.raises(SchemaError, match=r"events\.jsonl:1: "):
        load_events(tmp_path)


def test_missing_files_say_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nothing: no such file or directory; pass the directory given as dirpath"
    ):
        load_events(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"no events\.jsonl in this directory; pass the directory"):
        load_events(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"incident\.json: no such file; pass one of the directories in"):
        load_incident(tmp_path)


def test_a_huge_line_is_refused_without_being_read_whole(tmp_path: Path) -> None:
    for name in ("events.jsonl", "incident.json"):
        with (tmp_path / name).open("wb") as file:
            file.write(b"{")
            file.truncate(512 * 2**20)  # sparse: takes no room on the disk
    tracemalloc.start()
    try:
        with pytest.raises(SchemaError, match=r"events\.jsonl:1: a line of more than 64 MiB is not an event"):
            load_events(tmp_path)
        with pytest.raises(SchemaError, match=r"incident\.json: more than 64 MiB"):
            load_incident(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * 2**20


def test_long_lines_below_the_limit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = lines(run_start())
    (tmp_path / "events.jsonl").write_bytes(content)
    monkeypatch.setattr(files, "MAX_LINE_BYTES", len(content))
    assert load_events(tmp_path) == [run_start()]
    monkeypatch.setattr(files, "MAX_LINE_BYTES", len(content) - 1)
    with pytest.raises(SchemaError, match="a line of more than"):
        load_events(tmp_path)


def test_an_incident_is_read_from_directory_or_file(tmp_path: Path) -> None:
    (tmp_path / "incident.json").write_text(json.dumps(to_dict(incident()), indent=2))
    assert load_incident(tmp_path) == incident()
    assert load_incident(os.fspath(tmp_path / "incident.json")) == incident()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe", "codec can't decode"),
        (json.dumps(to_dict(run_end())).encode(), "expected an incident, got an event of type 'run_end'"),
        (
            json.dumps({**to_dict(run_end()), "type": "odd"}).encode(),
            "expected an incident, got an event of type 'odd'",
        ),
        (b'{"schema_version": 7}', "schema_version 7 is newer"),
    ],
)
def test_another_file_is_no_incident(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "incident.json").write_bytes(content)
    with pytest.raises(SchemaError) as caught:
        load_incident(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "incident.json"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_events_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(lines(run_start()) + b"garbage\n")
    events = iter_events(tmp_path)
    assert next(events) == run_start()
    with pytest.raises(SchemaError):
        next(events)
