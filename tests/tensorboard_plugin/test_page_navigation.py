"""Zoom, keys, deep links: the axis of steps is one for all panels, and a view survives a reload."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from tests.tensorboard_plugin.samples import incident, sample_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tensorboard_plugin.stub_server import Stub
    from tests.tensorboard_plugin.tab import Tab

    Serve = Callable[..., tuple[Stub, Tab]]

# What a reader without eyes hears of where the focus is.
FOCUSED = """() => {
  const {ariaLabel, innerText, value} = document.activeElement;
  return ariaLabel || innerText || value;
}"""
LAYERS = ["encoder.first", "encoder.second", "head"]


@pytest.fixture
def tab(serve: Serve) -> Tab:
    """A run of 400 steps, opened."""
    run = sample_run("logs/version 1, b", LAYERS, 40)
    run.incidents = [incident(350)]
    return serve(run, sample_run("other", LAYERS, 60))[1].open(runs="logs%2Fversion%201%2C%20b")


def drag(tab: Tab, start: float, end: float, *, shift: bool = False, plot: str = ".plot.heat") -> None:
    """Drag over a plot; places are parts of its width."""
    tab.find(plot).first.scroll_into_view_if_needed()
    box = tab.find(plot).first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    if shift:
        tab.page.keyboard.down("Shift")
    tab.page.mouse.move(box["x"] + start * box["width"], y)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + (start + end) / 2 * box["width"], y)
    tab.page.mouse.move(box["x"] + end * box["width"], y)
    tab.page.mouse.up()
    if shift:
        tab.page.keyboard.up("Shift")
    tab.settle()


def wheel(tab: Tab, x: float, y: float, *, key: str | None = None) -> None:
    """Turn the wheel in the middle of the heatmap."""
    tab.find(".plot.heat").first.hover()
    if key:
        tab.page.keyboard.down(key)
    tab.page.mouse.wheel(x, y)
    tab.page.wait_for_timeout(50)
    if key:
        tab.page.keyboard.up(key)
    tab.settle()


@pytest.mark.parametrize("plot", [".plot.heat", ".plot.chart", ".plot.timeline", ".plot.ruler"])
def test_a_drag_zooms_wherever_it_begins(tab: Tab, plot: str) -> None:
    drag(tab, 0.25, 0.5, plot=plot)
    assert tab.shown_steps() == pytest.approx((100, 200), abs=1)
    tab.button("All steps")
    assert tab.shown_steps() == (1, 400)


def test_all_panels_share_the_axis(tab: Tab) -> None:
    drag(tab, 0.75, 1.0)
    first, last = tab.shown_steps()
    for ruler in tab.find(".ruler .ticks").all():
        numbers = [int(text.replace(",", "")) for text in ruler.locator("span").all_inner_texts()]
        assert all(first <= number <= last for number in numbers)
    mark, plot = tab.find(".mark").bounding_box(), tab.find(".plot.timeline").bounding_box()
    assert mark is not None
    assert plot is not None
    assert (mark["x"] - plot["x"]) / plot["width"] == pytest.approx((350 - first) / (last - first), abs=0.01)
    assert tab.point(350, 2, rows=3)["all"].split(" | ")[1] == "steps 341\N{EN DASH}350"


def test_shift_and_drag_moves(tab: Tab) -> None:
    drag(tab, 0.25, 0.5)
    first, last = tab.shown_steps()
    drag(tab, 0.8, 0.3, shift=True)
    assert tab.shown_steps() == pytest.approx((first + 50, last + 50), abs=2)
    drag(tab, 0.1, 0.9, shift=True)
    drag(tab, 0.1, 0.9, shift=True)
    drag(tab, 0.1, 0.9, shift=True)
    assert tab.shown_steps()[0] == 1, "and stops at the end"


def test_alt_and_wheel_zooms_around_the_pointer_and_a_plain_wheel_scrolls(tab: Tab) -> None:
    tab.page.set_viewport_size({"width": 1280, "height": 500})
    wheel(tab, 0, 200)
    assert tab.shown_steps() == (1, 400)
    assert tab.frame.evaluate("() => document.scrollingElement.scrollTop") > 0
    wheel(tab, 0, -400, key="Alt")
    first, last = tab.shown_steps()
    assert last - first == pytest.approx(400 * 1.0015**-400, abs=3)
    assert (first + last) / 2 == pytest.approx(200, abs=4)
    wheel(tab, 100, 0)
    assert tab.shown_steps()[0] > first, "sideways moves"
    wheel(tab, 0, 4000, key="Alt")
    assert tab.shown_steps() == (1, 400)


def test_a_double_click_shows_all(tab: Tab) -> None:
    drag(tab, 0.25, 0.5)
    tab.find(".plot.ruler").first.dblclick()
    tab.settle()
    assert tab.shown_steps() == (1, 400)


def test_keys_move_a_cursor_that_is_read_out(tab: Tab) -> None:
    canvas = tab.find(".heat > canvas").first
    canvas.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight"):
        canvas.press(key)
    assert tab.find(".live").get_attribute("aria-live") == "polite"
    assert tab.text(".live").startswith("encoder.second, steps 31\N{EN DASH}40, gradient norm ")
    canvas.press("End")
    canvas.press("ArrowDown")
    assert tab.text(".live").startswith("head, steps 391\N{EN DASH}400, gradient norm ")
    canvas.press("Enter")
    tab.settle()
    assert tab.text(".section h3") == "Layer head"
    assert tab.text(".step h3") == "All layers at steps 391\N{EN DASH}400"
    canvas.press("Escape")
    tab.settle()
    assert tab.find(".section").is_hidden()
    assert tab.find(".step").is_hidden()


def test_keys_zoom_around_the_middle_where_there_is_no_cursor_and_move_by_a_step_at_least(tab: Tab) -> None:
    canvas = tab.find(".heat > canvas").first
    canvas.focus()
    for _ in range(10):
        canvas.press("+")
        tab.settle()
    first, last = tab.shown_steps()
    assert (first, last) == pytest.approx((200, 200), abs=3)
    for key, moved in (("Shift+ArrowRight", 1), ("Shift+ArrowRight", 2), ("Shift+ArrowLeft", 1)):
        canvas.press(key)
        tab.settle()
        assert tab.shown_steps() == (first + moved, last + moved)


def test_keys_zoom_and_move_and_the_cursor_stays_in_view(tab: Tab) -> None:
    canvas = tab.find(".heat > canvas").first
    canvas.focus()
    canvas.press("ArrowRight")
    for _ in range(2):
        canvas.press("+")
        tab.settle()
    first, last = tab.shown_steps()
    assert (first, last - first) == pytest.approx((8, 99), abs=2), "around the cursor, at step 10"
    canvas.press("Shift+ArrowRight")
    tab.settle()
    assert tab.shown_steps()[0] == pytest.approx(first + 25, abs=2)
    canvas.press("End")
    last = tab.shown_steps()[1]
    assert f"\N{EN DASH}{-(-last // 10) * 10}," in tab.text(".live"), "the last cell in view"
    for _ in range(3):
        canvas.press("ArrowRight")
        tab.settle()
    assert tab.shown_steps()[1] == pytest.approx(last + 30, abs=10)
    first = tab.shown_steps()[0]
    canvas.press("Home")
    for _ in range(3):
        canvas.press("ArrowLeft")
        tab.settle()
    assert tab.shown_steps()[0] == pytest.approx(first - 30, abs=10)
    canvas.press("-")
    tab.settle()
    canvas.press("0")
    tab.settle()
    assert tab.shown_steps() == (1, 400)


def test_the_tab_key_reaches_everything_and_arrows_walk_through_the_metrics(tab: Tab) -> None:
    reached = []
    for _ in range(40):
        tab.page.keyboard.press("Tab")
        reached.append(tab.frame.evaluate(FOCUSED))
    said = " / ".join(str(name) for name in reached)
    for name in (
        "Filter runs",
        "Gradient norm",
        "Relative to running median",
        "Filter layers",
        "Zoom in",
        "Layers by steps",
        "incident: Non-finite",
    ):
        assert name in said, said
    tab.find('[data-metric="grad_norm"]').press("ArrowRight")
    tab.settle()
    assert tab.find('[aria-selected="true"]').inner_text() == "Weight norm"
    assert tab.frame.evaluate("() => document.activeElement.innerText") == "Weight norm"


def test_the_focus_stays_on_what_is_drawn_anew(tab: Tab) -> None:
    entry = tab.find(".entry .head").first
    entry.press("Enter")
    tab.settle()
    assert entry.get_attribute("aria-expanded") == "true"
    assert tab.frame.evaluate(FOCUSED).startswith("incident")
    tab.page.keyboard.press("Enter")
    tab.settle()
    assert entry.get_attribute("aria-expanded") == "false"


def test_names_are_one_stop_and_arrows_walk_through_them(tab: Tab) -> None:
    assert tab.find('.names [tabindex="0"]').count() == 1
    tab.find('.names [tabindex="0"]').focus()
    heard = [tab.frame.evaluate(FOCUSED)]
    for _ in range(3):
        tab.page.keyboard.press("ArrowDown")
        heard.append(tab.frame.evaluate(FOCUSED))
    assert heard == ["Fold encoder", "Curves of encoder.first", "Curves of encoder.second", "Curves of head"]
    tab.page.keyboard.press("Enter")
    tab.settle()
    assert tab.text(".section h3") == "Layer head"
    assert tab.frame.evaluate(FOCUSED) == "Curves of head"


def test_a_view_survives_a_reload(tab: Tab) -> None:
    tab.metric("update_ratio").button("Relative to running median").button("Fold to depth 1")
    tab.find(".mark").first.click()
    drag(tab, 0.25, 0.5, plot=".plot.ruler")
    tab.find(".filter").fill("enc|he")
    tab.settle()
    tab.button("Curves of head")
    before = seen(tab)
    assert "p.numerical_health.metric=update_ratio" in tab.address()
    assert tab.address().split("#")[1].startswith("numerical_health&")
    tab.page.reload()
    tab.frame.wait_for_selector(".card:has(canvas[width])")
    tab.settle()
    assert seen(tab) == before
    assert before["names"] == ["encoder 2", "head"]
    assert before["layer"] == "Layer head"


def seen(tab: Tab) -> dict[str, object]:
    """Return what a reader sees of the view."""
    return {
        "address": unquote(unquote(tab.address())),
        "steps": tab.shown_steps(),
        "metric": tab.text('[aria-selected="true"]'),
        "mode": tab.text('[data-mode][aria-pressed="true"]'),
        "names": tab.texts(".names .name"),
        "filter": tab.find(".filter").input_value(),
        "runs": tab.texts(".card h2"),
        "layer": tab.text(".section h3"),
        "event": tab.texts(".entry.open .what"),
    }


def test_an_address_that_was_mistyped_is_taken_as_far_as_it_goes(serve: Serve) -> None:
    _, tab = serve(sample_run("run", LAYERS, 40))
    tab.open(
        metric="nonsense",
        zoom="9-3",
        step="-4",
        optimizer="x",
        folded="%E0%A4%A",
        layer="gone",
        mode="relative",
        runs="run,deleted",
    )
    assert tab.text('[aria-selected="true"]') == "Gradient norm"
    assert tab.text('[data-mode][aria-pressed="true"]') == "Relative to running median"
    assert tab.shown_steps() == (1, 400)
    assert tab.texts(".card h2") == ["run"]


@pytest.mark.parametrize(
    ("zoom", "shown"),
    [("300-999999999", (300, 400)), ("0-49", (1, 49)), ("1000-1099", (301, 400)), ("0-9999", (1, 400))],
)
def test_steps_that_no_run_on_the_page_has_are_not_shown(zoom: str, shown: tuple[int, int], tab: Tab) -> None:
    """As where an address is of a longer run, or the longer one of two is no longer ticked."""
    tab.open(runs="logs%2Fversion%201%2C%20b", zoom=zoom)
    assert tab.shown_steps() == shown
    assert tab.pixel(shown[1] - 5, 0, rows=3)[3] == 255


def test_another_address_is_followed(tab: Tab) -> None:
    tab.page.evaluate(
        "(keys) => { location.hash = `#numerical_health&${keys}` }",
        "p.numerical_health.metric=weight_norm&p.numerical_health.runs=other",
    )
    tab.find('[data-metric="weight_norm"][aria-selected="true"]').wait_for()
    tab.settle()
    assert tab.texts(".card h2") == ["other"]
