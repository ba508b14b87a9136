"""The page around the sections: policy, escaping, writing."""

from __future__ import annotations

import base64
import hashlib
import re
import stat
from typing import TYPE_CHECKING

import pytest

from gradwatch.report.html.markup import element
from gradwatch.report.html.page import Section, facts, is_ours, page, table, write_page

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "</title><script>alert(1)</script>"


def _page(**changes: object) -> str:
    section = Section(name="one", title="One", body=element("p", "text"))
    return page(**{"title": "t", "heading": "h", "sections": [section, None], **changes})  # type: ignore[arg-type]


def test_nothing_can_be_loaded_or_sent() -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', _page())
    assert policy.startswith(
        "default-src &#x27;none&#x27;; style-src &#x27;unsafe-inline&#x27;; script-src &#x27;none&#x27;;"
    )


def test_the_policy_comes_before_all_that_it_rules() -> None:
    made = _page()
    assert made.index("Content-Security-Policy") < made.index("<style>")


def test_only_the_page_s_own_script_may_run() -> None:
    made = _page(script="report.js")
    (code,) = re.findall(r'<script type="module">(.*?)</script>', made, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;" in made


def test_titles_are_text() -> None:
    made = _page(title=HOSTILE, heading=HOSTILE, footer=HOSTILE)
    assert "<script" not in made
    assert made.count("&lt;script&gt;") == 3


def test_no_address_of_another_place() -> None:
    assert not re.search(r"(src|href)=\"(?!#)|url\(|@import|https?:", _page(script="report.js"))


def test_sections_are_listed_and_named() -> None:
    made = _page()
    assert '<a href="#one">One</a>' in made
    assert '<section id="one" aria-labelledby="one-title"><h2 id="one-title">One</h2><p>text</p></section>' in made


def test_tables_and_facts() -> None:
    assert '<td>a&lt;</td><td class="n">1</td>' in table(["name", "n"], [["a<", 1]], numeric=[1])
    assert facts([("a", "<"), ("b", None), ("c", "")]) == '<dl class="facts"><div><dt>a</dt><dd>&lt;</dd></div></dl>'


def test_a_page_is_written_whole_and_known_again(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert write_page(path, _page()) == path.stat().st_size
    assert is_ours(path)
    assert not is_ours(path, "another command")
    assert path.read_text(encoding="utf-8") == _page()
    assert list(tmp_path.iterdir()) == [path]
    path.write_text("<!DOCTYPE html><title>mine</title>")
    assert not is_ours(path)


def test_a_page_is_as_readable_as_any_other_file(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "report.html"
    other.touch()
    write_page(path, _page())
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_page(path, _page())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
