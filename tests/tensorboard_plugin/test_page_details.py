"""Drill-down: a layer's curves, all layers at a step, findings and incidents, gradient checks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from gradwatch.serialization.tensorboard_rows import CURVE_NAMES
from tests.tensorboard_plugin.samples import finding, gradient_check, incident, put, sample_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tensorboard_plugin.samples import SampleRun
    from tests.tensorboard_plugin.stub_server import Stub
    from tests.tensorboard_plugin.tab import Tab

    Serve = Callable[..., tuple[Stub, Tab]]

LAYERS = ["encoder.first", "encoder.second", "head"]


def troubled() -> SampleRun:
    """Return a run with one of everything."""
    run = sample_run("troubled", LAYERS, 40)
    run.findings = [
        finding("exploding-gradient", layer="head"),
        finding("loss-plateau", severity="info", opened=40, closed=None),
    ]
    run.incidents = [incident(350)]
    run.checks = [gradient_check(100), gradient_check(200, "mismatch")]
    run.ends = [{"type": "run_end", "time": 2e9, "status": "nonfinite"}]
    return run


def entry(tab: Tab, name: str) -> str:
    """Open an entry of the list by its title and return what it says."""
    tab.find(
        ".entry .head",
    ).filter(has_text=name).click()
    tab.settle()
    return tab.text(".entry.open .inside")


def test_a_layer_opens_to_its_curves(serve: Serve) -> None:
    run = sample_run("run", LAYERS, 40)
    for row, value in ((39, 0.125), (20, math.nan)):
        put(run, "grad_norm", "head", row, value)
    put(run, "weight_norm", "head", 39, 4.5)
    _, tab = serve(run)
    tab.open().button("Curves of head")
    assert tab.text(".section h3") == "Layer head"
    shown = [text.replace("\n", " ") for text in tab.texts(".gutter.about:visible")]
    assert "Gradient norm 0.125" in " / ".join(shown).replace("  ", " ")
    assert "Weight norm 4.5" in " / ".join(shown).replace("  ", " ")
    # With the pointer on the NaN the reading is that of its row.
    tab.point(205, 2, rows=3)
    assert "NaN" in " / ".join(tab.texts(".gutter.about:visible"))
    tab.find(".section").get_by_role("button", name="Close").click()
    tab.settle()
    assert tab.find(".section").is_hidden()


def test_a_cell_opens_to_its_layer_and_to_all_layers_at_its_step(serve: Serve) -> None:
    run = sample_run("run", LAYERS, 40)
    for layer, value in zip(LAYERS, (0.5, 4.0, math.inf), strict=True):
        put(run, "grad_norm", layer, 24, value)
    put(run, "nonfinite", "head", 24, 640.0)
    _, tab = serve(run)
    tab.open().choose(245, 1, rows=3)
    assert tab.text(".section h3") == "Layer encoder.second"
    assert tab.text(".step h3") == "All layers at steps 241\N{EN DASH}250"
    lines = [line.split("\n") for line in tab.texts(".bars .line:not(.head)")]
    assert [line[0] for line in lines] == LAYERS
    assert [line[1] for line in lines] == ["0.5", "4", "\N{INFINITY}"]
    assert [line[4] for line in lines] == ["0", "0", "640"]
    widths = [
        bar.evaluate("(bar) => bar.style.width") for bar in tab.find(".bars .bar:nth-child(2) i").element_handles()
    ]
    assert widths == ["12.5%", "100%", "100%"]
    tab.button("By gradient norm")
    assert [line.split("\n")[0] for line in tab.texts(".bars .line:not(.head)")] == [
        "head",
        "encoder.second",
        "encoder.first",
    ]


def test_a_click_on_a_curve_opens_the_step(serve: Serve) -> None:
    _, tab = serve(sample_run("run", LAYERS, 40))
    tab.open()
    box = tab.find(".plot.chart").first.bounding_box()
    assert box is not None
    tab.find(".plot.chart").first.click(position={"x": box["width"] * 0.5, "y": 20})
    tab.settle()
    assert tab.text(".step h3") == "All layers at steps 201\N{EN DASH}210"


def test_what_happened_is_marked_on_the_axis_of_steps(serve: Serve) -> None:
    _, tab = serve(troubled())
    tab.open()
    plot = tab.find(".plot.timeline").bounding_box()
    assert plot is not None
    found = {}
    for mark in tab.find(".mark").element_handles():
        box = mark.bounding_box()
        assert box is not None
        label = (mark.get_attribute("aria-label") or "").split(":")[0]
        found[label] = [(box["x"] - plot["x"]) / plot["width"], (box["x"] + box["width"] - plot["x"]) / plot["width"]]
    assert found["warning"] == pytest.approx([200 / 400, 300 / 400], abs=0.01)
    assert found["info"] == pytest.approx([40 / 400, 1.0], abs=0.01), "what has not ended lasts until the end"
    assert found["incident"][0] == pytest.approx(350 / 400, abs=0.01)


def test_lines_through_all_panels_say_where_one_is(serve: Serve) -> None:
    _, tab = serve(troubled(), sample_run("other", LAYERS, 40))
    tab.open(runs="troubled,other", step="100")
    tab.point(300, 1, rows=3)
    for card in range(2):
        lines = tab.find(".card").nth(card).locator(".hair")
        plot = tab.canvas(card).bounding_box()
        assert plot is not None
        found = {}
        for line in lines.all():
            box = line.bounding_box()
            name = (line.get_attribute("class") or "").removeprefix("hair").strip()
            found[name] = box and (box["x"] - plot["x"]) / plot["width"]
            assert box is not None
            assert box["height"] > 2 * plot["height"]
        incident_line = {"incident": pytest.approx(350 / 400, abs=0.01)} if card == 1 else {}  # "other" is first
        assert found == {
            "": pytest.approx(300 / 400, abs=0.01),
            "chosen": pytest.approx(100 / 400, abs=0.01),
            **incident_line,
        }


def test_a_mark_opens_its_finding(serve: Serve) -> None:
    _, tab = serve(troubled())
    tab.open()
    tab.find(".mark.warning").click()
    tab.settle()
    told = tab.text(".entry.open .inside")
    assert "The gradient norm is 41.2, 120 times its usual 0.343." in told
    assert "Lower the learning rate" in told
    assert "factor\n120.1" in told
    tab.find(".mark.warning").click()
    tab.settle()
    assert tab.find(".entry.open").count() == 0


def test_an_incident_says_where_why_and_how_to_run_it_again(serve: Serve) -> None:
    run = troubled()
    run.incidents = [incident(350, folder="/runs/it's here/incidents/step=00000350-0")]
    _, tab = serve(run)
    tab.open()
    told = entry(tab, "Non-finite loss, raised")
    for text in (
        "div made NaN of finite inputs",
        "Keep the divisor away from zero",
        "train.py:75, in loss",
        "return (losses @ one_hot / one_hot.sum(0)).mean()",
        "the LightningModule itself (ClassBalancedCNN)",
        "finite->nan",
        "/runs/it's here/incidents/step=00000350-0",
        "gradwatch replay '/runs/it'\"'\"'s here/incidents/step=00000350-0'",
    ):
        assert text in told
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.find(".copy").last.get_by_role("button", name="Copy").click()
    tab.find(".copy .done").last.filter(has_text="copied").wait_for()


def test_the_head_of_a_run_says_how_it_ended(serve: Serve) -> None:
    _, tab = serve(troubled())
    tab.open()
    said = tab.text(".card .title .note").split(" \N{MIDDLE DOT} ")
    assert said == ["steps 1\N{EN DASH}400", "1 incident, 1 warning, 1 info", "died of a non-finite value"]


def test_gradient_checks_as_a_table(serve: Serve) -> None:
    _, tab = serve(troubled())
    tab.open()
    heads = [cell.lower() for cell in tab.texts(".checks thead th")]
    assert heads == ["step", "verdict", "reason", "largest relative error", "parameters"]
    rows = [row.split("\t") for row in tab.texts(".checks tbody tr")]
    assert [row[:4] for row in rows] == [
        ["200", "mismatch", "head.weight differs by 31 %", "0.31"],
        ["100", "pass", "automatic and numerical derivatives agree", "2e-8"],
    ]
    tab.button("3 tensors")
    assert tab.texts(".checks table table tbody tr")[0].split("\t")[:3] == ["head.weight", "mismatch", "0.31"]


def test_show_these_steps_zooms_to_a_finding(serve: Serve) -> None:
    _, tab = serve(troubled())
    tab.open()
    entry(tab, "exploding-gradient")
    tab.button("Show these steps")
    assert tab.shown_steps() == (175, 325)
    assert tab.text(".section h3") == "Layer head"


def test_a_loss_scale_is_shown_to_the_digit(serve: Serve) -> None:
    run = sample_run("run", LAYERS, 20)
    run.curves[CURVE_NAMES.index("loss_scale")] = 524_288
    _, tab = serve(run)
    tab.open()
    assert tab.text(".gutter:has(b:text-is('Loss scale')) .value") == "524288"


def test_the_root_of_the_model_is_called_the_same_everywhere(serve: Serve) -> None:
    run = sample_run("run", ["(root)", *LAYERS], 20)
    run.findings = [finding("gradient-mismatch", layer=name) for name in ("(root)", "")]
    _, tab = serve(run)
    tab.open(layer="(root)")
    assert tab.texts(".entry small") == ["the model itself"] * 2
    assert tab.text(".section h3") == "Layer the model itself"
    assert tab.texts(".names .name")[0] == "the model itself"


def test_clipping_shows_with_its_limit_and_quiet_strips_are_left_out(serve: Serve) -> None:
    _, tab = serve(sample_run("run", LAYERS, 40))
    tab.open()
    titles = tab.texts(".gutter.about:visible > b")
    assert titles == ["Findings and incidents", "Loss", "Total gradient norm", "Clip coefficient", "Learning rate"]
    assert "limit 1" in tab.texts(".gutter.about:visible")[2].replace("\n", " ")
