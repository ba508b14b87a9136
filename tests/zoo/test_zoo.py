"""Every case of the zoo under gradwatch, in every way of training."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from tests.zoo.case import FP32
from tests.zoo.families import CASES
from tests.zoo.trial import PLAIN, VARIANTS, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.zoo.case import Case

EVERYWHERE = [pytest.param(case, name, id=f"{case.name}-{name}") for case in CASES for name in case.truth]
VARIED = [
    pytest.param(case, variant, id=f"{case.name}-{variant}")
    for variant in VARIANTS
    for case in CASES
    if case.variants and FP32 in case.truth
]
SAMPLE = 40  # every so many of them in the normal run


def _check(case: Case, precision: str, variant: str, folder: Path) -> None:
    outcome = run(case, precision, variant, folder)
    assert outcome.right, f"{outcome}\ntruth: {case.truth[precision]}, line {case.marked_line}"


@pytest.mark.parametrize(("case", "precision"), EVERYWHERE)
def test_the_origin_is_named(case: Case, precision: str, tmp_path: Path) -> None:
    _check(case, precision, PLAIN, tmp_path)


@pytest.mark.parametrize(("case", "variant"), VARIED[::SAMPLE])
def test_the_way_of_training_does_not_matter(case: Case, variant: str, tmp_path: Path) -> None:
    _check(case, FP32, variant, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(("case", "variant"), VARIED)
def test_no_way_of_training_matters(case: Case, variant: str, tmp_path: Path) -> None:
    _check(case, FP32, variant, tmp_path)


def test_a_wrong_truth_is_noticed(tmp_path: Path) -> None:
    case: Any = next(case for case in CASES if case.name == "actor-critic-entropy")
    for change in ({"op": "exp"}, {"module": "elsewhere"}, {"phase": "backward"}, {"incident": False}):
        wrong = dataclasses.replace(case, truth={FP32: dataclasses.replace(case.truth[FP32], **change)})
        assert not run(wrong, FP32, PLAIN, tmp_path / next(iter(change))).right
    assert not run(dataclasses.replace(case, bad_batch=4), FP32, PLAIN, tmp_path / "batch").right
