"""From sections to a page: one file that needs no network and runs no script but its own.

    write_page(Path("report.html"), page(title=..., heading=..., sections=[Section(name=..., title=..., body=...)]))

The content policy allows the styles and, by its hash, the one script of the page; nothing can be loaded or sent.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from gradwatch.report.html.markup import Child, Markup, data_block, element

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

GENERATOR = "gradwatch report"  # by which a page of ours is known
TALL, LONG = 12, 300  # rows of a table that scrolls by itself, and of one that is laid out only when it is seen
_THEMES = ("auto", "light", "dark")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a page. ``name`` is its anchor, ``lead`` a sentence under its title."""

    name: str
    title: str
    body: Markup
    lead: Child = None


def page(
    *,
    title: str,
    heading: Child,
    sections: Iterable[Section | None],
    script: str | None = None,
    data: Mapping[str, object] | None = None,
    footer: Child = None,
    generator: str = GENERATOR,
) -> str:
    """Return a whole page.

    Args:
        title: of the window.
        heading: what stands above all sections.
        sections: in their order; None is left out.
        script: the name of a script in this package, or None for a page without.
        data: what the script reads: blocks of JSON by the ``id`` under which it finds them.
        footer: the last line.
        generator: which command has written the page; see ``is_ours``.
    """
    shown = [section for section in sections if section is not None]
    code = Markup(_asset(script)) if script else None
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(code)),
        element("meta", name="generator", content=generator),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(_asset("report.css"))),
    )
    body = element(
        "body",
        element("a", "Skip to the content", href="#content", class_="skip"),
        element("header", element("div", _contents(shown), _theme_switch(), class_="bar")),
        element("main", heading, [_section(section) for section in shown], id="content"),
        element("footer", footer),
        [data_block(name, value) for name, value in (data or {}).items()],
        element("script", code, type="module") if code else None,
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def is_ours(path: Path, generator: str = GENERATOR) -> bool:
    """Whether a file is a page that ``generator`` has written."""
    with path.open("rb") as file:
        start = file.read(4096)
    return (
        start.startswith(b"<!DOCTYPE html>")
        and str(element("meta", name="generator", content=generator)).encode() in start
    )


def page_file(path: Path, name: str, foreign: str, *, generator: str = GENERATOR, force: bool) -> Path:
    """Return where to write a page; a folder stands for the file ``name`` in it.

    Args:
        path: what the user has asked for.
        name: of the file in a folder.
        foreign: what to say of a file that ``generator`` has not written.
        generator: whose pages may be written over.
        force: whether any file may be.

    Raises:
        FileExistsError: a file of somebody else's is there.
        FileNotFoundError: there is no such folder.
    """
    if path.is_dir():
        path /= name
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write to; make it, or name another with -o")
    if path.exists() and not force and not (path.is_file() and is_ours(path, generator)):
        raise FileExistsError(f"{path}{foreign}; name another file with -o, or add --force")
    return path


def write_page(path: Path, text: str) -> int:
    """Write a page, whole or not at all, and return its size in bytes.

    Raises:
        OSError: it cannot be written; what was at ``path`` is still there.
    """
    content = text.encode("utf-8")
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o666 & ~_umask())  # noqa: PTH101 - mkstemp makes private files, and this one is to be shared
        os.replace(temporary, path)  # noqa: PTH105 - as above, a name and not a Path
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108 - as above
        raise
    return len(content)


def table(
    heads: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    numeric: Sequence[int] = (),
    **attributes: object,
) -> Markup:
    """Return a table that scrolls sideways where the page is narrow, and by itself where it has many rows.

    Args:
        heads: of the columns.
        rows: their cells.
        numeric: the columns that are set flush right.
        attributes: of the table, as ``element`` takes them.
    """

    def cells(tag: str, row: Sequence[Child]) -> Markup:
        return element("tr", [element(tag, cell, class_="n" if at in numeric else None) for at, cell in enumerate(row)])

    made = [cells("td", row) for row in rows]
    inner = element("table", element("thead", cells("th", heads)), element("tbody", made), **attributes)
    kind = "scroll" + " tall" * (len(made) > TALL) + " long" * (len(made) > LONG)
    return element("div", inner, class_=kind, tabindex="0")


def search_field(text: str, table_id: str) -> Markup:
    """Return a field in which the script lets a reader filter the rows of a table; not there without a script."""
    return element(
        "input",
        type="search",
        placeholder=text,
        aria_label=text,
        class_="search scripted",
        data_filters=table_id,
        hidden=True,
    )


def facts(pairs: Iterable[tuple[Child, Child]]) -> Markup:
    """Return names with what they are; pairs without a value are left out."""
    return element(
        "dl",
        [element("div", element("dt", name), element("dd", value)) for name, value in pairs if value not in (None, "")],
        class_="facts",
    )


def folded(summary: Child, *content: Child, opened: bool = False, **attributes: object) -> Markup:
    """Return content under a line that opens it."""
    return element("details", element("summary", summary), *content, open=opened, **attributes)


def _section(section: Section) -> Markup:
    lead = element("p", section.lead, class_="lead") if section.lead else None
    heading = element("h2", section.title, id=f"{section.name}-title")
    return element("section", heading, lead, section.body, id=section.name, aria_labelledby=f"{section.name}-title")


def _contents(sections: Sequence[Section]) -> Markup:
    links = [element("a", section.title, href=f"#{section.name}") for section in sections]
    return element("nav", links, aria_label="Sections")


def _theme_switch() -> Markup:
    """Return a choice that works by style alone, without a script."""
    choices = [
        element("label", element("input", type="radio", name="theme", id=f"theme-{name}", checked=name == "auto"), name)
        for name in _THEMES
    ]
    return element("fieldset", element("legend", "Colours", class_="spoken"), choices, class_="switch theme")


def _policy(code: Markup | None) -> str:
    allowed = "'none'"
    if code:
        digest = hashlib.sha256(code.encode()).digest()
        allowed = f"'sha256-{base64.b64encode(digest).decode()}'"
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _asset(name: str) -> str:
    return resources.files("gradwatch.report.html").joinpath(name).read_text(encoding="utf-8")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
