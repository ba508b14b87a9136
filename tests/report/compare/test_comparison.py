"""Comparisons of whole runs: groups of seeds, single runs, runs that died, runs that do not fit together."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gradwatch.report.compare.command import compare_paths
from gradwatch.report.compare.conclusions import ADVICE, conclusions
from gradwatch.report.compare.curves import LOSS, NORM, RATE, RATIO
from gradwatch.report.compare.outcomes import CurveComparison, GroupOutcome, PairOutcome
from gradwatch.report.compare.words import curve_ending, where
from tests.report.compare.runs import rewrite, seeds, start_with, steps_from
from tests.report.logs import incident, told

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.report.compare.comparison import Comparison


def curve(comparison: Comparison, quantity: str) -> CurveComparison:
    return next(each for each in comparison.curves if each.quantity == quantity)


def group_outcome(comparison: Comparison, quantity: str) -> GroupOutcome:
    (outcome,) = curve(comparison, quantity).outcomes
    assert isinstance(outcome, GroupOutcome)
    return outcome


def pair_outcome(comparison: Comparison, quantity: str) -> PairOutcome:
    (outcome,) = curve(comparison, quantity).outcomes
    assert isinstance(outcome, PairOutcome)
    return outcome


def test_seeds_of_one_setting_do_not_part(tmp_path: Path) -> None:
    comparison = compare_paths(seeds(tmp_path / "a", range(5)), seeds(tmp_path / "b", range(5, 10)))
    assert all(each.step is None for each in (*comparison.curves, *comparison.layers))
    (conclusion,) = conclusions(comparison)
    assert conclusion.headline.startswith("B does not differ from A beyond the spread of the seeds")
    assert comparison.settings == ()


def test_another_rate_parts_and_the_settings_say_why(tmp_path: Path) -> None:
    comparison = compare_paths(seeds(tmp_path / "a", range(4), lr=0.001) + seeds(tmp_path / "b", range(4), lr=0.01))
    assert [group.name for group in comparison.groups] == ["lr=0.001", "lr=0.01"]
    assert [(row.name, row.values) for row in comparison.settings] == [("optimizer.lr", ("0.001", "0.01"))]
    assert group_outcome(comparison, RATE).stretches[0].larger
    assert group_outcome(comparison, RATE).step == 9  # the first record
    assert not group_outcome(comparison, LOSS).stretches[0].larger
    (conclusion,) = conclusions(comparison)
    assert conclusion.headline.startswith("B parts from A at step 9 (")
    assert "Its loss is lower from step" in conclusion.detail


def test_a_planted_difference_is_found_in_its_curve_alone(tmp_path: Path) -> None:
    one, other = seeds(tmp_path / "a", range(5)), seeds(tmp_path / "b", range(5, 10))
    for path in other:
        rewrite(path, steps_from(300, grad_norm=lambda norm: 3 * norm))
    comparison = compare_paths(one, other)
    assert 300 <= (group_outcome(comparison, NORM).step or 0) <= 330
    assert group_outcome(comparison, LOSS).step is None
    assert all(each.step is None for each in comparison.layers)
    (ratio,) = curve(comparison, NORM).ratios()
    assert ratio == pytest.approx(3.0, rel=0.1)


def test_one_layer_that_differs_is_named(tmp_path: Path) -> None:
    one, other = seeds(tmp_path / "a", range(5)), seeds(tmp_path / "b", range(5, 10))

    def larger(layers: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        return layers | {"head": layers["head"] | {"grad_norm": 9 * layers["head"]["grad_norm"]}}

    for path in other:
        rewrite(path, steps_from(300, layers=larger))
    comparison = compare_paths(one, other)
    assert [each.layer for each in comparison.layers if each.step is not None] == ["head"]
    (conclusion,) = conclusions(comparison)
    assert "in 1 of 5 layers alone, first in head, higher from" in conclusion.headline


def test_a_layer_that_is_dead_in_one_group_differs(tmp_path: Path) -> None:
    one, other = seeds(tmp_path / "a", range(4)), seeds(tmp_path / "b", range(4, 8))

    def dead(layers: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        return layers | {"head": layers["head"] | {"grad_norm": 0.0}}

    for path in other:
        rewrite(path, steps_from(200, layers=dead))
    comparison = compare_paths(one, other)
    (head,) = (each for each in comparison.layers if each.layer == "head")
    assert 200 <= (head.step or 0) <= 230


@pytest.mark.parametrize("factor", [1e-6, 1e3, 1e30])
def test_the_scale_of_the_losses_does_not_matter(tmp_path: Path, factor: float) -> None:
    paths = seeds(tmp_path / "a", range(4), lr=0.001), seeds(tmp_path / "b", range(4), lr=0.01)
    before = compare_paths(*paths)
    for path in (*paths[0], *paths[1]):
        rewrite(path, steps_from(0, loss=lambda loss: factor * loss))
    after = compare_paths(*paths)
    assert group_outcome(after, LOSS).stretches == group_outcome(before, LOSS).stretches
    assert [curve(after, name).outcomes for name in (NORM, RATIO)] == [
        curve(before, name).outcomes for name in (NORM, RATIO)
    ]


def test_the_scale_of_losses_of_both_signs_does_not_matter_either(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", range(4), lr=0.001), seeds(tmp_path / "b", range(4), lr=0.1)
    for path in (*paths[0], *paths[1]):
        rewrite(path, steps_from(0, loss=lambda loss: loss - 3.0))
    before = compare_paths(*paths)
    assert not curve(before, LOSS).domain.logarithmic
    for path in (*paths[0], *paths[1]):
        rewrite(path, steps_from(0, loss=lambda loss: 1e-9 * loss))
    assert group_outcome(compare_paths(*paths), LOSS).stretches == group_outcome(before, LOSS).stretches != ()


def test_the_order_of_the_runs_does_not_matter(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", range(4), lr=0.001) + seeds(tmp_path / "b", range(4), lr=0.01)
    ordered = compare_paths(paths)
    shuffled_one, shuffled_other = paths[:4], paths[4:]
    random.Random(1).shuffle(shuffled_one)
    random.Random(2).shuffle(shuffled_other)
    shuffled = compare_paths([path for pair in zip(shuffled_one, shuffled_other, strict=True) for path in pair])
    assert [each.step for each in shuffled.curves] == [each.step for each in ordered.curves]
    assert [each.step for each in shuffled.layers] == [each.step for each in ordered.layers]


# -- one run against one -----------------------------------------------------------------------------------------------


def test_a_run_against_itself_is_identical(tmp_path: Path) -> None:
    (path,) = seeds(tmp_path, [0])
    comparison = compare_paths([path, path])
    assert all(
        outcome == PairOutcome(step=None, size=0.0, visible=None, nonfinite=None, largest=0.0, alike=60)
        for each in (*comparison.curves, *comparison.layers)
        for outcome in each.outcomes
    )
    (conclusion,) = conclusions(comparison)
    assert conclusion == ("A and B are identical, bit for bit, at all 60 common steps.", "")


def test_a_difference_in_rounding_that_grows(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", [0]) + seeds(tmp_path / "b", [0])
    rewrite(paths[1], steps_from(200, loss=lambda loss: loss * (1 + 1e-8)))
    rewrite(paths[1], steps_from(400, loss=lambda loss: loss * 1.05))
    comparison = compare_paths(paths)
    found = pair_outcome(comparison, LOSS)
    assert (found.step, found.visible, found.nonfinite, found.alike) == (209, 409, None, 20)
    (conclusion,) = conclusions(comparison)
    assert conclusion.headline == (
        "A and B are identical at 20 steps and differ from step 209 on (loss by 1e-08 of its value, as by rounding)."
    )
    assert conclusion.detail == f"The first curve to differ by over 1 % does so from step 409 on. {ADVICE}"


def test_they_part_where_one_becomes_nan(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", [0]) + seeds(tmp_path / "b", [0])
    rewrite(paths[1], steps_from(300, loss="NaN"))
    comparison = compare_paths(paths)
    assert pair_outcome(comparison, LOSS).nonfinite == 309
    assert conclusions(comparison)[0].headline == (
        "B became NaN or infinite at step 309, and A did not."
        " A and B are identical at 30 steps and differ from step 309 on (the loss of one of them is not finite)."
    )


def test_what_was_not_finite_at_the_end_is_told_from_what_is_not_known(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", [0]) + seeds(tmp_path / "b", [0])
    rewrite(paths[1], steps_from(300, grad_norm="NaN", loss=None))
    comparison = compare_paths(paths)
    assert [curve_ending(curve(comparison, name), 1) for name in (NORM, LOSS)] == ["not finite", "no record"]
    assert where(pair_outcome(comparison, NORM)) == "one is not finite from 309 on"
    assert where(pair_outcome(comparison, LOSS)) == "identical"  # as far as it is known


def test_the_update_ratio_of_layers_that_became_nan_is_not_finite(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", [0]) + seeds(tmp_path / "b", [0])
    bad = {name: {"grad_norm": "NaN", "weight_norm": "NaN", "update_ratio": "NaN", "nonfinite": 1} for name in "ab"}
    rewrite(paths[1], steps_from(300, layers=bad))
    comparison = compare_paths(paths)
    assert curve_ending(curve(comparison, RATIO), 1) == "not finite"


def test_a_shorter_run_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", [0]) + seeds(tmp_path / "b", [0])
    rewrite(paths[1], lambda event: None if event["type"] == "step" and event["step"] > 300 else event)
    comparison = compare_paths(paths)
    assert pair_outcome(comparison, LOSS).alike == 30
    assert conclusions(comparison)[0].headline == "A and B are identical, bit for bit, at all 30 common steps."


# -- runs that do not fit ----------------------------------------------------------------------------------------------


def test_a_run_that_died_early_does_not_end_the_comparison(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", range(4), lr=0.001) + seeds(tmp_path / "b", range(4), lr=0.01)
    rewrite(paths[5], lambda event: None if event["type"] in ("step", "run_end") and event["step"] > 50 else event)
    comparison = compare_paths(paths)
    assert len(curve(comparison, LOSS).steps) == 60
    assert [ending.runs for ending in curve(comparison, LOSS).endings()] == [4, 3]
    (end,) = (each for each in comparison.happenings if each.kind == "end")
    assert (end.name, end.counts, end.sizes, end.differs) == ("killed", (0, 1), (4, 4), True)


def test_the_end_is_that_of_the_steps_that_all_groups_have(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", range(3)) + seeds(tmp_path / "b", range(3), lr=0.01)
    for path in paths[3:]:
        rewrite(path, lambda event: None if event["type"] == "step" and event["step"] > 300 else event)
    short = curve(compare_paths(paths), LOSS)
    for path in paths[:3]:
        rewrite(path, lambda event: None if event["type"] == "step" and event["step"] > 300 else event)
    assert short.endings() == curve(compare_paths(paths), LOSS).endings()
    assert [ending.runs for ending in short.endings()] == [3, 3]


def test_too_few_runs_are_said_to_be_too_few(tmp_path: Path) -> None:
    comparison = compare_paths(seeds(tmp_path / "a", range(2)), seeds(tmp_path / "b", [7]))
    assert where(curve(comparison, NORM).outcomes[0]) == "too few runs to tell"
    assert "use 3 to 5 seeds" in conclusions(comparison)[0].detail


def test_layers_of_one_group_alone_are_told_and_not_compared(tmp_path: Path) -> None:
    names = ["stem", "body", "head"]
    comparison = compare_paths(
        seeds(tmp_path / "a", range(2), names=names) + seeds(tmp_path / "b", range(2), names=[*names, "extra"])
    )
    (found,) = comparison.parameters
    assert found is not None
    assert found.added == ("extra",)
    assert [each.layer for each in comparison.layers] == names


def test_the_update_ratio_is_left_out_where_something_else_is_called_a_layer(tmp_path: Path) -> None:
    """As it is with another granularity: the median over modules is not that over parameters."""
    paths = seeds(tmp_path / "a", [0], names=["stem", "head"])
    paths += seeds(tmp_path / "b", [0], names=["stem.weight", "head.weight"])
    rewrite(paths[1], steps_from(0, layers=_doubled_ratios))
    comparison = compare_paths(paths)
    assert [each.quantity for each in comparison.curves] == [LOSS, NORM, RATE]
    assert conclusions(comparison)[0].headline == "A and B are identical, bit for bit, at all 60 common steps."
    assert comparison.notes == (
        "the update ratio is left out: it is the median over the layers, and not all runs have the same ones",
    )


def _doubled_ratios(layers: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: layer | {"update_ratio": 2 * layer["update_ratio"]} for name, layer in layers.items()}


def test_a_run_that_lost_its_start_may_have_the_same_layers(tmp_path: Path) -> None:
    paths = seeds(tmp_path, range(2))
    rewrite(paths[1], lambda event: None if event["type"] == "run_start" else event)
    assert RATIO in [each.quantity for each in compare_paths(paths[:1], paths[1:]).curves]


def test_runs_without_a_common_step_say_so(tmp_path: Path) -> None:
    one, other = seeds(tmp_path / "a", range(2)), seeds(tmp_path / "b", range(2))
    for path in other:
        rewrite(path, steps_from(0, step=lambda step: step + 100_000))
    (conclusion,) = conclusions(compare_paths(one, other))
    assert conclusion.headline == "B and A have no steps in common: nothing can be said of their curves."


def test_a_run_without_a_record_is_named_and_no_step_is_common(tmp_path: Path) -> None:
    paths = seeds(tmp_path, range(2))
    rewrite(paths[1], lambda event: None if event["type"] == "step" else event)
    comparison = compare_paths(paths)
    (conclusion,) = conclusions(comparison)
    assert conclusion.headline == "B has no record of a step: nothing can be said of its curves."
    assert comparison.aligned[0].described() == "the runs have no steps in common"
    assert curve_ending(curve(comparison, LOSS), 1) == "no record"
    rewrite(paths[0], lambda event: None if event["type"] == "step" else event)
    (conclusion,) = conclusions(compare_paths(paths))
    assert conclusion.headline == "A and B have no record of a step: nothing can be said of their curves."


def test_steps_that_one_group_alone_has_are_not_called_common(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", range(2)) + seeds(tmp_path / "b", range(2), lr=0.01)
    for path in paths[2:]:
        rewrite(path, lambda event: None if event["type"] == "step" and event["step"] > 300 else event)
    comparison = compare_paths(paths)
    assert comparison.aligned[0].described() == "30 common steps, 9 to 299"
    assert len(curve(comparison, LOSS).steps) == 60  # the page shows all of them


def test_a_log_without_a_step_record_is_no_reason_to_fail(tmp_path: Path) -> None:
    paths = seeds(tmp_path, range(3))
    for path in paths:
        rewrite(path, lambda event: None if event["type"] == "step" else event)
    assert compare_paths(paths).curves == ()
    assert conclusions(compare_paths(paths[:1], paths[1:]))


def test_a_log_that_was_thinned_is_compared_where_it_has_records(tmp_path: Path) -> None:
    (whole,), (thinned,) = seeds(tmp_path / "a", [0]), seeds(tmp_path / "b", [0], pooled=True)
    kept = {*range(0, 300, 40), *range(300, 600)}

    def thin(event: dict[str, Any]) -> dict[str, Any] | None:
        return None if event["type"] == "step" and event["step"] - 9 not in kept else event

    rewrite(thinned, thin)
    comparison = compare_paths([whole, thinned])
    assert len(comparison.aligned[0].steps) == 8 + 30
    assert conclusions(comparison)[0].headline.startswith("A and B are identical, bit for bit, at all 38 common steps")


def test_logs_at_different_steps_are_compared_in_bins(tmp_path: Path) -> None:
    one, other = seeds(tmp_path / "a", range(3)), seeds(tmp_path / "b", range(3))
    for path in other:
        rewrite(path, steps_from(0, step=lambda step: step - 4))
    comparison = compare_paths(one, other)
    assert comparison.aligned[0].bin == 10
    assert len(curve(comparison, LOSS).steps) == 60


def test_copies_count_once_and_equal_seeds_are_told(tmp_path: Path) -> None:
    one = seeds(tmp_path / "a", range(3))
    other = seeds(tmp_path / "b", range(5, 8))
    comparison = compare_paths(one, [*other, *seeds(tmp_path / "again", [7])])
    assert [len(values) for values in curve(comparison, LOSS).values] == [3, 3]
    assert [note for note in comparison.notes if "identical" in note] == [
        "again/seed=7 is identical to b/seed=7, bit for bit: they count as one run"
    ]
    for path in one:
        rewrite(path, start_with(seeds={"PL_GLOBAL_SEED": "5"}))
    assert any("have the seed 5" in note for note in compare_paths(one, other).notes)


def test_rates_that_differ_without_a_setting_are_noted(tmp_path: Path) -> None:
    one, other = seeds(tmp_path / "a", range(3)), seeds(tmp_path / "b", range(3, 6))
    assert compare_paths(one, other).notes == ()
    for path in other:
        rewrite(path, steps_from(300, lr=lambda rate: 2 * rate))
    (note,) = compare_paths(one, other).notes
    assert note == "the learning rates differ from step 309 on, and no setting that was recorded says why"
    assert compare_paths(one, seeds(tmp_path / "c", range(3), lr=0.1)).notes == ()


def test_two_seeds_are_a_pair_and_three_alone_are_one_experiment(tmp_path: Path) -> None:
    paths = seeds(tmp_path, range(3))
    assert compare_paths(paths[:2]).one_to_one
    alone = compare_paths(paths)
    assert len(alone.groups) == 1
    (conclusion,) = conclusions(alone)
    assert conclusion.headline == "3 runs of one experiment: there is no other group to compare them with."


def test_several_groups_are_compared_with_the_first(tmp_path: Path) -> None:
    paths = [path for rate in (0.001, 0.01, 0.1) for path in seeds(tmp_path / str(rate), range(3), lr=rate)]
    comparison = compare_paths(paths)
    assert [len(each.outcomes) for each in comparison.curves] == [2] * 4
    assert len(conclusions(comparison)) == 2


def test_one_run_against_a_group_is_judged_by_the_spread_of_the_group(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", range(5), lr=0.001)
    same = compare_paths(paths, seeds(tmp_path / "b", [9], lr=0.001))
    other = compare_paths(paths, seeds(tmp_path / "c", [9], lr=1.0))
    assert group_outcome(same, LOSS).step is None
    assert group_outcome(other, LOSS).step is not None


def test_findings_and_incidents_are_counted_by_run(tmp_path: Path) -> None:
    one = seeds(tmp_path / "a", range(3))
    found = [told(100, code="dead-units", layer=name, severity="warning") for name in ("head", "norm1")]
    bad = incident(action="warned")
    other = seeds(tmp_path / "b", range(2), events=[*found, told(50, code="everywhere"), bad])
    other += seeds(tmp_path / "c", [7], events=[told(70, code="everywhere")])
    for path in one:
        write = told(60, code="everywhere")
        seeds(path.parent, [int(path.name.partition("=")[2])], events=[write])
    comparison = compare_paths(one, other)
    by_name = {each.name: each for each in comparison.happenings}
    assert (by_name["dead-units"].counts, by_name["dead-units"].sizes) == ((0, 2), (3, 3))
    assert by_name["dead-units"].layers == ("head", "norm1")
    assert (by_name["everywhere"].counts, by_name["everywhere"].differs) == ((3, 3), False)
    assert by_name["everywhere"].first_step == 50
    assert comparison.happenings[0].kind == "incident"
    assert comparison.happenings[-1].name == "everywhere"


def test_values_that_are_not_finite_never_raise(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "a", range(3)) + seeds(tmp_path / "b", range(3), lr=0.1)
    for path, value in zip(paths, ["NaN", "Infinity", None, 0.0, -1.0, 1.7e308], strict=True):
        rewrite(path, steps_from(100, loss=value, grad_norm=value, lr=value))
    comparison = compare_paths(paths)
    assert len(comparison.curves) == 4
    for each in (*comparison.curves, *comparison.layers):
        assert all(np.shape(band.mean) == each.steps.shape for band in each.bands())
        assert len(each.endings()) == 2
