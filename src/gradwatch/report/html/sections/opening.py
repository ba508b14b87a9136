"""What stands above all: the verdict, why, what to do next, and the run in a few words."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

from gradwatch.report.facts import own_steps, steps_taken
from gradwatch.report.html.formats import count, duration, moment, number
from gradwatch.report.html.markup import Child, Markup, element, short
from gradwatch.report.html.sections.view import View, severity_of
from gradwatch.report.incidents import telling

if TYPE_CHECKING:
    from gradwatch.records import RunStart

MOST = 4  # reasons and pieces of advice; the rest is told with the findings
_WORDS = {
    "healthy": "Healthy",
    "findings": "Finished with findings",
    "nonfinite": "Died of a non-finite value",
    "exception": "Ended by an exception",
    "stopped": "Stopped",
    "interrupted": "Interrupted",
    "killed": "Killed",
    "running": "Still running",
}
_WITHOUT_ADVICE = {
    "healthy": "Nothing. The curves below show how calm it was; keep this page to compare later runs with.",
    "exception": "Read the traceback that the program printed; below, the last steps show whether numbers were sane.",
    "killed": "Look for the reason outside: the logs of system (out of memory) and cluster (time limit, preemption), "
    "and whether the disk is full.",
    "running": "Make this page again later: it shows what has been written so far.",
}


def opening(view: View) -> Markup:
    """Return the head of the page."""
    verdict = view.verdict
    word = _WORDS.get(verdict.state, verdict.state)
    return element(
        "div",
        element("span", word, class_=f"word {_kind(view)}"),
        element("h1", f"{verdict.headline[:1].upper()}{verdict.headline[1:]}"),
        _reasons(view),
        _next(view),
        _tiles(view),
        class_="verdict",
        id="verdict",
    )


def _kind(view: View) -> str:
    """Return how bad it is, as a class of the style sheet."""
    if view.verdict.healthy:
        return "healthy"
    mild = view.verdict.state == "findings" and not view.incidents
    worst = {severity_of(group.worst.severity) for group in view.groups}
    return "warning" if mild and "error" not in worst else "error"


def _reasons(view: View) -> list[Markup]:
    said = view.verdict.headline.lower()
    reasons = [reason for reason in view.verdict.reasons if reason.lower().rstrip(".") not in said]
    shown: list[Markup] = [element("p", reason) for reason in reasons[:MOST]]
    if len(reasons) > MOST:
        shown.append(element("p", f"And {len(reasons) - MOST} more, ", element("a", "below", href="#findings"), "."))
    return shown


def _next(view: View) -> Markup | None:
    items: list[Child] = list(view.verdict.advice[:MOST])
    replayable = [told.incident for told in view.incidents if told.incident.replayable]
    if replayable:
        first = max(replayable, key=lambda incident: (-incident.step, telling(incident)))
        command = f"gradwatch replay {shlex.quote(str(first.folder))}"
        items.append(
            ["Run that step again and see where the value is born:", element("code", command, class_="command")]
        )
    if not items:
        items = [_WITHOUT_ADVICE[view.verdict.state]] if view.verdict.state in _WITHOUT_ADVICE else []
    if not items:
        return None
    return element(
        "div", element("h3", "What to do next"), element("ul", [element("li", item) for item in items]), class_="next"
    )


def _tiles(view: View) -> Markup:
    run = view.run
    start = run.start
    tiles: list[tuple[str, str, str]] = [("Steps", *_steps(view)), ("Time", *_time(view))]
    if start is not None:
        tiles += [
            ("Model", *_model(start)),
            ("Optimizer", *_optimizer(start)),
            ("Precision", str(start.precision.get("precision", "unknown")), _where(start)),
            ("Clipping", *_clipping(start)),
        ]
    return element("dl", [_tile(*tile) for tile in tiles], class_="tiles")


def _tile(name: str, what: str, detail: str) -> Markup:
    small = element("small", short(detail, 160)) if detail else None
    return element("div", element("dt", name), element("dd", short(what, 120), small))


def _steps(view: View) -> tuple[str, str]:
    run = view.run
    total, own = steps_taken(run), own_steps(run)
    if run.end is not None and own is not None:
        what = count(own, "step")
    else:
        what = f"up to step {count(run.last_step)}" if run.has_stepped else "none was written"
    detail = [f"{count(total)} with those before"] if total is not None and total != own else []
    detail.append(count(sum(len(steps) for steps in run.steps), "record"))
    detail += [count(len(run.ranks), "rank")] * (len(run.ranks) > 1)
    return what, ", ".join(detail)


def _time(view: View) -> tuple[str, str]:
    run = view.run
    if run.start is None or not math.isfinite(run.last_time):
        return "unknown", ""
    return duration(run.last_time - run.start.time), f"from {moment(run.start.time)}"


def _model(start: RunStart) -> tuple[str, str]:
    sizes = [math.prod(row.shape) for row in start.parameters]
    trained = sum(size for size, row in zip(sizes, start.parameters, strict=True) if row.requires_grad)
    layers = len({row.layer for row in start.parameters})
    frozen = sum(sizes) - trained
    more = f", {count(frozen)} frozen" if frozen else ""
    named = f"{start.model}, " if start.model else ""
    return count(sum(sizes)), f"{named}parameters in {count(layers, 'layer')}{more}"


def _optimizer(start: RunStart) -> tuple[str, str]:
    kinds = ", ".join(str(one.get("class", "unknown")) for one in start.optimizers)
    defaults = [one.get("defaults") for one in start.optimizers]
    rates = [one.get("lr") for one in defaults if isinstance(one, dict)]
    known = ", ".join(number(rate) for rate in rates if isinstance(rate, float))
    return kinds or "none", f"learning rate {known}" if known else ""


def _where(start: RunStart) -> str:
    device = start.hardware.get("device_name") or start.hardware.get("device")
    parts = [str(device)] if device else []
    parts += [start.strategy] + [f"{start.world_size} processes"] * (start.world_size > 1)
    return ", ".join(parts)


def _clipping(start: RunStart) -> tuple[str, str]:
    clip = start.clip
    what = "none by gradwatch" if clip.max_norm is None else f"norm at most {number(clip.max_norm)}"
    return what, clip.reason
