"""Wrong backwards of many kinds: which of the check's parts sees them, over seeds; and what it says of clean ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from gradwatch import check_gradients
from tests.probes.wrong_backwards import WRONG_BACKWARDS

if TYPE_CHECKING:
    from gradwatch import GradientCheckReport
    from tests.probes.wrong_backward import WrongBackward

SEEDS = 20
CLEAN_SEEDS = 5  # for each of the clean twins
WHOLE_TOLERANCE = 1e-5


class Detection(NamedTuple):
    """Of one wrong backward, in how many seeds each part has seen it."""

    name: str
    seeds: int
    caught: int
    whole: int
    tensors: int
    module: int
    line: int


def detect(index: int, seeds: int) -> Detection:
    """Check one wrong backward, by its place in the list, with every seed."""
    torch.set_num_threads(1)
    case = WRONG_BACKWARDS[index]
    reports = []
    for seed in range(seeds):
        module, loss = case.build(seed)
        reports.append(check_gradients(module, loss, seed=seed))
    return Detection(
        case.name,
        seeds,
        caught=sum(_is_caught(report) for report in reports),
        whole=sum((report.relative_error or 0.0) > WHOLE_TOLERANCE for report in reports),
        tensors=sum(
            any(p.correct in {"mismatch", "explained"} for p in report.parameters.values()) for report in reports
        ),
        module=sum(_names_module(report, case) for report in reports),
        line=sum(_names_line(report, case) for report in reports),
    )


def false_alarms(index: int, seeds: int) -> int:
    """Check the clean twin of one wrong backward; return in how many seeds it does not pass."""
    torch.set_num_threads(1)
    alarms = 0
    for seed in range(seeds):
        module, loss = WRONG_BACKWARDS[index].build_clean(seed)
        alarms += check_gradients(module, loss, seed=seed).verdict != "pass"
    return alarms


def _is_caught(report: GradientCheckReport) -> bool:
    """A gradient that a hook changes is said to be explained by that hook; everything else is a mismatch."""
    by_hook = report.verdict == "explained" and any(explanation.kind == "hook" for explanation in report.explanations)
    return report.verdict == "mismatch" or by_hook


def _names_module(report: GradientCheckReport, case: WrongBackward) -> bool:
    return report.culprit is not None and report.culprit.module == case.culprit


def _names_line(report: GradientCheckReport, case: WrongBackward) -> bool:
    source = report.culprit.source if report.culprit else None
    return source is not None and (source.file, source.line) == (str(case.line[0]), case.line[1])


def as_table(found: list[Detection]) -> str:
    """Return a markdown table."""
    lines = [
        "| wrong backward | caught | by all weights together | by single tensors | culprit's module | its line |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        counts = (one.caught, one.whole, one.tensors, one.module, one.line)
        lines.append(f"| {one.name} | " + " | ".join(f"{count}/{one.seeds}" for count in counts) + " |")
    return "\n".join(lines)
