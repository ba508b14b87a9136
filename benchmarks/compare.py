"""How often ``gradwatch compare`` is wrong, and how soon it is right: writes docs/compare_figures.md.

Groups of one setting must be told apart in at most 5 % of all pairs, whatever the memory of the noise; a difference
that is planted must be found where it is. Both by simulation, and on trainings of the digits network (those of
``benchmarks/seeds.py``, which must have been run before). A quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.overhead import machine
from benchmarks.seeds import DOUBLED, HIGH, STEADY
from gradwatch.report.compare.command import compare_paths
from gradwatch.report.compare.comparison import LEVEL, compare
from gradwatch.report.compare.members import named, read_members
from gradwatch.report.compare.parting import compare_groups
from gradwatch.report.compare.words import curve_name, where
from tests.report.compare.noise import pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradwatch.report.compare.comparison import Comparison
    from gradwatch.report.compare.members import Member

PAGE = Path(__file__).resolve().parents[1] / "docs" / "compare_figures.md"
SIZES = ((2, 2), (3, 3), (5, 5), (10, 10), (1, 4), (3, 10))
MEMORIES = (0.0, 0.5, 0.9, 0.97, 0.99, 1.0)
RECORDS = (40, 200, 1000)
# What is planted: at record 20 of 100, which with records every 10 steps is step 200.
PLANTED, PLANTED_RECORDS, STEPS_A_RECORD, IN_TIME = 20, 100, 10, 60
DIFFERENCES = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
# Of the level, one curve of five (loss, norm, rate, ratio, and all layers together) has its share.
ONE_CURVE = LEVEL / 5
SPLITS = 500


def false_alarms(sizes: tuple[int, int], records: int, memory: float, count: int) -> float:
    """Return how often two groups of one setting are told apart."""
    found = [
        bool(compare_groups(one, other, LEVEL).stretches)
        for one, other in pairs(sizes, records, memory, count=count, seed=1)
    ]
    return float(np.mean(found))


def false_alarm_table(count: int) -> Iterator[str]:
    """Yield the lines of a table: the worst of all lengths, by runs and memory."""
    yield "| runs | " + " | ".join(f"{memory:g}" for memory in MEMORIES) + " |"
    yield "|---|" + "---|" * len(MEMORIES)
    for sizes in SIZES:
        shares = [max(false_alarms(sizes, records, memory, count) for records in RECORDS) for memory in MEMORIES]
        yield f"| {sizes[0]} + {sizes[1]} | " + " | ".join(f"{share:.1%}" for share in shares) + " |"


def planted(runs: int, difference: float, count: int) -> str:
    """Return found, in time, too early, and the typical delay."""
    steps = []
    for one, other in pairs((runs, runs), PLANTED_RECORDS, 0.9, count=count, seed=2):
        there = np.arange(PLANTED_RECORDS) >= PLANTED
        found = compare_groups(one, other + difference * there, ONE_CURVE).stretches
        steps.append(STEPS_A_RECORD * (found[0].first - PLANTED) if found else np.nan)
    delay = np.array(steps)
    known = delay[~np.isnan(delay)]
    in_time, early = np.mean((delay >= 0) & (delay <= IN_TIME)), np.mean(delay < 0)
    typical = f"{np.median(known):.0f}" if len(known) else ""
    return f"| {runs} + {runs} | {difference:g} | {len(known) / count:.1%} | {in_time:.1%} | {early:.1%} | {typical} |"


def planted_table(count: int) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| runs | difference | found | within {IN_TIME} steps | too early | typical delay, steps |"
    yield "|---|---|---|---|---|---|"
    for runs in (3, 4, 5, 10):
        for difference in DIFFERENCES:
            yield planted(runs, difference, count)


# -- trainings ---------------------------------------------------------------------------------------------------------


def trained_table(members: list[Member]) -> Iterator[str]:
    """Yield how often groups of the seeds of one setting are told apart, in any curve or layer."""
    random = np.random.default_rng(3)
    yield "| runs | told apart | in curves of the model |"
    yield "|---|---|---|"
    for runs in (2, 3, 5, 10):
        comparisons = [_split(members, runs, random) for _ in range(SPLITS)]
        anywhere = [any(each.step is not None for each in (*found.curves, *found.layers)) for found in comparisons]
        model = [any(each.step is not None for each in found.curves) for found in comparisons]
        yield f"| {runs} + {runs} | {np.mean(anywhere):.1%} | {np.mean(model):.1%} |"


def _split(members: list[Member], runs: int, random: np.random.Generator) -> Comparison:
    chosen = [members[index] for index in random.permutation(len(members))[: 2 * runs]]
    return compare(named([chosen[:runs], chosen[runs:]]))


def parting_table(folder: Path, name: str) -> Iterator[str]:
    """Yield where five seeds of another rate part from five of the first."""
    first, other = ([folder / group / f"seed={seed}" for seed in range(5)] for group in (STEADY, name))
    comparison = compare_paths(first, other)
    yield f"| curve | {name} against {STEADY} |"
    yield "|---|---|"
    for curve in (*comparison.curves, *comparison.layers):
        yield f"| {'layer ' if curve.layer else ''}{curve_name(curve)} | {where(curve.outcomes[0])} |"


def page(folder: Path, count: int) -> str:
    """Return the page."""
    seeds = read_members(sorted((folder / STEADY).iterdir()))
    return f"""\
# gradwatch compare in figures

How often [`gradwatch compare`](compare.md) is wrong and how soon it is right. Measured with
`python benchmarks/compare.py --runs FOLDER` ({machine()}).

## Groups of one setting

Two groups of runs of one setting may be told apart in at most {LEVEL:.0%} of all pairs, over the whole curve.
Simulated: {count:,} pairs in each cell, noise of which a record keeps the share in the head of the column (AR(1);
1: every run has one value for ever), the worst of curves of {", ".join(map(str, RECORDS))} records.

{_lines(false_alarm_table(count))}

Trained: the digits network with {len(seeds)} seeds, {SPLITS} times two random groups of them, in all four curves and in
the gradient norms of all seven layers.

{_lines(trained_table(seeds))}

## A difference that is planted

From step {PLANTED * STEPS_A_RECORD} of {PLANTED_RECORDS * STEPS_A_RECORD} on, records every {STEPS_A_RECORD} steps,
in standard deviations of a single record over the seeds; noise of which a record keeps 0.9; {count:,} pairs in each
row. The limit is that of one curve among five.

{_lines(planted_table(count))}

## A learning rate that is changed

The digits network, five seeds each, 400 steps, records every second step. Three times the rate:

{_lines(parting_table(folder, HIGH))}

The rate is doubled at step 200:

{_lines(parting_table(folder, DOUBLED))}

## Again

```
python benchmarks/seeds.py FOLDER            # 30 short trainings
python benchmarks/compare.py --runs FOLDER   # this page
```
"""


def _lines(lines: Iterator[str]) -> str:
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the folder that benchmarks/seeds.py was given")
    parser.add_argument("--pairs", type=int, default=2000, help="simulated pairs in each cell")
    arguments = parser.parse_args()
    PAGE.write_text(page(arguments.runs, arguments.pairs), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
