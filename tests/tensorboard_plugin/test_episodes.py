from __future__ import annotations

import json
import math
from typing import Any

import pytest

from gradwatch.serialization import to_dict
from gradwatch.tensorboard_plugin.episodes import read_events, severity_counts, summarise
from tests.sinks.samples import finding, incident, run_end, run_start, step_record


def text(event: Any, **changes: Any) -> bytes:
    return json.dumps({**to_dict(event), **changes}).encode()


def told(*news: Any) -> list[dict[str, Any]]:
    events, damaged = read_events([(10 * i, text(event)) for i, event in enumerate(news)])
    assert not damaged
    return summarise(events)["findings"]


def test_a_finding_is_one_episode_from_its_opening_to_its_end() -> None:
    (episode,) = told(
        finding(severity="warning"),
        finding(status="updated", severity="error", message="worse", evidence={"growth": math.inf}),
        finding(status="updated", severity="info", message="better"),
        finding(status="closed", severity="info", message="gone"),
    )
    assert (episode["opened"], episode["last"], episode["closed"]) == (0, 30, 30)
    assert (episode["severity"], episode["updates"]) == ("error", 2)
    assert (episode["message"], episode["closing"]) == ("better", "gone")


def test_what_has_not_ended_lasts() -> None:
    (episode,) = told(finding(), finding(status="updated", evidence={"growth": math.inf}))
    assert (episode["closed"], episode["closing"], episode["last"]) == (None, None, 10)
    assert episode["evidence"] == {"growth": "Infinity"}


def test_each_code_and_layer_has_episodes_of_its_own_and_may_have_several() -> None:
    episodes = told(
        finding(),
        finding(layer="block.1"),
        finding(status="closed"),
        finding(layer=None),
        finding(),
        finding(status="closed", layer="block.1"),
    )
    spans = [(episode["layer"], episode["opened"], episode["closed"]) for episode in episodes]
    assert spans == [("block.0", 0, 20), ("block.1", 10, 50), (None, 30, None), ("block.0", 40, None)]


def test_an_episode_whose_opening_is_lost_is_one_all_the_same() -> None:
    (episode,) = told(finding(status="closed", severity="error", message="gone"))
    assert (episode["opened"], episode["closed"], episode["severity"]) == (0, 0, "error")


def test_an_episode_that_has_ended_takes_no_more_news() -> None:
    first, second = told(finding(), finding(status="closed"), finding(status="updated", message="again"))
    assert (first["closed"], first["last"]) == (10, 10)
    assert (second["opened"], second["message"], second["closed"]) == (20, "again", None)


def test_a_finding_that_is_opened_again_is_another_episode() -> None:
    """As after a resume: the first has ended by then, and does not last beside the second."""
    first, second = told(finding(), finding(since_step=99), finding(status="updated"))
    assert (first["opened"], first["closed"], first["closing"]) == (0, 10, None)
    assert (second["opened"], second["closed"], second["last"]) == (10, None, 20)


def test_all_other_events_are_as_they_were() -> None:
    folder = text(incident(), folder="/runs/1", log_step=99)
    events, damaged = read_events([(5, text(run_start())), (7, folder), (8, text(run_end()))])
    found = summarise(events)
    assert not damaged
    assert [event["folder"] for event in found["incidents"]] == ["/runs/1"]
    assert found["incidents"][0]["log_step"] == 7
    assert found["incidents"][0]["origin"]["op"] == "sqrt"
    assert [len(found[name]) for name in ("starts", "ends", "checks", "findings")] == [1, 1, 0, 0]


def test_a_start_without_its_parameter_table_is_one() -> None:
    events, damaged = read_events([(0, text(run_start(), parameters=None))])
    assert (len(events), damaged) == (1, False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b'{"type": "finding"}',
        b'{"schema_version": 9, "type": "finding"}',
        text(finding(), evidence=[]),
        text(finding(), layer=3),
    ],
)
def test_what_is_no_event_is_left_out_and_said(data: bytes) -> None:
    events, damaged = read_events([(0, text(finding())), (1, data)])
    assert (len(events), damaged) == (1, True)


def test_events_that_the_tab_does_not_show_are_left_out() -> None:
    unknown = b'{"schema_version": 1, "type": "spectrum", "time": 0, "step": 1, "epoch": 0, "batch_idx": 0, "rank": 0}'
    assert read_events([(0, text(step_record())), (1, unknown)]) == ([], False)


@pytest.mark.parametrize("severities", [("fatal", "warning"), ("warning", "fatal")])
def test_a_severity_of_a_later_version_counts_as_the_worst_that_there_is(severities: tuple[Any, Any]) -> None:
    first, second = severities
    episodes = told(finding(severity=first), finding(status="updated", severity=second))
    assert severity_counts(episodes) == {"info": 0, "warning": 0, "error": 1}
