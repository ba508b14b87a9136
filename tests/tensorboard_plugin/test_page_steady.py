"""What a reader did not ask for stays as it is: the place on the page, what is open, what is chosen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.tensorboard_plugin.samples import put, sample_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Route

    from tests.tensorboard_plugin.stub_server import Stub
    from tests.tensorboard_plugin.tab import Tab

    Serve = Callable[..., tuple[Stub, Tab]]

LAYERS = [f"block.{index}" for index in range(30)]


def test_another_metric_leaves_the_page_where_it_was(serve: Serve) -> None:
    _, tab = serve(sample_run("run", LAYERS, 40))
    tab.open(layer="block.3", step="205")
    waiting: list[Route] = []

    def wait(route: Route) -> None:
        waiting.append(route)

    tab.page.route(re.compile(r"/matrix\?.*update_ratio"), wait)
    tab.frame.evaluate("() => scrollTo(0, 700)")
    tab.find("button[data-metric=update_ratio]").click()
    tab.find("button[data-metric=update_ratio][aria-selected=true]").wait_for()
    assert tab.frame.evaluate("() => scrollY") == 700, "while the answer is waited for"
    assert tab.text(".legend .what") == "Gradient norm", "as long as that is the picture"
    for route in waiting:
        route.continue_()
    tab.page.unroute(re.compile(r"/matrix\?.*update_ratio"))
    tab.settle()
    assert tab.frame.evaluate("() => scrollY") == 700
    assert tab.text(".legend .what") == "Update ratio"


def test_the_pointer_reads_another_metric_where_it_rests(serve: Serve) -> None:
    run = sample_run("run", LAYERS, 40)
    put(run, "weight_norm", "block.1", 20, 0.125)
    _, tab = serve(run)
    tab.open().point(205, 1, rows=30)
    tab.find("button[data-metric=grad_norm]").press("ArrowRight")
    tab.settle()
    assert tab.find(".tip").is_visible()
    assert tab.text(".tip").split("\n")[2:4] == ["Weight norm", "0.125"]


@pytest.mark.parametrize("plot", [".plot.heat", ".plot.chart", ".plot.timeline", ".plot.ruler"])
def test_a_double_click_opens_nothing(plot: str, serve: Serve) -> None:
    _, tab = serve(sample_run("run", LAYERS, 40))
    tab.open(zoom="101-200", layer="block.3", step="115")
    box = tab.find(plot).first.bounding_box()
    assert box is not None
    tab.find(plot).first.dblclick(position={"x": box["width"] * 0.8, "y": box["height"] / 2})
    tab.settle()
    assert tab.shown_steps() == (1, 400)
    assert (tab.text(".section h3"), tab.text(".step h3")) == (
        "Layer block.3",
        "All layers at steps 111\N{EN DASH}120",
    )
