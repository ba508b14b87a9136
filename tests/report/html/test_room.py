"""A page with more findings than it can hold stays small, and says what it leaves out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gradwatch.report.html.markup import element
from gradwatch.report.html.run_page import run_page
from gradwatch.report.html.sections import events
from gradwatch.report.html.sections.room import fitting, size_of
from gradwatch.report.run import read_runs
from tests.report.logs import at, incident, run_start, told, write_log

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from gradwatch.records import Event
    from gradwatch.report.html.markup import Markup

LONG = "The gradient grows. " * 500


def page_of(folder: Path, *happened: Event) -> str:
    write_log(folder, run_start(step=0), at(0), *happened, at(20_000))
    (run,) = read_runs(folder)
    return run_page(run)


def test_what_fits_is_shown_and_the_rest_is_not_even_made() -> None:
    sizes = [300, 500, 300, 199, 100]
    made = []

    def row(size: int) -> Markup:
        made.append(size)
        return element("p", "x" * (size - len("<p></p>")))

    shown, left_out = fitting(sizes, row, 1000)
    assert ([size for size, _ in shown], left_out) == ([300, 500, 199], [300, 100])
    assert made == [300, 500, 300, 199]  # one byte is left
    assert size_of(row for _, row in shown) == 999
    assert size_of([element("p", "ä")]) == 9


def test_ten_thousand_findings_of_three_thousand_codes(tmp_path: Path) -> None:
    found = [told(step, code=f"code-{step % 3000}", layer=f"layer.{step}", message=LONG) for step in range(10_000)]
    worst = told(19_000, code="the-worst", severity="error", message=LONG)
    page = page_of(tmp_path, *found, worst)
    assert len(page.encode()) < 3e6
    assert page.count(f"<p>{LONG}</p>") < 2e6 / len(LONG)
    told_in_full = re.search(r'<details id="finding-(\d+)"[^>]*><summary><span class="badge error">', page)
    assert told_in_full is not None
    named = re.search(r"<summary>([\d,]+) more findings of ([\d,]+) codes without their text</summary>", page)
    assert named is not None
    findings, codes = (int(number.replace(",", "")) for number in named.groups())
    assert codes == 3001 - len(re.findall(r'<details id="finding-', page))
    assert 3 * codes <= findings <= 4 * codes
    assert f"All are in the event log, {tmp_path}" in page
    links, anchors = (set(re.findall(f'{key}="#?(finding-[0-9]+)"', page)) for key in ("href", "id"))
    assert links
    assert links <= anchors


def test_incidents_leave_room_for_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "ROOM", 60_000)
    happened = [incident(step=step, time=float(step), explanation=LONG, advice="") for step in range(10)]
    page = page_of(tmp_path, *happened, told(30, message="It grows."))
    assert "<p>It grows.</p>" in page
    assert "8 more incidents: see the folder." in page
