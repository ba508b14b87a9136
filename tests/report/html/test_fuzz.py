"""Whatever a log holds, a report is a page or one clear line."""

from __future__ import annotations

import contextlib
import io
import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradwatch import cli
from gradwatch.records import Culprit, Explanation, ParameterCheck, SourceLine
from gradwatch.serialization import to_json_line
from tests.report.html.runs import HOSTILE, check
from tests.report.html.test_markup import Reader
from tests.report.logs import at, incident, last_steps, pooled_record, run_end, run_start, told

if TYPE_CHECKING:
    from pathlib import Path

LINE = SourceLine(file="model.py", line=3, function="forward", code="x / y")
EVENTS = [
    run_start(
        git={"commit": "0f62d53", "branch": "main", "dirty": True},
        script="train.py",
        schedulers=[{"class": "StepLR", "interval": "epoch", "gamma": 0.1}],
    ),
    at(1),
    pooled_record(9),
    told(10),
    check(
        10,
        "mismatch",
        parameters={"a": ParameterCheck(correct="mismatch", h={"0.1": 0.5})},
        culprit=Culprit(module="a", module_type="A", function="F", source=LINE),
        explanations=[Explanation(kind="detach", source=LINE, message="detached")],
    ),
    last_steps(9),
    incident(action="raised"),
    told(11, "closed"),
    run_end(),
]
WHOLE = "".join(map(to_json_line, EVENTS)).encode()
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(
        ["NaN", "Infinity", "", HOSTILE, 10**400, -1, 2**63, -(2**63), [], {}, [[]], [None, 1.0], {"a": {}}]
    ),
    st.text(max_size=5),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def acceptable(folder: Path, content: bytes) -> None:
    """A page without any markup but ours, or one line on standard error that says why not."""
    (folder / "events.jsonl").write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(["report", str(folder)])
    if status == cli.DONE:
        assert err.getvalue() == ""
        seen = Reader((folder / "report.html").read_text(encoding="utf-8"))
        assert seen.tags.count("script") == 2
        assert not {name for name in seen.attributes if name.startswith("on")}
    else:
        assert status == cli.UNUSABLE
        assert err.getvalue().startswith("gradwatch report: ")
        assert err.getvalue().count("\n") == 1
        assert out.getvalue() == ""


fuzz = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@fuzz
@given(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)), st.binary(max_size=20))
def test_a_log_with_a_hole_or_a_patch(folder: Path, start: int, length: int, patch: bytes) -> None:
    acceptable(folder, WHOLE[:start] + patch + WHOLE[start + length :])


@fuzz
@given(st.integers(0, len(WHOLE)))
def test_a_log_cut_off_anywhere(folder: Path, end: int) -> None:
    acceptable(folder, WHOLE[:end])


@settings(fuzz, max_examples=300)
@given(st.data())
def test_a_log_with_odd_values(folder: Path, data: st.DataObject) -> None:
    events = [json.loads(line) for line in WHOLE.splitlines()]
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = data.draw(st.sampled_from(events))
        while True:
            key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
            deeper = isinstance(place[key], (dict, list)) and place[key]
            if not deeper or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = deepcopy(data.draw(ODD))  # the sampled lists are shared
    acceptable(folder, "".join(json.dumps(event) + "\n" for event in events).encode("utf-8", "surrogatepass"))
