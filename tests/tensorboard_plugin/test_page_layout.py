"""Nothing that is shown is cut off or hidden behind something else, on a phone as on a desk."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from gradwatch.serialization.tensorboard_rows import CURVE_NAMES
from tests.tensorboard_plugin.samples import gradient_check, incident, put, sample_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tensorboard_plugin.stub_server import Stub
    from tests.tensorboard_plugin.tab import Tab

    Serve = Callable[..., tuple[Stub, Tab]]

LAYERS = ["encoder.first", "encoder.second", "head"]

# Texts that are wider than the box that they are cut off at.
CUT_OFF = """(bars) => bars
  .filter((bar) => bar.querySelector("b").getBoundingClientRect().right > bar.getBoundingClientRect().right + 0.5)
  .map((bar) => bar.innerText)"""
# How many lines the longest word of a cell takes: more than one is a word that is torn.
TORN = """(cells) => cells.filter((cell) => {
  const range = document.createRange();
  const text = cell.firstChild;
  if (!(text instanceof Text)) return false;
  for (const { index, 0: word } of text.data.matchAll(/[\\w-]{1,14}(?![\\w-])/g)) {
    range.setStart(text, index);
    range.setEnd(text, index + word.length);
    if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) return true;
  }
  return false;
}).map((cell) => cell.innerText)"""


@pytest.mark.parametrize("width", [360, 1400])
def test_no_digit_and_no_word_is_cut_off(width: int, serve: Serve) -> None:
    run = sample_run("run", LAYERS, 40)
    for layer in LAYERS:
        put(run, "update_ratio", layer, 20, 6.4999e-5)
    run.incidents = [incident(350)]
    run.checks = [gradient_check(200, "mismatch")]
    _, tab = serve(run)
    tab.page.set_viewport_size({"width": width, "height": 800})
    tab.open(step="205", event="incident@350")
    tab.button("3 tensors")
    assert tab.find(".bars .line:not(.head) .bar").evaluate_all(CUT_OFF) == []
    assert tab.find("td, th").evaluate_all(TORN) == []
    assert tab.frame.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("names", [["nonfinite_steps"], ["nonfinite_steps", "skipped_steps"]])
def test_skipped_steps_stand_beside_those_that_were_not_finite(names: list[str], serve: Serve) -> None:
    run = sample_run("run", LAYERS, 8)
    for name in names:
        run.curves[CURVE_NAMES.index(name), 4] = 2
    _, tab = serve(run)
    tab.open()
    colours = tab.find(".gutter:has(b:text-is('Lost steps')) + .plot canvas").evaluate(
        """(canvas) => {
          const {data} = canvas.getContext("2d").getImageData(0, canvas.height / 2, canvas.width, 1);
          const seen = {};
          for (let at = 0; at < data.length; at += 4)
            if (data[at + 3] === 255) seen[data.slice(at, at + 3)] = (seen[data.slice(at, at + 3)] ?? 0) + 1;
          return seen;
        }"""
    )
    wide = [count for count in colours.values() if count > 10]
    row = tab.find(".plot.chart").first.evaluate("(plot) => plot.clientWidth") / 8
    assert wide == [pytest.approx(row / len(names), abs=2)] * len(names)


@pytest.mark.parametrize(("rows", "each", "expected"), [(60, 10, "200 400 600"), (100, 10_000, "500,000 1,000,000")])
def test_runs_side_by_side_have_numbers_on_their_axes_and_room_between_them(
    rows: int, each: int, expected: str, serve: Serve
) -> None:
    _, tab = serve(*[sample_run(name, LAYERS, rows, each=each) for name in ("one", "two")])
    tab.open(runs="one,two")
    for ruler in tab.find(".ruler .ticks").all():
        assert " ".join(ruler.locator("span").all_inner_texts()) == expected
        boxes = [one.bounding_box() for one in ruler.locator("span").all()]
        for left, right in pairwise(box for box in boxes if box):
            assert left["x"] + left["width"] < right["x"]


def test_a_ticked_run_is_in_view_in_the_list(serve: Serve) -> None:
    _, tab = serve(*(sample_run(f"run_{index}", LAYERS, 4) for index in range(60)))
    tab.open()
    box, seen = tab.find(".runs input:checked").bounding_box(), tab.find(".runs").bounding_box()
    assert box is not None
    assert seen is not None
    assert seen["y"] <= box["y"] <= seen["y"] + seen["height"] - box["height"]
