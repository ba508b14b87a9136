"""The score of the health rules as a page of the documentation."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.overhead import machine
from gradwatch.detectors.catalogue.families import RULES
from tests.rules.healthy.score import BY_NAME, codes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.rules.healthy.trial import Outcome as Healthy
    from tests.rules.score import Trial

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "rule_figures.md"


def page(trials: Sequence[Trial], outcomes: Sequence[Healthy]) -> str:
    """Return ``docs/rule_figures.md``."""
    return f"""\
# The health rules in figures

What the [health rules](rules/README.md) find where something is wrong, and what they say where nothing is. Measured
with `make score-rules` ({machine()}).

## Planted faults

{_planted_summary(trials)}

- models: how many different networks have the fault, each with {_seeds(trials)} seeds.
- found: the code was opened in time; right layer: in time, and for the layer that has the fault.
- latest / allowed: the training that came closest to its limit: the step at which the finding opened, and the last one
  that would have counted. Log steps are 5 or 10 steps apart.
- false alarms: healthy twins of these faults in which anything was found above info, or the code at all.

{_planted_table(trials)}

## Healthy trainings

{_healthy_summary(outcomes)}

{_healthy_table(outcomes)}
{_wrong(trials, outcomes)}
## Again

```
make score-rules                                       # all of it, and this page
make score-rules SCORE_ARGS="--codes loss-spike"       # some rules, on planted faults
make score-rules SCORE_ARGS="--part healthy --names gan vae --verbose"
```

Exit status 1 if anything has come out wrong.
"""


def _planted_summary(trials: Sequence[Trial]) -> str:
    faulty, twins = _faulty(trials, kind=True), _faulty(trials, kind=False)
    found = sum(trial.outcome.found for trial in faulty)
    right = sum(trial.outcome.right_layer for trial in faulty)
    alarms = sum(not trial.outcome.silent for trial in twins)
    models = len({trial.job.case for trial in trials})
    return _paragraph(
        f"{models} trainings with one fault each, and their twins without it, in {_seeds(trials)} seeds: {found} of"
        f" {len(faulty)} faults are found in time, {right} of them for the right layer; {alarms} of {len(twins)} twins"
        " have a false alarm. Code, layer and step were written down from the definition of the rule, before it had"
        " seen the training; the trainings are in `tests/rules/planted`."
    )


def _planted_table(trials: Sequence[Trial]) -> str:
    header = "| rule | models | found | right layer | latest / allowed, steps | false alarms |"
    known = [code for code in RULES if any(trial.case.code == code for trial in trials)]
    return "\n".join([header, "|---|---|---|---|---|---|", *(_planted_row(code, trials) for code in known)])


def _planted_row(code: str, trials: Sequence[Trial]) -> str:
    own = [trial for trial in trials if trial.case.code == code]
    faulty, twins = _faulty(own, kind=True), _faulty(own, kind=False)
    opened = [
        (trial.outcome.opened_at / trial.case.within, f"{trial.outcome.opened_at} / {trial.case.within}")
        for trial in faulty
        if trial.outcome.opened_at is not None
    ]
    cells = (
        f"[`{code}`](rules/{code}.md)",
        len({trial.job.case for trial in own}),
        f"{sum(trial.outcome.found for trial in faulty)}/{len(faulty)}",
        f"{sum(trial.outcome.right_layer for trial in faulty)}/{len(faulty)}",
        max(opened)[1] if opened else "never",
        f"{sum(not trial.outcome.silent for trial in twins)}/{len(twins)}",
    )
    return _row(cells)


def _healthy_summary(outcomes: Sequence[Healthy]) -> str:
    silent = sum(not outcome.alarms and not outcome.failures for outcome in outcomes)
    steps = sum(outcome.steps for outcome in outcomes)
    return _paragraph(
        f"{len(outcomes)} trainings without a fault, {steps:,} steps together: {silent} are silent,"
        f" {sum(outcome.learned for outcome in outcomes)} have reached their goal."
        " They are in `tests/rules/healthy`, as a competent user makes them: under default settings nothing may be"
        " found in them above info, and each must reach what was written down beforehand."
    )


def _healthy_table(outcomes: Iterable[Healthy]) -> str:
    header = "| training | what it is | steps | goal | reached | found at info |"
    return "\n".join([header, "|---|---|---|---|---|---|", *map(_healthy_row, outcomes)])


def _healthy_row(outcome: Healthy) -> str:
    case = BY_NAME[outcome.name]
    cells = (outcome.name, case.about, f"{outcome.steps:,}", case.learned.words, f"{outcome.value:.3g}")
    return _row((*cells, codes(outcome.remarks)))


def _wrong(trials: Iterable[Trial], outcomes: Iterable[Healthy]) -> str:
    """Return what has come out wrong, a line each; nothing if all is right."""
    lines = [
        f"- {trial.case.name}, seed {trial.job.seed}, {'with' if trial.outcome.faulty else 'without'} the fault:"
        f" {_shown(trial)}"
        for trial in trials
        if not trial.outcome.right
    ]
    lines += [f"- {one.name}: {_complaint(one)}" for one in outcomes if not one.right]
    return "\n".join(["", "## What has come out wrong", "", *lines, ""]) if lines else ""


def _shown(trial: Trial) -> str:
    outcome = trial.outcome
    if outcome.messages or (outcome.error and not outcome.faulty):
        return "gradwatch or the training failed"
    found = outcome.findings if outcome.faulty else outcome.strays
    if not found:
        return "nothing was found"
    return ", ".join(
        f"{finding.code}{f' of {finding.layer}' if finding.layer else ''} at step {finding.step}" for finding in found
    )


def _complaint(outcome: Healthy) -> str:
    parts = [codes(outcome.alarms)] if outcome.alarms else []
    parts += ["gradwatch or the training failed"] if outcome.failures else []
    return ", ".join(parts if outcome.learned else [*parts, "the goal was not reached"])


def _seeds(trials: Iterable[Trial]) -> int:
    return len({trial.job.seed for trial in trials})


def _faulty(trials: Iterable[Trial], *, kind: bool) -> list[Trial]:
    return [trial for trial in trials if trial.job.faulty is kind]


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
