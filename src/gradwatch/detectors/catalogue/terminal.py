"""The catalogue on a terminal: ``gradwatch rules``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from gradwatch.detectors.catalogue.families import FAMILIES, closest
from gradwatch.detectors.catalogue.pages import persistence

if TYPE_CHECKING:
    from rich.console import Console

    from gradwatch.detectors.catalogue.rule import Rule

COLOURS = {"info": "cyan", "warning": "yellow", "error": "red"}


def print_rules(console: Console) -> None:
    """Print one table of all rules."""
    table = Table("rule", "severity", "meaning", box=None, pad_edge=False, header_style="bold")
    for family, rules in FAMILIES.items():
        table.add_section()
        table.add_row(Text(family, style="bold"), "", "")
        for rule in rules:
            table.add_row(f"  {rule.code}", Text(rule.severity, style=COLOURS[rule.severity]), rule.meaning)
    console.print(table)
    console.print(
        "\ngradwatch rules CODE shows definition, thresholds with their sources, causes and advice of one rule."
    )


def print_rule(console: Console, rule: Rule) -> None:
    """Print all that the catalogue says of one rule."""
    console.print(Text.assemble((rule.code, "bold"), "  ", (rule.severity, COLOURS[rule.severity])))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("meaning", rule.meaning)
    table.add_row("found when", rule.formula)
    table.add_row("lasting", persistence(rule))
    if rule.silent_when:
        table.add_row("silent on", rule.silent_when)
    for threshold in rule.thresholds:
        table.add_row(f"{threshold.name} = {threshold.value:g}", f"{threshold.meaning} ({threshold.source})")
    for cause in rule.causes:
        table.add_row("cause", cause)
    table.add_row("advice", rule.advice)
    console.print(table)


def meant(code: str) -> str:
    """Return what to say of a code that is none."""
    close = closest(code)
    return f"there is no rule {code!r}" + (f"; did you mean {close!r}?" if close else "")
