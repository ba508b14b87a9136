"""Pages in a real browser: no noise, no network, values under the pointer, curves of a layer; and without a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gradwatch.report.html.page import write_page
from gradwatch.report.html.run_page import run_page
from tests.report.html.browser import opened
from tests.report.html.runs import HOSTILE, full_run, hostile_run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    file = folder / "report.html"
    write_page(file, run_page(full_run(folder)))
    return file


def point(page: Any, figure: int, *, row: float, part: float) -> None:
    """Move the pointer to a row of 20 and a part of the width of a heatmap."""
    cells = page.locator(".heat .cells").nth(figure)
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    page.mouse.move(box["x"] + part * box["width"], box["y"] + (row + 0.5) / 20 * box["height"])


@pytest.mark.parametrize("dark", [False, True])
def test_a_page_opens_without_noise(browser: Any, page_file: Path, dark: bool) -> None:  # noqa: FBT001 - a parameter
    with opened(browser, page_file, dark=dark) as visit:
        assert visit.page.locator("h1").is_visible()
        assert visit.noise == []


@pytest.mark.parametrize("text", [HOSTILE, "<img src=1 onerror=alert(1)>", "javascript:alert(1)//\u2028"])
def test_no_word_of_a_run_does_anything(browser: Any, tmp_path: Path, text: str) -> None:
    file = tmp_path / "report.html"
    write_page(file, run_page(hostile_run(tmp_path, text)))
    with opened(browser, file) as visit:
        page = visit.page
        title = page.title()
        for summary in page.locator("summary").all():
            summary.evaluate("summary => summary.parentElement.open = true")
        point(page, 0, row=0, part=0.5)
        page.locator(".read").wait_for()
        page.locator("#layer-table button").first.click()
        page.locator("#layer-name").wait_for()
        for mark in page.locator("a.mark").all()[:3]:
            mark.evaluate("mark => mark.click()")
        page.wait_for_timeout(200)
        assert page.title() == title
        assert visit.noise == []
        assert page.locator("img").count() == 6
        assert page.evaluate("document.scripts.length") == 2


def test_the_pointer_reads_the_value_of_a_cell(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as visit:
        point(visit.page, 0, row=7, part=0.605)
        reading = visit.page.locator(".read")
        reading.wait_for()
        visit.page.wait_for_function("document.querySelector('.read')?.textContent.includes('blocks.1')")
        said = reading.inner_text().splitlines()
        assert said[0] == "blocks.1.attention.qkv"
        assert said[1] == "steps 600 to 609"
        assert "297 times its median" in said[2]
        point(visit.page, 0, row=3, part=0.805)
        visit.page.wait_for_function("document.querySelector('.read')?.textContent.includes('not finite')")
        assert visit.noise == []


def test_a_click_shows_the_curves_of_a_layer(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as visit:
        page = visit.page
        assert not page.locator("#layer").is_visible()
        point(page, 0, row=7, part=0.605)
        page.mouse.down()
        page.mouse.up()
        page.locator("#layer").wait_for()
        assert page.locator("#layer-name").inner_text() == "blocks.1.attention.qkv"
        curve = page.locator("#layer [data-metric=grad_norm] path.line.s0")
        points = curve.get_attribute("d").removeprefix("M").split(" ")
        assert len(points) == 100
        heights = [float(at.split(",")[1]) for at in points]
        assert heights.index(min(heights)) == 60
        page.wait_for_function("document.querySelectorAll('tr.chosen').length === 1")


def test_the_keyboard_reaches_a_layer_and_the_search_finds_it(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as visit:
        page = visit.page
        search = page.get_by_label("Find a layer")
        search.focus()
        page.keyboard.type("mlp.down")
        assert page.locator("#layer-table tbody tr:visible").count() == 3
        page.keyboard.press("Tab")  # the table, which scrolls
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.locator("#layer").wait_for()
        assert page.locator("#layer-name").inner_text() == "blocks.0.mlp.down"


def test_a_layer_that_stands_out_leads_to_its_curves(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as visit:
        visit.page.locator("#single li button").click()
        visit.page.locator("#layer").wait_for()
        assert visit.page.locator("#layer-name").inner_text() == "blocks.1.attention.qkv"


def test_a_sign_leads_to_what_it_means(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as visit:
        visit.page.locator("#curves a.mark.incident").first.click()
        assert visit.page.locator("#incident-0").get_attribute("open") is not None
        visit.page.locator("#curves a.mark.info").first.click()
        assert visit.page.locator("#finding-2").get_attribute("open") is not None


def test_colours_follow_the_reader_s_choice(browser: Any, page_file: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, page_file) as visit:
        light = visit.page.evaluate(background)
        visit.page.get_by_label("dark", exact=True).check(force=True)
        dark = visit.page.evaluate(background)
    assert light == "rgb(255, 255, 255)"
    assert dark != light


@pytest.mark.parametrize("width", [390, 1280])
def test_without_a_script_all_is_there_but_pointing(browser: Any, page_file: Path, width: int) -> None:
    with opened(browser, page_file, javascript=False, width=width) as visit:
        page = visit.page
        assert page.locator(".heat img:visible").count() == 3
        page.locator(".heat").first.get_by_label("relative to its median").check(force=True)
        assert page.locator(".heat img.relative:visible").count() == 1
        assert page.locator("#curves svg:visible").count() == 5
        assert page.locator(".scripted:visible").count() == 0
        page.locator("#finding-0 summary").first.click()
        assert page.locator("#finding-0 .advice").first.is_visible()
        assert visit.noise == []


def test_nothing_is_wider_than_a_phone(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file, width=390) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_pointer_reads_the_numbers_of_a_curve_and_not_its_pixels(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as visit:
        page = visit.page
        area = page.locator(".chart .area").first
        area.scroll_into_view_if_needed()
        told = area.locator("path.line").first.get_attribute("data-told").split(" ")
        step, value = told[20:22]
        box = area.bounding_box()
        across = float(area.locator("path.line").first.get_attribute("d").split(" ")[10].split(",")[0]) / 1000
        page.mouse.move(box["x"] + across * box["width"], box["y"] + box["height"] / 2)
        page.wait_for_function(f"document.querySelector('.read')?.textContent.includes('step {step}')")
        said = page.locator(".read").inner_text().splitlines()
        assert float(said[1].split(": ")[-1]) == pytest.approx(float(value), rel=5e-3)
