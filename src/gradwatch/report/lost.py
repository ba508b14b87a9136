"""From which step on a run was lost: loss or gradients NaN or infinite for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.report.nonfinite import is_bad, to_the_end
from gradwatch.report.verdict import fatal_incident

if TYPE_CHECKING:
    from gradwatch.report.run import Run
    from gradwatch.report.steps import Steps


def lost_at(run: Run) -> int | None:
    """Return the step at which loss or gradient norm became NaN or infinite for good; None if they did not.

    It is that of the incident where one is known, else that of the first record: between two nothing else is known.
    """
    fatal = fatal_incident(run)
    steps = [step for table in run.steps if (step := _lost_at(run, table)) is not None]
    return min([*steps, *([fatal.step] if fatal else [])], default=None)


def _lost_at(run: Run, steps: Steps) -> int | None:
    first = to_the_end(is_bad(steps))
    if first is None:
        return None
    at, before = int(steps.step[first]), int(steps.step[first - 1]) if first else -1
    return min([incident.step for incident in run.incidents if before < incident.step <= at], default=at)
