from __future__ import annotations

import dataclasses
import enum
import json
import math
import types
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradwatch.records import SCHEMA_VERSION, Event, LayerNorms, LayerTable, StepRecord
from gradwatch.serialization import SchemaError, UnknownEvent, codec, from_dict, to_dict, to_json_line
from tests.sinks.samples import finding, incident, run_end, run_start, step_record, with_layer

TEXT = st.text(st.characters(), max_size=20)  # lone surrogates and control characters included
OPEN = st.recursive(
    # Where the type is open, a string that spells a non-finite float cannot be told from one.
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT.filter(lambda text: text not in codec._NONFINITE),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=5,
)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """A strategy for any annotation in ``records``, so that a new field is covered as soon as it exists."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(
            cast("type", hint), **{field.name: values_of(hints[field.name]) for field in dataclasses.fields(hint)}
        )
    if origin in (Union, types.UnionType):
        return st.one_of(*(st.none() if arg is types.NoneType else values_of(arg) for arg in args))
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (list, tuple):
        return st.lists(values_of(args[0]), max_size=3).map(origin)
    if origin in (dict, Mapping):
        return st.dictionaries(TEXT, values_of(args[1]), max_size=4)
    return {int: st.integers(), float: st.floats(), bool: st.booleans(), str: TEXT, Any: OPEN}[hint]


def exact(event: Event) -> str:
    """Everything about a record: types, and NaN that equals itself; the sign of a zero norm is not kept."""
    return repr(event).replace("-0.0", "0.0")


def refuse(constant: str) -> None:
    pytest.fail(f"{constant} is not legal JSON")


@pytest.mark.parametrize("kind", codec.EVENT_TYPES.values(), ids=codec.EVENT_TYPES)
def test_any_record_survives_a_round_trip(kind: type[Event]) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(values_of(kind))
    def check(event: Event) -> None:
        line = to_json_line(event)
        assert exact(from_dict(json.loads(line, parse_constant=refuse))) == exact(event)
        assert json.loads(line) == to_dict(event)
        assert line.isascii()
        assert line.endswith("}\n")
        assert len(line.splitlines()) == 1

    check()


def test_every_event_of_the_records_is_known() -> None:
    assert {"run_start", "step", "finding", "incident", "run_end"} <= set(codec.EVENT_TYPES)


@pytest.mark.parametrize("value", [0.1, 1e-320, 1.7976931348623157e308, 2.0**-149, 1 / 3])
def test_layer_norms_are_written_exactly(value: float) -> None:
    record = with_layer(step_record(), "block.1", grad_norm=value, weight_norm=None, nonfinite=7)
    assert from_dict(json.loads(to_json_line(record))) == record


@pytest.mark.parametrize("name", ["100%d", '"', "\\", "a\nb", "\u2028", "\ud800", "%(x)s", ""])
def test_layer_names_are_data(name: str) -> None:
    record = step_record(layers=LayerTable.of({name: step_record().layers["block.0"]}))
    line = to_json_line(record)
    assert line.count("\n") == 1
    assert from_dict(json.loads(line)) == record


def test_finite_layers_take_the_fast_way_and_others_the_plain_one() -> None:
    record = with_layer(step_record(), "block.0", grad_norm=None)
    assert json.loads(codec._layers_json(LayerTable.of(record.layers)) or "") == to_dict(record)["layers"]
    endless = with_layer(step_record(), "block.0", grad_norm=math.inf)
    assert codec._layers_json(LayerTable.of(endless.layers)) is None


NORMS = values_of(LayerNorms).map(lambda norms: dataclasses.replace(norms, nonfinite=norms.nonfinite % 2**53))


@given(st.dictionaries(TEXT, NORMS, max_size=4))
def test_a_table_of_layers_is_written_as_any_mapping(layers: dict[str, LayerNorms]) -> None:
    record = step_record(layers=layers)
    as_table = step_record(layers=LayerTable.of(layers))
    assert exact(from_dict(json.loads(to_json_line(as_table)))) == exact(record)
    assert json.loads(to_json_line(as_table)) == to_dict(record)


def test_nonfinite_floats_are_three_strings_everywhere() -> None:
    record = with_layer(step_record(loss=math.nan, lr_groups=[math.inf]), "block.0", grad_norm=-math.inf)
    data = to_dict(record)
    assert (data["loss"], data["lr_groups"], data["layers"]["block.0"]["grad_norm"]) == (
        "NaN",
        ["Infinity"],
        "-Infinity",
    )
    evidence = to_dict(finding(evidence={"norms": [math.nan, {"max": math.inf}]}))["evidence"]
    assert evidence == {"norms": ["NaN", {"max": "Infinity"}]}


def test_open_values_of_any_kind_become_plain() -> None:
    class Colour(enum.Enum):
        RED = 1

    data = to_dict(
        run_start(
            settings={
                "path": Path("a"),
                "set": {1},
                "fraction": Fraction(1, 2),
                "float32": np.float32(0.5),
                "nan64": np.float64("nan"),
                "int64": np.int64(3),
                3: (1, 2),
                "enum": Colour.RED,
            }
        )
    )
    assert data["settings"] == {
        "path": "a",
        "set": [1],
        "fraction": 0.5,
        "float32": 0.5,
        "nan64": "NaN",
        "int64": 3,
        "3": [1, 2],
        "enum": "Colour.RED",
    }
    assert type(data["settings"]["int64"]) is int
    assert type(data["settings"]["float32"]) is float


BASE = {"schema_version", "type", "time", "step", "epoch", "batch_idx", "rank"}


@pytest.mark.parametrize(
    ("event", "keys"),
    [
        (step_record(), {"optimizer", "loss", "grad_norm", "clip", "lr", "layers"}),
        (finding(), {"code", "status", "since_step", "severity", "layer", "message", "evidence", "advice"}),
        (
            run_start(),
            {"run_id", "resumed_from", "versions", "hardware", "precision", "strategy", "optimizers", "clip"},
        ),
        (run_end(), {"run_id", "status"}),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
def test_events_have_the_keys_of_the_contract(event: Event, keys: set[str]) -> None:
    data = to_dict(event)
    assert data.keys() >= BASE | keys
    assert (data["schema_version"], data["type"]) == (SCHEMA_VERSION, event.type)


def test_step_has_the_nested_keys_of_the_contract() -> None:
    data = to_dict(step_record())
    assert data["clip"].keys() >= {"max_norm", "coefficient", "clipped"}
    assert data["layers"]["block.0"].keys() >= {"grad_norm", "weight_norm", "update_ratio", "nonfinite"}


def test_incident_has_exactly_the_keys_of_the_contract() -> None:
    data = to_dict(incident())
    own = {"world_size", "first_seen", "origin", "reproduced", "affected", "explanation", "advice", "anomaly_traceback"}
    assert data.keys() == BASE | own | {"action"}
    assert set(data["origin"]) == {
        *(
            "phase",
            "op",
            "module",
            "module_type",
            "tensor",
            "index",
            "sample",
            "source",
            "transition",
            "ranks",
            "cause",
            "inputs",
            "output",
        )
    }
    assert set(data["origin"]["source"]) == {"file", "line", "function", "code"}
    assert set(data["origin"]["inputs"][0]) == {"shape", "dtype", "min", "max", "nan", "posinf", "neginf", "zeros"}


# -- reading what is not quite ours --------------------------------------------------------------------------------


def test_unknown_keys_are_ignored_at_every_depth() -> None:
    data = to_dict(step_record())
    data["clip"]["new"] = data["layers"]["block.0"]["new"] = data["new"] = {"a": 1}
    assert from_dict(data) == step_record()


def test_keys_with_a_default_may_be_missing() -> None:
    data = to_dict(incident())
    data["origin"] = {"phase": "forward"}
    event = from_dict(data)
    assert to_dict(event)["origin"]["inputs"] == []


def test_an_unknown_type_is_kept_whole() -> None:
    data = {**to_dict(run_end()), "type": "from_the_future", "more": [1, "NaN"]}
    event = from_dict(data)
    assert isinstance(event, UnknownEvent)
    assert event.step == run_end().step
    assert to_json_line(event) == json.dumps(data) + "\n"


def test_a_newer_schema_is_refused_with_both_versions() -> None:
    with pytest.raises(
        SchemaError, match=r"schema_version 2 is newer than this gradwatch, which reads 1 to 1: upgrade it"
    ):
        from_dict({**to_dict(run_end()), "schema_version": 2})
    assert issubclass(SchemaError, ValueError)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": None}, "not a gradwatch event: schema_version is None, expected 1 to 1"),
        ({"schema_version": True}, "not a gradwatch event: schema_version is True, expected 1 to 1"),
        ({"schema_version": 0}, "not a gradwatch event: schema_version is 0, expected 1 to 1"),
        ({"type": ["step"]}, "not a gradwatch event: type is a JSON list"),
        ({"time": "noon"}, "'time': expected a number, got 'noon'"),
        ({"loss": True}, "'loss': expected a number, got True"),
        ({"loss": 10**400}, "'loss': expected a number, got 1000"),
        ({"step": 1.5}, "'step': expected an integer, got 1.5"),
        ({"step": False}, "'step': expected an integer, got False"),
        ({"clip": None}, "'clip': expected an object, got None"),
        ({"lr_groups": [0.1, {}]}, "'lr_groups': 1: expected a number, got a JSON dict"),
        ({"layers": {"fc": {"grad_norm": "x" * 99}}}, "'layers': 'fc': 'grad_norm': expected a number, got 'xxx"),
    ],
    ids=str,
)
def test_wrong_values_are_named_with_their_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        from_dict({**to_dict(step_record()), **changes})
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    data = to_dict(step_record())
    del data["window"]["steps"]
    with pytest.raises(SchemaError, match=r"'window': key 'steps' is missing"):
        from_dict(data)


def test_something_else_than_an_object_is_refused() -> None:
    with pytest.raises(SchemaError, match="expected an object, got a JSON list"):
        from_dict([1])  # type: ignore[arg-type]


def test_an_integer_is_read_as_a_float_where_a_float_belongs() -> None:
    event = from_dict({**to_dict(step_record()), "loss": 3})
    assert isinstance(event, StepRecord)
    assert type(event.loss) is float
