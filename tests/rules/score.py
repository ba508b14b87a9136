"""The score of the health rules: every planted fault and its healthy twin, over several seeds; and healthy trainings.

``make score-rules`` runs everything and writes ``docs/rule_figures.md``; ``python -m tests.rules.score --codes CODE ...
--verbose`` shows what is said of single codes, ``--part healthy --names gan vae`` of single healthy trainings.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.rules import figures
from tests.rules.healthy.score import BY_NAME as HEALTHY
from tests.rules.healthy.score import healthy, print_healthy
from tests.rules.planted.families import CASES
from tests.rules.planted.trial import Outcome, run, run_ranks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.rules.healthy.trial import Outcome as Healthy
    from tests.rules.planted.case import Case

SEEDS = 5
QUIET = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero", "gradwatch")


class Job(NamedTuple):
    """One training: which case (by its place in ``CASES``), which seed, faulty or healthy."""

    case: int
    seed: int
    faulty: bool


class Trial(NamedTuple):
    """A job and what came of it."""

    job: Job
    outcome: Outcome

    @property
    def case(self) -> Case:
        return CASES[self.job.case]


def main() -> int:
    """Print the tables, write the page if everything was run; exit status 1 if anything is wrong."""
    chosen = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    trials: list[Trial] = []
    outcomes: list[Healthy] = []
    if chosen.part != "healthy":
        trials = planted(_jobs(chosen.codes, chosen.seeds), processes=chosen.jobs)
        print_planted(console, trials, verbose=chosen.verbose)
    if chosen.part != "planted":
        outcomes = healthy(chosen.names, seed=0, processes=chosen.jobs)
        print_healthy(console, outcomes, verbose=chosen.verbose)
    if len(trials) == len(_jobs(None, SEEDS)) and len(outcomes) == len(HEALTHY):
        figures.PAGE.write_text(figures.page(trials, outcomes), encoding="utf-8")
        console.print(f"wrote {figures.PAGE.relative_to(figures.ROOT)}")
    return int(not all([*(trial.outcome.right for trial in trials), *(outcome.right for outcome in outcomes)]))


def print_planted(console: Console, trials: Sequence[Trial], *, verbose: bool) -> None:
    """Print the tables, and under them every training that did not come out right; with ``verbose`` every one."""
    console.print(_table(trials), _cases_table(trials))
    wrong = [trial for trial in trials if not trial.outcome.right]
    for trial in trials if verbose else wrong:
        console.print(_described(trial), markup=False)
    console.print(f"{len(trials) - len(wrong)} of {len(trials)} trainings came out right")


def planted(jobs: Sequence[Job], *, processes: int) -> list[Trial]:
    """Train all of them, in so many processes, and return them in their order."""
    single = [[job] for job in jobs if CASES[job.case].ranks == 1]
    together = [job for job in jobs if CASES[job.case].ranks > 1]
    parts = [*([together] if together else []), *single]  # the longest first
    trials: list[Trial] = []
    with (
        ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_start) as pool,
        Progress(console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task("rules", total=len(jobs))
        for future in as_completed([pool.submit(_trials, part) for part in parts]):
            trials += future.result()
            progress.update(bar, completed=len(trials))
    return sorted(trials, key=lambda trial: trial.job)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score the health rules on planted faults and on healthy trainings.")
    parser.add_argument("--part", choices=("planted", "healthy"), help="only this one")
    parser.add_argument("--codes", nargs="+", metavar="CODE", help="only planted faults with these codes")
    parser.add_argument("--names", nargs="+", metavar="NAME", choices=list(HEALTHY), help="only these healthy ones")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many, of planted faults")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--verbose", action="store_true", help="show all that was found, not only what is wrong")
    chosen = parser.parse_args()
    if chosen.part is None and (chosen.codes or chosen.names):
        chosen.part = "planted" if not chosen.names else "healthy" if not chosen.codes else None
    return chosen


def _jobs(codes: Sequence[str] | None, seeds: int) -> list[Job]:
    chosen = [place for place, case in enumerate(CASES) if not codes or case.code in codes]
    return [Job(case, seed, faulty) for case in chosen for faulty in (True, False) for seed in range(seeds)]


def _start() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)


def _trials(jobs: Sequence[Job]) -> list[Trial]:
    """Run one training, or all that need two ranks."""
    if CASES[jobs[0].case].ranks > 1:
        outcomes = run_ranks([(CASES[job.case], job.seed, job.faulty) for job in jobs])
    else:
        outcomes = [run(CASES[job.case], job.seed, faulty=job.faulty) for job in jobs]
    return list(map(Trial, jobs, outcomes))


def _table(trials: Sequence[Trial]) -> Table:
    table = Table(
        *("code", "models", "found", "right layer", "latest / within", "false alarms on twins", "strays on twins"),
        title="Planted faults by code",
    )
    for code in dict.fromkeys(trial.case.code for trial in trials):
        own = [trial for trial in trials if trial.case.code == code]
        models = len({trial.job.case for trial in own})
        table.add_row(code, str(models), *_cells(own))
    return table


def _cases_table(trials: Sequence[Trial]) -> Table:
    table = Table(
        *("code", "model", "found", "right layer", "latest / within", "false alarms on twins", "strays on twins"),
        title="Cases that are not all right",
    )
    for place in dict.fromkeys(trial.job.case for trial in trials):
        own = [trial for trial in trials if trial.job.case == place]
        if not all(trial.outcome.right for trial in own):
            table.add_row(CASES[place].code, CASES[place].model, *_cells(own))
    return table


def _cells(trials: Sequence[Trial]) -> tuple[str, ...]:
    faulty, healthy = ([t for t in trials if t.job.faulty is kind] for kind in (True, False))
    found, right = sum(t.outcome.found for t in faulty), sum(t.outcome.right_layer for t in faulty)
    latest = [
        (t.outcome.opened_at / t.case.within, f"{t.outcome.opened_at} / {t.case.within}")
        for t in faulty
        if t.outcome.opened_at is not None
    ]
    alarms = sum(not t.outcome.silent for t in healthy)
    strays = Counter(finding.code for t in healthy for finding in t.outcome.strays)
    return (
        _share(found, len(faulty)),
        _share(right, len(faulty)),
        max(latest)[1] if latest else "never",
        f"[red]{alarms}/{len(healthy)}[/]" if alarms else f"0/{len(healthy)}",
        ", ".join(f"{code} {count}x" for code, count in strays.most_common()),
    )


def _share(count: int, total: int) -> str:
    return f"{count}/{total}" if count == total else f"[red]{count}/{total}[/]"


def _described(trial: Trial) -> str:
    outcome = trial.outcome
    kind = "faulty" if outcome.faulty else "healthy"
    lines = [f"{trial.case.name}, seed {trial.job.seed}, {kind}: {'right' if outcome.right else 'WRONG'}"]
    if outcome.faulty:
        lines.append(f"  wanted: layer {trial.case.layer!r} by step {trial.case.within}")
    lines += _findings(outcome)
    lines += [f"  ended by {outcome.error}"] if outcome.error else []
    return "\n".join([*lines, *(f"  message: {text}" for text in outcome.messages)])


def _findings(outcome: Outcome) -> Iterable[str]:
    for finding in outcome.findings:
        yield f"  step {finding.step}: {finding.code} ({finding.severity}), layer {finding.layer!r}: {finding.message}"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
