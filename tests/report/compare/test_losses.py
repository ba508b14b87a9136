"""Runs that became NaN: at which step, and that the first sentence says so where others did not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gradwatch.report.compare.command import compare_paths
from gradwatch.report.compare.conclusions import conclusions
from gradwatch.report.compare.losses import lost_at
from gradwatch.report.run import read_runs
from tests.report.compare.runs import rewrite, seeds, steps_from
from tests.report.logs import at, incident, run_end, run_start, write_log

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.records import Event

NAN: dict[str, Any] = {"loss": float("nan"), "grad_norm": float("nan")}


def lost(folder: Path, *events: Event) -> int | None:
    write_log(folder, run_start(), *events)
    (run,) = read_runs(folder)
    return lost_at(run)


@pytest.mark.parametrize("name", NAN)
def test_the_first_record_from_which_on_it_lasts(name: str, tmp_path: Path) -> None:
    bad = {name: float("inf")}
    assert lost(tmp_path, at(10, **bad), at(20), at(30, **bad), at(40, **bad), run_end()) == 30


def test_a_run_that_became_finite_again_is_not_lost(tmp_path: Path) -> None:
    assert lost(tmp_path, at(10), at(20, **NAN), at(30), incident(step=17, action="skipped"), run_end()) is None


def test_an_incident_between_two_records_says_it_more_exactly(tmp_path: Path) -> None:
    incidents = [incident(step=step, action="warned") for step in (3, 17, 19, 33)]
    assert lost(tmp_path, at(10), at(20, **NAN), at(30, **NAN), *incidents, run_end()) == 17


def test_a_run_that_died_of_it_has_no_record_of_it(tmp_path: Path) -> None:
    assert lost(tmp_path, at(10), incident(step=17, action="raised"), run_end(status="nonfinite")) == 17


def test_the_first_of_several_optimizers_counts(tmp_path: Path) -> None:
    assert lost(tmp_path, at(10), at(12, optimizer=1, **NAN), at(20, **NAN), run_end()) == 12


def test_an_overflow_under_a_loss_scale_is_routine(tmp_path: Path) -> None:
    assert lost(tmp_path / "a", at(10), at(20, grad_norm=float("inf"), loss_scale=1024.0), run_end()) is None
    assert lost(tmp_path / "b", at(10), at(20, loss=float("nan"), loss_scale=1024.0), run_end()) == 20


def headline(*groups: list[Path]) -> str:
    (conclusion,) = conclusions(compare_paths(groups[0], *groups[1:]))
    return conclusion.headline


def test_groups_tell_how_many_runs_and_only_where_the_other_has_none(tmp_path: Path) -> None:
    one, other = seeds(tmp_path / "a", range(3)), seeds(tmp_path / "b", range(3, 6))
    for path, step in zip(one[:2], (400, 300), strict=True):
        rewrite(path, steps_from(step, loss="NaN"))
    told = "2 of 3 runs of A became NaN or infinite, from step 309 on, and none of B. B "
    assert headline(one, other).startswith(told)
    rewrite(other[0], steps_from(300, loss="NaN"))
    assert "became NaN" not in headline(one, other)


def test_seeds_of_one_experiment_are_named(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", range(6))
    assert "became NaN" not in headline(paths)
    rewrite(paths[2], steps_from(300, grad_norm="Infinity"))
    assert headline(paths).startswith("1 of 6 runs became NaN or infinite, from step 309 on (seed=2). ")
    for path in paths[:5]:
        rewrite(path, steps_from(300, loss="NaN"))
    assert "(seed=0, seed=1, seed=2, seed=3, ...)" in headline(paths)
    rewrite(paths[5], steps_from(300, loss="NaN"))
    assert "became NaN" not in headline(paths)
