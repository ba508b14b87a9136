from __future__ import annotations

import json
import math
import os
import struct
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import load_last_steps
from gradwatch.records import LastSteps
from gradwatch.serialization import SchemaError, from_dict, load_ring, to_dict, to_json_line
from gradwatch.serialization import ring_layout as layout
from gradwatch.serialization.ring_layout import NO_GRADIENT, SLOTS, STEPS, Columns, Header, Row, as_event
from gradwatch.sinks.ring import Ring
from tests.sinks.samples import last_steps, run_end, run_start

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = Columns(["a.weight", "a.bias", "b"], ["a", "(root)"], [0, 0, 1])


def row(step: int, **changes: Any) -> Row:
    values = Row(100.0 + step, step, 0, step % 7, 0.5, 2.0, 1.0, 0.1, None, False, [3.0, 4.0, step + 0.25])
    return values._replace(**changes)


def ring(path: Path, rows: list[Row], columns: Columns = COLUMNS) -> Path:
    file = path / "last_steps.bin"
    made = Ring(file, Header("run-a", 0, 1, [columns]), [[]])
    for entry in rows:
        made.write(0, [entry])
    made.close()
    return file


def rewritten(file: Path, header: dict[str, Any] | bytes) -> Path:
    """The file with another header, all checksums right."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    rest = file.read_bytes()[layout.PRELUDE.size :]
    file.write_bytes(
        layout.PRELUDE.pack(layout.MAGIC, layout.VERSION, SLOTS, len(content), zlib.crc32(content)) + content + rest
    )
    return file


# -- what a ring holds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, STEPS - 1, STEPS, SLOTS, SLOTS + 1, 1000])
def test_the_last_steps_come_back_oldest_first(tmp_path: Path, count: int) -> None:
    [found] = load_ring(ring(tmp_path, [row(step) for step in range(count)]))
    steps = list(range(max(0, count - STEPS), count))
    assert found.steps == steps
    assert found.layers == {"a": [5.0] * len(steps), "(root)": [step + 0.25 for step in steps]}
    assert (found.reason, found.optimizer, found.step, found.time) == ("killed", 0, count - 1, 99.0 + count)


def test_what_is_not_known_is_none_and_what_is_not_finite_stays() -> None:
    columns = Columns(["w"], ["layer"], [0])
    unknown = row(0, loss=None, lr=None, batch_idx=None, norms=[NO_GRADIENT])
    bad = row(1, loss=math.nan, grad_norm=math.inf, loss_scale=8.0, skipped=True, norms=[math.inf])
    event = as_event([unknown, bad], columns, rank=1, optimizer=2, reason="killed")
    assert event.layers == {"layer": [None, math.inf]}
    assert (event.loss[0], event.lr, event.batches, event.loss_scale) == (None, [None, 0.1], [None, 1], [None, 8.0])
    assert math.isnan(event.loss[1] or 0.0)
    assert (event.skipped, event.rank, event.optimizer) == ([False, True], 1, 2)


def test_none_and_nonfinite_survive_the_file(tmp_path: Path) -> None:
    rows = [row(0, loss=None, lr=None, batch_idx=None), row(1, loss=math.inf, loss_scale=2.0, norms=[1.0, -1.0, -1.0])]
    [found] = load_ring(ring(tmp_path, rows))
    assert found == as_event(rows, COLUMNS, rank=0, optimizer=0, reason="killed")
    assert found.layers["(root)"] == [0.25, None]


@pytest.mark.parametrize(
    ("norms", "joined"),
    [
        ([1e300, 1e300], math.sqrt(2) * 1e300),
        ([3e-320, 4e-320], 5e-320),
        ([math.nan, math.inf], math.nan),
        ([1.0, math.inf], math.inf),
        ([NO_GRADIENT, 0.0], 0.0),
    ],
)
def test_norms_are_joined_without_overflow(norms: list[float], joined: float) -> None:
    columns = Columns(["a", "b"], ["layer"], [0, 0])
    event = as_event([row(0, norms=norms)], columns, rank=0, optimizer=0, reason="end")
    assert event.layers["layer"] == pytest.approx([joined], rel=1e-3, nan_ok=True)


@given(
    st.lists(
        st.builds(
            Row,
            time=st.floats(0, 1e10),
            step=st.integers(0, 2**62),
            epoch=st.integers(0, 2**62),
            batch_idx=st.none() | st.integers(0, 2**62),
            loss=st.none() | st.floats(),
            grad_norm=st.floats(),
            coefficient=st.floats(),
            lr=st.none() | st.floats(),
            loss_scale=st.none() | st.floats(),
            skipped=st.booleans(),
            norms=st.lists(st.floats(0), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=80,
    )
)
@settings(max_examples=50, deadline=None)
def test_any_rows_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    [found] = load_ring(ring(tmp_path_factory.mktemp("ring"), rows))
    wanted = as_event(rows[-STEPS:], COLUMNS, rank=0, optimizer=0, reason="killed")
    assert to_json_line(found) == to_json_line(wanted)  # NaN is not equal to itself
    assert to_dict(from_dict(json.loads(to_json_line(found)))) == to_dict(found)


def test_optimizers_that_have_not_stepped_have_no_record(tmp_path: Path) -> None:
    file = tmp_path / "last_steps.bin"
    made = Ring(file, Header("run-a", 3, 1, [COLUMNS] * 3), [[], [], []])
    made.write(1, [row(5)])
    [found] = load_ring(file)
    assert (found.optimizer, found.rank, found.steps) == (1, 3, [5])


# -- torn rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 8, 50, layout.ROW.size, layout.ROW.size + 9, COLUMNS.row_bytes - 5])
def test_a_row_cut_off_in_the_writing_leaves_the_steps_before_it(tmp_path: Path, at: int) -> None:
    """The new row has overwritten the oldest one up to some byte, when the process dies."""
    before = ring(tmp_path, [row(step) for step in range(200)]).read_bytes()
    file = ring(tmp_path, [row(step) for step in range(201)])
    after = bytearray(file.read_bytes())
    changed = [place for place, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    start = len(after) - SLOTS * COLUMNS.row_bytes
    start += (changed[0] - start) // COLUMNS.row_bytes * COLUMNS.row_bytes
    cut = start + at
    after[cut : start + COLUMNS.row_bytes] = before[cut : start + COLUMNS.row_bytes]
    file.write_bytes(after)
    [found] = load_ring(file)
    assert len(found.steps) == STEPS
    assert found.steps == list(range(136, 200))


def test_a_row_in_the_wrong_place_or_with_a_flipped_bit_is_left_out(tmp_path: Path) -> None:
    file = ring(tmp_path, [row(step) for step in range(40)])
    content = bytearray(file.read_bytes())
    start = len(content) - SLOTS * COLUMNS.row_bytes
    size = COLUMNS.row_bytes
    content[start + 10 * size + layout.ROW.size] ^= 1
    content[start + 50 * size : start + 51 * size] = content[start + 5 * size : start + 6 * size]
    file.write_bytes(content)
    [found] = load_ring(file)
    assert found.steps == [step for step in range(40) if step != 9]  # sequence numbers begin at 1


# -- hostile files -----------------------------------------------------------------------------------------------------


GOOD = {"run_id": "a", "rank": 0, "pid": 1, "optimizers": [COLUMNS._asdict()]}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[" * 100_000,
        b"\xff\xfe",
        b"[]",
        b"{}",
        {**GOOD, "run_id": None},
        {**GOOD, "rank": -1},
        {**GOOD, "rank": True},
        {**GOOD, "pid": "1"},
        {**GOOD, "optimizers": {}},
        {**GOOD, "optimizers": [1]},
        {**GOOD, "optimizers": [{}]},
        {**GOOD, "optimizers": [{**COLUMNS._asdict(), "layer_of": [0, 0, 2]}]},
        {**GOOD, "optimizers": [{**COLUMNS._asdict(), "layer_of": [0, 0, -1]}]},
        {**GOOD, "optimizers": [{**COLUMNS._asdict(), "layer_of": [0, 0]}]},
        {**GOOD, "optimizers": [{**COLUMNS._asdict(), "layer_of": [0, 0, 1.0]}]},
        {**GOOD, "optimizers": [{**COLUMNS._asdict(), "parameters": [1, 2, 3]}]},
        {**GOOD, "optimizers": [COLUMNS._asdict()] * 2},
        {**GOOD, "optimizers": [{"parameters": ["p"] * 200_000, "layers": ["l"], "layer_of": [0] * 200_000}]},
    ],
    ids=repr,
)
def test_a_header_that_makes_no_sense_is_one_clear_error(tmp_path: Path, header: dict[str, Any] | bytes) -> None:
    file = rewritten(ring(tmp_path, [row(0)]), header)
    with pytest.raises(SchemaError) as caught:
        load_ring(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 5, layout.PRELUDE.size, layout.PRELUDE.size + 9, 500, -1])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, size: int) -> None:
    file = ring(tmp_path, [row(step) for step in range(9)])
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(SchemaError, match=r"last_steps\.bin: "):
        load_ring(file)


def test_a_huge_file_or_header_is_refused_without_being_read(tmp_path: Path) -> None:
    file = tmp_path / "last_steps.bin"
    for prelude in (
        layout.PRELUDE.pack(layout.MAGIC, layout.VERSION, SLOTS, 2**32 - 1, 0),
        layout.PRELUDE.pack(layout.MAGIC, layout.VERSION, 2**32 - 1, 10, 0),
        layout.PRELUDE.pack(layout.MAGIC, layout.VERSION + 1, SLOTS, 10, 0),
        b"x" * layout.PRELUDE.size,
    ):
        file.write_bytes(prelude)
        os.truncate(file, 2**33)
        tracemalloc.start()
        with pytest.raises(SchemaError):
            load_ring(file)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


@given(st.binary(max_size=300), st.integers(0, 5000), st.integers(0, 255))
@settings(deadline=None)
def test_garbled_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int, byte: int
) -> None:
    file = ring(tmp_path_factory.mktemp("ring"), [row(step) for step in range(70)])
    content = bytearray(file.read_bytes())
    content[place % len(content)] = byte
    for garbled in (bytes(content), layout.MAGIC + noise, noise):
        file.write_bytes(garbled)
        try:
            events = load_ring(file)
        except SchemaError:
            continue
        assert all(to_json_line(event) for event in events)


def test_a_row_whose_time_is_none_is_left_out(tmp_path: Path) -> None:
    file = ring(tmp_path, [row(0), row(1, time=math.nan)])
    assert load_ring(file)[0].steps == [0]


def test_the_sequence_may_be_as_large_as_it_likes(tmp_path: Path) -> None:
    file = ring(tmp_path, [row(0)])
    content = bytearray(file.read_bytes())
    start = len(content) - SLOTS * COLUMNS.row_bytes
    last = 2**64 - 1
    place = start + (last % SLOTS) * COLUMNS.row_bytes
    body = bytearray(content[start + COLUMNS.row_bytes : start + 2 * COLUMNS.row_bytes - 8])
    body[:8] = struct.pack("<Q", last)
    content[place : place + COLUMNS.row_bytes] = body + layout.CHECKSUM.pack(zlib.crc32(body))
    file.write_bytes(content)
    assert load_ring(file)[0].steps == [0]


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last_steps.bin")
    with pytest.raises(FileNotFoundError):
        load_ring(tmp_path / "last_steps.bin")
    with pytest.raises(FileNotFoundError):
        load_ring(tmp_path)


# -- the last steps of a run -------------------------------------------------------------------------------------------


def log(path: Path, name: str, *events: Any) -> None:
    (path / name).write_text("".join(to_json_line(event) for event in events))


def test_the_ring_wins_where_it_knows_of_later_steps(tmp_path: Path) -> None:
    log(tmp_path, "events.jsonl", run_start(), last_steps(reason="incident"))  # of steps 11 and 12
    assert [event.reason for event in load_last_steps(tmp_path)] == ["incident"]
    ring(tmp_path, [row(13)])
    assert [(event.reason, event.steps) for event in load_last_steps(tmp_path)] == [("killed", [13])]
    assert load_last_steps(tmp_path / "last_steps.bin") == load_last_steps(tmp_path)
    assert load_last_steps(tmp_path / "events.jsonl") == load_last_steps(tmp_path)


def test_a_ring_that_the_run_has_lost_sight_of_is_not_believed(tmp_path: Path) -> None:
    log(tmp_path, "events.jsonl", run_start(), last_steps(), run_end())
    for step in (9, 12):
        ring(tmp_path, [row(step)])
        assert [(event.reason, event.steps) for event in load_last_steps(tmp_path)] == [("end", [11, 12])]
    log(tmp_path, "events.jsonl", run_start(), last_steps(steps=[1, 2], reason="incident"), run_end(step=99))
    ring(tmp_path, [row(50)])  # as where the folder was moved, and the disk was full at the end
    assert [event.reason for event in load_last_steps(tmp_path)] == ["incident"]


def test_what_the_log_could_not_take_at_the_end_is_in_the_ring(tmp_path: Path) -> None:
    log(tmp_path, "events.jsonl", run_start(), last_steps(steps=[1, 2], reason="incident"), run_end(step=50))
    for last in (49, 50):  # the step at which a run ends may not have been taken
        ring(tmp_path, [row(48), row(last)])
        assert [(event.reason, event.steps) for event in load_last_steps(tmp_path)] == [("end", [48, last])]


def test_the_ring_of_another_run_is_not_that_of_this_log(tmp_path: Path) -> None:
    log(tmp_path, "events.jsonl", run_start(run_id="another"))
    ring(tmp_path, [row(50)])
    assert load_last_steps(tmp_path) == []
    assert len(load_ring(tmp_path / "last_steps.bin")) == 1


def test_a_ring_without_a_step_leaves_the_word_to_the_log(tmp_path: Path) -> None:
    log(tmp_path, "events.jsonl", run_start(), last_steps(reason="incident"))
    ring(tmp_path, [])
    assert [event.reason for event in load_last_steps(tmp_path)] == ["incident"]


def test_the_last_event_of_each_optimizer_and_rank_of_the_last_run(tmp_path: Path) -> None:
    log(tmp_path, "events.jsonl", run_start(run_id="old", time=1.0), last_steps(reason="old"), run_end())
    new = run_start(run_id="new", time=2.0)
    events = [last_steps(optimizer=k, reason=f"{k} {n}") for n in range(3) for k in (1, 0)]
    log(tmp_path, "events.1.jsonl", new, *events, run_end())
    log(tmp_path, "events.rank1.jsonl", run_start(run_id="new", time=2.1, rank=1), last_steps(rank=1, reason="r1"))
    found = load_last_steps(tmp_path)
    assert [(event.rank, event.optimizer, event.reason) for event in found] == [
        (0, 0, "0 2"),
        (0, 1, "1 2"),
        (1, 0, "r1"),
    ]
    assert all(isinstance(event, LastSteps) for event in found)


def test_a_run_without_any_has_none(tmp_path: Path) -> None:
    log(tmp_path, "events.jsonl", run_start())
    assert load_last_steps(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        load_last_steps(tmp_path / "events")
