"""Batches as plain containers and tensors, which a file can hold without pickled code, and back.

Lists, tuples, dictionaries, strings, numbers, None and tensors stand for themselves. Everything else becomes
``{"class": "module:QualName", "kind": ..., "fields": ...}``. Reading imports a class by that name and fills an instance
without running any of its methods; a class that is not what its kind says is not used.
"""

from __future__ import annotations

import copyreg
import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections import OrderedDict
from pathlib import Path
from types import MemberDescriptorType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH = 32
KEYS = frozenset({"class", "kind", "fields"})

_SIMPLE = frozenset({str, int, float, bool, complex, type(None), torch.dtype, torch.device})


class Encoder:
    """Turns values into plain ones; ``notes`` says what could not be expressed, and None stands in its place."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}

    def encode(self, value: Any, name: str, depth: int = 0) -> Any:
        """Return the plain form of ``value``; ``name`` is what notes call it."""
        if type(value) in _SIMPLE:
            return value
        if isinstance(value, Tensor):
            return self._tensor(value, name)
        if isinstance(value, (np.bool_, np.number)):
            return value.item()
        if depth >= MAX_DEPTH:
            return self._leave_out(name, "lies too deep, or holds itself")
        try:
            return self._container(value, name, depth + 1)
        except Exception as error:  # noqa: BLE001 - an object may do anything when it is looked at
            return self._leave_out(name, f"could not be read ({type(error).__name__})")

    def _container(self, value: Any, name: str, depth: int) -> Any:
        kind = type(value)
        if kind is list or kind is tuple or kind is torch.Size:
            items = [self.encode(item, f"{name}[{i}]", depth) for i, item in enumerate(value)]
            return items if kind is list else tuple(items)
        if kind is dict:
            plain = self._pairs(value, name, depth)
            # A dictionary that looks like an object is hidden in a list.
            return plain if plain.keys() != KEYS else _tagged(dict, "pairs", list(plain.items()))
        if isinstance(value, (bytes, bytearray)):
            return _tagged(bytes, "bytes", _as_tensor(value))
        if isinstance(value, (set, frozenset)) and kind in (set, frozenset):
            return _tagged(kind, "set", [self.encode(item, f"{name}[...]", depth) for item in value])
        if isinstance(value, np.ndarray):
            return self._array(value, name)
        return self._object(value, name, depth)

    def _object(self, value: Any, name: str, depth: int) -> Any:
        cls = type(value)
        kind = kind_of(cls)
        if kind is None:
            return self._leave_out(name, f"is a {cls.__module__}.{cls.__qualname__}, which cannot be saved")
        if kind == "namedtuple":
            pairs: Any = zip(value._fields, value, strict=True)
            return _tagged(cls, kind, {key: self.encode(item, f"{name}.{key}", depth) for key, item in pairs})
        if kind == "list":
            fields: dict[str, Any] = {"items": [self.encode(x, f"{name}[{i}]", depth) for i, x in enumerate(value)]}
        elif kind == "dict":
            fields = {"items": self._pairs(value, name, depth)}
        else:
            fields = {}
        attributes = _attributes(value)
        fields["attributes"] = {key: self.encode(item, f"{name}.{key}", depth) for key, item in attributes.items()}
        return _tagged(cls, kind, fields)

    def _pairs(self, value: dict[Any, Any], name: str, depth: int) -> dict[Any, Any]:
        plain = {}
        for key, item in dict.items(value):
            if type(key) in (str, int, float, bool, type(None)):
                plain[key] = self.encode(item, f"{name}[{key!r}]", depth)
            else:
                self._leave_out(f"{name}[{_short(key)}]", f"has a {type(key).__name__} for a key")
        return plain

    def _array(self, value: np.ndarray[Any, Any], name: str) -> Any:
        if value.dtype.kind not in "biufc":
            return self._leave_out(name, f"is an array of {value.dtype}, which cannot be saved")
        fields = {"dtype": value.dtype.str, "shape": list(value.shape), "bytes": _as_tensor(value.tobytes())}
        return _tagged(np.ndarray, "array", fields)

    def _tensor(self, value: Tensor, name: str) -> Any:
        """Return the tensor without hooks, attributes and graph, and without the memory that it does not use."""
        if id(value) not in self._tensors:
            plain = plain_tensor(value)
            if plain is None:
                return self._leave_out(name, f"is a {type(value).__qualname__}, which cannot be saved")
            if type(value) not in (Tensor, nn.Parameter) and not value.is_nested:
                self.notes.append(f"{name} is a {type(value).__qualname__} and was saved as a plain tensor")
            self._tensors[id(value)] = (value, plain)
        return self._tensors[id(value)][1]

    def _leave_out(self, name: str, reason: str) -> Any:
        self.notes.append(f"{name} {reason}: left out")
        return None


def plain_tensor(value: Tensor) -> Tensor | None:
    """Return ``value`` as a leaf of class Tensor that ``torch.load(weights_only=True)`` opens, or None."""
    try:
        with torch.inference_mode(False), torch.no_grad():
            plain = value.detach()
            if not plain.is_nested and plain.layout is torch.strided and not plain.is_meta:
                plain = plain.as_subclass(Tensor).resolve_conj().resolve_neg()
                if plain.numel() and not plain.data_ptr():  # a subclass that keeps its numbers elsewhere
                    return None
                if plain.untyped_storage().nbytes() > 2 * plain.numel() * plain.element_size():
                    plain = plain.clone()
            # Detached once more: what `resolve_conj` and `as_subclass` return may be the tensor itself.
            return plain.detach().requires_grad_(value.requires_grad)
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def kind_of(cls: type) -> str | None:
    """Return how an instance of ``cls`` can be rebuilt without running its code, or None."""
    if issubclass(cls, tuple):
        return "namedtuple" if hasattr(cls, "_fields") else None
    for kind, base in (("dict", dict), ("list", list)):
        if issubclass(cls, base):
            return kind if cls.__new__ is base.__new__ else None
    if issubclass(cls, (type, nn.Module, BaseException)) or cls.__module__ == "builtins":
        return None
    if cls.__new__ is not object.__new__ or not cls.__flags__ & _HEAP_TYPE:
        return None
    return "dataclass" if dataclasses.is_dataclass(cls) else ("object" if cls.__dictoffset__ else None)


_HEAP_TYPE = 1 << 9  # set for classes that are written in Python; those of C extensions have state of their own


def _attributes(value: Any) -> dict[str, Any]:
    slots: list[str] = copyreg._slotnames(type(value))  # type: ignore[attr-defined]  # noqa: SLF001 - as copy does
    return {**{name: getattr(value, name) for name in slots if hasattr(value, name)}, **getattr(value, "__dict__", {})}


def _as_tensor(data: bytes | bytearray) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _tagged(cls: type, kind: str, fields: Any) -> dict[str, Any]:
    return {"class": f"{cls.__module__}:{cls.__qualname__}", "kind": kind, "fields": fields}


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a repr is anybody's code
        text = type(value).__name__
    return text if len(text) <= 40 else text[:37] + "..."  # noqa: PLR2004


# -- back --------------------------------------------------------------------------------------------------------------


class Decoder:
    """Turns plain values back; ``notes`` says which classes could not be found, and what stands for them.

    Args:
        distrusted: a folder whose modules are not imported: the one that the values come from.
    """

    def __init__(self, distrusted: Path) -> None:
        self.notes: list[str] = []
        self._distrusted = distrusted.resolve()

    def decode(self, value: Any, depth: int = 0) -> Any:
        """Return what ``Encoder.encode`` was given.

        Raises:
            ValueError: it is not what an encoder writes.
        """
        if depth > 4 * MAX_DEPTH:
            raise ValueError("nested too deeply")
        if isinstance(value, (list, tuple)):
            return type(value)([self.decode(item, depth + 1) for item in value])
        if not isinstance(value, dict):
            return value
        if value.keys() == KEYS:
            return self._object(value, depth + 1)
        return {key: self.decode(item, depth + 1) for key, item in value.items()}

    def _object(self, value: dict[str, Any], depth: int) -> Any:
        name, kind, fields = value["class"], value["kind"], value["fields"]
        if kind == "bytes":
            return bytes(_of(Tensor, fields).tolist())
        if kind == "pairs":
            return {key: self.decode(item, depth) for key, item in _of(list, fields)}
        if kind == "set":
            build = frozenset if name == "builtins:frozenset" else set
            return build(self.decode(item, depth) for item in _of(list, fields))
        if kind == "array":
            data = _of(Tensor, _of(dict, fields)["bytes"]).numpy()
            return data.view(np.dtype(fields["dtype"])).reshape(fields["shape"])
        fields = {key: self.decode(item, depth) for key, item in _of(dict, fields).items()}
        cls = self._class(_of(str, name), _of(str, kind))
        return _filled(cls, kind, fields) if cls is not None else _stand_in(kind, fields)

    def _class(self, name: str, kind: str) -> type | None:
        module, _, path = name.partition(":")
        try:
            found = self._imported(module)
            for part in path.split("."):
                found = getattr(found, part)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - importing a user's script may do anything
            return self._missing(f"{name} cannot be imported here ({type(error).__name__})")
        if not isinstance(found, type) or kind_of(found) != kind:
            return self._missing(f"{name} is no {kind} here")
        return found

    def _imported(self, module: str) -> Any:
        """Import ``module``, unless the values bring it along: a folder to look at must not run code."""
        if module in sys.modules:
            return sys.modules[module]
        spec = importlib.util.find_spec(module.partition(".")[0])
        places = [spec.origin, *(spec.submodule_search_locations or [])] if spec is not None else []
        if any(place and self._distrusted in Path(place).resolve().parents for place in places):
            raise ImportError(f"{module} lies in the folder itself")
        return importlib.import_module(module)

    def _missing(self, reason: str) -> type | None:
        note = f"{reason}: a plain object with its attributes stands for it"
        if note not in self.notes:
            self.notes.append(note)
        return None


def _filled(cls: type, kind: str, fields: dict[str, Any]) -> Any:
    if kind == "namedtuple":
        return tuple.__new__(cls, [fields[name] for name in cls._fields])  # type: ignore[attr-defined]
    make: Callable[[type], Any] = {"dict": dict.__new__, "list": list.__new__}.get(kind, object.__new__)
    value = make(cls)
    if kind == "dict":
        put = OrderedDict.__setitem__ if issubclass(cls, OrderedDict) else dict.__setitem__  # the first keeps an order
        for key, item in _of(dict, fields["items"]).items():
            put(value, key, item)
    if kind == "list":
        list.extend(value, _of(list, fields["items"]))
    for name, item in _of(dict, fields["attributes"]).items():
        slot = inspect.getattr_static(cls, _of(str, name), None)
        if isinstance(slot, MemberDescriptorType):
            slot.__set__(value, item)
        else:  # not by setattr, which would run properties
            vars(value)[name] = item
    return value


def _stand_in(kind: str, fields: dict[str, Any]) -> Any:
    if kind in ("dict", "list"):
        return fields["items"]
    return SimpleNamespace(**(fields if kind == "namedtuple" else _of(dict, fields["attributes"])))


def _of(cls: type, value: Any) -> Any:
    if not isinstance(value, cls):
        raise ValueError(f"expected a {cls.__name__}, got a {type(value).__name__}")  # noqa: TRY004 - it came from a file
    return value
