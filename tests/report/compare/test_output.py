"""What a user sees: tables of 80 columns, JSON, a page; and names that nobody should give stay text in all of them."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from gradwatch.report.compare.as_json import to_json
from gradwatch.report.compare.command import compare_paths
from gradwatch.report.compare.html import GENERATOR, comparison_page
from gradwatch.report.compare.terminal import print_comparison
from tests.report.compare.runs import HOSTILE, rewrite, seeds, steps_from
from tests.report.logs import incident, told

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.report.compare.comparison import Comparison


def printed(comparison: Comparison, *, width: int = 80, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, highlight=False, force_terminal=colour, color_system="standard" if colour else None
    )
    print_comparison(console, comparison)
    return stream.getvalue()


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two groups of four seeds whose rates differ."""
    folder = tmp_path_factory.mktemp("rates")
    return compare_paths(seeds(folder / "a", range(4), lr=0.001) + seeds(folder / "b", range(4), lr=0.01))


@pytest.fixture
def hostile(tmp_path: Path) -> Comparison:
    """Groups in which every name is an attack."""
    names = ["stem", HOSTILE]
    bad = incident(action="warned")
    found = told(20, code=HOSTILE, layer=HOSTILE, message=HOSTILE, severity=HOSTILE)
    one = seeds(tmp_path / "a", range(3), names=names)
    other = seeds(tmp_path / "b", range(3), names=[*names, f"{HOSTILE}2"], lr=0.1, events=[bad, found])

    def change(event: dict[str, Any]) -> dict[str, Any]:
        if event["type"] == "run_start":
            return event | {"strategy": HOSTILE, "versions": {HOSTILE: HOSTILE}, "seeds": {"torch": HOSTILE}}
        if event["type"] == "incident":
            return event | {"origin": event["origin"] | {"op": HOSTILE, "module": HOSTILE}}
        return event

    for path in other:
        rewrite(path, change)
    return compare_paths(one, other)


def test_the_tables_say_what_differs(rates: Comparison) -> None:
    text = printed(rates)
    assert "B parts from A at step 9" in text
    assert re.search(r"optimizer\.lr +0\.001 +0\.01", text)
    assert re.search(r"loss +\S+ ± \S+ % +\S+ ± \S+ % +0\.\d+ +lower from \d+ on", text)
    assert "60 common steps, 9 to 599" in text
    assert re.search(r"layers: \d of 5", text)


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(rates: Comparison, width: int) -> None:
    assert max(map(len, printed(rates, width=width).splitlines())) <= width


def test_eighty_columns_take_no_folding(rates: Comparison) -> None:
    """Each curve has its own line: a folded cell would begin a line with blanks."""
    lines = printed(rates).splitlines()
    table = lines[lines.index(next(line for line in lines if line.startswith(" curve"))) :]
    assert not [line for line in table if line.startswith("   ")]


def test_what_goes_to_a_file_has_no_colours(rates: Comparison) -> None:
    assert "\x1b" not in printed(rates)
    assert "\x1b[1" in printed(rates, colour=True)


def test_a_single_experiment_prints(tmp_path: Path) -> None:
    text = printed(compare_paths(seeds(tmp_path / "mine", range(3))))
    assert "3 runs of one experiment" in text
    assert "nothing but the seed" in text


def test_the_same_seed_is_told(tmp_path: Path) -> None:
    (path,) = seeds(tmp_path, [0])
    assert "nothing, not even the seed" in printed(compare_paths([path, path]))


def test_hostile_names_do_not_act_on_a_terminal(hostile: Comparison) -> None:
    text = printed(hostile, width=400)
    rows = [line for line in text.splitlines() if line.startswith((" strategy", " finding", " incident"))]
    assert len(rows) == 3
    assert all("[bold]x[/bold]" in row for row in rows)  # no markup of rich's
    assert "\x1b" not in text
    assert "\\x1b[31mred\\n\\udc80" in text


def test_hostile_names_stay_text_on_the_page(hostile: Comparison) -> None:
    page = comparison_page(hostile)
    page.encode("utf-8")  # no half surrogate is left
    assert "<img" not in page
    assert "&lt;/script&gt;&lt;img onerror=alert(1)&gt;" in page
    parser = Tags()
    parser.feed(page)
    assert parser.tags.isdisjoint({"script", "img", "iframe", "link", "object"})


class Tags(HTMLParser):
    """Collects the elements of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_has_bands_marks_and_no_script(rates: Comparison) -> None:
    page = comparison_page(rates)
    parser = Tags()
    parser.feed(page)
    assert "script" not in parser.tags
    assert f'content="{GENERATOR}"' in page
    assert "script-src &#x27;none&#x27;" in page
    charts = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    loss = next(chart for chart in charts if "<strong>loss</strong>" in chart)
    assert [loss.count(f"band s{index}") for index in range(2)] == [2, 2]  # extremes and deviation
    assert [loss.count(f"line s{index}") for index in range(2)] == [2, 2]
    assert "B parts from A: lower from" in loss
    for heading in ("What differs in the settings", "Curves", "Where they part", "Layers", "Runs", "How it is decided"):
        assert heading in parser.text


def test_pages_of_pairs_of_one_experiment_and_of_nothing(tmp_path: Path) -> None:
    paths = seeds(tmp_path, range(3))
    assert "cannot tell chance from cause" in comparison_page(compare_paths(paths[:2]))
    assert "one experiment" in comparison_page(compare_paths(paths))
    for path in paths:
        rewrite(path, lambda event: None if event["type"] == "step" else event)
    assert "A and B have no record of a step" in comparison_page(compare_paths(paths[:1], paths[1:]))


def test_json_is_legal_and_has_the_documented_keys(rates: Comparison) -> None:
    line = to_json(rates)
    assert line.isascii()
    assert "\n" not in line
    data = json.loads(line, parse_constant=pytest.fail)
    assert set(data) == {
        *("compare_version", "level", "conclusions", "groups", "settings", "parameters", "aligned"),
        *("curves", "layers", "strays", "happenings", "notes"),
    }
    loss = data["curves"][0]
    assert (loss["quantity"], loss["layer"], loss["logarithmic"]) == ("loss", None, True)
    (outcome,) = loss["outcomes"]
    assert outcome["step"] == loss["step"] == outcome["stretches"][0]["first"]
    assert len(loss["steps"]) == len(loss["bands"][0]["mean"]) == 60
    assert data["groups"][1]["runs"][2] | {"folder": ""} == {
        "label": "b/seed=2",
        "folder": "",
        "run_id": "synthetic-0.01-2",
        "seed": "2",
        "end": "finished",
        "last_step": 599,
        "lost_at": None,
    }


def test_json_of_what_is_not_finite(tmp_path: Path) -> None:
    paths = seeds(tmp_path, range(2))
    rewrite(paths[1], steps_from(100, loss="NaN"))
    data = json.loads(to_json(compare_paths(paths)), parse_constant=pytest.fail)
    (outcome,) = data["curves"][0]["outcomes"]
    assert outcome["nonfinite"] == 109
    assert "NaN" in data["curves"][0]["bands"][1]["mean"]


def test_json_of_hostile_names(hostile: Comparison) -> None:
    data = json.loads(to_json(hostile))
    assert HOSTILE in {layer["layer"] for layer in data["layers"]}
