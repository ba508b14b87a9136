"""Runs that became NaN: the first sentence says so where others did not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradwatch.report.compare.command import compare_paths
from gradwatch.report.compare.conclusions import conclusions
from tests.report.compare.runs import rewrite, seeds, steps_from

if TYPE_CHECKING:
    from pathlib import Path


NAN: dict[str, Any] = {"loss": float("nan"), "grad_norm": float("nan")}


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
