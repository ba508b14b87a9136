from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gradwatch.report.lost import lost_at
from gradwatch.report.run import read_runs
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
