"""When a sign opens a finding, when that is told again, and when it closes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.detectors.panel import Panel
from tests.detectors.toy import Given, toy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.detectors.detector import Detector
    from gradwatch.records import Finding


def observed(detector: Detector, values: Sequence[float], every: int = 10) -> list[Finding]:
    panel = Panel([detector])
    return [finding for i, value in enumerate(values) for finding in panel.observe(Given(i * every, [value]))]


def course(detector: Detector, values: Sequence[float], every: int = 10) -> list[tuple[int, str]]:
    return [(finding.step, finding.status) for finding in observed(detector, values, every)]


def test_a_sign_opens_once_however_long_it_lasts() -> None:
    assert course(toy(), [0, 0, 1, 1.5, 1.9, 1, 1]) == [(20, "opened")]


def test_it_closes_after_quiet_records_and_opens_anew() -> None:
    assert course(toy(quiet=2), [1, 0, 1, 0, 0, 0, 1]) == [(0, "opened"), (40, "closed"), (60, "opened")]


def test_between_release_and_threshold_an_open_finding_stays_open_and_none_opens() -> None:
    assert course(toy(quiet=1), [0.9, 0.9, 1, 0.6, 0.6, 0.6, 0.4]) == [(20, "opened"), (60, "closed")]


def test_it_must_last_for_records_in_a_row() -> None:
    assert course(toy(records=3), [1, 1, 0, 1, 1, 1]) == [(50, "opened")]


def test_and_for_steps() -> None:
    assert course(toy(records=2, steps=35), [1, 1, 1, 1, 1, 1]) == [(40, "opened")]
    assert course(toy(records=2, steps=35), [1, 1, 1], every=50) == [(50, "opened")]


def test_it_is_told_again_when_it_has_doubled() -> None:
    told = course(toy(), [1, 1.5, 2, 3, 4, 7, 8])
    assert told == [(0, "opened"), (20, "updated"), (40, "updated"), (60, "updated")]
    assert course(toy(), [math.inf, math.inf, math.inf]) == [(0, "opened")]


def test_it_is_told_again_when_it_becomes_more_severe_and_not_when_less() -> None:
    panel = Panel([toy(severity="info")])
    severities = [None, "warning", "info", "warning", "error"]
    found = [f for i, s in enumerate(severities) for f in panel.observe(Given(i, [1.0], severity=s))]  # type: ignore[arg-type]
    assert [(f.step, f.status, f.severity) for f in found] == [
        (0, "opened", "info"),
        (1, "updated", "warning"),
        (4, "updated", "error"),
    ]


def test_a_finding_has_the_place_of_its_record_and_the_words_of_its_rule() -> None:
    panel = Panel([toy(records=2)])
    panel.observe(Given(4, [0.0, 2.0], ["a", "b"]))
    (finding,) = panel.observe(Given(6, [0.0, 3.0], ["a", "b"]))
    assert (finding.time, finding.step, finding.epoch, finding.batch_idx, finding.rank) == (1.5, 6, 2, 3, 0)
    assert (finding.code, finding.layer, finding.since_step, finding.severity) == ("toy", "b", 4, "warning")
    assert (finding.message, finding.advice) == ("b has 3 since step 4.", "Make it small.")
    assert finding.evidence == {"value": 3.0}


def test_layers_have_findings_of_their_own() -> None:
    panel = Panel([toy(quiet=1)])
    found = [
        finding
        for i, values in enumerate([[1, 0], [1, 1], [0, 1], [0, 0]])
        for finding in panel.observe(Given(i, values, ["a", "b"]))
    ]
    assert [(f.step, f.layer, f.status) for f in found] == [
        (0, "a", "opened"),
        (1, "b", "opened"),
        (2, "a", "closed"),
        (3, "b", "closed"),
    ]
    assert found[-1].message == "toy of b: no longer seen."


@given(
    st.lists(st.floats(0, 4), max_size=30),
    st.lists(st.integers(0, 30), max_size=10),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_what_is_not_known_changes_nothing(values: list[float], gaps: list[int], records: int, quiet: int) -> None:
    detector = toy(records=records, quiet=quiet)
    known = [(10 * i, value) for i, value in enumerate(values)]
    with_gaps = sorted(known + [(10 * gap + 1, math.nan) for gap in gaps])
    verdicts = []
    for sequence in (known, with_gaps):
        panel = Panel([detector])
        verdicts.append([finding for step, value in sequence for finding in panel.observe(Given(step, [value]))])
    assert verdicts[0] == verdicts[1]


@given(st.lists(st.floats(0, 4), max_size=30), st.integers(0, 30), st.integers(1, 3))
def test_a_resume_changes_nothing(values: list[float], at: int, records: int) -> None:
    detector = toy(records=records)
    panel = Panel([detector])
    found: list[Finding] = []
    for i, value in enumerate(values):
        if i == at:
            saved = panel.state_dict()
            panel = Panel([detector])
            panel.load_state_dict(saved)
        found += panel.observe(Given(10 * i, [value]))
    assert found == observed(detector, values)


@pytest.mark.parametrize("names", [(), ("a",)])
def test_a_reading_of_fewer_layers_leaves_the_others_alone(names: tuple[str, ...]) -> None:
    panel = Panel([toy(quiet=1)])
    panel.observe(Given(0, [1, 1], ["a", "b"]))
    assert panel.observe(Given(1, [1.0] * len(names), names)) == []
    assert [f.layer for f in panel.observe(Given(2, [1, 0], ["a", "b"]))] == ["b"]
