"""Which runs are compared, what they are called, and which are seeds of one experiment."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.compare.curves import LOSS
from gradwatch.report.compare.labels import labels_of
from gradwatch.report.compare.members import grouped, named, read_members
from tests.report.compare.runs import rewrite, seeds, start_with, steps_from
from tests.report.synthetic import write_run

if TYPE_CHECKING:
    from pathlib import Path


def test_runs_that_differ_in_the_seed_alone_are_one_group_named_after_what_sets_it_apart(tmp_path: Path) -> None:
    paths = seeds(tmp_path / "x", range(3), lr=0.01) + seeds(tmp_path / "y", range(2), lr=0.1)
    groups = grouped(read_members(paths))
    assert [(group.name, len(group.members)) for group in groups] == [("lr=0.01", 3), ("lr=0.1", 2)]
    assert [member.seed for member in groups[0].members] == ["0", "1", "2"]
    assert [member.label for member in groups[1].members] == ["y/seed=0", "y/seed=1"]


def test_groups_that_a_user_makes_of_one_setting_are_named_after_their_folders(tmp_path: Path) -> None:
    members = read_members(seeds(tmp_path / "mine", range(2)) + seeds(tmp_path / "yours", range(2)))
    assert [group.name for group in named([members[:2], members[2:]])] == ["mine", "yours"]


def test_one_group_is_named_after_the_folder_around_it(tmp_path: Path) -> None:
    (group,) = grouped(read_members(seeds(tmp_path / "mine", range(2))))
    assert group.name == "mine"


def test_groups_that_nothing_tells_apart_are_numbered(tmp_path: Path) -> None:
    members = read_members(seeds(tmp_path, range(4)))
    assert [group.name for group in named([members[:2], members[2:]])] == ["group 1", "group 2"]


def test_settings_of_the_same_name_keep_their_place(tmp_path: Path) -> None:
    for number, (rate, decay) in enumerate([(0.1, 0.0), (0.2, 0.5)]):
        described = [{"class": "SGD", "groups": [{"lr": rate}]}, {"class": "SGD", "groups": [{"lr": decay}]}]
        write_run(tmp_path / str(number), layers=2, records=2, steps=20)
        rewrite(tmp_path / str(number), start_with(optimizers=described))
    names = [group.name for group in grouped(read_members([tmp_path / "0", tmp_path / "1"]))]
    assert names == ["optimizers[0].lr=0.1, optimizers[1].lr=0", "optimizers[0].lr=0.2, optimizers[1].lr=0.5"]


def test_a_run_that_lost_its_start_belongs_to_nobody(tmp_path: Path) -> None:
    paths = seeds(tmp_path, range(3))
    for path in paths[1:]:
        rewrite(path, lambda event: None if event["type"] == "run_start" else event)
    groups = grouped(read_members(paths))
    assert [len(group.members) for group in groups] == [1, 1, 1]
    assert len({group.name for group in groups}) == 3


def test_the_last_of_several_runs_in_a_folder_is_taken_and_the_others_are_told(tmp_path: Path) -> None:
    paths = seeds(tmp_path, range(2))
    write_run(paths[0], number=1, seed=8, run_id="later", layers=5, records=60, steps=600)
    rewrite_time(paths[0] / "events.1.jsonl")
    first, second = read_members(paths)
    assert (first.run_id, second.notes) == ("later", [])
    assert any("1 other runs in the folder are left out" in note for note in first.notes)


def rewrite_time(log: Path) -> None:
    text = log.read_text(encoding="ascii")
    log.write_text(text.replace('"time": 1760000000.0', '"time": 1770000000.0', 1), encoding="ascii")


def test_all_runs_of_an_only_folder_are_compared(tmp_path: Path) -> None:
    for number in range(3):
        write_run(tmp_path, number=number, seed=number, layers=5, records=10, steps=100)
    members = read_members([tmp_path])
    assert [member.seed for member in members] == ["0", "1", "2"]
    assert len({member.label for member in members}) == 3


def test_a_resumed_run_continues_the_one_before(tmp_path: Path) -> None:
    folder, other = seeds(tmp_path, [0, 1], records=20, steps=200)
    whole = read_members([folder, other])[0].curves[0]
    shutil.copy(folder / "events.jsonl", folder / "events.1.jsonl")
    log = folder / "events.1.jsonl"
    lines = log.read_text(encoding="ascii").splitlines(keepends=True)
    first, *rest = lines
    changed = first.replace('"resumed_from": null', '"resumed_from": "synthetic-0.001-0"')
    changed = changed.replace('"run_id": "synthetic-0.001-0"', '"run_id": "second"').replace(
        "1760000000.0", "1770000000.0"
    )
    log.write_text("".join([changed, *rest[10:]]), encoding="ascii")
    rewrite(folder, lambda event: None if event["type"] == "step" and event["step"] > 150 else event)
    found = read_members([folder, other])[0]
    assert (found.run_id, found.notes) == ("second", [])
    np.testing.assert_array_equal(found.curves[0].steps, whole.steps)
    np.testing.assert_array_equal(found.curves[0].values[LOSS], whole.values[LOSS])
    np.testing.assert_array_equal(found.curves[0].layers, whole.layers)


def test_of_several_records_of_one_step_the_last_counts(tmp_path: Path) -> None:
    folder, other = seeds(tmp_path, [0, 1], records=20, steps=200)
    last = read_members([folder, other])[0].curves[0].values[LOSS][-1]
    rewrite(folder, steps_from(150, step=159))
    curves = read_members([folder, other])[0].curves[0]
    assert curves.steps[-1] == 159
    assert np.unique(curves.steps).size == curves.steps.size
    assert curves.values[LOSS][-1] == last


def test_labels_leave_out_what_paths_share() -> None:
    assert labels_of(["/r/a/0/gradwatch", "/r/b/1/gradwatch"]) == ["a/0", "b/1"]
    assert labels_of(["/r/a/0", "/r/b/0"]) == ["a", "b"]
    assert labels_of(["/r/a", "/r/a"]) == ["a", "a (2)"]
    assert labels_of(["/r/a", "/r/a/b"]) == ["a", "b"]
    assert labels_of(["/r/only"]) == ["only"]
