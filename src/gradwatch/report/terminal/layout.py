"""Lines of a given width: wrapped text, and names that act on no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from gradwatch.report.terminal.sparkline import BLOCKS
from gradwatch.report.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from gradwatch.report.terminal.sparkline import Ramp

INDENT = 2
# Narrower, a table has no room for its numbers; wider, the eye has to travel.
MIN_WIDTH, MAX_WIDTH = 60, 100
BETWEEN = " · "


class Layout(NamedTuple):
    """How wide the screen is, and the characters of its sparklines."""

    console: Console
    width: int
    ramp: Ramp = BLOCKS

    def block(self, text: str, *, lines: int, style: str = "", first: Text | None = None, hang: int = 0) -> list[Text]:
        """Return ``text`` in at most so many lines, as wide as they are on a terminal.

        Args:
            text: anything; what a terminal would act upon is shown as an escape.
            lines: more than these are left out, with an ellipsis.
            style: of the text.
            first: what the first line begins with. Default: blanks.
            hang: the indent of the lines, beyond that of the page.
        """
        prefix = Text(" " * (INDENT + hang)) if first is None else first
        room = max(1, self.width - prefix.cell_len)
        # No more than could be shown, so that a message of megabytes is not wrapped to its end.
        words = " ".join(map(clean, text[: 8 * lines * room].split()))
        wrapped = [line for line in Text(words, style).wrap(self.console, room) if line.plain]
        shown = wrapped[:lines]
        for line in shown:
            line.rstrip()
        if len(wrapped) > lines:
            _make_room(shown[-1], room - 2)
            shown[-1].append(" …")
        blanks = Text(" " * prefix.cell_len)
        return [Text.assemble(blanks if place else prefix, line) for place, line in enumerate(shown)]

    def facts(self, items: Iterable[str], style: str = "") -> list[Text]:
        """Return short texts side by side, each on one line if it fits."""
        rows: list[str] = []
        for item in items:
            if rows and cell_len(rows[-1] + BETWEEN + item) <= self.width - INDENT:
                rows[-1] += BETWEEN + item
            else:
                rows.append(item)
        return [line for row in rows for line in self.block(row, lines=2, style=style)]


def _make_room(line: Text, room: int) -> None:
    """Take words from the end of a line until it fits; of a single word, letters."""
    while line.cell_len > room and " " in line.plain:
        line.right_crop(len(line.plain) - line.plain.rindex(" "))
    line.truncate(room)


def line(text: str, style: str = "") -> Text:
    """Return an indented line."""
    return Text(" " * INDENT + text, style)


def section(title: str, lines: list[Text]) -> list[Text]:
    """Return lines under a title, nothing if there are none."""
    return [Text(title, "bold"), *lines] if lines else []
