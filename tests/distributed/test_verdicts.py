"""Two ranks, and faults on some: every rank's incident names the ranks of the birth, and no rank waits for ever."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.distributed.faulty_runs import LINES, OPS, PHASES, Expected, Run, expected, random_run
from tests.distributed.launching import output, two_ranks
from tests.distributed.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACTIONS = {"raise": "raised", "skip": "skipped", "stop": "stopped", "warn": "warned"}
SAMPLE = [f"seed-{seed}" for seed in range(6)]
REST = [f"seed-{seed}" for seed in range(6, 50)]
WORKER = "tests.distributed.verdict_ranks"
LIMIT = 100.0  # seconds for a pair of processes; they take about ten


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The runs chosen by hand and the sample of drawn ones, in one pair of processes."""
    place = tmp_path_factory.mktemp("verdicts")
    with two_ranks(WORKER, place, *SCENARIOS, *SAMPLE, limit=LIMIT):
        yield place


@pytest.fixture(scope="module")
def long_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("drawn")
    with two_ranks(WORKER, place, *REST, limit=LIMIT):
        yield place


def run_called(name: str) -> Run:
    return SCENARIOS[name] if name in SCENARIOS else random_run(int(name.removeprefix("seed-")))


def result(folder: Path, name: str, rank: int) -> dict[str, Any]:
    path = folder / name / f"rank{rank}.json"
    if not path.exists():
        pytest.fail(f"rank {rank} has not come to the end of {run_called(name)}:\n{output(folder, rank)}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def incidents(folder: Path, name: str, rank: int) -> list[dict[str, Any]]:
    """What a rank has written, in order."""
    result(folder, name, rank)
    files = (folder / name).glob("incidents/*/incident.json")
    found = [json.loads(path.read_text()) for path in files]
    return sorted((incident for incident in found if incident["rank"] == rank), key=lambda one: int(one["step"]))


def check(folder: Path, name: str) -> None:
    """Look at everything that a run without hindrances must leave behind."""
    run, births = run_called(name), expected(run_called(name))
    for rank in (0, 1):
        found = incidents(folder, name, rank)
        where = [(incident["step"], incident["origin"]["ranks"]) for incident in found]
        assert where == [(birth.step, birth.ranks) for birth in births], (run, rank)
        assert [incident["action"] for incident in found] == [ACTIONS[run.mode]] * len(births)
        for incident, birth in zip(found, births, strict=True):
            check_incident(incident, birth, rank)
    ends = [result(folder, name, rank) for rank in (0, 1)]
    assert [end["error"] for end in ends] == ["NonFiniteError" if births and run.mode == "raise" else None] * 2
    spoilt = bool(births) and run.mode == "warn" and not run.scaler
    assert [end["finite"] for end in ends] == [not spoilt] * 2
    assert spoilt or ends[0]["weights"] == ends[1]["weights"]


def check_incident(incident: dict[str, Any], birth: Expected, rank: int) -> None:
    origin, fault = incident["origin"], birth.faults.get(rank)
    if fault is None:
        assert all(f"rank {other}" in incident["explanation"] for other in birth.ranks)
        assert "born in the backward pass" not in incident["explanation"]
        return
    assert incident["reproduced"], incident["explanation"]
    assert (incident["batch_idx"], origin["phase"], origin["op"]) == (fault.batch, PHASES[fault.kind], OPS[fault.kind])
    assert origin["tensor"] == ("batch[0]" if fault.kind == "input" else None)
    assert (origin["source"] or {}).get("code") == LINES.get(fault.kind)


@pytest.mark.parametrize("name", [name for name, run in SCENARIOS.items() if not run.hindrance])
def test_every_rank_blames_the_rank_and_the_line_of_the_birth(name: str, folder: Path) -> None:
    check(folder, name)


@pytest.mark.parametrize("name", SAMPLE)
def test_drawn_faults_end_with_the_right_verdict(name: str, folder: Path) -> None:
    check(folder, name)


@pytest.mark.long
@pytest.mark.parametrize("name", REST)
def test_more_drawn_faults_end_with_the_right_verdict(name: str, long_folder: Path) -> None:
    check(long_folder, name)


def test_training_does_not_notice_that_all_ranks_have_run_the_step_again(folder: Path) -> None:
    """Of two runs that are the same otherwise, one was replayed by both ranks together and one was not."""
    for rank in (0, 1):
        together, alone = (result(folder, name, rank) for name in ("sync-norm-forward", "no-copy-sync-norm"))
        assert (together["state"], together["random_state"]) == (alone["state"], alone["random_state"])


@pytest.mark.parametrize("name", ["overflow", "overflow-sync-norm"])
def test_an_overflow_on_one_rank_only_is_routine_on_both(name: str, folder: Path) -> None:
    """The scaler halves its scale on both; that it was to blame is found out together."""
    check(folder, name)
    assert [result(folder, name, rank)["scale"] for rank in (0, 1)] == [512.0, 512.0]


@pytest.mark.parametrize("kind", ["input", "before"])
def test_what_arrives_through_a_collective_is_seen_to_arrive(kind: str, folder: Path) -> None:
    """Rank 0 has run the step again too, together with rank 1, and has met the value where the ranks exchange."""
    (incident,) = incidents(folder, f"sync-norm-{kind}", 0)
    assert (incident["reproduced"], incident["origin"]["op"]) == (True, "allgather")
    assert incident["first_seen"] == "loss"


@pytest.mark.parametrize("name", [name for name, run in SCENARIOS.items() if run.hindrance])
def test_a_replay_that_fails_on_one_rank_leaves_nobody_waiting(name: str, folder: Path) -> None:
    for rank in (0, 1):
        (incident,) = incidents(folder, name, rank)
        assert (incident["origin"]["ranks"], incident["reproduced"]) == ([1], False)
        assert result(folder, name, rank)["error"] is None
    assert result(folder, name, 0)["weights"] == result(folder, name, 1)["weights"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no-copy", "MemoryError: no memory on purpose"),
        ("no-copy-sync-norm", "MemoryError: no memory on purpose"),
        ("no-second-copy", "MemoryError: no memory on purpose"),
        ("failing-step", "ZeroDivisionError: failed on purpose"),
        ("transient", "the step came out finite"),
        ("failing-derivative", "MemoryError: no memory on purpose"),
        ("point-to-point", "the step communicates between the ranks (recv)"),
    ],
)
def test_the_incident_says_why_it_was_not_replayed(name: str, reason: str, folder: Path) -> None:
    (incident,) = incidents(folder, name, 1)
    assert reason in incident["explanation"]
