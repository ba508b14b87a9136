"""With what the run was made: versions, hardware, settings, the parameter table; and what reading it met with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from gradwatch.records import Event, RunStart
from gradwatch.report.html.formats import UNKNOWN, count, moment, number
from gradwatch.report.html.markup import Child, Markup, element, join, short
from gradwatch.report.html.page import Section, facts, folded, search_field, table

if TYPE_CHECKING:
    from gradwatch.report.html.sections.view import View

MOST_PARAMETERS = 5000
MOST_TEXT = 1000
_TITLES = {
    "versions": "Versions",
    "hardware": "Hardware",
    "precision": "Precision",
    "optimizers": "Optimizers",
    "schedulers": "Learning rate schedulers",
    "seeds": "Seeds",
    "determinism": "Determinism",
    "settings": "Settings of gradwatch",
}
_ELSEWHERE = {
    "parameters",
    "model",
    "clip",
    "run_id",
    "resumed_from",
    "steps_before",
    "strategy",
    "world_size",
    *(f.name for f in fields(Event)),
}


def environment_section(view: View) -> Section:
    """Return the section of everything else."""
    start = view.run.start
    parts: list[Child] = [_run(view)]
    if start is None:
        parts.append(element("p", "The event that says how the run was set up has been lost.", class_="empty"))
    else:
        parts += _settings(start)
        parts.append(_parameters(start))
    parts.append(_notes(view.run.notes))
    return Section(name="environment", title="Environment", body=join(parts))


def _run(view: View) -> Markup:
    run, start, end = view.run, view.run.start, view.run.end
    how = None
    if end is not None:
        how = f"{end.status} at step {count(end.step)}" + (f": {end.reason[:MOST_TEXT]}" if end.reason else "")
    return facts(
        [
            ("run", run.run_id),
            ("folder", str(run.folder)),
            ("model", start.model if start else None),
            ("program", start.script if start else None),
            ("commit", _commit(start.git) if start and start.git else None),
            ("resumed from", start.resumed_from if start else None),
            ("started", moment(start.time) if start else None),
            ("ended", moment(end.time) if end else "it did not write its end"),
            ("how", how),
            ("skipped steps", count(end.skipped_steps) if end else None),
            ("strategy", f"{start.strategy}, {count(start.world_size, 'process', 'processes')}" if start else None),
            ("logs of ranks", ", ".join(map(str, run.ranks)) if len(run.ranks) > 1 else None),
        ]
    )


def _commit(git: dict[str, Any]) -> str:
    """Return commit and branch, and whether tracked files had been changed."""
    branch = f" on {git['branch']}" if git.get("branch") else ""
    dirty = git.get("dirty")
    changed = "" if dirty is False else ", with changes that are not in it" if dirty is True else ", changes not known"
    return f"{git.get('commit') or 'unknown'}{branch}{changed}"


def _settings(start: RunStart) -> list[Markup]:
    """Return a folded list for each field of ``run_start``, those of a newer version included."""
    names = [field.name for field in fields(start) if field.name not in _ELSEWHERE]
    names.sort(key=lambda name: list(_TITLES).index(name) if name in _TITLES else len(_TITLES))
    parts = []
    for name in names:
        rows = flattened(getattr(start, name))
        if rows:
            parts.append(folded(_TITLES.get(name, name.replace("_", " ").capitalize()), facts(rows), class_="fold"))
    return parts


def flattened(value: Any, prefix: str = "") -> list[tuple[Child, Child]]:
    """Return names and values of nested settings, one line each; lists of plain values stay on theirs."""
    if isinstance(value, Mapping):
        return [
            row for key, inner in value.items() for row in flattened(inner, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, (list, tuple)) and any(isinstance(inner, Mapping) for inner in value):
        several = len(value) > 1
        return [
            row
            for index, inner in enumerate(value)
            for row in flattened(inner, f"{prefix}[{index}]" if several or not prefix else prefix)
        ]
    return [(short(prefix or "value", 120), _value(value))]


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: UNKNOWN}[value]
    if isinstance(value, float):
        return number(value, 6)
    if isinstance(value, (list, tuple)):
        return short(", ".join(_value(inner) for inner in value), MOST_TEXT)
    return short(value if isinstance(value, (str, int)) else json.dumps(value, default=str), MOST_TEXT)


def _parameters(start: RunStart) -> Markup:
    rows = [
        [
            short(row.name, 300),
            short(row.layer, 300),
            " x ".join(map(str, row.shape)) or "a number",
            count(math.prod(row.shape)),
            row.dtype,
            row.device,
            "yes" if row.requires_grad else "no",
            UNKNOWN if row.optimizer is None else count(row.optimizer),
        ]
        for row in start.parameters[:MOST_PARAMETERS]
    ]
    heads = ["name", "layer", "shape", "numbers", "dtype", "device", "trained", "optimizer"]
    more = len(start.parameters) - MOST_PARAMETERS
    rest = element("p", f"and {count(more, 'more')}: see the event log", class_="note") if more > 0 else None
    shown = table(heads, rows, numeric=(3, 7), id="parameter-table")
    search = search_field("Find a parameter", "parameter-table")
    return folded(f"Parameters ({count(len(start.parameters))})", search, shown, rest, class_="fold")


def _notes(notes: list[str]) -> Markup | None:
    if not notes:
        return None
    items = [element("li", short(note, MOST_TEXT)) for note in notes[:100]]
    return folded("Notes on the files", element("ul", items), class_="fold", opened=True)
