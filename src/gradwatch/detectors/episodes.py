"""From signs to findings: one that lasts opens a finding, one that has gone closes it; never a line a step."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gradwatch.records import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gradwatch.detectors.catalogue.rule import Rule
    from gradwatch.detectors.detector import Detector, Reading, Sign
    from gradwatch.records import FindingStatus, Severity

# An open finding is told again when its sign has doubled, which can happen only so many times.
TOLD_AGAIN = 2.0
SEVERITIES = ("info", "warning", "error")


class Episode(NamedTuple):
    """A sign in one subject: since which step, at how many records in a row, and what has been told of it.

    ``told`` is the strength when it was last told, ``severity`` and ``layer`` are those of the finding; None while
    none is open.
    """

    since_step: int
    records: int = 0
    absent: int = 0
    told: float | None = None
    severity: Severity | None = None
    layer: str | None = None


class Shown(NamedTuple):
    """How strongly a sign shows in one subject, and what can be said of it."""

    strength: float
    subject: str | None
    explain: Callable[[], Sign]


Episodes = dict[str | None, Episode]


def advance(episodes: Episodes, detector: Detector, reading: Reading, record: Any) -> tuple[Episodes, list[Finding]]:
    """Take in one reading. Subjects whose strength is not known, or that are not in it, stay as they are."""
    strength = reading.strength
    if isinstance(strength, float):
        if not episodes and not strength >= 1.0:  # NaN is not
            return episodes, []
        strength = np.array([strength])
    elif not episodes and not (strength >= 1.0).any():
        return episodes, []
    after, findings = dict(episodes), []
    for i, value in enumerate(strength.tolist()):
        subject = reading.subjects[i]
        if math.isnan(value) or not (value >= 1.0 or subject in after):
            continue
        before = after.pop(subject, None)
        episode = _step(before, value, record.step, detector.limits)
        if episode is None:
            if before is not None and before.told is not None:
                findings.append(_closed(detector, before, record))
            continue
        shown = Shown(value, subject, partial(reading.explain, i))
        after[subject], told = _tell(episode, shown, detector, record)
        findings += told
    return after, findings


def _tell(episode: Episode, shown: Shown, detector: Detector, record: Any) -> tuple[Episode, list[Finding]]:
    """Return the episode and what there is to tell of it now: that it has opened, doubled, or become more severe."""
    lasts = episode.records >= detector.limits["records"]
    lasts = lasts and record.step - episode.since_step >= detector.limits["steps"]
    if shown.strength < 1.0 or (episode.told is None and not lasts):
        return episode, []
    sign = shown.explain()
    severity = max(sign.severity or detector.rule.severity, episode.severity or "info", key=SEVERITIES.index)
    doubled = episode.told is not None and episode.told < math.inf and shown.strength >= TOLD_AGAIN * episode.told
    if episode.told is not None and not doubled and severity == episode.severity:
        return episode, []
    status: FindingStatus = "opened" if episode.told is None else "updated"
    layer = sign.layer or shown.subject if episode.told is None else episode.layer
    episode = episode._replace(told=shown.strength, severity=severity, layer=layer)
    return episode, [_told(detector, episode, sign, record, status)]


def _step(before: Episode | None, value: float, step: int, limits: Mapping[str, float]) -> Episode | None:
    """Return the episode after a record; None if there is none any more."""
    is_open = before is not None and before.told is not None
    if value >= 1.0:
        before = before or Episode(since_step=step)
        return before._replace(records=before.records + 1, absent=0)
    if before is None or not is_open:
        return None
    if value >= limits["release"]:
        return before._replace(absent=0)
    gone = before._replace(absent=before.absent + 1)
    return None if gone.absent >= limits["quiet"] else gone


def _told(detector: Detector, episode: Episode, sign: Sign, record: Any, status: FindingStatus) -> Finding:
    rule = detector.rule
    return Finding(
        **header(record),
        code=rule.code,
        status=status,
        since_step=episode.since_step,
        severity=episode.severity or rule.severity,
        layer=episode.layer,
        message=_message(rule, episode, sign),
        evidence=sign.evidence,
        advice=rule.advice if sign.advice is None else sign.advice,
    )


def _message(rule: Rule, episode: Episode, sign: Sign) -> str:
    if sign.message is not None:
        return sign.message
    return rule.message.format(layer=episode.layer, since=episode.since_step, **sign.evidence)


def _closed(detector: Detector, before: Episode, record: Any) -> Finding:
    code, layer = detector.rule.code, before.layer
    return Finding(
        **header(record),
        code=code,
        status="closed",
        since_step=before.since_step,
        severity="info",
        layer=layer,
        message=f"{code}{f' of {layer}' if layer else ''}: no longer seen.",
        evidence={},
        advice="",
    )


def header(record: Any) -> dict[str, Any]:
    """Return what a finding takes over from the record that showed it."""
    return {name: getattr(record, name) for name in ("time", "step", "epoch", "batch_idx", "rank")}
