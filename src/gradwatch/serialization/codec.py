"""Records as JSON objects and back.

Every line written is legal JSON: a float that JSON cannot express is the string ``"NaN"``, ``"Infinity"`` or
``"-Infinity"``. Reading turns these three strings back into floats where a record declares a float or leaves the type
open (``evidence``, ``settings``). Tuples become lists; where the type is open they stay lists after reading.
"""

from __future__ import annotations

import json
import math
import numbers
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, lru_cache, partial
from itertools import chain, compress
from typing import Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from gradwatch import records
from gradwatch.records import SCHEMA_VERSION, Event, LayerNorms, LayerTable, StepRecord

_Reader = Callable[[Any], Any]

_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class SchemaError(ValueError):
    """What was read is not what this version of gradwatch writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Event):
    """An event whose type this version does not know; ``data`` is the whole JSON object."""

    type: ClassVar[str] = "unknown"

    data: dict[str, Any]


EVENT_TYPES: dict[str, type[Event]] = {
    value.type: value
    for value in vars(records).values()
    if isinstance(value, type) and issubclass(value, Event) and value is not Event
}


# -- records to JSON ----------------------------------------------------------------------------------------------


def to_dict(event: Event) -> dict[str, Any]:
    """Return ``event`` as a JSON object of plain values, with ``schema_version`` and ``type``."""
    if isinstance(event, UnknownEvent):
        return dict(_plain(event.data))
    return {"schema_version": SCHEMA_VERSION, "type": event.type, **_plain(event)}


def to_json_line(event: Event) -> str:
    r"""Return ``event`` as one line of ASCII JSON that ends in ``\n``."""
    if isinstance(event, StepRecord) and isinstance(event.layers, LayerTable):
        line = _step_line(event, event.layers)
        if line is not None:
            return line
    return json.dumps(to_dict(event), allow_nan=False) + "\n"


def _step_line(record: StepRecord, table: LayerTable) -> str | None:
    """Return the line of a step, by the way that suits nearly all of them; None if a value is not finite."""
    layers = _layers_json(table)
    if layers is None:
        return None
    head = {"schema_version": SCHEMA_VERSION, "type": record.type}
    head |= {name: getattr(record, name) for name in _HEAD}
    head["clip"], head["window"] = _flat(record.clip), _flat(record.window)
    try:
        return f'{_ENCODER.encode(head)[:-1]}, "layers": {layers}}}\n'
    except (TypeError, ValueError):  # a number that JSON cannot express, or that is none of Python's
        return None


def _flat(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _field_names(record.__class__)}


_ENCODER = json.JSONEncoder(allow_nan=False)


@cache
def _field_names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


_HEAD = tuple(name for name in _field_names(StepRecord) if name != "layers")


def _is_record(value: object) -> bool:
    return is_dataclass(value)  # without its type narrowing, which yields classes that mypy takes for unhashable


def _plain(value: Any) -> Any:  # noqa: PLR0911 - one return for each kind of value
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _nonfinite_name(value)
    if _is_record(value):
        return {name: _plain(getattr(value, name)) for name in _field_names(value.__class__)}
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, numbers.Integral):  # numpy's integers and floats are none of Python's
        return int(value)
    return _plain(float(value)) if isinstance(value, numbers.Real) else str(value)


def _nonfinite_name(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _layers_json(table: LayerTable) -> str | None:
    """Return the layers of a record as JSON, or None if a value is not finite.

    One formatting call for all numbers: 17 significant digits are exact for every float and take two thirds of the
    time of the shortest form, which ``json`` looks for (measured: 160 against 260 µs for 600 numbers).
    """
    values = list(chain.from_iterable(zip(*table.columns.values(), strict=True)))
    missing = [table.missing.get(field, ()) for field in table.columns]
    nulls = tuple(sorted(i * len(table.columns) + k for k, own in enumerate(missing) for i in own))
    if nulls:
        known = bytearray(b"\1") * len(values)
        for position in nulls:
            known[position] = 0
        values = list(compress(values, known))
    if not math.isfinite(sum(values)):  # finite values whose sum overflows take the slow way too: no harm
        return None
    return _layers_template(table.names, nulls) % tuple(values)


@lru_cache(maxsize=8)
def _layers_template(names: tuple[str, ...], nulls: tuple[int, ...]) -> str:
    """Return the JSON of layers with a format in the place of each number; ``nulls`` are the places without one."""
    hints = get_type_hints(LayerNorms)
    keys = _field_names(LayerNorms)
    cells = ["%d" if hints[key] is int else "%.17g" for _ in names for key in keys]
    for position in nulls:
        cells[position] = "null"
    cell = iter(cells)
    entries = (
        json.dumps(name).replace("%", "%%") + ": {" + ", ".join(f'"{key}": {next(cell)}' for key in keys) + "}"
        for name in names
    )
    return "{" + ", ".join(entries) + "}"


# -- JSON to records ----------------------------------------------------------------------------------------------


def from_dict(data: dict[str, Any]) -> Event:
    """Return the record that a JSON object describes.

    Keys that this version does not know are ignored; a type that it does not know becomes an ``UnknownEvent``.

    Raises:
        SchemaError: a newer ``schema_version``, a missing key, or a value of the wrong type.
    """
    _expect(dict, data)
    version, kind = data.get("schema_version"), data.get("type")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SchemaError(f"not a gradwatch event: schema_version is {_short(version)}, expected 1 to {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise SchemaError(
            f"schema_version {version} is newer than this gradwatch, which reads 1 to {SCHEMA_VERSION}: upgrade it"
        )
    if not isinstance(kind, str):
        raise SchemaError(f"not a gradwatch event: type is {_short(kind)}, expected one of {', '.join(EVENT_TYPES)}")
    if kind not in EVENT_TYPES:
        data, kind = {**data, "data": data}, UnknownEvent.type
    event: Event = _read_record(EVENT_TYPES.get(kind, UnknownEvent), data)
    return event


class _Field(NamedTuple):
    name: str
    read: _Reader
    required: bool


@cache
def _readers(cls: type) -> list[_Field]:
    hints = get_type_hints(cls)
    return [
        _Field(f.name, _reader(hints[f.name]), f.default is MISSING and f.default_factory is MISSING)
        for f in fields(cls)
    ]


def _read_record(cls: Any, data: Any) -> Any:
    _expect(dict, data)
    values = {}
    for name, read, required in _readers(cls):
        if name in data:
            values[name] = _read_at(name, read, data[name])
        elif required:
            raise SchemaError(f"key {name!r} is missing")
    return cls(**values)


def _reader(hint: Any) -> _Reader:
    """Return the function that reads a JSON value for a field annotated with ``hint``."""
    origin, args = get_origin(hint), get_args(hint)
    if _is_record(hint):
        return partial(_read_record, hint)
    if origin in (Union, types.UnionType):
        return partial(_read_optional, *(_reader(arg) for arg in args if arg is not types.NoneType))
    if origin is Literal:
        return partial(_expect, str)  # any string: a newer version may know more choices
    if origin in (list, tuple):
        return partial(_read_sequence, origin, _reader(args[0]))
    if origin in (dict, Mapping):
        return partial(_read_mapping, _reader(args[1]))
    return {float: _read_float, Any: _read_any}.get(hint) or partial(_expect, hint)


def _read_optional(read: _Reader, value: Any) -> Any:
    return None if value is None else read(value)


def _read_sequence(kind: type, read: _Reader, value: Any) -> Any:
    return kind(_read_at(index, read, item) for index, item in enumerate(_expect(list, value)))


def _read_mapping(read: _Reader, value: Any) -> dict[str, Any]:
    return {key: _read_at(key, read, item) for key, item in _expect(dict, value).items()}


def _read_float(value: Any) -> float:
    if type(value) is float:
        return value
    if isinstance(value, str) and value in _NONFINITE:
        return _NONFINITE[value]
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**1024:
        raise SchemaError(f"expected a number, got {_short(value)}")
    return float(value)


def _read_any(value: Any) -> Any:
    if isinstance(value, str):
        return _NONFINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _read_any(item) for key, item in value.items()}
    return [_read_any(item) for item in value] if isinstance(value, list) else value


def _expect(kind: type, value: Any) -> Any:
    # bool is a subclass of int: true is not a step.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {dict: "an object", list: "a list", str: "a string", int: "an integer", bool: "true or false"}
        raise SchemaError(f"expected {names[kind]}, got {_short(value)}")
    return value


def _read_at(place: str | int, read: _Reader, value: Any) -> Any:
    try:
        return read(value)
    except SchemaError as error:
        raise SchemaError(f"{_short(place)}: {error}") from None


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value) if not isinstance(value, (dict, list)) else f"a JSON {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 3] + "..."
