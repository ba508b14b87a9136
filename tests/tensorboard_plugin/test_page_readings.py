"""Each number says what it is of: the cell under the pointer, the cursor, the step whose values stand beside curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tensorboard_plugin.samples import SampleRun, put, sample_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tensorboard_plugin.stub_server import Stub
    from tests.tensorboard_plugin.tab import Tab

    Serve = Callable[..., tuple[Stub, Tab]]

LAYERS = ["encoder.first", "encoder.second", "head"]
WEIGHT = ".gutter.about:visible:has(b:text-is('Weight norm')) .value"


def counted() -> SampleRun:
    """Return a run in which the weight norm of ``head`` counts the rows, of ten steps each."""
    run = sample_run("run", LAYERS, 40)
    for row in range(40):
        put(run, "weight_norm", "head", row, row + 1)
    return run


def at_step(tab: Tab) -> str:
    """Return which step the page says that its numbers are of."""
    return tab.text(".ruler-note .at")


@pytest.mark.parametrize(
    ("view", "row", "said"),
    [
        ({}, "40", "at step 400"),
        ({"zoom": "101-150"}, "15", "at step 150"),
        ({"zoom": "101-145"}, "15", "at step 145"),
        ({"step": "205"}, "21", "at step 205"),
        ({"step": "205", "zoom": "101-150"}, "21", "at step 205"),
    ],
)
def test_numbers_beside_curves_are_of_the_open_step_or_the_last_in_view(
    view: dict[str, str], row: str, said: str, serve: Serve
) -> None:
    _, tab = serve(counted())
    tab.open(layer="head", **view)
    assert (tab.text(WEIGHT), at_step(tab)) == (row, said)
    tab.point(125, 0, rows=3)
    assert (tab.text(WEIGHT), at_step(tab)) == ("13", "at step 125")
    tab.page.mouse.move(2, 2)
    tab.settle()
    assert (tab.text(WEIGHT), at_step(tab)) == (row, said)


def test_what_is_under_a_resting_pointer_is_told_anew_when_the_picture_changes(serve: Serve) -> None:
    run = counted()
    _, tab = serve(run)
    tab.open(layer="head", metric="weight_norm")
    said = tab.point(205, 2, rows=3)
    assert (said["value"], "Weight norm" in said["all"]) == ("21", True)
    run.grow(40)
    tab.page.evaluate("reload()")
    tab.find(".range").filter(has_text="800").wait_for()
    tab.settle()
    assert tab.find(".tip").inner_text().split("\n")[1:4] == ["steps 401\N{EN DASH}410", "Weight norm", "40"]
    assert at_step(tab).startswith("at step 4")


def test_what_is_said_of_the_cursor_follows_the_picture(serve: Serve) -> None:
    _, tab = serve(counted())
    canvas = tab.open().find(".heat > canvas").first
    canvas.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown"):
        canvas.press(key)
    assert "gradient norm" in tab.text(".live")
    tab.metric("weight_norm")
    assert tab.text(".live").startswith("head, steps 1\N{EN DASH}10, weight norm 1,")
    filter_ = tab.find(".filter")
    filter_.fill("no layer has this name")
    tab.settle()
    filter_.fill("head")
    tab.settle()
    canvas.focus()
    canvas.press("ArrowRight")
    assert tab.text(".live").startswith("head, steps 11\N{EN DASH}20, weight norm 2,")
