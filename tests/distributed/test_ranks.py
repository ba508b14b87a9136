"""Two ranks on this machine: every decision is taken together, and nobody waits for ever."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.distributed.launching import output, two_ranks
from tests.distributed.ranks import BAD_BATCH, BAD_RANK, SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 55.0  # seconds for all scenarios together; they take about ten on two busy cores
MODES = {"raise": "raised", "skip": "skipped", "stop": "stopped", "warn": "warned"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run every scenario in two processes; what they leave behind is what the tests look at."""
    place = tmp_path_factory.mktemp("ranks")
    with two_ranks("tests.distributed.ranks", place, limit=LIMIT):
        yield place


def ranks(folder: Path, scenario: str) -> list[dict[str, Any]]:
    """What each rank has left behind."""
    results = [folder / scenario / f"rank{rank}.json" for rank in (0, 1)]
    for rank, result in enumerate(results):
        if not result.exists():
            pytest.fail(f"rank {rank} has not come to the end of {scenario!r}:\n{output(folder, rank)}")
    return [json.loads(result.read_text()) for result in results]


def events(folder: Path, scenario: str, rank: int, kind: str) -> list[dict[str, Any]]:
    name = "events.jsonl" if rank == 0 else f"events.rank{rank}.jsonl"
    lines = (folder / scenario / name).read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def incidents(folder: Path, scenario: str) -> list[dict[str, Any]]:
    """The one incident of each rank, from the file of its own."""
    found = []
    for suffix in ("", ".rank1"):
        paths = [
            path for path in (folder / scenario / "incidents").iterdir() if (path.suffix == ".rank1") == bool(suffix)
        ]
        assert len(paths) == 1, (scenario, suffix, paths)
        found.append(json.loads((paths[0] / "incident.json").read_text()))
    return found


def test_every_scenario_comes_to_its_end(folder: Path) -> None:
    for scenario in SCENARIOS:
        assert len(ranks(folder, scenario)) == 2


def test_a_healthy_run_is_bitwise_the_run_without_the_monitor(folder: Path) -> None:
    plain, watched = ranks(folder, "plain"), ranks(folder, "healthy")
    assert [result["digest"] for result in plain] == [result["digest"] for result in watched]
    assert plain[0]["parameters"] == plain[1]["parameters"]
    assert [result["error"] for result in plain + watched] == [None] * 4


def test_every_rank_writes_a_log_of_its_own_under_one_run_id(folder: Path) -> None:
    starts = [events(folder, "healthy", rank, "run_start")[0] for rank in (0, 1)]
    assert starts[0]["run_id"] == starts[1]["run_id"]
    assert [(start["rank"], start["world_size"]) for start in starts] == [(0, 2), (1, 2)]
    for rank in (0, 1):
        steps = events(folder, "healthy", rank, "step")
        assert [event["step"] for event in steps] == [0, 1, 2, 3, 4]
        assert {event["rank"] for event in steps} == {rank}
        assert [event["status"] for event in events(folder, "healthy", rank, "run_end")] == ["finished"]


def test_gradients_are_those_of_all_ranks_and_losses_ones_own(folder: Path) -> None:
    records = [events(folder, "healthy", rank, "step") for rank in (0, 1)]
    assert [event["grad_norm"] for event in records[0]] == [event["grad_norm"] for event in records[1]]
    assert all(a["loss"] != b["loss"] for a, b in zip(*records, strict=True))


def test_clipping_keeps_the_ranks_together(folder: Path) -> None:
    results = ranks(folder, "clipped")
    assert results[0]["parameters"] == results[1]["parameters"] != ranks(folder, "plain")[0]["parameters"]
    assert {event["clip"]["clipped"] for event in events(folder, "clipped", 1, "step")} == {True}


@pytest.mark.parametrize("mode", MODES)
def test_both_ranks_take_the_same_decision(mode: str, folder: Path) -> None:
    results, found = ranks(folder, mode), incidents(folder, mode)
    assert [result["error"] for result in results] == ["NonFiniteError" if mode == "raise" else None] * 2
    assert [incident["action"] for incident in found] == [MODES[mode]] * 2
    assert [(incident["step"], incident["batch_idx"]) for incident in found] == [(BAD_BATCH, BAD_BATCH)] * 2
    assert results[0]["parameters"] == results[1]["parameters"] or mode == "warn"
    assert [result["finite"] for result in results] == [mode != "warn"] * 2
    assert [result["steps"] for result in results] == [{"raise": 2, "stop": 3}.get(mode, 5)] * 2


@pytest.mark.parametrize("scenario", [*MODES, "skip-accumulated", "bad-batch", "bad-weight"])
def test_every_file_names_the_rank_of_the_birth(scenario: str, folder: Path) -> None:
    ranks(folder, scenario)
    for rank, incident in enumerate(incidents(folder, scenario)):
        assert incident["origin"]["ranks"] == [BAD_RANK]
        assert (incident["rank"], incident["world_size"]) == (rank, 2)


@pytest.mark.parametrize(
    ("scenario", "seen"),
    [("skip", "loss"), ("raise", "loss"), ("bad-batch", "batch"), ("bad-weight", "parameter")],
)
def test_the_guilty_rank_knows_what_it_was(scenario: str, seen: str, folder: Path) -> None:
    ranks(folder, scenario)
    assert incidents(folder, scenario)[BAD_RANK]["first_seen"] == seen


@pytest.mark.parametrize("scenario", ["skip", "raise", "bad-batch", "bad-weight"])
def test_the_other_rank_blames_no_operation_of_its_own(scenario: str, folder: Path) -> None:
    """Its gradients are bad by the all-reduce, or not at all."""
    ranks(folder, scenario)
    explanation = incidents(folder, scenario)[1 - BAD_RANK]["explanation"]
    assert "rank 1" in explanation
    assert "born in the backward pass" not in explanation


def test_under_accumulation_the_window_is_dropped_on_both(folder: Path) -> None:
    results, found = ranks(folder, "skip-accumulated"), incidents(folder, "skip-accumulated")
    assert results[0]["parameters"] == results[1]["parameters"]
    assert [incident["step"] for incident in found] == [0, 0]
    assert found[BAD_RANK]["batch_idx"] == BAD_BATCH
    assert all(result["finite"] for result in results)


def test_a_weight_that_turns_bad_on_one_rank_ends_both(folder: Path) -> None:
    results, found = ranks(folder, "bad-weight"), incidents(folder, "bad-weight")
    assert [result["error"] for result in results] == ["NonFiniteError"] * 2
    assert found[BAD_RANK]["affected"] == ["head.bias"]


def test_a_monitor_that_fails_on_one_rank_leaves_nobody_waiting(folder: Path) -> None:
    results = ranks(folder, "broken-monitor")
    assert [result["error"] for result in results] == [None, None]
    assert [result["digest"] for result in results] == [result["digest"] for result in ranks(folder, "plain")]
    assert "broken on purpose" in (folder / "output.rank1.txt").read_text()


@pytest.mark.parametrize("scenario", ["broken-comparison", "broken-record", "broken-reading"])
def test_a_monitor_that_fails_on_a_log_step_of_one_rank_leaves_nobody_waiting(scenario: str, folder: Path) -> None:
    """The ranks meet once more there, to compare what they hold; all have clipped by then."""
    results = ranks(folder, scenario)
    assert [result["error"] for result in results] == [None, None]
    assert [result["parameters"] for result in results] == [ranks(folder, "clipped")[0]["parameters"]] * 2
    assert (folder / "output.rank1.txt").read_text().count(f"broken on purpose: {scenario}") == 1
    steps = [[event["step"] for event in events(folder, scenario, rank, "step")] for rank in (0, 1)]
    assert steps == [[1, 3], {"broken-record": [3]}.get(scenario, [1, 3])]
    assert events(folder, scenario, 0, "finding") == events(folder, scenario, 1, "finding") == []
