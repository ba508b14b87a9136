"""Reading a run: the columns are the numbers that were written, and what cannot be read is said in one line."""

from __future__ import annotations

import json
import math
import os
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.records import LayerNorms
from gradwatch.report import columns, folder, layer_columns, run
from gradwatch.report.columns import StepTable
from gradwatch.report.run import choose, read_runs
from gradwatch.serialization import SchemaError, from_dict, ring_of, to_dict, to_json_line
from gradwatch.serialization.ring_layout import Columns, Header, Row
from gradwatch.sinks.ring import Ring
from tests.report.logs import (
    at,
    incident,
    last_steps,
    pooled_record,
    run_end,
    run_start,
    step_record,
    told,
    write_incident,
    write_log,
)
from tests.sinks.samples import with_layer

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.records import StepRecord
    from gradwatch.report.run import Run
    from gradwatch.report.steps import Steps


def read(path: Path) -> Run:
    (only,) = read_runs(path)
    return only


def table(*records: StepRecord, order: dict[str, int] | None = None) -> Steps:
    collected = StepTable(0)
    for record in records:
        collected.add(to_dict(record))
    return collected.finish(order or {})


# -- what a run is -------------------------------------------------------------------------------------------------


def test_a_whole_run(tmp_path: Path) -> None:
    start, end = run_start(time=1.0), run_end(step=30, time=40.0)
    write_log(tmp_path, start, at(10), told(12), at(20), told(30, "closed", since_step=12), end)
    found = read(tmp_path)
    assert (found.run_id, found.folder, found.start, found.end) == ("run-a", tmp_path, start, end)
    assert found.steps[0].step.tolist() == [10, 20]
    assert [(episode.code, episode.since_step, episode.closed_step) for episode in found.episodes] == [
        ("exploding-gradient", 12, 30)
    ]
    assert (found.ranks, found.notes, found.last_step, found.last_time) == ((0,), [], 30, 1700000030.25)


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    write_log(tmp_path, run_start())
    found = read(tmp_path)
    assert found.start == run_start()
    assert (found.end, found.steps, found.episodes, found.incidents, found.last_steps) == (None, [], [], [], [])


def test_a_run_whose_start_was_lost_is_named_by_its_log(tmp_path: Path) -> None:
    write_log(tmp_path, at(10), run_end())
    found = read(tmp_path)
    assert (found.run_id, found.start, found.steps[0].step.tolist()) == ("events.jsonl", None, [10])


def test_an_empty_log_is_a_run_of_which_nothing_is_known(tmp_path: Path) -> None:
    write_log(tmp_path)
    found = read(tmp_path)
    assert (found.run_id, found.last_step, found.steps) == ("events.jsonl", 0, [])
    assert math.isnan(found.last_time)


def test_runs_come_in_the_order_of_their_start(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(run_id="late", time=20.0))
    write_log(tmp_path, run_start(run_id="early", time=10.0), number=1)
    runs = read_runs(tmp_path)
    assert [found.run_id for found in runs] == ["early", "late"]
    assert choose(runs, None).run_id == "late"
    assert choose(runs, "ea").run_id == "early"
    with pytest.raises(ValueError, match="no run begins with 'x': 'early', 'late'"):
        choose(runs, "x")
    with pytest.raises(ValueError, match="2 runs begin with ''"):
        choose(runs, "")


def test_a_whole_run_id_that_begins_another_is_that_run(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(run_id="ab", time=20.0))
    write_log(tmp_path, run_start(run_id="abc", time=10.0), number=1)
    assert choose(read_runs(tmp_path), "ab").run_id == "ab"


def test_events_that_could_not_be_written_are_told(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(), at(10), run_end(dropped_events=1200))
    assert read(tmp_path).notes == ["1,200 events could not be written to the log (a full disk?)"]
    write_log(tmp_path, run_start(rank=1), run_end(rank=1, dropped_events=1), rank=1)
    write_log(tmp_path, run_start(rank=2), run_end(rank=2), rank=2)
    assert read(tmp_path).notes == [
        "1,200 events of rank 0 could not be written to the log (a full disk?)",
        "1 event of rank 1 could not be written to the log (a full disk?)",
    ]


def test_a_log_that_does_not_count_lost_events_has_lost_none(tmp_path: Path) -> None:
    older = to_dict(run_end())
    del older["dropped_events"]
    write_log(tmp_path, run_start()).write_text(to_json_line(run_start()) + json.dumps(older) + "\n")
    found = read(tmp_path)
    assert (found.end, found.notes) == (run_end(), [])


def test_ranks_are_one_run_and_steps_are_those_of_the_lowest(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(rank=3), at(10, rank=3), told(15, rank=3), rank=3)
    write_log(tmp_path, run_start(rank=2), at(20, rank=2, loss=0.25), rank=2)
    found = read(tmp_path)
    assert found.ranks == (2, 3)
    assert found.steps[0].loss.tolist() == [0.25]
    assert [episode.rank for episode in found.episodes] == [3]


def test_a_rank_that_lost_its_start_belongs_to_the_log_with_its_number(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(run_id="a"), at(10))
    write_log(tmp_path, run_start(run_id="b", time=1.8e9), at(10), number=1)
    write_log(tmp_path, told(15, rank=1), rank=1)
    runs = read_runs(tmp_path)
    assert [(found.run_id, found.ranks) for found in runs] == [("a", (0, 1)), ("b", (0,))]


def test_one_table_for_each_optimizer(tmp_path: Path) -> None:
    write_log(tmp_path, at(10), at(10, optimizer=1, loss=3.0), at(20))
    generator, critic = read(tmp_path).steps
    assert (generator.optimizer, critic.optimizer) == (0, 1)
    assert (generator.step.tolist(), critic.loss.tolist()) == ([10, 20], [3.0])


# -- columns -------------------------------------------------------------------------------------------------------


def test_columns_are_what_was_written() -> None:
    steps = table(at(10, lr=0.1, lr_groups=[0.1, 0.2], loss_scale=1024.0), at(20, skipped_steps=3, epoch=4))
    assert steps.step.tolist() == [10, 20]
    assert steps.epoch.tolist() == [1, 4]
    assert (steps.time - 1700000000.25).tolist() == [10.0, 20.0]
    assert steps.lr.tolist() == [0.1, 1e-3]
    np.testing.assert_array_equal(steps.lr_groups, [[0.1, 0.2], [1e-3, np.nan]])
    np.testing.assert_array_equal(steps.loss_scale, [1024.0, np.nan])
    assert steps.skipped_steps.tolist() == [0, 3]
    assert (steps.max_norm.tolist(), steps.coefficient.tolist()) == ([1.0, 1.0], [0.5, 0.5])
    assert (steps.clipped.tolist(), steps.clip_rate.tolist()) == ([True, True], [0.25, 0.25])
    assert (steps.window_steps.tolist(), steps.window_clipped.tolist()) == ([10, 10], [3, 3])
    assert (steps.grad_norm.tolist(), steps.grad_norm_high.tolist()) == ([2.0, 2.0], [2.5, 2.5])
    assert steps.grad_norm_max_step.tolist() == [7, 7]
    assert (steps.loss_low.tolist(), steps.loss_high.tolist()) == ([0.5, 0.5], [0.75, 0.75])
    assert (steps.records.tolist(), steps.first_step.tolist()) == ([1, 1], [10, 20])
    assert steps.layers.names == ("block.0", "block.1")
    assert steps.layers.grad_norm.tolist() == [[0.1, 1.1], [0.1, 1.1]]
    assert steps.layers.weight_norm.tolist() == [[3.0, 4.0], [3.0, 4.0]]
    assert steps.layers.update_ratio.tolist() == [[1e-3, 1e-3], [1e-3, 1e-3]]
    assert steps.layers.nonfinite.tolist() == [[0, 0], [0, 0]]
    assert len(steps) == 2


def test_what_is_not_known_is_nan_and_what_is_infinite_stays_so() -> None:
    first = with_layer(at(10, loss=None, grad_norm=math.inf), "block.0", grad_norm=None, update_ratio=None)
    second = with_layer(at(20, loss=math.nan, lr=None), "block.1", grad_norm=math.inf, nonfinite=5)
    steps = table(first, second, at(30, loss=-math.inf))
    np.testing.assert_array_equal(steps.loss, [np.nan, np.nan, -np.inf])
    assert steps.loss_bad.tolist() == [False, True, True]
    np.testing.assert_array_equal(steps.grad_norm, [np.inf, 2.0, 2.0])
    np.testing.assert_array_equal(steps.lr, [1e-3, np.nan, 1e-3])
    np.testing.assert_array_equal(steps.layers.grad_norm, [[np.nan, 1.1], [0.1, np.inf], [0.1, 1.1]])
    np.testing.assert_array_equal(steps.layers.update_ratio[0], [np.nan, 1e-3])
    assert steps.layers.nonfinite.tolist() == [[0, 0], [0, 5], [0, 0]]


def test_what_was_not_finite_is_told_from_what_is_not_known() -> None:
    layers = {
        "a": LayerNorms(grad_norm=math.nan, weight_norm=math.inf, update_ratio=None, nonfinite=0),
        "b": LayerNorms(grad_norm=None, weight_norm=1.0, update_ratio=-math.inf, nonfinite=0),
    }
    found = table(at(1), at(2, layers=layers)).layers
    place = [found.names.index(name) for name in layers]
    bad = [found.grad_norm_bad, found.weight_norm_bad, found.update_ratio_bad]
    assert [mask[1, place].tolist() for mask in bad] == [[True, False], [True, False], [False, True]]
    assert not any(mask[0].any() for mask in bad)
    assert not table(at(1)).layers.weight_norm_bad.any()


def test_words_for_numbers_are_read_each_time() -> None:
    steps = table(*(at(step, loss=loss) for step, loss in enumerate([math.nan, math.nan, math.inf, -math.inf])))
    np.testing.assert_array_equal(steps.loss, [np.nan, np.nan, np.inf, -np.inf])
    collected = StepTable(0)
    collected.add(to_dict(at(1, loss=math.nan)))
    with pytest.raises(SchemaError, match="'loss': expected a number, got 'low'"):
        collected.add({**to_dict(at(2)), "loss": "low"})


def test_a_pooled_record_has_the_extremes_of_its_log_steps() -> None:
    steps = table(pooled_record(20), at(30))
    assert (steps.records.tolist(), steps.first_step.tolist()) == ([4, 1], [17, 30])
    assert (steps.loss_low.tolist(), steps.loss_high.tolist()) == ([0.25, 0.5], [0.75, 0.75])
    assert (steps.grad_norm_low.tolist(), steps.grad_norm_high.tolist()) == ([1.0, 2.0], [50.0, 2.5])
    layers = steps.layers
    assert layers.grad_norm.tolist() == [[0.1, 1.1], [0.1, 1.1]]
    assert layers.grad_norm_low.tolist() == [[0.05, 1.1], [0.1, 1.1]]
    assert layers.grad_norm_high.tolist() == [[9.0, 1.1], [0.1, 1.1]]
    assert layers.weight_norm_high.tolist() == [[3.5, 4.5], [3.0, 4.0]]
    assert layers.update_ratio_low.tolist() == [[1e-4, 1e-3], [1e-3, 1e-3]]
    assert layers.nonfinite.tolist() == [[0, 7], [0, 0]]


def test_a_spike_between_two_records_is_in_the_range_of_its_layer() -> None:
    record = to_dict(at(10))
    record["layers"]["block.0"]["grad_norm_max"] = 50.0
    record["layers"]["block.1"] |= {"grad_norm": None, "grad_norm_max": 0.0}
    collected = StepTable(0)
    for data in (to_dict(at(5)), record):
        collected.add(data)
    layers = collected.finish({}).layers
    assert layers.grad_norm_high[:, 0].tolist() == [0.1, 50.0]
    assert layers.grad_norm_low[:, 0].tolist() == [0.1, 0.1]
    assert np.isnan(layers.grad_norm_high[1, 1])  # no gradient at any step
    assert layers.weight_norm_high is layers.weight_norm


def test_without_thinning_ranges_are_the_values_themselves() -> None:
    layers = table(at(10)).layers
    assert layers.grad_norm_low is layers.grad_norm is layers.grad_norm_high


def test_layers_that_join_later_and_the_order_of_the_model() -> None:
    steps = table(at(10), at(20, layers=step_record(3).layers), order={"block.2": 0, "block.1": 1})
    assert steps.layers.names == ("block.2", "block.1", "block.0")
    np.testing.assert_array_equal(steps.layers.grad_norm, [[np.nan, 1.1, 0.1], [2.1, 1.1, 0.1]])
    assert steps.layers.nonfinite.dtype == np.int64


def test_layers_of_a_run_are_in_the_order_of_its_parameter_table(tmp_path: Path) -> None:
    start = run_start()
    start = replace(start, parameters=start.parameters[::-1])
    write_log(tmp_path, start, at(10))
    assert read(tmp_path).steps[0].layers.names == ("block.1", "block.0")


@given(st.lists(st.floats() | st.none(), min_size=8, max_size=8), st.integers(0, 2**40))
def test_columns_are_what_the_codec_reads(floats: list[float | None], count: int) -> None:
    grad_norm, weight_norm, update_ratio, loss, total, lr, scale, limit = floats
    record = with_layer(
        at(count, loss=loss, grad_norm=total, lr=lr, loss_scale=scale, skipped_steps=count),
        "block.0",
        grad_norm=grad_norm,
        weight_norm=weight_norm,
        update_ratio=update_ratio,
        nonfinite=count,
    )
    record = replace(record, clip=replace(record.clip, max_norm=limit))
    read_back: Any = from_dict(json.loads(json.dumps(to_dict(record))))
    steps = table(at(0), record)

    def same(column: np.ndarray, value: float | None) -> None:
        np.testing.assert_array_equal(column[1], np.nan if value is None else value)

    same(steps.loss, read_back.loss)
    same(steps.grad_norm, read_back.grad_norm)
    same(steps.lr, read_back.lr)
    same(steps.loss_scale, read_back.loss_scale)
    same(steps.max_norm, read_back.clip.max_norm)
    same(steps.skipped_steps, count)
    same(steps.layers.grad_norm[:, 0], read_back.layers["block.0"].grad_norm)
    same(steps.layers.weight_norm[:, 0], read_back.layers["block.0"].weight_norm)
    same(steps.layers.update_ratio[:, 0], read_back.layers["block.0"].update_ratio)
    same(steps.layers.nonfinite[:, 0], count)


# -- what is no step record ----------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no loss": ({"loss": ...}, "key 'loss' is missing"),
    "a word": ({"loss": "low"}, "'loss': expected a number, got 'low'"),
    "true": ({"step": True}, "'step': expected an integer, got True"),
    "half a step": ({"step": 0.5}, "'step': expected an integer, got 0.5"),
    "no clip": ({"clip": ...}, "key 'clip' is missing"),
    "clip is a list": ({"clip": []}, "'clip': expected an object, got a JSON list"),
    "rates": ({"lr_groups": [None]}, "'lr_groups': 0: expected a number, got None"),
    "a newer version": ({"schema_version": 2}, "schema_version 2 is newer than this gradwatch, which reads 1 to 1"),
    "no version": ({"schema_version": True}, "schema_version is True, expected 1 to 1"),
    "no layers": ({"layers": ...}, "key 'layers' is missing"),
    "layers are a list": ({"layers": []}, "'layers': expected an object, got a JSON list"),
    "a layer is a number": ({"layers": {"a": 1}}, "'layers': 'a': expected an object, got 1"),
    "a layer is empty": ({"layers": {"a": {}}}, "'layers': 'a': key 'grad_norm' is missing"),
    "pooled is a list": ({"pooled": []}, "'pooled': expected an object, got a JSON list"),
    "pooled is empty": ({"pooled": {}}, "'pooled': key 'records' is missing"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("after", [0, 1])
def test_a_wrong_record_is_told_in_the_words_of_the_codec(name: str, after: int) -> None:
    changes, message = WRONG[name]
    data = {key: value for key, value in {**to_dict(step_record()), **changes}.items() if value is not ...}
    collected = StepTable(0)
    for _ in range(after):
        collected.add(to_dict(step_record()))
    with pytest.raises(SchemaError) as told_by_codec:
        from_dict(data)
    with pytest.raises(SchemaError) as told_here:
        collected.add(data)
    assert message in str(told_by_codec.value)
    assert str(told_here.value) == str(told_by_codec.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": [1.0]}, "'pooled': 'loss': expected the least and the largest value, got 1 values"),
        ({"layer_nonfinite": [0]}, "'layers': 1 counts of non-finite elements for 2 layers"),
        ({"layer_grad_norm": [None]}, "'layers': ranges that are not one pair for each of 2 layers"),
        ({"layer_weight_norm": [[1.0], [2.0]]}, "'layers': ranges that are not one pair for each of 2 layers"),
    ],
)
def test_ranges_that_do_not_fit_the_layers(changes: dict[str, Any], message: str) -> None:
    data = to_dict(pooled_record(20))
    with pytest.raises(SchemaError) as error:
        StepTable(0).add({**data, "pooled": {**data["pooled"], **changes}})
    assert str(error.value) == message


@pytest.mark.parametrize("step", [2**53, 10**300, 10**400])
def test_a_step_that_no_training_reaches(step: int) -> None:
    with pytest.raises(SchemaError, match=r"no count|no float can hold"):
        table(step_record(step=step))


def test_a_table_larger_than_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_columns, "MAX_CELLS", 5)
    table(at(1), at(2))
    with pytest.raises(SchemaError, match="3 records of 2 layers are more than a table can hold"):
        table(at(1), at(2), at(3))


def test_rates_of_more_groups_than_memory_holds_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_CELLS", 5)
    steps = table(at(1, lr_groups=[1.0, 2.0, 3.0]), at(2))
    np.testing.assert_array_equal(steps.lr_groups, [[1.0, 2.0], [1e-3, np.nan]])


def test_more_optimizers_than_any_training_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "MAX_OPTIMIZERS", 2)
    write_log(tmp_path, at(1), at(1, optimizer=1), at(1, optimizer=2))
    with pytest.raises(SchemaError, match=r"events\.jsonl:3: records of more than 2 optimizers"):
        read_runs(tmp_path)


# -- the last steps ------------------------------------------------------------------------------------------------


def test_last_steps_are_those_written(tmp_path: Path) -> None:
    odd = last_steps(30, loss=[0.5, math.nan, None], layers={"block.0": [0.1, math.inf, None]})
    write_log(tmp_path, last_steps(10), odd)
    first, second = read(tmp_path).last_steps
    assert first == last_steps(10)
    assert second.layers == odd.layers
    assert math.isnan(second.loss[1] or 0.0)


def test_last_steps_of_different_lengths_are_refused(tmp_path: Path) -> None:
    write_log(tmp_path, last_steps(10, loss=[0.5]))
    with pytest.raises(SchemaError, match="lists that are not all of the same length"):
        read_runs(tmp_path)


# -- incidents -----------------------------------------------------------------------------------------------------


def test_incidents_know_their_folder(tmp_path: Path) -> None:
    first, second = incident(time=5.0), incident(time=6.0)
    write_log(tmp_path, run_start(time=1.0), first, second)
    directory = write_incident(tmp_path, second, 1)
    (directory / "weights.pt").touch()
    without, with_folder = read(tmp_path).incidents
    assert (without.time, without.folder, without.replayable) == (5.0, None, False)
    assert (with_folder.time, with_folder.folder, with_folder.replayable) == (6.0, directory, True)
    assert with_folder.origin == second.origin


def test_an_incident_that_the_log_has_no_line_of_belongs_to_the_run_of_its_time(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(run_id="a", time=10.0))
    write_log(tmp_path, run_start(run_id="b", time=20.0), number=1)
    write_incident(tmp_path, incident(time=15.0))
    a, b = read_runs(tmp_path)
    assert ([found.time for found in a.incidents], b.incidents) == ([15.0], [])


def test_folders_that_cannot_be_read_are_noted(tmp_path: Path) -> None:
    write_log(tmp_path, run_start())
    (tmp_path / "incidents" / "step=00000001-0").mkdir(parents=True)
    (tmp_path / "incidents" / "step=00000002-0").mkdir()
    (tmp_path / "incidents" / "step=00000002-0" / "incident.json").write_text("[1]")
    (tmp_path / "incidents" / "mine").mkdir()
    cut_off, foreign = read(tmp_path).notes
    assert cut_off == "incidents/step=00000001-0: no incident.json in it, so it was cut off while it was written"
    assert foreign.startswith("incidents/step=00000002-0: ")


def test_one_log_brings_the_incidents_that_it_names(tmp_path: Path) -> None:
    mine, other = incident(time=5.0, step=1), incident(time=7.0, step=2)
    path = write_log(tmp_path, run_start(time=1.0), mine)
    directory = write_incident(tmp_path, mine)
    write_incident(tmp_path, other)
    assert [found.folder for found in read(path).incidents] == [directory]


# -- torn, foreign, unreadable -------------------------------------------------------------------------------------


def test_a_line_that_was_cut_off_is_noted(tmp_path: Path) -> None:
    path = write_log(tmp_path, run_start(), at(10), at(20))
    path.write_bytes(path.read_bytes()[:-30])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(tmp_path)
    assert found.steps[0].step.tolist() == [10]
    assert found.notes == ["events.jsonl:3: a line that was cut off while it was written is left out"]


def test_a_power_cut_that_leaves_zeros_is_noted(tmp_path: Path) -> None:
    path = write_log(tmp_path, run_start(), at(10))
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert len(read(tmp_path).notes) == 1


def test_several_lines_that_were_cut_off_are_one_note(tmp_path: Path) -> None:
    path = write_log(tmp_path, run_start())
    path.write_bytes(path.read_bytes() + b'{"schema_version": 1, "type"\n' * 3)
    assert read(tmp_path).notes == ["events.jsonl: 3 lines that were cut off while they were written are left out"]


def test_types_that_are_not_known_are_noted(tmp_path: Path) -> None:
    path = write_log(tmp_path, run_start())
    strange = {**to_dict(run_end()), "type": "telemetry"}
    path.write_text(path.read_text() + f"{json.dumps(strange)}\n" * 2)
    assert read(tmp_path).notes == ["2 events of types that this version does not know are left out: 'telemetry'"]


def test_a_second_run_in_one_log_is_noted(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(run_id="a"), run_start(run_id="b"))
    assert read(tmp_path).notes == ["one log holds several runs, which are read as one"]


FOREIGN = {
    "binary": b"\x7fELF\x02\x01\x00\n\xff\xfe\n",
    "a list": b"[1, 2]\n",
    "a number": b"7\n",
    "foreign": b'{"loss": 1.0}\n',
    "a text": b"step,loss\n1,2.0\n",
    "deep": b"[" * 100_000 + b"\n",
    "an integer too long": b'{"schema_version": ' + b"9" * 5000 + b"}\n",
    "a newer version": b'{"schema_version": 2, "type": "step"}\n',
    "no utf-8": b'{"schema_version": 1, "type": "\xff"}\n',
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_log_is_one_error_with_file_and_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(FOREIGN[name])
    with pytest.raises(SchemaError) as error:
        read_runs(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'events.jsonl'}:1: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_line_longer_than_any_event_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "events.jsonl").open("wb") as file:
        file.truncate(2 * 2**30)  # of zeros, and sparse: takes no room
    with pytest.raises(SchemaError, match="a line of more than 64 MiB is not an event"):
        read_runs(tmp_path)


def test_a_log_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no events\.jsonl here or below"):
        read_runs(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.jsonl")
    with pytest.raises(FileNotFoundError, match=r"no events\.jsonl here or below"):
        read_runs(tmp_path)
    with pytest.raises(OSError, match="neither a file nor a directory"):
        read_runs(tmp_path / "events.jsonl")


# -- finding the folder --------------------------------------------------------------------------------------------


def test_a_folder_above_is_good_enough(tmp_path: Path) -> None:
    write_log(tmp_path / "version_3" / "gradwatch", run_start())
    (tmp_path / "version_3" / "checkpoints").mkdir()
    for path in (tmp_path, tmp_path / "version_3", tmp_path / "version_3" / "gradwatch"):
        assert read(path).folder == tmp_path / "version_3" / "gradwatch"


def test_the_nearest_folder_is_taken_even_if_others_lie_below(tmp_path: Path) -> None:
    write_log(tmp_path, run_start())
    write_log(tmp_path / "old", run_start(run_id="old"))
    assert read(tmp_path).run_id == "run-a"


def test_several_folders_below_are_named(tmp_path: Path) -> None:
    for number in range(7):
        write_log(tmp_path / f"version_{number}" / "gradwatch", run_start())
    with pytest.raises(ValueError, match="7 folders below hold runs, name one of them: ") as error:
        read_runs(tmp_path)
    assert str(tmp_path / "version_0" / "gradwatch") in str(error.value)
    assert str(error.value).endswith("and 2 more")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        read_runs(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no events\.jsonl here or below; name the folder of a run"):
        read_runs(tmp_path)


def test_a_whole_disk_is_not_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folder, "MAX_VISITED", 3)
    for number in range(4):
        (tmp_path / str(number)).mkdir()
    with pytest.raises(ValueError, match="too many folders below"):
        read_runs(tmp_path)
    write_log(tmp_path / "a" / "b" / "c" / "d" / "e" / "f" / "too deep", run_start())
    monkeypatch.setattr(folder, "MAX_VISITED", 100)
    with pytest.raises(FileNotFoundError):
        read_runs(tmp_path)


# -- the ring file of a process that was killed --------------------------------------------------------------------


def ring(log: Path, steps: int, run_id: str = "run-a") -> Path:
    """A ring file beside a log, as a process leaves it that was killed after so many steps."""
    path = ring_of(log)
    written = Ring(path, Header(run_id, 0, 1, [Columns(["block.0.weight"], ["block.0"], [0])]), [[]])
    for step in range(steps):
        written.write(0, [Row(100.0, step, 0, step, 0.5, 2.0, 1.0, 0.1, None, False, [3.0])])
    written.close()
    return path


def test_the_last_steps_of_a_killed_process_follow_those_of_its_log(tmp_path: Path) -> None:
    ring(write_log(tmp_path, run_start(time=1.0), last_steps(10)), 100)
    logged, killed = read(tmp_path).last_steps
    assert (logged.reason, killed.reason, killed.steps) == ("end", "killed", list(range(36, 100)))
    assert read(tmp_path).last_step == 99
    assert read(tmp_path / "events.jsonl").last_steps == [logged, killed]


def test_each_run_has_the_ring_of_its_log(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(run_id="a", time=1.0))
    ring(write_log(tmp_path, run_start(run_id="b", time=2.0), number=1), 3, run_id="b")
    assert [len(found.last_steps) for found in read_runs(tmp_path)] == [0, 1]


def test_a_ring_that_is_none_of_this_run_or_older_than_its_end_is_left_out(tmp_path: Path) -> None:
    ring(write_log(tmp_path, run_start(run_id="b")), 100)
    assert (read(tmp_path).last_steps, read(tmp_path).last_step) == ([], 12)
    ring(write_log(tmp_path, run_start(), last_steps(198), run_end(step=200)), 100)
    assert [found.steps[-1] for found in read(tmp_path).last_steps] == [200]
    ring(write_log(tmp_path, run_start(), last_steps(10), run_end(step=99)), 100)
    assert [(found.reason, found.steps[-1]) for found in read(tmp_path).last_steps] == [("end", 12), ("end", 99)]


@pytest.mark.parametrize("content", [b"", b"junk", bytes(5000)])
def test_a_ring_that_cannot_be_read_is_a_note(content: bytes, tmp_path: Path) -> None:
    log = write_log(tmp_path, run_start())
    ring_of(log).write_bytes(content)
    (note,) = read(tmp_path).notes
    assert note.startswith("last_steps.bin: the last steps could not be read: ")


def test_a_ring_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(ring_of(write_log(tmp_path, run_start())))
    found = read(tmp_path)
    assert (found.last_steps, found.notes) == ([], [])
