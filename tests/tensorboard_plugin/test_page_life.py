"""The page among others: runs side by side, runs being written, names that would like to be more than names, themes."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.tensorboard_plugin.samples import SampleRun, finding, gradient_check, incident, sample_run
from tests.tensorboard_plugin.tab import scale_colour

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tensorboard_plugin.stub_server import Stub
    from tests.tensorboard_plugin.tab import Tab

    Serve = Callable[..., tuple[Stub, Tab]]

LAYERS = ["encoder.first", "encoder.second", "head"]


def empty_run(name: str, note: str) -> SampleRun:
    """Return a run that cannot be shown."""
    run = sample_run(name, LAYERS, 1)
    run.first, run.last, run.note, run.version = run.first[:0], run.last[:0], note, None
    return run


# -- runs side by side --------------------------------------------------------------------------------------------


def test_sixty_runs_are_listed_without_delay_and_searched(serve: Serve) -> None:
    _, tab = serve(*(sample_run(f"sweep/run_{index}", LAYERS, 20) for index in range(60)))
    begin = monotonic()
    tab.open()
    assert monotonic() - begin < 4.0
    assert tab.find(".runs li").count() == 60
    assert tab.texts(".card h2") == ["sweep/run_59"]
    tab.find("[aria-label='Filter runs']").fill("RUN_1")
    tab.settle()
    assert tab.texts(".runs b") == ["sweep/run_1", *(f"sweep/run_{index}" for index in range(10, 20))]
    tab.find("[aria-label='Filter runs']").fill("none such")
    tab.settle()
    assert (
        tab.text(".sidebar > .note")
        == "No run is called \N{LEFT DOUBLE QUOTATION MARK}none such\N{RIGHT DOUBLE QUOTATION MARK}."
    )


def test_two_runs_share_axis_and_scale(serve: Serve) -> None:
    low, high = sample_run("a", LAYERS, 20), sample_run("b", LAYERS, 40)
    low.values[0], high.values[0] = 0.01, 10.0
    low.values[0, :, 0] = 0.1
    _, tab = serve(low, high)
    tab.open(runs="a,b")
    assert tab.texts(".card h2") == ["a", "b"]
    assert tab.shown_steps() == (1, 400)
    assert tab.pixel(105, 1, rows=3, card=0) == pytest.approx(scale_colour(0), abs=1)
    assert tab.pixel(105, 1, rows=3, card=1) == pytest.approx(scale_colour(1), abs=1)
    assert tab.pixel(105, 0, rows=3, card=0) == pytest.approx(scale_colour(1 / 3), abs=1)
    assert tab.pixel(305, 1, rows=3, card=0)[3] == 0, "the shorter run has ended"
    boxes = [card.bounding_box() for card in tab.find(".card").all()]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["y"] == boxes[1]["y"]
    tab.find(".runs input[value=a]").uncheck()
    tab.settle()
    assert tab.texts(".card h2") == ["b"]


def test_eight_runs_at_most_are_drawn(serve: Serve) -> None:
    names = [f"run {index}" for index in range(12)]
    _, tab = serve(*(sample_run(name, LAYERS, 20) for name in names))
    tab.open(runs=",".join(names))
    assert tab.texts(".card h2") == names[:8]
    assert tab.text("main > div > .note") == "8 of the 12 runs that are ticked are shown."


def test_a_broken_run_says_what_is_wrong_and_leaves_the_others_alone(serve: Serve) -> None:
    _, tab = serve(
        sample_run("fine", LAYERS, 20), empty_run("future", "rows of version 2 were written by a newer gradwatch")
    )
    tab.open(runs="fine,future")
    assert tab.texts(".card .notice")[0].startswith("This run cannot be shown\n\nrows of version 2")
    assert tab.pixel(105, 0, rows=3)[3] == 255


def test_without_data_the_page_says_what_to_do(serve: Serve) -> None:
    _, tab = serve()
    tab.open()
    assert "Trainer(callbacks=[NumericalHealthMonitor()])" in tab.text(".notice")
    assert tab.find(".toolbar").is_hidden()


def test_without_a_chosen_run_the_page_says_so(serve: Serve) -> None:
    _, tab = serve(sample_run("a", LAYERS, 20))
    tab.open()
    tab.find(".runs input").uncheck()
    tab.settle()
    assert "No run is selected" in tab.text(".notice")


def test_it_lives_below_a_path_of_tensorboard(serve: Serve) -> None:
    stub, tab = serve(sample_run("a", LAYERS, 20), prefix="/some/path")
    tab.open()
    assert tab.texts(".card h2") == ["a"]
    assert "/data/plugin/numerical_health/runs" in stub.asked


# -- live ---------------------------------------------------------------------------------------------------------


def test_reload_shows_what_was_written_and_keeps_the_view(serve: Serve) -> None:
    run = sample_run("live", LAYERS, 20)
    _, tab = serve(run)
    tab.page.add_init_script("window.setInterval = () => 0")  # it does not look by itself
    tab.open(layer="head")
    assert tab.shown_steps() == (1, 200)
    run.grow(20)
    run.incidents = [incident(390)]
    tab.page.evaluate("reload()")
    tab.find(".mark.incident").wait_for()
    tab.settle()
    assert tab.shown_steps() == (1, 400)
    assert tab.text(".section h3") == "Layer head"
    assert tab.pixel(395, 2, rows=3)[3] == 255
    tab.button("Zoom in")
    zoomed = tab.shown_steps()
    run.grow(10)
    tab.page.evaluate("reload()")
    tab.find(".card .title .note").filter(has_text="500").wait_for()
    assert tab.settle().shown_steps() == zoomed


def test_it_looks_by_itself_and_asks_for_nothing_that_it_has(serve: Serve) -> None:
    run = sample_run("live", LAYERS, 20)
    stub, tab = serve(run)
    tab.page.clock.install()
    tab.open()
    stub.asked.clear()
    for _ in range(10):
        tab.page.clock.run_for(2_500)
        tab.settle()
        assert tab.find(".notice").count() == 0, "that nothing has changed is no trouble"
    assert {path.rpartition("/")[2] for path in stub.asked} == {"runs"}
    assert len(stub.asked) in (2, 3)
    run.grow(20)
    tab.page.clock.run_for(11_000)
    tab.find(".card .title .note").filter(has_text="400").wait_for()


def test_a_server_that_has_gone_is_named_and_forgiven(serve: Serve) -> None:
    _, tab = serve(sample_run("live", LAYERS, 20))
    tab.open()
    tab.page.route("**/runs", lambda route: route.abort())
    tab.page.evaluate("reload()")
    tab.find(".notice").filter(has_text="TensorBoard does not answer").wait_for()
    assert tab.pixel(105, 0, rows=3)[3] == 255, "what was drawn stays"
    tab.page.unroute("**/runs")
    tab.page.evaluate("reload()")
    tab.find(".notice").wait_for(state="detached")


# -- names are data -----------------------------------------------------------------------------------------------

HOSTILE = [
    "</script><img src=x onerror=parent.pwned=1>",
    "<svg onload=parent.pwned=1>.norm",
    "a\nb.c\td",
    "\u202egnp.exe",
    "half\ud800surrogate",
    "__proto__",
    "constructor.prototype",
    "x" * 3000,
    "",
    "..",
    "&lt;b&gt;%00'\"`${1}",
]


def test_names_and_messages_stay_text(serve: Serve) -> None:
    run = sample_run(HOSTILE[0], HOSTILE, 20)
    text = HOSTILE[0] + "\n" + HOSTILE[4]
    source = {"file": text, "line": text, "function": text, "code": text}
    run.findings = [
        finding(text, layer=layer, message=text, advice=text, evidence={text: text, "source": source})
        for layer in HOSTILE
    ]
    told = incident(
        100, explanation=text, advice=text, affected=HOSTILE, folder=text, anomaly_traceback=text, first_seen=text
    )
    told["origin"] |= {"op": text, "module": text, "module_type": text, "tensor": text, "source": source}
    run.incidents = [told]
    check = gradient_check(100)
    run.checks = [
        {**check, "reason": text, "verdict": text, "parameters": {text: {"correct": text, "relative_error": "NaN"}}}
    ]
    run.ends = [{"time": 2e9, "status": text}]
    _, tab = serve(run)
    tab.open()
    for row, layer in enumerate(HOSTILE):
        tab.choose(105, row, rows=len(HOSTILE))
        assert tab.text(".section h3").startswith("Layer ")
        if layer.startswith("<"):
            assert layer[:12] in tab.text(".section h3")
    tab.button("1 tensor")
    for at in range(0, tab.find(".entry").count(), 4):
        tab.find(".entry .head").nth(at).click()
        tab.settle()
    tab.find(".entry .badge.incident").click()
    tab.settle()
    assert tab.page.evaluate("window.pwned") is None
    assert tab.find("img, svg, script:not([type=module]), iframe").count() == 0
    assert HOSTILE[0] in tab.text(".entry.open pre")
    everything = tab.text("body")
    assert "\u202e" not in everything, "text does not run backwards"
    assert tab.frame.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), "a long name widens nothing"


# -- light and dark -----------------------------------------------------------------------------------------------


def _lightness(tab: Tab, selector: str, name: str) -> float:
    colour = tab.find(selector).first.evaluate("(one, name) => getComputedStyle(one)[name]", name)
    return float(np.mean([float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]))


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_as_light_or_dark_as_tensorboard(serve: Serve, *, dark: bool) -> None:
    _, tab = serve(sample_run("a", LAYERS, 20), dark=dark)
    tab.open()
    for now_dark in (dark, not dark):
        assert (_lightness(tab, ".card", "backgroundColor") < 100) is now_dark
        assert (_lightness(tab, ".card h2", "color") > 150) is now_dark
        assert tab.pixel(105, 0, rows=3)[3] == 255
        tab.page.evaluate("() => document.body.classList.toggle('dark-mode')")
        tab.settle()


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(serve: Serve, *, dark: bool) -> None:
    """WCAG 2.2, 1.4.3: text has a contrast of at least 4.5."""
    run = sample_run("a", LAYERS, 20)
    run.findings = [finding("x", severity=severity) for severity in ("info", "warning", "error")]
    run.incidents = [incident(100)]
    _, tab = serve(run, dark=dark)
    tab.open()
    style = "getComputedStyle(document.documentElement)"
    code = f"(names) => names.map((name) => {style}.getPropertyValue(name).trim())"
    for name in ("ink", "soft", "accent", "good", "info", "warning", "error", "incident"):
        for ground in ("paper", "ground", "panel"):
            ink, paper = (_luminance(colour) for colour in tab.frame.evaluate(code, [f"--{name}", f"--{ground}"]))
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, (name, ground)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
