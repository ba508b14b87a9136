from __future__ import annotations

from typing import Any

import pytest
import torch

from gradwatch.tracing.writes import writes_in_place

OUT = {"out": torch.zeros(1)}


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("add_", {}, True),
        ("__iadd__", {}, True),
        ("__itruediv__", {}, True),
        ("__setitem__", {}, True),
        ("add", {}, False),
        ("__add__", {}, False),
        ("__getitem__", {}, False),
        ("__init__", {}, False),
        ("__invert__", {}, False),
        ("", {}, False),
        ("add", OUT, True),
        ("add", {"out": None}, False),
        ("relu", {"inplace": True}, True),
        ("relu", {"inplace": False}, False),
    ],
)
def test_writes_in_place(name: str, kwargs: dict[str, Any], expected: bool) -> None:  # noqa: FBT001 - one row of a table
    assert writes_in_place(name, kwargs) is expected


def test_every_in_place_method_of_a_tensor_is_known() -> None:
    names = [name for name in dir(torch.Tensor) if name.endswith("_") and not name.endswith("__")]
    assert len(names) > 100
    assert all(writes_in_place(name, {}) for name in names)
    operators = [name for name in dir(torch.Tensor) if name.startswith("__i") and f"__{name[3:]}" in dir(torch.Tensor)]
    unknown = {name for name in operators if not writes_in_place(name, {})}
    assert unknown == set()
