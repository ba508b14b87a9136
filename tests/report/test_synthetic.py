"""Synthetic runs are what they claim to be, as the reader sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.run import read_runs
from tests.report.synthetic import Spike, layer_names, write_run

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_is_read_as_it_was_asked_for(tmp_path: Path) -> None:
    spike = Spike(record=20, layer=4, factor=1e4)
    write_run(tmp_path, layers=12, records=40, steps=8000, spikes=[spike], bad=[(39, 2)], seed=5)
    (run,) = read_runs(tmp_path)
    (steps,) = run.steps
    layers = steps.layers
    assert layers.names == tuple(layer_names(12))
    assert layers.grad_norm.shape == (40, 12)
    assert steps.step[[0, -1]].tolist() == [199, 7999]
    assert np.nanargmax(layers.grad_norm) == 20 * 12 + 4
    np.testing.assert_array_equal(np.argwhere(layers.nonfinite), [[39, 2]])
    assert (steps.records > 1).tolist() == [True] * 30 + [False] * 10
    assert run.end is not None
    assert len(run.last_steps[0].steps) == 64


def test_seeds_differ_in_noise_and_rates_in_course(tmp_path: Path) -> None:
    for name, seed, lr in (("a", 0, 1e-3), ("b", 1, 1e-3), ("c", 0, 1e-2)):
        write_run(tmp_path / name, seed=seed, lr=lr)
    loss = {name: read_runs(tmp_path / name)[0].steps[0].loss for name in "abc"}
    assert not np.array_equal(loss["a"], loss["b"])
    assert abs(np.log(loss["a"] / loss["b"])[100:].mean()) < 0.1
    assert np.log(loss["a"] / loss["c"])[100:].mean() > 0.5


def test_the_same_run_twice_is_the_same_to_the_bit(tmp_path: Path) -> None:
    assert write_run(tmp_path / "a").read_bytes() == write_run(tmp_path / "b").read_bytes()
