"""A comparison on a terminal: ``gradwatch compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradwatch.report.compare import words
from gradwatch.report.compare.conclusions import conclusions
from gradwatch.report.compare.settings import TABLE
from gradwatch.report.text import clean, shorten, shorten_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from gradwatch.report.compare.comparison import Comparison
    from gradwatch.report.compare.differences import ParameterDifferences
    from gradwatch.report.compare.members import Group
    from gradwatch.report.compare.outcomes import CurveComparison

COLOURS = {"info": "cyan", "warning": "yellow", "error": "red"}
MOST_LAYERS = 8
MOST_HAPPENINGS = 12
MOST_CHARACTERS = 200
NAME_WIDTH = 20
_MOST_PARAMETERS = 3


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print groups, conclusions, settings, curves, layers, and what happened in some runs only."""
    _groups(console, comparison.groups)
    for headline, detail in conclusions(comparison):
        console.print()
        console.print(_sentence(headline, "bold"))
        if detail:
            console.print(_sentence(detail))
    _settings(console, comparison)
    for index in range(1, len(comparison.groups)):
        _curves(console, comparison, index)
    _happenings(console, comparison)
    _notes(console, comparison)


def _groups(console: Console, groups: Sequence[Group]) -> None:
    table = _table("", "group", "runs", "seeds", "ends")
    for index, group in enumerate(groups):
        seeds = ", ".join(member.seed or "unknown" for member in group.members)
        ends = [member.ended for member in group.members]
        counts = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
        table.add_row(_letter(index), _text(group.name), str(len(group.members)), _text(seeds), _text(counts))
    console.print(table)


def _settings(console: Console, comparison: Comparison) -> None:
    rows = [row for row in comparison.settings if row.name != TABLE]
    _title(console, "What differs in the settings")
    if not rows and not any(comparison.parameters):
        console.print("  nothing but the seed" if words.seeds_differ(comparison) else "  nothing, not even the seed")
        return
    if rows:
        table = _table("setting", *map(words.letter, range(len(comparison.groups))))
        for row in rows:
            table.add_row(_text(row.name, style="" if row.decides else "dim"), *map(_text, row.values))
        console.print(table)
    for index, found in enumerate(comparison.parameters, start=1):
        for line in _parameter_lines(found):
            console.print(Text("  ").append_text(_letter(index)).append_text(_text(f" {line}")))


def _parameter_lines(found: ParameterDifferences | None) -> Iterable[str]:
    if found is None:
        return
    for what, names in (("has the layers", found.added), ("lacks", found.removed), ("changes", found.changed)):
        if names:
            more = f" and {len(names) - _MOST_PARAMETERS} more" if len(names) > _MOST_PARAMETERS else ""
            yield f"{what} {', '.join(names[:_MOST_PARAMETERS])}{more}"


def _curves(console: Console, comparison: Comparison, index: int) -> None:
    first, me = words.letter(0), words.letter(index)
    _title(console, f"Where {me} and {first} part")
    for optimizer, alignment in comparison.aligned.items():
        which = f"optimizer {optimizer}: " if len(comparison.aligned) > 1 else ""
        console.print(f"  {which}{alignment.described()}", style="dim")
    layers = words.layers_apart(comparison, index)
    table = _table("curve", f"{first} at the end", f"{me} at the end", f"{me} / {first}", f"{me} differs (steps)")
    for curve in comparison.curves:
        _curve_row(table, curve, index)
    if comparison.layers:
        table.add_section()
        table.add_row(Text(f"layers: {len(layers)} of {len(comparison.layers)}", style="dim"))
    for curve in layers[:MOST_LAYERS]:
        _curve_row(table, curve, index)
    console.print(table)
    if len(layers) > MOST_LAYERS:
        console.print(f"  and {len(layers) - MOST_LAYERS} more layers (--json has all of them)", style="dim")


def _curve_row(table: Table, curve: CurveComparison, index: int) -> None:
    outcome = curve.outcomes[index - 1]
    step = outcome.step if outcome else None
    table.add_row(
        Text(shorten_name(clean(words.curve_name(curve)), NAME_WIDTH)),
        words.curve_ending(curve, 0),
        words.curve_ending(curve, index),
        words.ratio(curve, index),
        Text(words.where(outcome), style="bold" if step is not None else ""),
    )


def _happenings(console: Console, comparison: Comparison) -> None:
    found = [each for each in comparison.happenings if each.differs]
    if len(comparison.groups) == 1 or not found:
        return
    _title(console, "What happened in one group and not in the other")
    table = _table("", "from step", *map(words.letter, range(len(comparison.groups))))
    for each in found[:MOST_HAPPENINGS]:
        name = Text.assemble((f"{each.kind} ", COLOURS.get(each.severity, "red")), _text(each.name))
        counts = [f"{count} of {size}" for count, size in zip(each.counts, each.sizes, strict=True)]
        table.add_row(name, str(each.first_step), *counts)
    console.print(table)
    if len(found) > MOST_HAPPENINGS:
        console.print(f"  and {len(found) - MOST_HAPPENINGS} more (--json has all of them)", style="dim")


def _notes(console: Console, comparison: Comparison) -> None:
    if comparison.notes:
        _title(console, "Notes")
    for note in comparison.notes:
        console.print(Padding(_sentence(note), (0, 0, 0, 2)))


# -- pieces ------------------------------------------------------------------------------------------------------------


def _table(*headers: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1), collapse_padding=True)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold cyan"))


def _letter(index: int) -> Text:
    return Text(words.letter(index), style="bold")


def _sentence(text: str, style: str = "") -> Text:
    return Text(clean(text), style=style)


def _text(text: str, style: str = "") -> Text:
    return Text(shorten(clean(text), MOST_CHARACTERS), style=style)
