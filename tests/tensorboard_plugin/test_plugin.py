"""The routes, asked in this process, over TensorBoard's Python loader."""

from __future__ import annotations

import json
import math
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from werkzeug.test import Client
from werkzeug.wrappers import Response

from gradwatch.serialization.tensorboard_rows import CURVE_NAMES, METRICS, UNKNOWN
from gradwatch.tensorboard_plugin import routes
from gradwatch.tensorboard_plugin.plugin import NumericalHealthPlugin
from gradwatch.tensorboard_plugin.reading import Source
from tests.sinks.samples import finding, step_record, with_layer
from tests.tensorboard_plugin.logs import (
    GRAD_NORM,
    LAYERS,
    at,
    broken_runs,
    rows,
    write_eventful_run,
    write_raw,
    write_run,
    write_scalars,
)

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "</script><img src=x onerror=alert(1)>\n\ud800"


class Site:
    """The plugin on a log directory."""

    def __init__(self, logdir: Path) -> None:
        self.logdir = logdir
        self._multiplexer = EventMultiplexer(tensor_size_guidance={"numerical_health": 0})
        provider = MultiplexerDataProvider(self._multiplexer, str(logdir))
        plugin = NumericalHealthPlugin(SimpleNamespace(data_provider=provider))
        self.apps = plugin.get_plugin_apps()
        self.reload()

    def reload(self) -> None:
        self._multiplexer.AddRunsFromDirectory(str(self.logdir))
        self._multiplexer.Reload()

    def ask(self, route: str, *, etag: str | None = None, **query: Any) -> Any:
        app = self.apps.get(f"/{route}", self.apps["/*"])
        names = {"begin": "from", "end": "to"}
        arguments = {names.get(name, name): str(value) for name, value in query.items()}
        headers = {} if etag is None else {"If-None-Match": etag}
        return Client(app, Response).get(f"/{route}", query_string=arguments, headers=headers)

    def frame(self, route: str, **query: Any) -> tuple[dict[str, Any], np.ndarray]:
        body = self.ask(route, **query).get_data()
        (length,) = struct.unpack("<I", body[:4])
        header = json.loads(body[4 : 4 + length])
        return header, np.frombuffer(body[4 + length :], header["dtype"]).reshape(header["shape"])


# -- runs --------------------------------------------------------------------------------------------------------------


def test_runs_without_our_data_are_not_listed(tmp_path: Path) -> None:
    write_scalars(tmp_path / "theirs")
    assert Site(tmp_path).ask("runs").json == {"runs": []}


def test_a_run_is_described(tmp_path: Path) -> None:
    write_eventful_run(tmp_path / "b" / "version_0")
    write_run(tmp_path / "a", at(500), step=490)
    first, second = Site(tmp_path).ask("runs").json["runs"]
    assert second.pop("key") != first.pop("key")
    assert (first["name"], first["first"], first["last"], first["rows"]) == ("a", 490, 500, 1)
    assert second == {
        "name": "b/version_0",
        "version": 1,
        "note": None,
        "optimizers": [{"optimizer": 0, "layers": list(LAYERS), "metrics": list(METRICS)}],
        "rows": 59,
        "first": 0,
        "last": 59,
        "findings": {"info": 1, "warning": 0, "error": 1},
        "incidents": 1,
        "checks": 1,
    }


def test_a_run_that_has_only_begun_is_listed_without_rows(tmp_path: Path) -> None:
    write_run(tmp_path / "a", step=7)
    (run,) = Site(tmp_path).ask("runs").json["runs"]
    assert (run["optimizers"], run["rows"], run["first"], run["last"]) == ([], 0, None, None)


def test_several_optimizers_are_listed_with_their_layers(tmp_path: Path) -> None:
    write_run(tmp_path, at(0), at(0, 3, optimizer=1))
    (run,) = Site(tmp_path).ask("runs").json["runs"]
    assert [(each["optimizer"], len(each["layers"])) for each in run["optimizers"]] == [(0, 2), (1, 3)]


# -- values ------------------------------------------------------------------------------------------------------------


def test_the_matrix_has_every_value_where_it_belongs(tmp_path: Path) -> None:
    records = [with_layer(at(i), "block.1", grad_norm=float(i)) for i in range(10)]
    records[3] = with_layer(records[3], "block.1", grad_norm=math.nan)
    records[4] = with_layer(records[4], "block.1", grad_norm=math.inf)
    records[5] = with_layer(records[5], "block.1", grad_norm=None)
    write_run(tmp_path, *records)
    header, values = Site(tmp_path).frame("matrix", run=".", metric="grad_norm")
    assert header == {
        "layers": list(LAYERS),
        "first": list(range(10)),
        "last": list(range(10)),
        "rows": 10,
        "note": None,
        "dtype": "float32",
        "shape": [10, 2],
    }
    expected = [0, 1, 2, math.nan, math.inf, UNKNOWN, 6, 7, 8, 9]
    np.testing.assert_array_equal(values[:, 1], np.array(expected, dtype=np.float32))


def test_the_matrix_is_cut_and_pooled(tmp_path: Path) -> None:
    write_run(tmp_path, *(with_layer(at(i), "block.0", grad_norm=float(i)) for i in range(100)))
    header, values = Site(tmp_path).frame("matrix", run=".", metric="grad_norm", begin=20, end=59, columns=4)
    assert (header["first"], header["last"], header["rows"]) == ([20, 30, 40, 50], [29, 39, 49, 59], 40)
    assert values[:, 0].tolist() == [29, 39, 49, 59]
    header, values = Site(tmp_path).frame("matrix", run=".", metric="grad_norm", begin=500)
    assert (header["first"], header["rows"], values.shape) == ([], 0, (0, 2))


@pytest.mark.parametrize("far", [2**62, 10**30])
def test_the_matrix_of_more_steps_than_there_can_be_is_that_of_all(far: int, tmp_path: Path) -> None:
    write_run(tmp_path, *(at(i) for i in range(100)))
    found = Site(tmp_path)
    whole, values = found.frame("matrix", run=".", metric="grad_norm", columns=1000)
    for query in ({"begin": -far}, {"end": far}, {"begin": -far, "end": far}):
        head, cells = found.frame("matrix", run=".", metric="grad_norm", columns=1, **query)
        assert (head["first"][0], head["last"][-1], head["rows"]) == (whole["first"][0], whole["last"][-1], 100)
        assert cells.max() == values.max()


def test_a_layer_has_all_metrics_at_full_resolution(tmp_path: Path) -> None:
    write_run(tmp_path, *(with_layer(at(i), "block.1", update_ratio=float(i)) for i in range(1000)))
    header, values = Site(tmp_path).frame("layer", run=".", layer=1)
    assert (header["layer"], header["metrics"], header["last"][-1]) == ("block.1", list(METRICS), 999)
    assert values.shape == (4, len(header["last"]))
    np.testing.assert_array_equal(values[2], header["last"])
    np.testing.assert_array_equal(values[3], 0)


def test_the_curves_of_an_optimizer(tmp_path: Path) -> None:
    write_run(tmp_path, *(at(i, loss=float(i)) for i in range(5)), at(4, optimizer=1))
    header, values = Site(tmp_path).frame("curves", run=".")
    assert header["columns"] == list(CURVE_NAMES)
    curves = dict(zip(header["columns"], values, strict=True))
    np.testing.assert_array_equal(curves["loss"], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(curves["row"], header["last"])
    assert Site(tmp_path).frame("curves", run=".", optimizer=1)[0]["last"] == [4]


def test_what_happened_is_told(tmp_path: Path) -> None:
    write_eventful_run(tmp_path)
    told = Site(tmp_path).ask("events", run=".").json
    spans = [(episode["code"], episode["opened"], episode["closed"]) for episode in told["findings"]]
    assert spans == [("lost-signal", 9, 20), ("exploding-gradient", 19, None)]
    assert [event["log_step"] for event in told["incidents"]] == [60]
    assert [event["verdict"] for event in told["checks"]] == ["pass"]
    assert [event["status"] for event in told["ends"]] == ["nonfinite"]
    assert [event["run_id"] for event in told["starts"]] == ["run-a"]


def test_hostile_names_arrive_as_they_are(tmp_path: Path) -> None:
    layers = {HOSTILE: step_record().layers["block.0"], "b": step_record().layers["block.0"]}
    write_run(tmp_path, at(0, layers=layers), finding(step=0, layer=HOSTILE, message=HOSTILE))
    found = Site(tmp_path)
    assert found.ask("runs").json["runs"][0]["optimizers"][0]["layers"] == [HOSTILE, "b"]
    assert found.frame("matrix", run=".", metric="grad_norm")[0]["layers"] == [HOSTILE, "b"]
    assert found.frame("layer", run=".", layer=0)[0]["layer"] == HOSTILE
    assert found.ask("events", run=".").json["findings"][0]["message"] == HOSTILE


# -- resumed runs, layers that change ----------------------------------------------------------------------------------


def test_steps_that_a_resumed_run_writes_again_are_there_once(tmp_path: Path) -> None:
    write_run(tmp_path, *(at(i, loss=1.0) for i in range(100)), finding(step=40), finding(step=90))
    write_run(tmp_path, *(at(i, loss=2.0) for i in range(50, 60)), step=50)
    found = Site(tmp_path)
    header, values = found.frame("curves", run=".")
    assert header["last"] == list(range(60))
    assert values[CURVE_NAMES.index("loss")].tolist() == [1.0] * 50 + [2.0] * 10
    assert found.frame("matrix", run=".", metric="weight_norm")[0]["last"] == list(range(60))
    assert len(found.ask("events", run=".").json["starts"]) == 2


def test_a_resumed_run_ends_where_it_has_come_to(tmp_path: Path) -> None:
    """And not where it had been before, whose steps it has yet to write again."""
    write_run(tmp_path, *(at(i) for i in range(100)))
    write_run(tmp_path, *(at(i) for i in range(50, 60)), step=50)
    (run,) = Site(tmp_path).ask("runs").json["runs"]
    assert (run["first"], run["last"]) == (0, 59)


def test_a_model_that_grows_is_one_matrix(tmp_path: Path) -> None:
    write_run(tmp_path, *(at(i) for i in range(3)), *(at(i, 4) for i in range(3, 6)))
    found = Site(tmp_path)
    header, values = found.frame("matrix", run=".", metric="grad_norm")
    assert header["layers"] == [f"block.{i}" for i in range(4)]
    assert header["last"] == list(range(6))
    assert (values[:3, 2:] == UNKNOWN).all()
    assert (values[3:] != UNKNOWN).all()
    assert found.frame("layer", run=".", layer=3)[1][0].tolist() == [UNKNOWN] * 3 + [np.float32(3.1)] * 3
    assert len(found.ask("runs").json["runs"][0]["optimizers"][0]["layers"]) == 4


# -- news --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["matrix", "curves", "layer", "events", "runs"])
def test_what_has_not_changed_is_not_sent_again(route: str, tmp_path: Path) -> None:
    write_eventful_run(tmp_path)
    found = Site(tmp_path)
    query: dict[str, Any] = {"run": ".", "metric": "grad_norm", "layer": 0}
    first = found.ask(route, **query)
    again = found.ask(route, etag=first.headers["ETag"], **query)
    assert (again.status_code, again.get_data()) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    write_run(tmp_path, at(70), finding(step=70), step=61)
    found.reload()
    later = found.ask(route, etag=first.headers["ETag"], **query)
    assert (later.status_code, later.headers["ETag"] != first.headers["ETag"]) == (200, True)
    assert later.get_data() != first.get_data()


def test_another_question_has_another_tag(tmp_path: Path) -> None:
    write_run(tmp_path, at(0))
    found = Site(tmp_path)
    tags = {found.ask("matrix", run=".", metric=metric).headers["ETag"] for metric in METRICS}
    assert len(tags) == len(METRICS)


# -- errors ------------------------------------------------------------------------------------------------------------

GOOD = {"run": ".", "metric": "grad_norm"}


@pytest.mark.parametrize(
    ("route", "query", "status", "message"),
    [
        ("matrix", {}, 400, "metric is missing"),
        ("matrix", {"metric": "grad_norm"}, 400, "run is missing"),
        ("matrix", GOOD | {"metric": "loss"}, 404, "metric 'loss' is not one of grad_norm, weight_norm"),
        ("matrix", GOOD | {"run": "else"}, 404, "run 'else' has no data of gradwatch"),
        ("matrix", GOOD | {"optimizer": "one"}, 400, "optimizer='one' is not a whole number"),
        ("matrix", GOOD | {"optimizer": 3}, 404, "has no grad_norm of optimizer 3"),
        ("matrix", GOOD | {"columns": 0}, 400, "columns=0 is less than 1"),
        ("matrix", GOOD | {"begin": 9, "end": 3}, 400, "from=9 is after to=3"),
        ("layer", {"run": "."}, 400, "layer is missing"),
        ("layer", {"run": ".", "layer": 2}, 404, "optimizer 0 of run '.' has no layer 2"),
        ("layer", {"run": ".", "layer": -1}, 400, "layer=-1 is less than 0"),
        ("layer", {"run": ".", "layer": 10**30}, 404, "has no layer"),
        ("curves", {"run": ".", "optimizer": 1}, 404, "has no optimizer 1"),
        ("events", {}, 400, "run is missing"),
        ("nothing.js", {}, 404, "there is no file 'nothing.js'"),
        ("../plugin.py", {}, 404, "there is no file 'plugin.py'"),
        ("..", {}, 404, "there is no file"),
    ],
)
def test_a_wrong_request_is_answered_in_words(
    route: str, query: dict[str, Any], status: int, message: str, tmp_path: Path
) -> None:
    write_run(tmp_path, at(0))
    answer = Site(tmp_path).ask(route, **query)
    assert answer.status_code == status
    assert list(answer.json) == ["error"]
    assert message in answer.json["error"]


def test_a_fault_of_our_own_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("oops")

    found = Site(tmp_path)
    monkeypatch.setattr(Source, "list", fail)
    answer = found.ask("runs")
    assert (answer.status_code, answer.json) == (500, {"error": "ZeroDivisionError: oops"})


def test_every_file_of_the_page_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "index.js").write_text("export function render() {}")
    (folder / "page.css").write_text("body {}")
    (folder / "notes.txt").write_text("not for browsers")
    monkeypatch.setattr(routes, "STATIC", folder)
    found = Site(tmp_path)
    script = found.ask("index.js")
    assert (script.status_code, script.mimetype) == (200, "text/javascript")
    assert script.headers["X-Content-Type-Options"] == "nosniff"
    assert found.ask("page.css").mimetype == "text/css"
    assert found.ask("index.js", etag=script.headers["ETag"]).status_code == 304
    assert found.ask("notes.txt").status_code == 404


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_damaged_run_has_a_note_and_the_others_are_as_they_were(tmp_path: Path) -> None:
    write_eventful_run(tmp_path / "whole")
    alone = Site(tmp_path)
    names = broken_runs(tmp_path)
    found = Site(tmp_path)
    listed = {run["name"]: run for run in found.ask("runs").json["runs"]}
    assert sorted(listed) == sorted([*names, "whole"])
    assert listed["whole"] == alone.ask("runs").json["runs"][0]
    for metric in METRICS:
        one, other = (each.ask("matrix", run="whole", metric=metric).get_data() for each in (alone, found))
        assert one == other
    for name in names:
        for route in ("matrix", "layer", "curves", "events"):
            answer = found.ask(route, run=name, metric="grad_norm", layer=0)
            assert answer.status_code in (200, 404), (name, route, answer.get_data())


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("random_metadata", "the metadata of its rows cannot be read"),
        ("no_metadata", "the metadata of its rows cannot be read"),
        ("later_version", "rows of version 2 were written by a newer gradwatch than this one: upgrade it"),
        ("not_json", "some of its data are damaged and left out"),
        ("later_events", "some of its data are damaged and left out"),
    ],
)
def test_the_note_says_what_is_wrong(name: str, note: str, tmp_path: Path) -> None:
    broken_runs(tmp_path)
    (run,) = (run for run in Site(tmp_path).ask("runs").json["runs"] if run["name"] == name)
    assert run["note"] == note


def test_what_is_whole_of_a_damaged_run_is_shown(tmp_path: Path) -> None:
    write_raw(tmp_path, *rows(GRAD_NORM, [1, 2], [1, 2, 3], [5, 6]))
    header, values = Site(tmp_path).frame("matrix", run=".", metric="grad_norm")
    assert (header["last"], values.tolist()) == ([0, 2], [[1, 2], [5, 6]])
    assert header["note"] == "some of its data are damaged and left out"
