"""The timeline: findings by code and incidents, in the order in which they began; each opens to what is known."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from gradwatch.report.episodes import rank_of
from gradwatch.report.html.formats import UNKNOWN, count, moment, number
from gradwatch.report.html.markup import Child, Markup, element, join, short
from gradwatch.report.html.page import Section, facts, folded, table
from gradwatch.report.html.sections.room import fitting, named, size_of
from gradwatch.report.html.sections.view import Group, Told, View, severity_of
from gradwatch.report.incidents import telling

if TYPE_CHECKING:
    from gradwatch.records import SourceLine, TensorSummary
    from gradwatch.report.episodes import Episode
    from gradwatch.report.html.axis import Axis

MOST_LAYERS = 20  # told in full; further ones by name
MOST_NAMES = 400
MOST_BARS = 60
MOST_INCIDENTS = 100
MOST_TEXT = 20_000
ROOM = 2_000_000  # bytes for all of it, at most half of them for incidents


def events_section(view: View) -> Section:
    """Return the section of findings and incidents."""
    incidents, _ = fitting(view.incidents[:MOST_INCIDENTS], lambda told: _incident(view, told), ROOM // 2)
    left = ROOM - size_of(row for _, row in incidents)
    worst_first = sorted(view.groups, key=lambda group: -rank_of(group.worst.severity))
    findings, left_out = fitting(worst_first, lambda group: _finding(view, group), left)
    rows = [(group.since, row) for group, row in findings] + [(told.incident.step, row) for told, row in incidents]
    rows.sort(key=lambda row: row[0])
    more = len(view.incidents) - len(incidents)
    body = join(
        [
            element("div", [row for _, row in rows], class_="list")
            if rows
            else element("p", "No rule has found anything, and nothing became non-finite.", class_="empty"),
            named(left_out, view.run.folder),
            element("p", f"{count(more, 'more incident')}: see the folder.", class_="note") if more > 0 else None,
        ]
    )
    lead = "In the order in which they began. The bars show when, over the whole run." if rows else None
    return Section(name="findings", title="Findings and incidents", body=body, lead=lead)


def _finding(view: View, group: Group) -> Markup:
    worst = group.worst
    severity = severity_of(worst.severity)
    layers = list(dict.fromkeys(one.layer for one in group.episodes if one.layer))
    where = layers[0] if len(layers) == 1 else count(len(layers), "layer") if layers else "the whole model"
    summary = [
        element("span", severity, class_=f"badge {severity}"),
        _what(worst.code, f"{where}: {worst.message}"),
        _bars(view.steps, group.episodes, severity),
    ]
    several = len(group.episodes) > 1
    told = [_episode(one, view, headed=several) for one in group.episodes[:MOST_LAYERS]]
    rest = group.episodes[MOST_LAYERS:]
    inside = element("div", told, _rest(rest) if rest else None, class_="inside")
    return folded(join(summary), inside, id=group.name)


def _what(name: str, more: str) -> Markup:
    return element("span", element("b", short(name, 120)), element("small", more[:300]), class_="what")


def _episode(episode: Episode, view: View, *, headed: bool) -> Markup:
    until = f"step {count(episode.closed_step)}" if episode.closed_step is not None else "the end"
    when = f"step {count(episode.since_step)} until {until}"
    rank = f", rank {episode.rank}" if len(view.run.ranks) > 1 else ""
    title = element("h3", short(episode.layer or "the whole model", 300)) if headed else None
    evidence = {key: value for key, value in episode.evidence.items() if key != "source"}
    return join(
        [
            title,
            element("p", episode.message[:MOST_TEXT]),
            element("p", episode.advice[:MOST_TEXT], class_="advice") if episode.advice else None,
            _excerpt_of(episode.evidence.get("source")),
            facts([("when", when + rank), *((short(key, 60), _value(value)) for key, value in evidence.items())]),
        ]
    )


def _rest(episodes: list[Episode]) -> Markup:
    names = [f"{one.layer or 'the whole model'} (step {one.since_step})" for one in episodes[:MOST_NAMES]]
    ellipsis = "" if len(episodes) <= MOST_NAMES else ", …"
    text = ", ".join(short(name, 120) for name in names) + ellipsis
    return folded(f"The same {count(len(episodes), 'more time')}", element("p", text))


def _bars(steps: Axis, episodes: list[Episode], severity: str) -> Markup:
    bars = [_bar(steps, one.since_step, one.closed_step) for one in episodes[:MOST_BARS]]
    since = min(one.since_step for one in episodes)
    open_ones = any(one.closed_step is None for one in episodes)
    last = max((one.closed_step or 0 for one in episodes), default=0)
    text = f"from {count(since)} to the end" if open_ones else f"{count(since)} – {count(last)}"  # noqa: RUF001 - a range
    return element("span", bars, element("small", text), class_=f"span {severity}")


def _bar(steps: Axis, since: int, until: int | None) -> Markup:
    whole = steps.high - steps.low
    begin = min(max(since, steps.low), steps.high)  # before the division: a foreign log may claim any step
    end = steps.high if until is None else min(max(until, begin), steps.high)
    left, right = (begin - steps.low) / whole, (end - steps.low) / whole
    return element("i", style=f"left:min({100 * left:.2f}%,100% - 5px);width:{100 * (right - left):.2f}%")


def _incident(view: View, told: Told) -> Markup:
    incident = told.incident
    origin = incident.origin
    where = origin.op or origin.tensor or origin.phase
    several = incident.world_size > 1
    inside_of = f" in {origin.module or origin.module_type}" if origin.module or origin.module_type else ""
    summary = [
        element("span", "incident", class_="badge incident"),
        _what(f"non-finite {incident.first_seen}, {incident.action}", f"{where}{inside_of}: {incident.explanation}"),
        element(
            "span",
            _bar(view.steps, incident.step, incident.step),
            element("small", f"step {count(incident.step)}" + (f", rank {incident.rank}" if several else "")),
            class_="span incident",
        ),
    ]
    first = told is max(view.incidents, key=lambda one: (-one.incident.step, telling(one.incident)))
    return folded(join(summary), element("div", _incident_body(told), class_="inside"), id=told.name, opened=first)


def _incident_body(told: Told) -> list[Child]:
    incident = told.incident
    origin = incident.origin
    return [
        element("p", incident.explanation[:MOST_TEXT]),
        element("p", incident.advice[:MOST_TEXT], class_="advice") if incident.advice else None,
        _excerpt(origin.source),
        facts(
            [
                ("born in", _born(told)),
                ("module", _module(told)),
                ("tensor", origin.tensor),
                ("element", ", ".join(map(str, origin.index)) if origin.index else None),
                ("sample of the batch", origin.sample),
                ("transition", origin.transition),
                ("ranks", ", ".join(map(str, origin.ranks)) if incident.world_size > 1 else None),
                ("cause", origin.cause),
                ("rank", incident.rank if incident.world_size > 1 else None),
                ("batch", None if incident.batch_idx is None else f"{incident.batch_idx} of epoch {incident.epoch}"),
                ("when", moment(incident.time)),
                ("reproduced", "yes" if incident.reproduced else "no"),
            ]
        ),
        _tensors(told),
        _affected(incident.affected),
        folded("Traceback of anomaly mode", element("pre", incident.anomaly_traceback[:MOST_TEXT]))
        if incident.anomaly_traceback
        else None,
        _replay(told),
    ]


def _born(told: Told) -> str:
    origin = told.incident.origin
    return f"{origin.op}, {origin.phase}" if origin.op else origin.phase.replace("_", " ")


def _module(told: Told) -> str | None:
    origin = told.incident.origin
    if origin.module is None:
        return None
    kind = f" ({origin.module_type})" if origin.module_type else ""
    return f"{origin.module or 'the LightningModule itself'}{kind}"


def _tensors(told: Told) -> Markup | None:
    origin = told.incident.origin
    rows = [(f"input {index}", one) for index, one in enumerate(origin.inputs)]
    if origin.output is not None:
        rows.append(("output", origin.output))
    if not rows:
        return None
    heads = ["tensor", "shape", "dtype", "least", "largest", "NaN", "+∞", "-∞", "zeros"]
    return table(heads, (_tensor(name, one) for name, one in rows), numeric=range(3, 9))


def _tensor(name: str, one: TensorSummary) -> list[Child]:
    shape = " x ".join(map(str, one.shape)) or "a number"
    counts = [count(part) for part in (one.nan, one.posinf, one.neginf, one.zeros)]
    return [name, shape, one.dtype, number(one.min), number(one.max), *counts]


def _affected(names: list[str]) -> Markup | None:
    if not names:
        return None
    shown = names[:MOST_NAMES]
    text = ", ".join(short(name, 200) for name in shown) + ("" if len(names) <= MOST_NAMES else ", …")
    return folded(f"Affected: {count(len(names), 'tensor')}", element("p", text, class_="mono"))


def _replay(told: Told) -> Markup | None:
    folder = told.incident.folder
    if folder is None:
        return None
    if not told.incident.replayable:
        return element("p", "Its folder: ", element("code", str(folder)), class_="note")
    command = f"gradwatch replay {shlex.quote(str(folder))}"
    return element("p", "Run this step again:", element("code", command, class_="command"))


def _excerpt(source: SourceLine | None) -> Markup | None:
    if source is None:
        return None
    return _code(source.file, source.line, source.function, source.code)


def _excerpt_of(source: Any) -> Markup | None:
    """Return the excerpt of a source line among evidence, which may be anything."""
    if not isinstance(source, dict) or "file" not in source:
        return None
    return _code(*(source.get(key, "") for key in ("file", "line", "function", "code")))


def _code(file: object, line: object, function: object, code: object) -> Markup:
    place = element("span", f"{short(file, 400)}:{line}, in {short(function, 200)}", class_="at")
    return element("pre", place, "\n", element("code", f"{line}  {short(code, 2000)}"))


def _value(value: Any) -> Child:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: UNKNOWN}[value]
    if isinstance(value, (int, float)):
        return number(float(value)) if isinstance(value, float) else f"{value:,}"
    if isinstance(value, str):
        return short(value, 2000)
    return short(json.dumps(value, default=str, ensure_ascii=False), 2000)
