"""The layers of a record are a mapping, kept as columns."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from math import nan

import numpy as np
import pytest

from gradwatch.records import LayerNorms, LayerTable
from tests.sinks.samples import step_record

LAYERS = {
    "encoder": LayerNorms(grad_norm=0.5, weight_norm=2.0, update_ratio=None, nonfinite=0, grad_norm_max=0.75),
    "head": LayerNorms(grad_norm=None, weight_norm=1.0, update_ratio=1e-3, nonfinite=3),
}


def test_a_table_is_the_mapping_that_it_was_made_of() -> None:
    table = LayerTable.of(LAYERS)
    assert table == LAYERS
    assert dict(table) == LAYERS
    assert (list(table), len(table), repr(table)) == (list(LAYERS), 2, repr(LAYERS))
    assert table["head"] is table["head"]
    assert LayerTable.of(table) is table
    with pytest.raises(KeyError):
        table["tail"]


def test_columns_are_in_the_order_of_fields_and_layers() -> None:
    table = LayerTable.of(LAYERS)
    assert table.names == ("encoder", "head")
    assert list(table.columns) == ["grad_norm", "weight_norm", "update_ratio", "nonfinite", "grad_norm_max"]
    columns = [[0.5, nan], [2.0, 1.0], [nan, 1e-3], [0, 3], [0.75, nan]]
    np.testing.assert_array_equal([*map(np.array, table.columns.values())], columns)
    assert table.missing == {
        "grad_norm": [1],
        "weight_norm": [],
        "update_ratio": [0],
        "nonfinite": [],
        "grad_norm_max": [1],
    }


def test_a_value_that_is_not_a_number_is_known_all_the_same() -> None:
    layer = LayerTable.of({"fc": replace(LAYERS["head"], weight_norm=nan, update_ratio=math.inf)})["fc"]
    assert layer.grad_norm is None
    assert layer.weight_norm is not None
    assert math.isnan(layer.weight_norm)
    assert layer.update_ratio == math.inf


def test_counts_are_integers() -> None:
    assert type(LayerTable.of(LAYERS)["head"].nonfinite) is int


def test_a_model_without_layers_has_an_empty_table() -> None:
    assert LayerTable.of({}) == {}
    assert len(LayerTable.of({}).columns) == 5


def test_a_record_with_a_table_is_copied_pickled_and_compared_as_any() -> None:
    record = replace(step_record(), layers=LayerTable.of(LAYERS))
    assert record == replace(record, layers=LAYERS)
    assert record != replace(record, layers=LAYERS | {"head": LAYERS["encoder"]})
    assert pickle.loads(pickle.dumps(record)) == copy.deepcopy(record) == record
