"""What all sections look at: the run, the verdict on it, the axis of steps and what is marked there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradwatch.report.episodes import Episode, rank_of
from gradwatch.report.html.axis import Axis, steps_axis
from gradwatch.report.html.curves import Mark
from gradwatch.report.verdict import Verdict, verdict_of

if TYPE_CHECKING:
    from gradwatch.report.incidents import FiledIncident
    from gradwatch.report.run import Run
    from gradwatch.report.steps import Steps

SEVERITIES = ("info", "warning", "error")
FARTHEST = 2**53  # a step beyond is a foreign log's, and no axis reaches it
EARLY = 0.05  # a run that starts before this part of its last step is shown from step 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Episodes of one code, in the order in which they began; ``name`` is its anchor."""

    name: str
    episodes: list[Episode]

    @property
    def worst(self) -> Episode:
        """The most severe one, of these the first."""
        return max(self.episodes, key=lambda episode: rank_of(episode.severity))

    @property
    def since(self) -> int:
        """Where the first one begins."""
        return min(episode.since_step for episode in self.episodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An incident and its anchor."""

    name: str
    incident: FiledIncident


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A run as its page shows it."""

    run: Run
    verdict: Verdict
    steps: Axis
    groups: list[Group]
    incidents: list[Told]
    marks: list[Mark]

    @property
    def several_optimizers(self) -> bool:
        """Whether curves need a name."""
        return len(self.run.steps) > 1


def view_of(run: Run) -> View:
    """Return what the page of ``run`` shows."""
    groups = _groups(run)
    incidents = [Told(name=f"incident-{index}", incident=one) for index, one in enumerate(run.incidents)]
    marks = [mark for group in groups for mark in _marks(group)]
    marks += [
        Mark(
            step=told.incident.step,
            text=f"incident, first seen in {told.incident.first_seen}",
            severity="incident",
            link=f"#{told.name}",
        )
        for told in incidents
    ]
    return View(
        run=run,
        verdict=verdict_of(run),
        steps=_axis(run),
        groups=groups,
        incidents=incidents,
        marks=sorted(marks, key=lambda mark: mark.step),
    )


def severity_of(severity: str) -> str:
    """Return a severity that the page knows; one of a newer version counts as an error."""
    return severity if severity in SEVERITIES else "error"


def optimizer_name(view: View, index: int) -> str:
    """Return what to call an optimizer: its number, and its class where the log says it."""
    known = view.run.start.optimizers if view.run.start else []
    kind = known[index].get("class") if 0 <= index < len(known) and isinstance(known[index], dict) else None
    return f"optimizer {index}" + (f", {kind}" if kind else "")


def _groups(run: Run) -> list[Group]:
    codes: dict[str, list[Episode]] = {}
    for episode in run.episodes:
        codes.setdefault(episode.code, []).append(episode)
    return [Group(name=f"finding-{index}", episodes=group) for index, group in enumerate(codes.values())]


def _marks(group: Group) -> list[Mark]:
    """Return a mark for each step at which episodes of one code begin."""
    begins: dict[int, list[Episode]] = {}
    for episode in group.episodes:
        begins.setdefault(episode.since_step, []).append(episode)
    marks = []
    for step, episodes in begins.items():
        worst = max(episodes, key=lambda episode: rank_of(episode.severity))
        layer = f" in {worst.layer}" if worst.layer else ""
        more = f" and {len(episodes) - 1} more" if len(episodes) > 1 else ""
        text = f"{worst.code}{layer}{more}"
        marks.append(Mark(step=step, text=text, severity=severity_of(worst.severity), link=f"#{group.name}"))
    return marks


def _begin(steps: Steps) -> int:
    """Return the first step that the first record tells of."""
    return max(int(steps.step[0]) - max(int(steps.window_steps[0]), 1) + 1, min(int(steps.step[0]), 0))


def _axis(run: Run) -> Axis:
    """Return the axis of all charts of the page."""
    firsts = [_begin(steps) for steps in run.steps if len(steps)]
    lasts = [int(steps.step.max()) for steps in run.steps if len(steps)]
    told = [episode.since_step for episode in run.episodes] + [incident.step for incident in run.incidents]
    ends = [step for step in (*lasts, *told, run.last_step) if abs(step) <= FARTHEST]
    first, last = min([*firsts, *(step for step in told if abs(step) <= FARTHEST)], default=0), max(ends, default=0)
    return steps_axis(0 if 0 <= first <= EARLY * last else first, last)
