from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from gradwatch.probes.samples import few_samples, rearranged, sample_count

X, Y = torch.arange(12.0).reshape(4, 3), torch.arange(4)


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Record:
    x: Tensor
    name: str


class Opaque:
    def __init__(self) -> None:
        self.x = X


def plain(value: Any) -> Any:
    """The same with lists for tensors and arrays."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (X, X[:2]),
        ((X, Y), (X[:2], Y[:2])),
        ([X, Y], [X[:2], Y[:2]]),
        ({"x": X, "y": [Y]}, {"x": X[:2], "y": [Y[:2]]}),
        (Pair(X, Y), Pair(X[:2], Y[:2])),
        ((X, torch.tensor(5.0)), (X[:2], torch.tensor(5.0))),
        ((X, ["a", "b", "c", "d"]), (X[:2], ["a", "b"])),
        ((X, ["a", "b"], 7, None), (X[:2], ["a", "b"], 7, None)),
        ((X, np.arange(4), np.arange(3)), (X[:2], np.arange(2), np.arange(3))),
    ],
)
def test_the_first_samples_of_everything(batch: Any, expected: Any) -> None:
    cut = few_samples(batch, 2)
    assert type(cut) is type(batch)
    assert plain(cut) == plain(expected)


def test_a_dataclass_is_rebuilt() -> None:
    cut = few_samples(Record(X, "four"), 2)
    assert isinstance(cut, Record)
    assert (cut.x.tolist(), cut.name) == (X[:2].tolist(), "four")


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param((X, torch.arange(3)), id="sizes that differ"),
        pytest.param(X[:2], id="no more than these"),
        pytest.param(torch.tensor(1.0), id="no samples"),
        pytest.param([], id="nothing"),
        pytest.param("text", id="no tensors"),
        pytest.param((X, Opaque()), id="an object with tensors"),
    ],
)
def test_what_cannot_be_cut(batch: Any) -> None:
    assert few_samples(batch, 2) is None


def test_the_batch_itself_stays_whole() -> None:
    batch: dict[str, Any] = {"x": X, "names": ["a", "b", "c", "d"]}
    few_samples(batch, 2)
    assert len(batch["x"]) == len(batch["names"]) == 4


def test_samples_are_counted_along_either_dimension_where_all_tensors_agree() -> None:
    assert sample_count({"x": X, "y": Y}) == 4
    assert sample_count((X, torch.ones(5, 3)), 1) == 3
    assert sample_count((X, Y), 1) is None
    assert sample_count((X, torch.ones(5))) is None
    assert sample_count((X, torch.tensor(1.0))) is None
    assert sample_count("no tensor") is None


def test_samples_come_in_any_order_and_as_often_as_named() -> None:
    found = rearranged({"x": X, "y": [Y], "names": ["a", "b", "c", "d"], "n": 3}, [2, 0, 2])
    assert torch.equal(found["x"], X[[2, 0, 2]])
    assert torch.equal(found["y"][0], torch.tensor([2, 0, 2]))
    assert (found["names"], found["n"]) == (["c", "a", "c"], 3)
    assert torch.equal(rearranged((X,), [1, 1], 1)[0], X[:, [1, 1]])
