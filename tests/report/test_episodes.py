from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.report.episodes import Episode, Episodes
from tests.report.logs import told

if TYPE_CHECKING:
    from gradwatch.records import Finding


def episodes(*findings: Finding) -> list[Episode]:
    collected = Episodes()
    for finding in findings:
        collected.add(finding)
    return collected.in_order()


def spans(*findings: Finding) -> list[tuple[int, int, int | None]]:
    return [(episode.since_step, episode.last_step, episode.closed_step) for episode in episodes(*findings)]


def test_one_episode_from_its_opening_to_its_end() -> None:
    (episode,) = episodes(
        told(12, since_step=10, message="Begins."),
        told(20, "updated", since_step=10, severity="error", message="Worse.", evidence={"growth": 99.0}),
        told(30, "closed", since_step=10, severity="info", message="No longer seen.", evidence={}),
    )
    assert episode == Episode(
        code="exploding-gradient",
        severity="error",
        layer="block.0",
        message="Worse.",
        advice="Lower the learning rate.",
        evidence={"growth": 99.0},
        since_step=10,
        opened_step=12,
        last_step=30,
        closed_step=30,
        rank=0,
    )
    assert not episode.is_open
    assert episode.is_trouble


def test_severity_is_the_worst_seen() -> None:
    (episode,) = episodes(told(1, severity="error"), told(2, "updated", since_step=1, severity="warning"))
    assert (episode.severity, episode.is_open) == ("error", True)


def test_a_severity_that_is_not_known_is_worse_than_all_that_are() -> None:
    (episode,) = episodes(told(1, severity="error"), told(2, "updated", since_step=1, severity="fatal"))
    assert episode.severity == "fatal"


def test_code_layer_and_rank_tell_episodes_apart() -> None:
    found = episodes(told(1), told(2, layer="block.1"), told(3, rank=1), told(4, code="dead-units"))
    assert [(episode.code, episode.layer, episode.rank) for episode in found] == [
        ("exploding-gradient", "block.0", 0),
        ("exploding-gradient", "block.1", 0),
        ("exploding-gradient", "block.0", 1),
        ("dead-units", "block.0", 0),
    ]


def test_what_comes_back_is_another_episode() -> None:
    assert spans(told(1), told(5, "closed", since_step=1), told(9)) == [(1, 5, 5), (9, 9, None)]


def test_an_opening_whose_end_was_lost_ends_what_was_open() -> None:
    assert spans(told(1), told(9)) == [(1, 1, 9), (9, 9, None)]


def test_an_opening_that_is_told_twice_is_one() -> None:
    assert spans(told(5, since_step=3), told(8, since_step=3)) == [(3, 8, None)]


def test_an_end_whose_opening_was_lost_is_nothing() -> None:
    assert spans(told(5, "closed", since_step=1)) == []


def test_an_update_whose_opening_was_lost_opens() -> None:
    assert spans(told(5, "updated", since_step=1)) == [(1, 5, None)]


def test_the_order_is_that_in_which_they_began() -> None:
    assert spans(told(20, since_step=15), told(30, since_step=2, layer="block.1")) == [(2, 30, None), (15, 20, None)]
