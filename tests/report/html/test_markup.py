"""Escaping is the default: whatever a name spells, it stays text."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.report.html.markup import Markup, data_block, element, escape, join, plain, short

HOSTILE = "</script><img src=x onerror=alert(1)>'\"&"


class Reader(HTMLParser):
    """What a browser would see: elements, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", "x < y")
    assert element("p", inner, " & ", 3, None) == "<p><b>x &lt; y</b> &amp; 3</p>"


@given(st.text(), st.text())
def test_no_text_makes_an_element_or_an_attribute(name: str, title: str) -> None:
    seen = Reader(element("p", name, title=title))
    assert seen.tags == ["p"]
    assert set(seen.attributes) == {"title"}
    # Line ends are one to HTML.
    assert seen.text.replace("\r\n", "\n") == plain(name)
    assert seen.attributes["title"] == plain(title)


@given(st.text())
def test_what_is_made_can_be_written(text: str) -> None:
    element("p", text).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[31mred", "␛[31mred"), ("a\x00b", "a␀b"), ("a\ud800b", "a\ufffdb"), ("\u202egpj.exe", "\ufffdgpj.exe")],
)
def test_characters_that_act_are_shown(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert escape(text) == shown


def test_attributes() -> None:
    made = element("input", class_="a", data_step=3, checked=True, hidden=False, title=None, value=HOSTILE)
    assert made == f'<input class="a" data-step="3" checked value="{html.escape(HOSTILE)}">'


@pytest.mark.parametrize("name", ["onclick", "ONERROR", "a b", "x>", ""])
def test_an_attribute_that_could_run_something_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of an attribute"):
        element("p", **{name: "x"})


@pytest.mark.parametrize("link", ["javascript:alert(1)", "https://example.org", "//x", "data:text/html,x", " #a"])
def test_a_link_out_of_the_page_is_refused(link: str) -> None:
    with pytest.raises(ValueError, match="a link out of the page"):
        element("a", "x", href=link)


def test_a_tag_is_never_data() -> None:
    with pytest.raises(ValueError, match="not the name of an element"):
        element("p><script", "x")


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_in_a_page_survives_and_never_ends_its_element(value: Any) -> None:
    block = data_block("run", value)
    inside = block.removeprefix('<script type="application/json" id="run">').removesuffix("</script>")
    assert not set("<>&\u2028\u2029") & set(inside)
    assert inside.isascii()
    assert json.loads(inside) == value


def test_a_script_in_a_name_does_not_end_the_block() -> None:
    assert Reader(data_block("run", [HOSTILE])).tags == ["script"]


def test_joining() -> None:
    assert join(["a<", Markup("<br>"), 2], ", ") == "a&lt;, <br>, 2"
    assert isinstance(join([]), Markup)


@pytest.mark.parametrize(("limit", "shown"), [(11, "encoder.out"), (6, "enc…ut"), (1, "…")])
def test_long_names_keep_both_ends(limit: int, shown: str) -> None:
    assert short("encoder.out", limit) == shown
