"""What ``gradwatch show`` prints: sections of lines, the verdict first."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.text import Text

from gradwatch.report import facts
from gradwatch.report.episodes import rank_of
from gradwatch.report.incidents import telling
from gradwatch.report.terminal import numbers
from gradwatch.report.terminal.layout import INDENT, line, section
from gradwatch.report.text import clean, count, shorten_name
from gradwatch.report.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gradwatch.report.run import Run
    from gradwatch.report.terminal.layout import Layout
    from gradwatch.report.timeline import Entry
    from gradwatch.report.verdict import State, Verdict

BADGES: dict[State, tuple[str, str]] = {
    "healthy": ("HEALTHY", "black on green"),
    "findings": ("FINDINGS", "black on yellow"),
    "nonfinite": ("NOT FINITE", "white on red"),
    "exception": ("EXCEPTION", "white on red"),
    "stopped": ("STOPPED", "black on yellow"),
    "interrupted": ("INTERRUPTED", "black on yellow"),
    "killed": ("KILLED", "white on red"),
    "running": ("RUNNING", "black on cyan"),
}
COLOURS = {"info": "cyan", "warning": "yellow", "error": "red", "incident": "bold red"}

# What a screen holds beside the prompt.
LINES = 40
# How many entries are explained and how much advice is given: the first that fits.
DETAIL = ((4, 3), (3, 3), (2, 3), (2, 2), (1, 2), (1, 1))
ENTRIES, MESSAGE_LINES, ADVICE_LINES, NOTES, OTHERS, RANKS = 9, 2, 2, 3, 5, 4
ID_WIDTH = 8

_SPAN, _SEVERITY = 16, 10


def screen(run: Run, verdict: Verdict, others: Sequence[Run], layout: Layout) -> list[Text]:
    """Return all lines for a run, a blank one between sections; ``others`` are the other runs of its folder.

    As many entries of the timeline are explained, and as much advice given, as there is room for; one of each at least.
    """
    above = [_head(verdict, layout), _facts(run, others, layout)]
    middle = [
        *(_curves(run, optimizer, layout) for optimizer in range(min(len(run.steps), numbers.OPTIMIZERS))),
        section("layers", numbers.layers(run.steps, layout)),
        section("last steps", numbers.last_steps(run, layout)),
    ]
    files, notes = section("files", _files(run)), section("notes", _notes(run, layout))
    lines: list[Text] = []
    for explained, advised in DETAIL:
        happened = section("timeline", _timeline(run, layout, explained))
        advice = section("advice", _advice(verdict, layout, advised))
        lines = _joined([*above, happened, *middle, advice, files])
        if len(lines) <= LINES:
            break
    return _joined([lines, notes])  # on top of the screen's length, as they are not usual


def _joined(sections: Iterable[list[Text]]) -> list[Text]:
    lines: list[Text] = []
    for one in filter(None, sections):
        lines += [Text(""), *one] if lines else one
    return lines


def _head(verdict: Verdict, layout: Layout) -> list[Text]:
    word, style = BADGES[verdict.state]
    badge = Text.assemble((f" {word} ", style), "  ")
    return layout.block(verdict.headline, lines=3, style="bold", first=badge)


def _facts(run: Run, others: Sequence[Run], layout: Layout) -> list[Text]:
    lines = layout.facts([f"run {_id(run)}", *facts.course_of_time(run)])
    if run.start is not None:
        lines += layout.facts([*facts.setting(run.start), facts.clip_rule(run.start.clip)])
    if others:
        names = ", ".join(map(_id, others[-OTHERS:]))
        more = f" and {len(others) - OTHERS:,} more" if len(others) > OTHERS else ""
        lines += layout.block(f"also in this folder: {names}{more} (choose with --run)", lines=2, style="dim")
    return lines


def _id(run: Run) -> str:
    return clean(run.run_id)[:ID_WIDTH] if run.start is not None else clean(run.run_id)


def _curves(run: Run, optimizer: int, layout: Layout) -> list[Text]:
    steps = run.steps[optimizer]
    title = "curves" if len(run.steps) == 1 else f"curves of optimizer {steps.optimizer}"
    return section(title, numbers.curves(steps, layout))


def _timeline(run: Run, layout: Layout, explained: int) -> list[Text]:
    entries = timeline(run)
    # Information is the first to be left out; what is left stays in its order.
    kept = sorted(range(len(entries)), key=lambda place: entries[place].severity == "info")[:ENTRIES]
    shown = [entries[place] for place in sorted(kept)]
    told = sorted((entry for entry in shown if entry.message.strip()), key=_importance)[:explained]
    lines: list[Text] = []
    for entry in shown:
        lines.append(_entry(entry, layout))
        if entry.severity != "info" and any(entry is one for one in told):
            lines += layout.block(entry.message, lines=MESSAGE_LINES, style="dim", hang=_SPAN)
    more = len(entries) - len(shown)
    return lines + ([line(f"and {more} more", "dim")] if more else [])


def _importance(entry: Entry) -> tuple[bool, int]:
    """Return what sorts entries: incidents, then the worst findings; the causes of others are among the first."""
    return entry.severity != "incident", -rank_of(entry.severity)


def _entry(entry: Entry, layout: Layout) -> Text:
    first, last = f"{entry.since_step:,}", "end" if entry.until_step is None else f"{entry.until_step:,}"
    span = first if first == last else f"{first} - {last}"
    times = f" ({entry.times:,} times)" if entry.times > max(1, len(entry.layers)) else ""
    what = clean(entry.what) + _ranks(entry.ranks) + times
    shown = line(f"{span:<{_SPAN - 1}} ")
    shown.append(f"{clean(entry.severity):<{_SEVERITY - 1}} ", COLOURS.get(entry.severity, "red")).append(what)
    if entry.layers:
        more = f" +{len(entry.layers) - 1:,}" if len(entry.layers) > 1 else ""
        room = max(12, layout.width - shown.cell_len - len(" in ") - len(more))
        shown.append(f" in {shorten_name(clean(entry.layers[0]), room)}{more}", "dim")
    return shown


def _ranks(ranks: tuple[int, ...]) -> str:
    if not ranks:
        return ""
    more = f" and {len(ranks) - RANKS} more" if len(ranks) > RANKS else ""
    return f" on {'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks[:RANKS]))}{more}"


def _advice(verdict: Verdict, layout: Layout, advised: int) -> list[Text]:
    lines: list[Text] = []
    for place, advice in enumerate(verdict.advice[:advised], 1):
        mark = f"{place}. " if min(advised, len(verdict.advice)) > 1 else ""
        lines += layout.block(advice, lines=ADVICE_LINES, first=line(mark))
    return lines


def _files(run: Run) -> list[Text]:
    """Return where the files are. Paths are not cut: they are there to be copied, and may be wider than the screen."""
    lines = [line(clean(run.folder))]
    filed = [incident for incident in run.incidents if incident.folder is not None]
    if filed:
        shown = max(filed, key=lambda incident: (incident.step, telling(incident), incident.time))
        folder = clean(shown.folder)
        lines.append(line(f"gradwatch replay {shlex.quote(folder)}", "bold") if shown.replayable else line(folder))
    return lines


def _notes(run: Run, layout: Layout) -> list[Text]:
    lines = [one for note in run.notes[:NOTES] for one in layout.block(note, lines=2)]
    more = len(run.notes) - NOTES
    return lines + ([Text(" " * INDENT + f"and {count(more, 'more note')}")] if more > 0 else [])
