"""The plain words for the log: pure functions from records to text, nothing is printed here.

Names, paths and source lines are data: characters that a terminal would act upon are shown as escapes.
"""

from __future__ import annotations

import shlex
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from gradwatch.records import ClipRule, Finding, Incident, Origin, RunEnd, RunStart

WIDTH = 100
LABEL_WIDTH = 15
MAX_TEXT_LINES = 4
NAMES_SHOWN = 5
NAMES_WIDTH = 200

_ACTIONS = {
    "raised": "training ends here.",
    "stopped": "training is being stopped, and updates are dropped until it has.",
    "skipped": "this update was dropped, and training goes on.",
    "warned": "training goes on as it is.",
}
_STATUS = {
    "finished": "finished",
    "stopped": "was stopped",
    "interrupted": "was interrupted",
    "nonfinite": "ended at a non-finite value",
    "exception": "ended with an exception",
}
_PHASES = {
    "input": "the batch itself",
    "parameter": "a weight, before the step",
    "buffer": "a buffer, before the step",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "optimizer": "the optimizer's step",
    "not_reproduced": "not traced to an operation",
}


def format_start(run: RunStart, dirpath: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the lines that open a run: the clip rule with its reason, and where the files go."""
    lines = [f"gradwatch: {_clip_rule(run.clip)}."]
    if run.resumed_from is not None:
        lines.append(f"gradwatch: this run resumes run {_clean(run.resumed_from)}.")
    if dirpath is not None:
        lines.append(f"gradwatch: records go to {_clean(dirpath)}")
    return lines


def format_incident(incident: Incident, path: str | os.PathLike[str] | None, *, replayable: bool = False) -> str:
    """Return an incident as a text that fits on a screen.

    Args:
        incident: what happened.
        path: its directory, or None if there is none.
        replayable: whether that holds what ``gradwatch replay`` needs.
    """
    source = incident.origin.source
    lines = [
        f"Non-finite {incident.first_seen} at {_where(incident)}: {_ACTIONS.get(incident.action, incident.action)}",
        *_entry("origin", _origin(incident.origin, incident.world_size)),
    ]
    if source is not None:
        # Not wrapped: terminals and editors make a link of file:line.
        lines.append(_label("source") + f"{_clean(source.file)}:{source.line} in {_clean(source.function)}")
        lines.append(_label("") + _shorten(_clean(source.code.strip()), WIDTH - LABEL_WIDTH))
    lines += _entry("affected", _some_of(incident.affected))
    lines += _entry("explanation", incident.explanation)
    lines += _entry("advice", incident.advice)
    if path is not None:
        lines.append(_label("files") + _clean(path))
    if replayable:
        lines.append(_label("replay") + f"gradwatch replay {shlex.quote(_clean(path))}")
    return "\n".join(lines)


def grouped(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Return findings of one code and status together: a fault of the whole network is one message, not one a layer."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.code, finding.status), []).append(finding)
    return list(groups.values())


def format_findings(group: Sequence[Finding]) -> str:
    """Return the message and advice of the first, and the layers of the others."""
    first, *others = group
    layers = _some_of([_clean(finding.layer) for finding in others])
    also = f" The same in {layers}." if others else ""
    return f"{_clean(first.message)}{also} {_clean(first.advice)}".rstrip()


def format_end(run: RunEnd, *, clip_rate: float | None = None) -> str:
    """Return the closing line of a run; ``clip_rate`` is the share of steps clipped, None where nothing clips."""
    reason = f" ({_shorten(_clean(run.reason), WIDTH)})" if run.reason else ""
    facts = [f"{_count(run.skipped_steps, 'update')} dropped"]
    if clip_rate is not None:
        facts.append(f"{clip_rate:.1%} of steps clipped")
    facts.append(_count(run.incidents, "incident"))
    how = _STATUS.get(run.status, run.status)
    return f"gradwatch: training {how}{reason} after {_count(run.steps, 'optimizer step')}: {', '.join(facts)}."


def _clip_rule(rule: ClipRule) -> str:
    limit = (
        "gradients are not clipped" if rule.max_norm is None else f"gradients are clipped to L2 norm {rule.max_norm:g}"
    )
    family = f"{_clean(rule.family)}: " if rule.family else ""
    return f"{limit} ({family}{_clean(rule.reason)}; source: {_clean(rule.source)})"


def _where(incident: Incident) -> str:
    batch = "outside a batch" if incident.batch_idx is None else f"batch {incident.batch_idx}"
    return f"step {incident.step} (epoch {incident.epoch}, {batch}, rank {incident.rank} of {incident.world_size})"


def _origin(origin: Origin, world_size: int) -> str:
    phase = _PHASES.get(origin.phase, origin.phase)
    parts = [phase]
    if origin.op is not None:
        parts = [origin.op, _module(origin), phase]
    elif origin.module is not None:
        parts = [phase, _module(origin)]
    if origin.tensor is not None:
        parts.append(origin.tensor)
    if origin.transition is not None:
        parts.append(origin.transition)
    if world_size > 1 and origin.ranks:
        parts.append(f"rank{'s' * (len(origin.ranks) > 1)} {_some_of([str(rank) for rank in origin.ranks])}")
    if origin.cause == "dynamics":
        parts.append("the run had been growing for steps, no operation is to blame")
    return ", ".join(part for part in parts if part)


def _module(origin: Origin) -> str:
    if origin.module is None:
        return ""
    kind = f" ({origin.module_type})" if origin.module_type else ""
    return f"in {origin.module or 'the module itself'}{kind}"


def _some_of(names: Sequence[str]) -> str:
    """Return the first names and how many there are beyond them; at least one name, cut if need be."""
    shown: list[str] = []
    for name in names[:NAMES_SHOWN]:
        if shown and len(", ".join([*shown, name])) > NAMES_WIDTH:
            break
        shown.append(_shorten(name, NAMES_WIDTH))
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _entry(label: str, text: str) -> list[str]:
    """Return a labelled paragraph of at most ``MAX_TEXT_LINES`` lines, or nothing for an empty text."""
    return textwrap.wrap(
        _clean(" ".join(text.split())),
        width=WIDTH,
        initial_indent=_label(label),
        subsequent_indent=_label(""),
        max_lines=MAX_TEXT_LINES,
        placeholder=" ...",
        break_on_hyphens=False,
    )


def _label(text: str) -> str:
    return "  " + text.ljust(LABEL_WIDTH - 2)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _clean(text: object) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
