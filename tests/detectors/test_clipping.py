from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradwatch.detectors.clipping import DETECTORS
from gradwatch.observations import Setting
from tests.detectors.observations import findings, observation, opened, unknown

SETTING = Setting(optimizer="SGD", max_norm=1.0)


def records(
    norm: Any, last: int = 400, setting: Setting = SETTING, layers: Any = None, limit: float = 1.0
) -> list[Any]:
    made = []
    for step in range(10, last + 10, 10):
        norms = norm(np.arange(step - 9, step + 1)) * np.ones(10)
        rows = {"grad_norm": norms, "coefficient": np.minimum(1.0, limit / norms)}
        made.append(observation(step, rows_changed=rows, setting=setting, layers_changed=layers))
    return made


def test_steps_that_are_clipped_always_are_told_once_with_a_better_limit() -> None:
    told = findings(DETECTORS, records(lambda step: 2.0 + step % 10 / 10))
    assert [(f.code, f.step, f.severity) for f in told] == [("clips-always", 200, "info")]
    assert told[0].evidence == {
        "share": 1.0,
        "limit": 1.0,
        "median": pytest.approx(2.45),
        "percentile": 0.0,
        "coefficient": pytest.approx(1 / 2.45, rel=1e-2),
        "suggested": 2.8,
    }


def test_a_norm_ten_times_the_limit_is_a_warning() -> None:
    told = findings(DETECTORS, records(lambda step: np.where(step <= 300, 5.0, 20.0), 600))
    assert [(f.code, f.severity, f.status) for f in told] == [
        ("clips-always", "info", "opened"),
        ("clips-always", "warning", "updated"),
    ]


def test_the_limit_of_a_loop_that_clips_by_itself_is_read_from_what_it_did() -> None:
    told = findings(DETECTORS, records(lambda _: 4.0, setting=Setting(), limit=0.5))
    assert told[0].evidence["limit"] == pytest.approx(0.5)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_limits_that_some_steps_pass_are_silent(share: float) -> None:
    assert opened(DETECTORS, records(lambda step: np.where(step % 10 < 10 * share, 2.0, 0.5), 2000)) == []


def test_a_limit_that_is_never_reached_is_told_once() -> None:
    told = findings(DETECTORS, records(lambda step: 0.01 + 1e-5 * step, 4000))
    assert [(f.code, f.step, f.status) for f in told] == [("clips-never", 1000, "opened")]
    assert told[0].evidence == {"unclipped": 1000, "largest": pytest.approx(0.02), "limit": 1.0}


def test_one_step_near_the_limit_begins_the_count_anew() -> None:
    assert opened(DETECTORS, records(lambda step: np.where(step % 900 == 0, 0.2, 0.01), 4000)) == []
    assert opened(DETECTORS, records(lambda _: 0.01, 4000, setting=Setting())) == []


def test_one_layer_with_all_of_the_norm_is_told() -> None:
    half = records(lambda step: np.where(step % 10 < 6, 2.0, 0.5), layers={"grad_norm": {"head": 50.0}})
    assert opened(DETECTORS, half) == [("clips-one-layer", "head")]
    seldom = records(lambda step: np.where(step % 10 < 4, 2.0, 0.5), layers={"grad_norm": {"head": 50.0}})
    assert opened(DETECTORS, seldom) == []


def test_what_is_not_known_neither_counts_nor_resets() -> None:
    whole = records(lambda _: 2.0)
    with_gaps = [*whole[:15], *(unknown(step, setting=SETTING) for step in range(151, 400, 10)), *whole[15:]]
    assert [f.step for f in findings(DETECTORS, with_gaps)] == [200]


def test_what_is_not_known_does_not_close_a_finding() -> None:
    always, seldom = records(lambda _: 2.0, 200), records(lambda _: 0.5, 400)[20:]
    gaps = [unknown(step, setting=SETTING) for step in range(370, 400, 10)]
    told = findings(DETECTORS, [*always, *seldom[:12], *gaps])
    assert [f.status for f in told] == ["opened"]
