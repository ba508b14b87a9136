from __future__ import annotations

import json
import math
import struct

import pytest

from gradwatch.serialization import SchemaError
from gradwatch.serialization.tensorboard_rows import (
    CURVE_NAMES,
    EVENTS,
    METRICS,
    START,
    UNKNOWN,
    Series,
    content,
    curve_series,
    layer_series,
    read_content,
)

HOSTILE = ["", "a/b", "</script><img onerror=alert(1)>", "line\nbreak", "\ud800", "x" * 10_000]
ALL = [*(layer_series(metric, 2, HOSTILE) for metric in METRICS), curve_series(1), EVENTS, START]


@pytest.mark.parametrize("series", ALL, ids=lambda series: series.metric or series.kind)
def test_metadata_come_back_as_they_were(series: Series) -> None:
    assert read_content(content(series)) == series
    assert content(series).isascii()


def test_tags_are_unique_and_the_same_in_every_run() -> None:
    assert len({series.tag for series in ALL}) == len(ALL)
    assert layer_series("grad_norm", 0, ["a"]).tag == layer_series("grad_norm", 0, ("a",)).tag
    assert layer_series("grad_norm", 0, ["a"]).tag == "numerical_health/grad_norm/0/78a7a40c"


def test_other_layers_are_another_series() -> None:
    tags = {layer_series("grad_norm", 0, layers).tag for layers in (["a"], ["a", "b"], ["b", "a"], ["ab"], [])}
    assert len(tags) == 5


def test_unknown_is_the_same_number_in_both_precisions_and_loses_every_maximum() -> None:
    assert struct.unpack("<f", struct.pack("<f", UNKNOWN)) == (UNKNOWN,)
    assert max(UNKNOWN, 0.0) == 0.0
    assert math.isfinite(UNKNOWN)


def test_the_columns_of_a_curves_row_have_names_of_their_own() -> None:
    assert len(set(CURVE_NAMES)) == len(CURVE_NAMES)


def test_a_later_version_is_named_and_refused() -> None:
    later = json.loads(content(EVENTS)) | {"version": 2, "kind": "spectra"}
    with pytest.raises(SchemaError, match=r"^rows of version 2 were written by a newer gradwatch than this one"):
        read_content(json.dumps(later).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe\x00",
        b"[1]",
        b"[" * 100_000,
        b'{"version": true, "kind": "events"}',
        b'{"version": 0, "kind": "events"}',
        b'{"version": 1}',
        b'{"version": 1, "kind": "layers", "metric": "loss", "layers": ["a"]}',
        b'{"version": 1, "kind": "layers", "metric": ["grad_norm"], "layers": ["a"]}',
        b'{"version": 1, "kind": "layers", "metric": "grad_norm", "layers": "abc"}',
        b'{"version": 1, "kind": "layers", "metric": "grad_norm", "layers": [1]}',
        b'{"version": 1, "kind": "curves", "columns": [], "optimizer": -1}',
        b'{"version": 1, "kind": "curves", "columns": [], "optimizer": 0.5}',
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(SchemaError, match="cannot be read"):
        read_content(data)
