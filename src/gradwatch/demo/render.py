"""The summary of the demo on a terminal of any width, or in a log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from gradwatch.demo.commands import next_commands

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from gradwatch.demo.summary import NormRange, RunSummary
    from gradwatch.demo.trainings import Training
    from gradwatch.records import Action, ClipRule, Incident

NAMED_LAYERS = 3
ACTIONS: dict[Action, str] = {
    "raised": "NonFiniteError raised before the optimizer could use it",
    "stopped": "update dropped, training stopped",
    "skipped": "update dropped, training went on",
    "warned": "nothing but a warning",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything to say about one finished training; ``problem`` is None when all went as expected."""

    training: Training
    summary: RunSummary
    result: str
    folder: Path
    weights_finite: bool
    problem: str | None


def print_report(console: Console, report: Report) -> None:
    """Print a heading and one row per fact."""
    status = _status(report)
    style = "red" if report.problem else "green"
    heading = Text.assemble((report.training.title, "bold"), "  ", (status, style))
    console.print()
    console.print(Rule(heading, align="left", style="dim"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=9)
    table.add_column(overflow="fold")
    for label, value in rows(report):
        table.add_row(label, escape(value))
    console.print(Padding(table, (0, 0, 0, 1)))
    for file in incident_files(report.folder):
        # A path that is broken into two lines cannot be copied.
        beside = len(" file       ") + len(str(file)) <= console.width
        console.print(Text.assemble((" file       " if beside else " file\n  ", "dim"), str(file)), soft_wrap=True)


def print_end(console: Console, reports: Sequence[Report], folder: Path, seconds: float) -> None:
    """Print whether all went well, and the commands that show more."""
    failed = [report for report in reports if report.problem is not None]
    worth_a_look = failed or [report for report in reports if report.training.bug is not None]
    titles = ", ".join(report.training.title for report in failed)
    verdict = f"Not as expected: {titles}" if failed else "All as expected"
    console.print()
    console.print(f"[{'red' if failed else 'green'}]{verdict}[/] after {seconds:.0f} s. Look closer with:")
    for command in next_commands(folder, worth_a_look[0].folder):
        console.print()
        console.print(f"  {command.shows}:", style="dim", markup=False, soft_wrap=True)
        # soft_wrap: a command that is broken into two lines cannot be copied.
        console.print(f"  {command.line}", style="bold", markup=False, soft_wrap=True)
    console.print()


def rows(report: Report) -> Iterator[tuple[str, str]]:
    """Yield label and value of each fact, most important first."""
    summary = report.summary
    yield "result", report.result if not summary.incidents else f"when it stopped: {report.result}"
    yield "clipping", _clip_rule(summary.clip)
    yield "source", summary.clip.source
    yield "grad norm", _norm_range(summary.grad_norm)
    yield "clipped", f"{summary.clipped_steps} of {summary.steps} steps ({_share(summary)})"
    if summary.largest is not None:
        layer, share = summary.largest
        yield "largest", f"gradient most often in {layer or 'the module itself'} ({share:.0%} of the records)"
    if not summary.findings and not summary.incidents:
        yield "findings", "none"
    for finding in summary.findings:
        yield "finding", f"{finding.code} since step {finding.since_step} ({finding.status}): {finding.message}"
    for incident in summary.incidents:
        yield from _incident_rows(incident, report)
    if report.training.bug is not None:
        yield "the bug", report.training.bug
    if report.problem is not None:
        yield "problem", report.problem


def _incident_rows(incident: Incident, report: Report) -> Iterator[tuple[str, str]]:
    where = f"step {incident.step}, epoch {incident.epoch}"
    where += "" if incident.batch_idx is None else f", batch {incident.batch_idx}"
    yield "incident", f"{where}: first seen in the {incident.first_seen}; {_some(incident.affected)}"
    yield "meaning", incident.explanation
    yield "advice", incident.advice
    weights = "every weight is still finite" if report.weights_finite else "some weights are no longer finite"
    yield "action", f"{ACTIONS[incident.action]}; {weights}"


def incident_files(folder: Path) -> list[Path]:
    """Return the incident files below the folder of a run."""
    return sorted((folder / "gradwatch" / "incidents").glob("*/incident.json"))


def _status(report: Report) -> str:
    if report.problem is not None:
        return "not as expected"
    return "caught" if report.training.bug is not None else "ok"


def _clip_rule(clip: ClipRule) -> str:
    limit = "none" if clip.max_norm is None else f"at a total norm of {clip.max_norm:g}"
    family = "" if clip.family is None else f"{clip.family}: "
    return f"{limit} ({family}{clip.reason})"


def _norm_range(norm: NormRange | None) -> str:
    if norm is None:
        return "not recorded"
    return f"min {norm.minimum:.3g}, median {norm.median:.3g}, max {norm.maximum:.3g} (step {norm.maximum_step})"


def _share(summary: RunSummary) -> str:
    return f"{summary.clipped_steps / summary.steps:.1%}" if summary.steps else "-"


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(names[:NAMED_LAYERS])
    more = len(names) - NAMED_LAYERS
    return f"{len(names)} affected ({listed}" + (f" and {more} more)" if more > 0 else ")")
