"""What the page makes of answers that are lost, and of what it was asked for and there is not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.tensorboard_plugin.samples import SampleRun, finding, incident, sample_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tensorboard_plugin.stub_server import Stub
    from tests.tensorboard_plugin.tab import Tab

    Serve = Callable[..., tuple[Stub, Tab]]

LAYERS = ["encoder.first", "encoder.second", "head"]


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (r"/matrix\?.*weight_norm", ".card .notice"),
        (r"/curves\?", ".card .problem"),
        (r"/layer\?", ".card .problem"),
        (r"/events\?", ".card .problem"),
    ],
)
def test_an_answer_that_was_lost_is_named_and_asked_for_again(lost: str, said: str, serve: Serve) -> None:
    _, tab = serve(sample_run("ended", LAYERS, 20))
    pattern = re.compile(lost)
    tab.page.route(pattern, lambda route: route.abort())
    tab.open(metric="weight_norm", layer="head")
    assert "TensorBoard does not answer" in tab.text(said)
    tab.page.unroute(pattern)
    tab.page.evaluate("reload()")
    tab.find(said).wait_for(state="detached")
    tab.settle()
    assert tab.pixel(105, 0, rows=3)[3] == 255
    assert tab.find(".readings:visible").count() == 7, "four of the run, three of the layer"


# -- what there is not ----------------------------------------------------------------------------------------------


def begun(name: str) -> SampleRun:
    """Return a run that has started and logged nothing yet."""
    run = sample_run(name, LAYERS, 1)
    run.first, run.last = run.first[:0], run.last[:0]
    return run


def test_an_optimizer_that_no_run_on_the_page_has_gives_way(serve: Serve) -> None:
    two = sample_run("two", LAYERS, 20)
    two.optimizers = (0, 1)
    stub, tab = serve(two, sample_run("one", LAYERS, 20))
    tab.open(runs="one,two", optimizer="1")
    assert tab.find(".card .notice").count() == 0
    assert tab.text(".card:has(h2:text-is('one')) .problem") == "This run has no optimizer 1."
    assert tab.pixel(105, 0, rows=3, card=1)[3] == 255
    tab.find(".runs input[value=two]").uncheck()
    tab.settle()
    assert tab.find(".card .problem").count() == 0
    assert tab.pixel(105, 0, rows=3)[3] == 255
    assert "optimizer" not in tab.address()
    assert not [path for path in stub.asked if "run=one" in path and "optimizer=1" in path]


def test_a_filter_that_lets_nothing_pass_says_so(serve: Serve) -> None:
    _, tab = serve(sample_run("run", LAYERS, 20))
    tab.open(filter="decoder")
    assert tab.text(".toolbar .problem") == "No layer matches this filter."
    tab.find(".filter").fill("((")
    tab.settle()
    assert tab.text(".toolbar .problem").startswith("Not a regular expression")
    assert tab.text(".toolbar .problem").endswith("No layer matches this filter.")
    tab.find(".filter").fill("encoder")
    tab.settle()
    assert tab.find(".toolbar .problem").is_hidden()


def test_a_run_that_has_logged_nothing_yet_says_so(serve: Serve) -> None:
    _, tab = serve(begun("begun"))
    tab.open()
    assert "after its first log step" in tab.text(".card")
    assert tab.texts(".runs small") == ["no step logged \N{MIDDLE DOT} nothing found"]


def test_a_run_that_died_before_its_first_log_step_says_so(serve: Serve) -> None:
    run = begun("died")
    run.incidents, run.ends = [incident(0)], [{"type": "run_end", "time": 2e9, "status": "nonfinite"}]
    _, tab = serve(run)
    tab.open()
    assert tab.text(".trouble .note") == "This run ended before its first log step."
    assert tab.find(".entry").count() == 1
    assert tab.texts(".runs small") == ["no step logged \N{MIDDLE DOT} 1 incident"]


def test_runs_of_an_address_that_are_not_there_are_named(serve: Serve) -> None:
    stub, tab = serve(sample_run("here", LAYERS, 20), sample_run("goes", LAYERS, 20))
    tab.open(runs="goes,never%20was")
    assert tab.texts(".card h2") == ["goes"]
    stub.runs.pop()
    tab.page.evaluate("reload()")
    tab.find(".notice").wait_for()
    tab.settle()
    assert tab.text(".notice h3") == "The selected runs are not there"
    assert "goes, never was" in tab.text(".notice")
    tab.find(".runs input[value=here]").check()
    tab.settle()
    assert tab.find(".notice").count() == 0


def test_an_info_is_something_found(serve: Serve) -> None:
    run = sample_run("run", LAYERS, 20)
    run.findings = [finding("missing-warmup", severity="info")]
    _, tab = serve(run)
    tab.open()
    assert "1 info" in tab.text(".runs small")
    assert "1 info" in tab.text(".card .title .note")
    assert "nothing found" not in tab.text("body")
