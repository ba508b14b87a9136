"""The tab in TensorBoard itself, over both of its loaders."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gradwatch.serialization.tensorboard_rows import METRICS
from gradwatch.sinks.tensorboard import TensorBoardSink
from tests.sinks.samples import finding, with_layer
from tests.tensorboard_plugin.logs import (
    LAYERS,
    SPIKE,
    Writer,
    at,
    broken_runs,
    odd_steps,
    write_eventful_run,
    write_long_run,
    write_run,
    write_scalars,
)
from tests.tensorboard_plugin.serving import LOADERS, Server, distribution, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = 3000
ODD_NAME = "odd <b>&?#=%20+ü"


def values_of(last: int) -> list[Any]:
    """Records in which two steps of thousands are odd."""
    records = [with_layer(at(i), "block.0", grad_norm=1.0) for i in range(last)]
    records[1234] = with_layer(records[1234], "block.0", grad_norm=math.nan)
    records[2345] = with_layer(records[2345], "block.0", grad_norm=100.0)
    return records


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all kinds: whole, resumed, long, damaged, and those of others."""
    folder = tmp_path_factory.mktemp("logs")
    write_eventful_run(folder / "eventful" / "version_0")
    write_run(folder / "long", *values_of(LONG))
    write_run(folder / "resumed", *(at(i) for i in range(100)))
    write_run(folder / "resumed", *(at(i) for i in range(50, 60)), step=50)
    write_run(folder / ODD_NAME, at(0))
    write_scalars(folder / "theirs")
    broken_runs(folder / "broken")
    return folder


@pytest.fixture(scope="module", params=list(LOADERS.values()), ids=list(LOADERS))
def server(request: pytest.FixtureRequest, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """TensorBoard on the logs, once for each loader, with all of them loaded."""
    metadata = distribution(tmp_path_factory.mktemp("site"))
    with serve(logs, metadata, loader=request.param) as running:
        running.wait_for_runs(15)
        yield running


def test_the_tab_is_shown(server: Server) -> None:
    tab = server.get("plugins_listing").json()["numerical_health"]
    assert (tab["enabled"], tab["tab_name"]) == (True, "Numerical Health")
    assert tab["loading_mechanism"] == {"type": "IFRAME", "module_path": "/data/plugin/numerical_health/index.js"}


def test_all_runs_with_our_data_are_listed(server: Server) -> None:
    runs = {run["name"]: run for run in server.ask("runs").json()["runs"]}
    assert "theirs" not in runs
    run = runs["eventful/version_0"]
    assert run["optimizers"] == [{"optimizer": 0, "layers": list(LAYERS), "metrics": list(METRICS)}]
    assert (run["rows"], run["first"], run["last"]) == (59, 0, 59)
    assert (run["findings"], run["incidents"], run["checks"]) == ({"info": 1, "warning": 0, "error": 1}, 1, 1)
    assert runs["broken/later_version"]["note"].startswith("rows of version 2")


def test_no_row_of_a_long_run_is_lost(server: Server) -> None:
    header, values = server.ask("matrix", run="long", metric="grad_norm", columns=20_000).frame()
    (run,) = (run for run in server.ask("runs").json()["runs"] if run["name"] == "long")
    assert header["rows"] == len(values) == run["rows"]
    first, last = np.array(header["first"]), np.array(header["last"])
    assert (first[1:] == last[:-1] + 1).all()
    (where,) = np.flatnonzero(np.isnan(values[:, 0]))
    assert first[where] <= 1234 <= last[where]
    (where,) = np.flatnonzero(values[:, 0] == 100.0)
    assert first[where] <= 2345 <= last[where]


def test_pooled_to_a_screen_the_odd_steps_are_still_there(server: Server) -> None:
    header, values = server.ask("matrix", run="long", metric="grad_norm", columns=100).frame()
    assert header["shape"] == list(values.shape)
    assert len(values) <= 100
    assert np.isnan(values).sum() == 1
    assert (values == 100.0).sum() == 1
    assert (values[:, 1] == np.float32(1.1)).all()


def test_steps_written_again_after_a_resume_are_there_once(server: Server) -> None:
    assert server.ask("matrix", run="resumed", metric="grad_norm").frame()[0]["last"] == list(range(60))
    assert server.ask("curves", run="resumed").frame()[0]["last"] == list(range(60))


def test_a_run_may_have_any_name(server: Server) -> None:
    assert ODD_NAME in {run["name"] for run in server.ask("runs").json()["runs"]}
    assert server.ask("matrix", run=ODD_NAME, metric="grad_norm").frame()[1].shape == (1, 2)


def test_what_happened_is_told(server: Server) -> None:
    told = server.ask("events", run="eventful/version_0").json()
    assert [(e["code"], e["opened"], e["closed"]) for e in told["findings"]] == [
        ("lost-signal", 9, 20),
        ("exploding-gradient", 19, None),
    ]
    assert [event["log_step"] for event in told["incidents"]] == [60]


def test_damaged_runs_are_answered_in_words(server: Server) -> None:
    names = [run["name"] for run in server.ask("runs").json()["runs"] if run["name"].startswith("broken/")]
    assert len(names) == 11
    for name in names:
        answer = server.ask("matrix", run=name, metric="grad_norm")
        assert answer.status in (200, 404)
        assert answer.status == 200 or "error" in answer.json()


def test_what_has_not_changed_is_not_sent_again(server: Server) -> None:
    tag = server.ask("runs").headers["ETag"]
    assert server.ask("runs", headers={"If-None-Match": tag}).status == 304


def test_everything_else_is_as_it_was(server: Server) -> None:
    """Nobody's scalars are touched, and no tab is missing."""
    listing = server.get("plugins_listing").json()
    assert listing["scalars"]["enabled"]
    assert list(server.get("plugin/scalars/tags").json()["theirs"]) == ["loss"]
    points = server.get("plugin/scalars/scalars", run="theirs", tag="loss").json()
    assert [step for _, step, _ in points] == list(range(20))


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_new_rows_are_seen_while_a_run_is_written(loader: str, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "logs" / "live")
    sink = TensorBoardSink([writer])
    sink.write(at(0))
    writer.flush()
    with serve(tmp_path / "logs", distribution(tmp_path / "site"), loader=loader) as running:
        (before,) = running.wait_for_runs(1)
        assert (before["last"], before["findings"]["warning"]) == (0, 0)
        sink.write(at(1))
        sink.write(finding(step=1))
        writer.flush()
        (after,) = running.wait_for_runs(1, lambda run: bool(run["findings"]["warning"] == 1))
        assert after["last"] == 1
        assert after["key"] != before["key"]
        assert running.ask("matrix", run="live", metric="nonfinite").frame()[1].tolist() == [[0, 0], [0, 0]]
    writer.close()


@pytest.mark.parametrize(
    ("steps", "layers"),
    [(20_000, 50), pytest.param(1_000_000, 500, marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
)
def test_two_odd_steps_of_a_long_run_are_found(steps: int, layers: int, tmp_path: Path) -> None:
    write_long_run(tmp_path / "logs" / "long", steps, layers)
    metadata = distribution(tmp_path / "site")
    for loader in LOADERS.values():
        with serve(tmp_path / "logs", metadata, loader=loader) as running:
            running.wait_for_runs(1, lambda run: bool(run["last"] == steps - 1))
            header, values = running.ask("matrix", run="long", metric="grad_norm", columns=800).frame()
            counts = running.ask("matrix", run="long", metric="nonfinite", columns=800).frame()[1]
        for step, column, odd in zip(odd_steps(steps), (1, 0), (np.isnan(values), values == SPIKE), strict=True):
            ((where, layer),) = np.argwhere(odd)
            assert layer == column
            assert header["first"][where] <= step <= header["last"][where]
        assert counts.sum() == 1
