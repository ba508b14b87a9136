"""The argument ``detectors``: what is in force, with which thresholds, and what is refused with which words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from gradwatch.detectors.alarms import Alarm
from gradwatch.detectors.default import DETECTORS
from gradwatch.detectors.panel import Panel
from gradwatch.detectors.selection import select
from tests.detectors.constant import observation
from tests.detectors.toy import toy

if TYPE_CHECKING:
    from gradwatch.observations import Observation

ALL = [detector.rule.code for detector in DETECTORS]


def codes(argument: Any) -> list[str]:
    return [detector.rule.code for detector in select(argument)]


def low_loss(state: int, seen: Observation) -> tuple[int, list[Alarm]]:
    low = [float(loss) for loss in seen.rows.loss if loss < 0.5]
    return state + 1, [Alarm(message=f"The loss is {loss:.3g}.", evidence={"loss": loss}) for loss in low[:1]]


PAIR = (int, low_loss)


def test_all_by_default() -> None:
    assert codes("default") == ALL == codes(["default"])


def test_codes_name_rules() -> None:
    assert codes(["loss-spike", "dead-layer"]) == ["loss-spike", "dead-layer"]
    assert codes([]) == []


def test_a_threshold_is_changed_in_place() -> None:
    argument = ["default", {"loss-spike": {"deviations": 20}}]
    assert codes(argument) == ALL
    (spike,) = [detector for detector in select(argument) if detector.rule.code == "loss-spike"]
    assert (spike.limits["deviations"], spike.limits["factor"]) == (20, 3.0)
    assert codes([{"loss-spike": {"records": 2}}]) == ["loss-spike"]


@pytest.mark.parametrize("off", [False, None])
def test_a_rule_is_dropped(off: object) -> None:
    assert codes(["default", {"loss-spike": off}]) == [code for code in ALL if code != "loss-spike"]
    assert codes(["default", {"loss-spike": off}, {"loss-spike": True}])[-1] == "loss-spike"


@pytest.mark.parametrize("path", ["tests.detectors.test_selection:PAIR", "tests.detectors.test_selection.PAIR"])
def test_a_pair_or_its_import_path_is_a_rule(path: str) -> None:
    assert codes([PAIR]) == ["low-loss"]
    assert codes(["default", path])[-1] == "PAIR"


def test_a_detector_is_one() -> None:
    assert codes([toy()]) == ["toy"]


def test_an_own_rule_opens_and_closes_findings() -> None:
    panel = Panel(select([PAIR]))
    losses = [1.0, 0.1, 0.1, 1.0, 1.0, 1.0, 1.0]
    found = [f for step, loss in enumerate(losses) for f in panel.observe(observation(step, loss=loss))]
    assert [(f.step, f.status, f.code) for f in found] == [(1, "opened", "low-loss"), (5, "closed", "low-loss")]
    assert (found[0].message, found[0].evidence) == ("The loss is 0.1.", {"loss": 0.1})
    assert panel.state_dict()["low-loss/0"]["state"]["state"] == len(losses)


REFUSED = [
    (["loss-spik"], ValueError, "did you mean 'loss-spike'"),
    ([{"loss-spike": {"deviation": 3}}], ValueError, "no threshold 'deviation'; it has deviations, factor, record"),
    ([{"loss-spike": {"deviations": "many"}}], ValueError, "must be a number of at least 0, not 'many'"),
    ([{"loss-spike": {"deviations": -1}}], ValueError, "must be a number of at least 0, not -1"),
    ([{"loss-spike": {"deviations": float("nan")}}], ValueError, "must be a number of at least 0"),
    ([{"loss-spike": 3}], TypeError, "expected {threshold: number}, or False to drop the rule"),
    (["no.such.module:rule"], ValueError, "cannot be imported"),
    (["tests.detectors.test_selection:missing"], ValueError, "cannot be imported"),
    (["tests.detectors.test_selection:ALL"], TypeError, "is no detector"),
    ([print], TypeError, "is no detector"),
    ([(print,)], TypeError, "is no detector"),
    ([3], TypeError, "is no detector"),
]


@pytest.mark.parametrize(("argument", "kind", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused_is_named(argument: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=re.escape(words)):
        select(argument)
