"""The page in TensorBoard itself, with data that the sink has written, over both loaders."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from gradwatch.sinks.tensorboard import TensorBoardSink
from tests.sinks.samples import incident, run_start, with_layer
from tests.tensorboard_plugin.logs import Writer, at, broken_runs, write_eventful_run, write_run, write_scalars
from tests.tensorboard_plugin.serving import LOADERS, Server, distribution, serve
from tests.tensorboard_plugin.tab import NONFINITE, Tab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

LONG = 3000


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An eventful run, a long one with one odd step, somebody else's, and damaged ones."""
    folder = tmp_path_factory.mktemp("logs")
    write_eventful_run(folder / "eventful")
    records = [with_layer(at(i), "block.0", grad_norm=math.nan if i == LONG // 2 else 1.0) for i in range(LONG)]
    write_run(folder / "long", *records)
    write_scalars(folder / "theirs")
    broken_runs(folder / "broken")
    return folder


@pytest.fixture(scope="module", params=list(LOADERS.values()), ids=list(LOADERS))
def server(request: pytest.FixtureRequest, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    metadata = distribution(tmp_path_factory.mktemp("site"))
    with serve(logs, metadata, loader=request.param) as running:
        running.wait_for_runs(12)
        running.wait_for_runs(1, lambda run: run["name"] == "long" and run["last"] == LONG - 1)
        yield running


@pytest.fixture
def tab(page: Page, server: Server) -> Tab:
    return Tab(page, server.url + "/")


def test_values_findings_and_incident_of_a_run(tab: Tab) -> None:
    tab.open(runs="eventful")
    assert tab.texts(".card h2") == ["eventful"]
    assert tab.texts(".names .name") == ["0", "1"] or tab.texts(".names .name") == ["block.0", "block.1"]
    said = tab.point(30, 1, rows=2)
    assert said["layer"] == "block.1"
    assert "step 30" in said["all"]
    assert {mark.get_attribute("class") for mark in tab.find(".mark").all()} == {
        "mark error",
        "mark info",
        "mark incident",
    }
    tab.find(".mark.incident").click()
    tab.settle()
    assert "gradwatch replay" not in tab.text(".entry.open .inside"), "there is no folder: nothing to run"
    assert tab.find(".checks tbody tr").count() == 1
    tab.choose(30, 0, rows=2)
    assert tab.text(".section h3") == "Layer block.0"
    assert tab.find(".bars .line:not(.head)").count() == 2


def test_one_step_of_thousands_is_seen(tab: Tab) -> None:
    tab.open(runs="long")
    assert tab.shown_steps() == (0, LONG - 1)
    assert tab.pixel(LONG // 2, 0, rows=2) == NONFINITE
    assert tab.point(LONG // 2, 0, rows=2)["value"] == "NaN"
    assert tab.pixel(LONG // 2, 1, rows=2) != NONFINITE
    assert tab.pixel(LONG // 3, 0, rows=2) != NONFINITE


def test_damaged_runs_say_so_beside_a_whole_one(tab: Tab) -> None:
    names = ["broken/later_version", "broken/random_metadata", "eventful"]
    tab.open(runs=",".join(quote(name, safe="") for name in names))
    assert tab.texts(".card h2") == names
    notices = tab.texts(".card .notice")
    assert len(notices) == 2
    assert "newer gradwatch" in notices[0]
    assert "cannot be read" in notices[1]
    assert tab.pixel(30, 0, rows=2, card=2)[3] == 255
    assert "theirs" not in tab.text(".runs")


def test_it_follows_the_dark_mode_of_tensorboard_and_keeps_its_view_over_tabs_and_reloads(tab: Tab) -> None:
    tab.open(query="?darkMode=true", runs="eventful", metric="weight_norm")
    assert tab.frame.evaluate("() => document.documentElement.classList.contains('dark')")
    tab.button("Fold block")
    tab.page.get_by_role("tab", name=re.compile("^scalars$", re.IGNORECASE)).click()
    tab.page.locator("iframe").wait_for(state="hidden")
    tab.page.get_by_role("tab", name=re.compile("numerical health", re.IGNORECASE)).click()
    tab.page.locator("iframe").wait_for()
    assert tab.texts(".names .name") == ["block 2"]
    tab.page.reload()
    tab.frame.wait_for_selector(".card:has(canvas[width])")
    tab.settle()
    assert tab.texts(".names .name") == ["block 2"]
    assert tab.text('[role=tab][aria-selected="true"]') == "Weight norm"


def test_it_shows_what_a_training_writes_after_a_click_on_reload(tab: Tab, logs: Path, server: Server) -> None:
    name = f"live-{server.process.pid}"
    writer = Writer(logs / name)
    sink = TensorBoardSink([writer])
    for event in (run_start(step=0), *(at(i) for i in range(20))):
        sink.write(event)
    writer.flush()
    server.wait_for_runs(1, lambda run: run["name"] == name and run["last"] == 19)
    tab.open(runs=name)
    assert tab.shown_steps() == (0, 19)
    for i in range(20, 40):
        sink.write(at(i))
    sink.write(incident(step=40))
    writer.flush()
    server.wait_for_runs(1, lambda run: run["name"] == name and run["incidents"] == 1 and run["last"] == 39)
    tab.page.locator(".reload-button").click()
    tab.find(".mark.incident").wait_for()
    tab.settle()
    assert tab.shown_steps() == (0, 40)
    assert tab.pixel(35, 0, rows=2)[3] == 255
    assert tab.pixel(40, 0, rows=2)[3] == 0, "the step that it died at has no row"
    sink.close()
    writer.close()
