"""What happened in a run, from the texts of its events: findings from opening to end, incidents, checks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gradwatch.serialization import SchemaError, from_dict

if TYPE_CHECKING:
    from collections.abc import Iterable

SEVERITIES = ("info", "warning", "error")
_LISTS = {"incident": "incidents", "gradient_check": "checks", "run_start": "starts", "run_end": "ends"}


def read_events(texts: Iterable[tuple[int, bytes]]) -> tuple[list[dict[str, Any]], bool]:
    """Return the events that can be read, as they stand in ``events.jsonl``, and whether one could not."""
    events, damaged = [], False
    for step, text in texts:
        try:
            event = json.loads(text)
            from_dict(_complete(event))
        except (SchemaError, ValueError, TypeError, RecursionError):
            damaged = True
            continue
        if event["type"] == "finding" or event["type"] in _LISTS:
            events.append({**event, "log_step": step})
    return events, damaged


def summarise(events: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return findings as episodes, and incidents, checks, starts and ends as they are; each in order."""
    found: dict[str, list[dict[str, Any]]] = {"findings": [], **{name: [] for name in _LISTS.values()}}
    lasting: dict[tuple[str, str | None], dict[str, Any]] = {}
    for event in events:
        if event["type"] != "finding":
            found[_LISTS[event["type"]]].append(event)
            continue
        key = (event["code"], event["layer"])
        episode = lasting.get(key)
        if episode is None or event["status"] == "opened":
            if episode is not None:
                episode["closed"] = event["log_step"]  # what begins anew has ended before: a run that was resumed
            episode = lasting[key] = _episode(event)
            found["findings"].append(episode)
        _tell(episode, event)
        if event["status"] == "closed":
            del lasting[key]
    return found


def severity_counts(episodes: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return how many episodes there are of each severity."""
    counts = dict.fromkeys(SEVERITIES, 0)
    for episode in episodes:
        counts[episode["severity"]] += 1
    return counts


def _episode(event: dict[str, Any]) -> dict[str, Any]:
    episode = {name: event[name] for name in ("code", "layer", "since_step", "message", "evidence", "advice")}
    step = event["log_step"]
    return {
        **episode,
        "severity": _severity(event),
        "opened": step,
        "last": step,
        "closed": None,
        "updates": 0,
        "closing": None,
    }


def _tell(episode: dict[str, Any], event: dict[str, Any]) -> None:
    """Add one piece of news to an episode."""
    episode["last"] = event["log_step"]
    if event["status"] == "closed":
        episode.update(closed=event["log_step"], closing=event["message"])
        return
    episode["updates"] += event["status"] == "updated"
    episode.update({name: event[name] for name in ("message", "evidence", "advice")})
    episode["severity"] = max(_severity(event), episode["severity"], key=SEVERITIES.index)


def _severity(event: dict[str, Any]) -> str:
    """Return how bad news is; what only another version knows counts as the worst, as in the report."""
    return event["severity"] if event["severity"] in SEVERITIES else SEVERITIES[-1]


def _complete(event: Any) -> Any:
    """Return a ``run_start`` whose parameter table was left out with an empty one: everything else is checked."""
    if isinstance(event, dict) and event.get("type") == "run_start" and event.get("parameters") is None:
        return {**event, "parameters": []}
    return event
