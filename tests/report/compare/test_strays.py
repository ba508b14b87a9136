"""Among the seeds of one experiment, the run that leaves the others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from gradwatch.report.compare.as_json import to_json
from gradwatch.report.compare.command import compare_paths
from gradwatch.report.compare.conclusions import conclusions
from gradwatch.report.compare.outcomes import CurveComparison
from gradwatch.report.compare.spread import Domain
from gradwatch.report.compare.strays import LEAST_RUNS, strays
from tests.report.compare.noise import autocorrelated
from tests.report.compare.runs import rewrite, seeds, steps_from

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.report.compare.arrays import Floats

LEVEL = 0.05


def curve(values: Floats, quantity: str = "loss") -> CurveComparison:
    return CurveComparison(
        quantity=quantity,
        layer=None,
        optimizer=0,
        domain=Domain(logarithmic=False),
        steps=10 * np.arange(values.shape[1]),
        values=(values,),
        shared=np.ones(values.shape[1], dtype=bool),
        outcomes=(),
    )


def test_runs_of_one_setting_seldom_have_a_stray() -> None:
    random, count = np.random.default_rng(0), 100
    groups = (autocorrelated(random, 5, 60, 0.9) for _ in range(count))
    found = sum(bool(strays("abcde", [curve(values)], LEVEL)) for values in groups)
    assert found <= stats.binom.isf(0.001, count, LEVEL)


def test_the_run_that_leaves_is_named_with_its_step() -> None:
    values = 0.05 * autocorrelated(np.random.default_rng(1), 6, 100, 0.9)
    values[3, 40:] += 3.0
    (stray,) = strays("abcdef", [curve(values)], LEVEL)
    (stretch,) = stray.stretches
    assert (stray.label, stray.quantity) == ("d", "loss")
    assert 400 <= stretch.first <= 420
    assert (stretch.last, stretch.larger) == (None, True)


def test_three_runs_are_too_few() -> None:
    values = np.zeros((LEAST_RUNS - 1, 50))
    values[0] = 1.0
    assert strays("abc", [curve(values)], LEVEL) == []


def test_a_curve_that_some_runs_lack_is_left_out() -> None:
    assert strays("abcde", [curve(np.eye(4, 50))], LEVEL) == []


def test_a_stray_is_the_headline(tmp_path: Path) -> None:
    paths = seeds(tmp_path, range(6))
    assert compare_paths(paths).strays == ()
    rewrite(paths[2], steps_from(300, loss=lambda loss: 3 * loss))
    comparison = compare_paths(paths)
    (conclusion,) = conclusions(comparison)
    assert conclusion.headline == (
        "Of 6 runs of one experiment seed=2 leaves the others:"
        " its loss is higher from step 309 on, beyond their spread."
    )
    (stray,) = json.loads(to_json(comparison))["strays"]
    assert (stray["label"], stray["stretches"][0]["first"]) == ("seed=2", 309)
