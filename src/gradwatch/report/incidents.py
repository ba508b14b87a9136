"""Incidents of a run, each with the folder that it was written to."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from gradwatch.records import Incident
from gradwatch.serialization import load_incident

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FOLDER = re.compile(r"step=[0-9]{8,}-[0-9]+(?:\.rank[0-9]+)?")
# The engine writes a hundred for each run; more than this in one folder is not its doing.
MAX_FOLDERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FiledIncident(Incident):
    """An incident and where its files are: ``folder`` is None where there is none.

    ``replayable``: the folder has what ``gradwatch replay`` needs.
    """

    folder: Path | None = None
    replayable: bool = False


def filed(incident: Incident, folder: Path | None = None) -> FiledIncident:
    """Return ``incident`` with its folder."""
    values = {field.name: getattr(incident, field.name) for field in fields(incident)}
    return FiledIncident(**values, folder=folder, replayable=folder is not None and (folder / "weights.pt").is_file())


def telling(incident: Incident) -> tuple[bool, bool]:
    """Return what sorts the incidents of one step, the one that says most last.

    Ranks decide together, so that each writes an incident; only the one where the value was born has seen how.
    """
    origin = incident.origin
    named = origin.phase != "not_reproduced" or origin.cause is not None
    return not origin.ranks or incident.rank in origin.ranks, named


def without_echoes(incidents: Iterable[FiledIncident]) -> list[FiledIncident]:
    """Return the incidents but for those of ranks that a step reached from another one, whose incident is there."""
    kept = list(incidents)
    at_birth = {incident.step for incident in kept if incident.rank in incident.origin.ranks}
    return [one for one in kept if one.step not in at_birth or telling(one)[0]]


def read_folders(dirpath: Path) -> tuple[list[FiledIncident], list[str]]:
    """Return the incidents that have a folder of their own under ``dirpath``, and notes on those that cannot be read.

    Folders are written before the line in the event log, so that one may be there that no log knows of.
    """
    found: list[FiledIncident] = []
    notes: list[str] = []
    parent = dirpath / "incidents"
    folders = [folder for folder in parent.iterdir() if _FOLDER.fullmatch(folder.name)] if parent.is_dir() else []
    for folder in sorted(folders)[:MAX_FOLDERS]:
        if not (folder / "incident.json").exists():
            notes.append(f"incidents/{folder.name}: no incident.json in it, so it was cut off while it was written")
            continue
        try:
            found.append(filed(load_incident(folder), folder))
        except (OSError, ValueError) as error:
            notes.append(f"incidents/{folder.name}: {error}")
    return found, notes


def with_folders(incidents: Iterable[Incident], found: Iterable[FiledIncident]) -> list[FiledIncident]:
    """Return the incidents of a log with their folders.

    Time and rank tell which is which: a later run in the same directory may have incidents at the same steps.
    """
    folders = {(incident.time, incident.rank): incident for incident in found}
    return [folders.get((incident.time, incident.rank)) or filed(incident) for incident in incidents]
