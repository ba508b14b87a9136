"""Elements of a page. Text is escaped unless it is ``Markup``, and ``Markup`` is made here alone.

Names, messages and tracebacks come from models and files: data, whatever they spell. A tag or an attribute's name is
never data; a value may be, and is quoted. Characters that would change how a page reads without being seen (terminal
escapes, reversed text) are shown, not obeyed.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from functools import lru_cache

VOID = frozenset({"br", "hr", "img", "input", "meta"})

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_LINKS = frozenset({"href", "src"})
_CONTROL_PICTURES = 0x2400

# C0 controls have pictures; C1 controls, marks that turn the direction of text, and halves of surrogate pairs have not.
_SHOWN = {code: chr(_CONTROL_PICTURES + code) for code in range(32) if chr(code) not in "\n\t"}
_SHOWN |= dict.fromkeys(
    [127, *range(0x80, 0xA0), *range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF],
    "\N{REPLACEMENT CHARACTER}",
)
_SURROGATES = re.compile("[\ud800-\udfff]")
_JSON_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


class Markup(str):
    """Text that is markup already: what this module makes, and what the package itself ships."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def plain(text: object) -> str:
    """Return ``text`` with every character that acts instead of showing replaced by one that shows."""
    whole = str(text)
    if whole.isascii() and whole.isprintable():  # nearly all
        return whole
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", whole.translate(_SHOWN))


def short(text: object, limit: int) -> str:
    """Return ``text`` in at most ``limit`` characters, cut in the middle: both ends of a module path say something."""
    whole = plain(text)
    if len(whole) <= limit:
        return whole
    end = (limit - 1) // 2
    return f"{whole[: limit - 1 - end]}…{whole[len(whole) - end :]}"


def escape(child: Child) -> Markup:
    """Return ``child`` as markup: text escaped, markup as it is, None as nothing, several one after another."""
    if isinstance(child, Markup):
        return child
    if child is None:
        return Markup()
    if isinstance(child, (str, int, float)):
        return Markup(html.escape(plain(child)))
    return join(child)


def join(children: Iterable[Child], between: Child = None) -> Markup:
    """Return ``children`` as markup one after another, with ``between`` between them."""
    return Markup(escape(between).join(map(escape, children)))


def element(tag: str, /, *children: Child, **attributes: object) -> Markup:
    """Return an element with ``children`` inside.

    ``class_`` is the attribute ``class``, ``data_step`` is ``data-step``. None and False leave an attribute out, True
    leaves out its value. Links lead within the page and pictures are within it: anything else is refused, as are
    attributes that hold script.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'

    Raises:
        ValueError: a name is none, or a link leads out of the page.
    """
    _check_tag(tag)
    opening = "".join([tag, *(_attribute(name, value) for name, value in attributes.items())])
    return Markup(f"<{opening}>" if tag in VOID else f"<{opening}>{join(children)}</{tag}>")


@lru_cache(maxsize=1000)
def _check_tag(tag: str) -> None:
    if not _NAME.fullmatch(tag):
        raise ValueError(f"not the name of an element: {tag!r}")


@lru_cache(maxsize=1000)
def _key(name: str) -> str:
    key = name.rstrip("_").replace("_", "-")
    if not _NAME.fullmatch(key) or key.lower().startswith("on"):
        raise ValueError(f"not the name of an attribute that a page may have: {key!r}")
    return key


def _attribute(name: str, value: object) -> str:
    key = _key(name)
    if value is None or value is False:
        return ""
    if value is True:
        return f" {key}"
    text = plain(value)
    if key in _LINKS and not text.startswith(("#", "data:image/png;base64,")):
        raise ValueError(f"a link out of the page: {text[:60]!r}")
    return f' {key}="{html.escape(text)}"'


def data_block(name: str, value: object) -> Markup:
    """Return ``value`` as JSON in an element that no browser runs: nothing inside can end it or begin another."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return element("script", Markup(text.translate(_JSON_ESCAPES)), type="application/json", id=name)
