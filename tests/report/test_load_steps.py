"""``load_steps``: the records of a run as a table, with pandas and without."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import gradwatch
from gradwatch.report import table
from tests.report.logs import at, pooled_record, run_start, write_log

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "find_spec", lambda _: None)


def test_columns_are_what_was_written(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(), at(10, lr_groups=[0.1, 0.2]), at(20, loss=math.inf))
    steps = gradwatch.load_steps(tmp_path)
    assert {len(column) for column in steps.values()} == {2}
    assert steps["step"].tolist() == [10, 20]
    assert steps["loss"].tolist() == [0.5, math.inf]
    assert steps["optimizer"].tolist() == [0, 0]
    assert steps["grad_norm/block.1"].tolist() == [1.1, 1.1]
    assert steps["nonfinite/block.0"].dtype == np.int64
    np.testing.assert_array_equal(steps["lr/1"], [0.2, np.nan])
    assert "grad_norm_high/block.1" not in steps


def test_every_column_is_documented_or_named_so(tmp_path: Path) -> None:
    write_log(tmp_path, at(10))
    names = [name for name in gradwatch.load_steps(tmp_path) if "/" not in name]
    assert names[:6] == ["optimizer", "step", "log_step", "epoch", "time", "loss"]
    assert all(isinstance(name, str) for name in names)


def test_pooled_records_have_the_ranges_of_layers(tmp_path: Path) -> None:
    write_log(tmp_path, pooled_record(20), at(30))
    steps = gradwatch.load_steps(tmp_path)
    assert steps["grad_norm_high/block.0"].tolist() == [9.0, 0.1]
    assert steps["grad_norm_low/block.0"].tolist() == [0.05, 0.1]
    assert steps["nonfinite/block.1"].tolist() == [7, 0]


def test_optimizers_are_rows_and_their_layers_columns(tmp_path: Path) -> None:
    critic = at(10, optimizer=1)
    critic = replace(critic, layers={"critic": critic.layers["block.0"]})
    write_log(tmp_path, at(10), critic, at(20), replace(critic, step=20))
    steps = gradwatch.load_steps(tmp_path)
    assert steps["optimizer"].tolist() == [0, 1, 0, 1]
    assert steps["step"].tolist() == [10, 10, 20, 20]
    np.testing.assert_array_equal(steps["grad_norm/critic"], [np.nan, 0.1, np.nan, 0.1])


def test_one_run_of_several(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(run_id="early", time=1.0), at(10))
    write_log(tmp_path, run_start(run_id="late", time=2.0), at(20), number=1)
    assert gradwatch.load_steps(tmp_path)["step"].tolist() == [20]
    assert gradwatch.load_steps(tmp_path, run_id="early")["step"].tolist() == [10]
    with pytest.raises(ValueError, match="no run begins with 'x'"):
        gradwatch.load_steps(tmp_path, run_id="x")


def test_a_run_without_records_has_its_columns_and_no_row(tmp_path: Path) -> None:
    rows = run_start().parameters
    frozen = replace(rows[0], layer="frozen", optimizer=None)
    write_log(tmp_path, run_start(parameters=[frozen, *rows]))
    empty = gradwatch.load_steps(tmp_path)
    write_log(tmp_path, run_start(parameters=[frozen, *rows]), at(10, lr_groups=[]))
    full = gradwatch.load_steps(tmp_path)
    assert list(empty) == list(full)
    assert {name: column.dtype for name, column in empty.items()} == {name: full[name].dtype for name in full}
    assert {len(column) for column in empty.values()} == {0}
    write_log(tmp_path)
    assert gradwatch.load_steps(tmp_path)["loss"].tolist() == []


def test_pandas_makes_a_frame_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModuleType("pandas")
    made.DataFrame = lambda columns: ("frame", columns)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", made)
    monkeypatch.setattr(table, "find_spec", lambda _: object())
    write_log(tmp_path, at(10))
    kind, columns = gradwatch.load_steps(tmp_path)
    assert kind == "frame"
    assert columns["step"].tolist() == [10]


def test_a_real_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas: Any = pytest.importorskip("pandas", reason="pandas is optional, and not installed here")
    monkeypatch.undo()
    write_log(tmp_path, at(10), at(20))
    frame = gradwatch.load_steps(tmp_path)
    assert isinstance(frame, pandas.DataFrame)
    assert frame["grad_norm/block.1"].tolist() == [1.1, 1.1]
    assert frame.set_index("step").loc[20, "loss"] == 0.5
