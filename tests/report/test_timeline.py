from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradwatch.report.run import read_runs
from gradwatch.report.timeline import Entry, timeline
from tests.report.logs import incident, run_start, told, write_log

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.records import Event


def entries(folder: Path, *events: Event) -> list[Entry]:
    write_log(folder, *events)
    (run,) = read_runs(folder)
    return timeline(run)


def test_findings_of_one_code_are_one_entry_and_the_worst_speaks(tmp_path: Path) -> None:
    (entry,) = entries(
        tmp_path,
        told(5, layer="a"),
        told(8, layer="b", severity="error", message="Worst.", advice="Stop."),
        told(9, "closed", layer="a", since_step=5),
        told(20, layer="a"),
        told(25, "closed", layer="a", since_step=20),
        told(30, "closed", layer="b", since_step=8),
    )
    assert entry == Entry(
        what="exploding-gradient",
        severity="error",
        since_step=5,
        until_step=30,
        layers=("b", "a"),
        times=3,
        message="Worst.",
        advice="Stop.",
    )


def test_one_that_is_open_leaves_the_entry_open(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, told(5, layer="a"), told(8, layer=""), told(9, "closed", layer="a", since_step=5))
    assert (entry.until_step, entry.layers) == (None, ("a",))


def test_information_and_trouble_of_one_code_are_two_entries(tmp_path: Path) -> None:
    found = entries(tmp_path, told(5, severity="info", layer="a"), told(8))
    assert [entry.severity for entry in found] == ["info", "warning"]


def test_incidents_of_one_origin_are_one_entry(tmp_path: Path) -> None:
    first = incident(step=4, time=1.0)
    other = replace(first, step=6, time=2.0, origin=replace(first.origin, op="log", module=""))
    found = entries(tmp_path, told(5), first, other, replace(first, step=9, time=3.0))
    assert [(entry.what, entry.since_step, entry.until_step, entry.times) for entry in found] == [
        ("an infinity in a gradient, skipped", 4, 9, 2),
        ("exploding-gradient", 5, None, 1),
        ("an infinity in a gradient, skipped", 6, 6, 1),
    ]
    assert [entry.layers for entry in found] == [("encoder.norm",), ("block.0",), ()]
    assert found[0].severity == "incident"


def test_ranks_are_named_where_there_are_several(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(), told(5), told(7, code="dead-units"), incident(time=2.0))
    assert {entry.ranks for entry in entries(tmp_path / "alone", run_start(), told(5), incident())} == {()}
    write_log(tmp_path, run_start(rank=1), told(5, rank=1), incident(rank=1), rank=1)
    (run,) = read_runs(tmp_path)
    assert [(entry.what, entry.ranks) for entry in timeline(run)] == [
        ("exploding-gradient", (0, 1)),
        ("dead-units", (0,)),
        ("an infinity in a gradient, skipped", (0, 1)),
    ]
