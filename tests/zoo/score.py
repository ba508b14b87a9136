"""The score: every case under gradwatch, anomaly mode and "the first non-finite operation", as tables.

``make score`` runs everything (about three minutes); ``python -m tests.zoo.score --cases NAME --verbose`` shows what is
said of single cases.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.zoo import baselines
from tests.zoo.case import BF16, FP32, SCALER
from tests.zoo.families import CASES
from tests.zoo.trial import INDUCTOR, PLAIN, VARIANTS, Outcome, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.zoo.case import Case

PRECISIONS = (FP32, BF16, SCALER)
FIELDS = ("phase", "op", "module", "line", "batch_idx")
TOOLS = {"anomaly mode": baselines.anomaly_mode, "first non-finite operation": baselines.first_nonfinite}
# Compiling to C++ takes half a minute a case: one of each kind.
ON_INDUCTOR = (
    "actor-critic-entropy",
    "clamp-without-effect",
    "edge-to-itself",
    "mha-empty-sentence",
    "min-max-of-flat-image",
)


class Trial(NamedTuple):
    """One case in one way of training, and what gradwatch said."""

    case: Case
    precision: str
    variant: str
    outcome: Outcome


def main() -> int:
    """Print the tables; exit status 1 if anything is wrong."""
    chosen = _arguments()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    cases = [case for case in CASES if not chosen.cases or case.name in chosen.cases]
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    jobs = _jobs(cases, quick=chosen.quick)
    bar = Console(stderr=True)
    trials = [_trial(*job) for job in track(jobs, "gradwatch", console=bar)]
    others = {
        tool: {case.name: say(case) for case in track(_fp32(cases), tool, console=bar)} for tool, say in TOOLS.items()
    }
    console.print(_cases_table(cases, trials, others), _tools_table(trials, others), _variants_table(trials))
    wrong = [trial for trial in trials if not trial.outcome.right]
    for trial in wrong if chosen.verbose else trials if chosen.cases and chosen.verbose else []:
        console.print(f"{trial.case.name}, {trial.precision}, {trial.variant}: {trial.outcome}", markup=False)
    return int(bool(wrong))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score gradwatch on the zoo.")
    parser.add_argument("--cases", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--quick", action="store_true", help="plain training only")
    parser.add_argument("--verbose", action="store_true", help="show what was said of the wrong ones")
    return parser.parse_args()


def _fp32(cases: Iterable[Case]) -> list[Case]:
    return [case for case in cases if FP32 in case.truth]


def _jobs(cases: Sequence[Case], *, quick: bool) -> list[tuple[Case, str, str]]:
    jobs = [(case, precision, PLAIN) for case in cases for precision in case.truth]
    varied = [case for case in _fp32(cases) if case.variants]
    if not quick:
        jobs += [(case, FP32, variant) for variant in VARIANTS for case in varied]
        jobs += [(case, FP32, INDUCTOR) for case in varied if case.name in ON_INDUCTOR]
    return jobs


def _trial(case: Case, precision: str, variant: str) -> Trial:
    with tempfile.TemporaryDirectory() as folder:
        return Trial(case, precision, variant, run(case, precision, variant, Path(folder)))


Verdicts = dict[str, dict[str, baselines.Verdict]]


def _cases_table(cases: Iterable[Case], trials: Sequence[Trial], others: Verdicts) -> Table:
    table = Table("case", *PRECISIONS, *others, title="gradwatch by case and precision, the others in fp32")
    plain = {(t.case.name, t.precision): t.outcome for t in trials if t.variant == PLAIN}
    for case in cases:
        own = [_cell(plain.get((case.name, precision))) for precision in PRECISIONS]
        table.add_row(case.name, *own, *(_said(said.get(case.name), case) for said in others.values()))
    return table


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    wrong = [name for name, right in outcome.judged.items() if not right] + outcome.failures
    return "right" if outcome.right else f"[red]WRONG[/]: {', '.join(wrong)}"


def _said(said: baselines.Verdict | None, case: Case) -> str:
    if said is None:
        return ""
    if not said.alarm:
        return "silent"
    if not case.truth[FP32].incident:
        return "false alarm"
    right = [name for name, is_right in _judged(said, case).items() if is_right]
    return " and ".join(right) or "wrong"


def _judged(said: baselines.Verdict, case: Case) -> dict[str, bool]:
    truth = case.truth[FP32]
    judged = {} if truth.op is None else {"op": said.op == truth.op}
    return judged | ({"line": case.marked_line == (said.file, said.line)} if truth.line else {})


def _tools_table(trials: Sequence[Trial], others: Verdicts) -> Table:
    """Count, per tool, the bugs in fp32 that it names rightly, of those for which there is a right answer."""
    table = Table(
        "tool", *(f"right {name}" for name in FIELDS), "silent on a bug", "false alarms", title="By tool, fp32"
    )
    plain = {t.case.name: t for t in trials if t.variant == PLAIN and t.precision == FP32}
    bugs = [t.case for t in plain.values() if t.case.truth[FP32].incident]
    healthy = [t.case for t in plain.values() if not t.case.truth[FP32].incident]
    judged = {name: [t.outcome.judged[name] for t in plain.values() if name in t.outcome.judged] for name in FIELDS}
    silent = sum(plain[case.name].outcome.incident is None for case in bugs)
    alarms = sum(plain[case.name].outcome.incident is not None for case in healthy)
    table.add_row(
        "gradwatch", *(_share(judged[name]) for name in FIELDS), f"{silent}/{len(bugs)}", f"{alarms}/{len(healthy)}"
    )
    for tool, said in others.items():
        right = [_judged(said[case.name], case) if said[case.name].alarm else {} for case in bugs]
        counts = {name: f"{sum(r.get(name, False) for r in right)}/{len(judged[name])}" for name in ("op", "line")}
        silent = sum(not said[case.name].alarm for case in bugs)
        alarms = sum(said[case.name].alarm for case in healthy)
        cells = (counts.get(name, "not said") for name in FIELDS)
        table.add_row(tool, *cells, f"{silent}/{len(bugs)}", f"{alarms}/{len(healthy)}")
    return table


def _share(judged: Sequence[bool]) -> str:
    return f"{sum(judged)}/{len(judged)}"


def _variants_table(trials: Sequence[Trial]) -> Table:
    table = Table("training", "trials", "right", "wrong", "false alarms", title="gradwatch by way of training")
    for variant in dict.fromkeys(trial.variant for trial in trials):
        chosen = [trial for trial in trials if trial.variant == variant]
        count = Counter(trial.outcome.right for trial in chosen)
        healthy = [t for t in chosen if not t.case.truth[t.precision].incident]
        alarms = sum(t.outcome.incident is not None for t in healthy)
        table.add_row(variant, str(len(chosen)), str(count[True]), str(count[False]), f"{alarms}/{len(healthy)}")
    return table


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
