"""The verdict on a run: healthy or not, how it ended, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gradwatch.report.endings import last_step_of, lost_ranks
from gradwatch.report.episodes import rank_of
from gradwatch.report.facts import own_steps
from gradwatch.report.incidents import telling, without_echoes
from gradwatch.report.nonfinite import is_bad, to_the_end
from gradwatch.report.origins import origin, what_was_seen
from gradwatch.report.process import heard_of_elsewhere, is_running
from gradwatch.report.text import clean, count, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradwatch.records import Incident, RunEnd
    from gradwatch.report.episodes import Episode
    from gradwatch.report.incidents import FiledIncident
    from gradwatch.report.run import Run

State = Literal["healthy", "findings", "nonfinite", "exception", "stopped", "interrupted", "killed", "running"]

REASON_WIDTH = 300

_ENDINGS: dict[str, tuple[State, str]] = {
    "nonfinite": ("nonfinite", "died of a non-finite value"),
    "exception": ("exception", "ended by an exception"),
    "stopped": ("stopped", "stopped"),
    "interrupted": ("interrupted", "interrupted"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to say first.

    ``state`` is how the run ended: ``healthy`` and ``findings`` finished, the latter with something to look at;
    ``nonfinite`` died of a NaN or infinity. ``healthy`` is whether nothing is wrong: a run that was interrupted or is
    still running may be, one that left no end (``killed``) is not. ``reasons`` are sentences, the worst first;
    ``advice`` is what to change, in the same order.
    """

    state: State
    healthy: bool
    headline: str
    reasons: list[str]
    advice: list[str]


def verdict_of(run: Run) -> Verdict:
    """Return the verdict on a run. Findings of severity ``info`` never make it unhealthy."""
    state, headline = _ending(run)
    troubles = [episode for episode in run.episodes if episode.is_trouble]
    unfit = [check for check in run.checks if check.verdict == "mismatch"]
    codes = _by_code(troubles)
    lost = _lost_numbers(run)
    reasons = lost + _incident_reasons(run) + [_finding_reason(group) for group in codes]
    if unfit and not troubles:
        reasons.append(f"A gradient check at step {unfit[0].step} found a mismatch: {clean(unfit[0].reason)}")
    found = bool(reasons)
    if state == "healthy" and found:
        state, headline = "findings", f"finished with {_tally(run, troubles)}"
        headline += "; at the end its numbers were not finite" if lost else ""
        headline += _early(run)
    elif found and state in ("interrupted", "running", "stopped", "killed"):
        headline = f"{headline}; until then {_tally(run, troubles)}"
    advice = [incident.advice for incident in without_echoes(run.incidents)] + [group[0].advice for group in codes]
    return Verdict(
        state=state,
        healthy=not found and state in ("healthy", "interrupted", "running", "stopped"),
        headline=headline,
        reasons=reasons,
        advice=list(dict.fromkeys(text.strip() for text in advice if text.strip())),
    )


def _ending(run: Run) -> tuple[State, str]:
    """Return how the run ended, whatever was found in it."""
    fatal = fatal_incident(run)
    end = run.end
    if fatal is not None and (end is None or end.status in ("nonfinite", "stopped", "exception")):
        died = "died of" if fatal.action == "raised" else "stopped by gradwatch after"
        return "nonfinite", f"{died} {what_was_seen(fatal)} at step {fatal.step:,}: {origin(fatal)}"
    if end is None:
        return _without_end(run)
    lost = lost_ranks(run)
    if lost and end.status != "finished":
        return "killed", f"{_loss(run, lost)}; then rank {end.rank} {_how(run, end)[1]}"
    if end.status == "finished":
        return "healthy", f"finished healthy after {count(own_steps(run) or 0, 'step')}{_early(run)}"
    return _how(run, end)


def _early(run: Run) -> str:
    """Return who has ended a run that finished before its time, if anyone did."""
    reason = run.end.reason if run.end is not None else None
    return f"; stopped early: {shorten(clean(reason), REASON_WIDTH)}" if reason else ""


def _how(run: Run, end: RunEnd) -> tuple[State, str]:
    # A newer version may know more ways to end; none of them is "finished".
    state, how = _ENDINGS.get(end.status, ("exception", f"ended ({clean(end.status)})"))
    where = f" on rank {end.rank}" if len(run.ranks) > 1 and not lost_ranks(run) else ""
    reason = f": {shorten(clean(end.reason), REASON_WIDTH)}" if end.reason else ""
    return state, f"{how}{where} at step {end.step:,}{reason}"


def _loss(run: Run, lost: list[int]) -> str:
    """Return that ranks have died without a word, and after which step."""
    first, *others = lost
    step = last_step_of(run, first)
    more = f" and {count(len(others), 'other')}" if others else ""
    after = "" if step is None else f" after step {step:,}"
    return f"rank {first}{more} was killed or lost power{after}, and could not write its end"


def fatal_incident(run: Run) -> FiledIncident | None:
    """Return the incident that ended the run: of several ranks, that of the one where the value was born."""
    fatal = [one for one in run.incidents if one.action in ("raised", "stopped")]
    return max(fatal, key=lambda one: (one.step, telling(one), one.time), default=None)


def _without_end(run: Run) -> tuple[State, str]:
    step = f"at step {run.last_step:,}" if run.has_stepped else "before a step was written"
    if is_running(run.start):
        return "running", f"still running, {step}"
    host = heard_of_elsewhere(run.start, run.last_time)
    if host is not None:
        return "running", f"still running on {clean(host)}, as it wrote something in the last minutes, {step}"
    return "killed", f"was killed, lost power, or could not write its end (a full disk?) {step}"


def _lost_numbers(run: Run) -> list[str]:
    """Return for each optimizer from which record on its loss, gradients or weights were not finite to the end."""
    said = []
    for steps in run.steps:
        weights_bad = steps.layers.weight_norm_bad.any(axis=1)
        first = to_the_end(is_bad(steps) | weights_bad)
        if first is not None:
            kinds = ((steps.loss_bad, "The loss was"), (steps.grad_norm_bad, "The gradient norm was"))
            what = next((words for bad, words in kinds if bad[-1]), "Weights were")
            said.append(f"{what} not finite from step {steps.step[first]:,} to the end, at every record.")
    return said


def _tally(run: Run, troubles: list[Episode]) -> str:
    """Return ``1 incident and 3 findings (1 error, 2 warnings), 2 of them to the end``."""
    parts = []
    if run.incidents:
        parts.append(count(len(run.incidents), "incident"))
    if troubles:
        errors = sum(rank_of(episode.severity) > 1 for episode in troubles)
        warnings = len(troubles) - errors
        kinds = [count(errors, "error")] * bool(errors) + [count(warnings, "warning")] * bool(warnings)
        parts.append(f"{count(len(troubles), 'finding')} ({', '.join(kinds)}), {_lasting(troubles)}")
    return " and ".join(parts) or "a gradient mismatch"


def _lasting(troubles: list[Episode]) -> str:
    still = sum(episode.is_open for episode in troubles)
    if still == 0:
        return "over before the end"
    return "open to the end" if still == len(troubles) else f"{still:,} of them open to the end"


def _incident_reasons(run: Run) -> list[str]:
    """Return a sentence for each kind of incident: a run that survives every one may have had a hundred of a kind."""
    kinds: dict[tuple[object, ...], list[Incident]] = {}
    for incident in without_echoes(run.incidents):
        where = incident.origin
        kinds.setdefault((incident.first_seen, where.phase, where.op, where.module, where.tensor), []).append(incident)
    return [_incident_reason(group) for group in kinds.values()]


def _incident_reason(group: list[Incident]) -> str:
    first, *others = group
    again = f" (and {len(others)} more like it, the last at step {others[-1].step:,})" if others else ""
    seen = what_was_seen(first)
    return f"{seen[0].upper()}{seen[1:]} at step {first.step:,}{again}: {origin(first)}."


def _by_code(troubles: list[Episode]) -> list[list[Episode]]:
    """Return the episodes of each code, the worst first."""
    codes: dict[str, list[Episode]] = {}
    for episode in _worst_first(troubles):
        codes.setdefault(episode.code, []).append(episode)
    return list(codes.values())


def _finding_reason(group: list[Episode]) -> str:
    """Return the message of the worst episode of a code, and how many more layers have it."""
    first, *others = group
    layers = {(episode.layer, episode.rank) for episode in others} - {(first.layer, first.rank)}
    more = f" The same in {count(len(layers), 'more layer')}." if layers else ""
    return f"{clean(first.code)}, {_span(first)}: {shorten(clean(first.message.strip()), REASON_WIDTH)}{more}"


def _span(episode: Episode) -> str:
    if episode.closed_step is None:
        return f"since step {episode.since_step:,}"
    return f"steps {episode.since_step:,} to {episode.closed_step:,}"


def _worst_first(troubles: Iterable[Episode]) -> list[Episode]:
    return sorted(troubles, key=lambda episode: (-rank_of(episode.severity), not episode.is_open, episode.since_step))
