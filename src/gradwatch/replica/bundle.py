"""What the replay of an incident on another machine needs, in one folder.

``replay.json`` has the facts, the notes and the list of files; it is written last, so that where it stands the folder
is complete. ``weights.pt`` is a dictionary of parameters by name, ``step.pt`` holds batches, buffers, random states and
optimizer state. ``torch.load(weights_only=True)`` opens both; nothing is read with a pickle that can run code.
"""

from __future__ import annotations

import json
import math
import numbers
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradwatch.numerics.views import stored_values
from gradwatch.replica import randomness
from gradwatch.replica.plain import Decoder, Encoder, plain_tensor

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

FORMAT = "gradwatch-replay"
VERSION = 1
INDEX, WEIGHTS, STEP = "replay.json", "weights.pt", "step.pt"
MAX_BYTES = 2 * 2**30

_ZIP_MAGIC = b"PK\x03\x04"
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_MAX_INT_BITS = 1024


class BundleError(ValueError):
    """A folder that is no complete bundle of this version; the message names the file and the reason, in one line."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """The state before a bad step, and the micro-batches that lead to it.

    Args:
        weights: all parameters by name; None where they were left out.
        buffers: all buffers by name, those that a state_dict leaves out too.
        batches: the micro-batches to run in order, the guilty one last.
        random_states: the plain form (`randomness.as_dict`) before each of the batches.
        optimizer_state: a ``state_dict`` for each optimizer, where it matters.
        facts: plain values: hyperparameters, class path, versions, precision, loss scale and so on.
        notes: what is missing, a sentence each.
        attributes: numbers and tensors that the module held as plain attributes, by name.
    """

    weights: dict[str, Tensor] | None
    buffers: dict[str, Tensor]
    batches: list[Any]
    random_states: list[dict[str, Any]]
    optimizer_state: list[dict[str, Any]] | None
    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


# -- writing -----------------------------------------------------------------------------------------------------------


def save(directory: str | os.PathLike[str], bundle: Bundle, *, max_bytes: int = MAX_BYTES) -> list[str]:
    """Write ``bundle`` and return notes of what was left out; the folder is made if need be.

    Over ``max_bytes``, the last of these are left out: batches, buffers, weights, optimizer state.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (INDEX, WEIGHTS, STEP):
        (folder / name).unlink(missing_ok=True)
    encoder = Encoder()
    parts = {
        "batches": [encoder.encode(batch, f"batches[{i}]") for i, batch in enumerate(bundle.batches)],
        "buffers": _named(bundle.buffers, "buffer", encoder.notes),
        "weights": None if bundle.weights is None else _named(bundle.weights, "parameter", encoder.notes),
        "optimizer_state": encoder.encode(bundle.optimizer_state, "optimizer_state"),
    }
    notes = [*bundle.notes, *encoder.notes]
    kept = _within(parts, max_bytes, notes)
    facts = _json_value(bundle.facts, "", notes)
    if kept["weights"] is not None:
        _write(kept.pop("weights"), folder / WEIGHTS)
    attributes = encoder.encode(bundle.attributes, "attributes")
    _write({**kept, "random_states": bundle.random_states, "attributes": attributes}, folder / STEP)
    files = [name for name in (WEIGHTS, STEP) if (folder / name).exists()]
    _write_index(folder, {"format": FORMAT, "version": VERSION, "files": files, "facts": facts, "notes": notes})
    return notes


def _named(tensors: Mapping[str, Tensor], kind: str, notes: list[str]) -> dict[str, Tensor]:
    """Return the tensors as they can be saved, without copies where possible."""
    plain = {}
    for name, tensor in tensors.items():
        saved = plain_tensor(tensor)
        if saved is None:
            notes.append(f"{kind} {name} is a {type(tensor).__qualname__}, which cannot be saved: left out")
        else:
            plain[name] = saved
    return plain


def _within(parts: dict[str, Any], limit: int, notes: list[str]) -> dict[str, Any]:
    """Return the parts, with None from the first on that would exceed ``limit`` bytes: the rest is of no use alone."""
    kept: dict[str, Any] = dict.fromkeys(parts)
    used = 0
    for name, value in parts.items():
        size = _size(value)
        if used + size > limit:
            notes.append(f"{name.replace('_', ' ')} take {size:,} bytes, over the limit of {limit:,}: left out")
            break
        kept[name] = value
        used += size
    return kept


def _size(value: Any) -> int:
    """Return the bytes of the memory that the tensors in a plain ``value`` stand in, each piece once."""
    sizes: dict[int, int] = {}
    for tensor in _tensors(value):
        if tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_meta:
            storage = tensor.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()  # noqa: SLF001 - its identity
        elif not tensor.is_meta:
            sizes[-id(tensor)] = stored_values(tensor).nbytes
    return sum(sizes.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _json_value(value: Any, name: str, notes: list[str]) -> Any:
    """Return ``value`` for JSON; what JSON cannot express is noted by name and left out."""
    if isinstance(value, Mapping):
        keys = [key for key in value if isinstance(key, str)]
        notes += [f"fact {name}[{key!r}] has a key that is no string: left out" for key in value if key not in keys]
        items = {key: _json_value(value[key], f"{name}.{key}".lstrip("."), notes) for key in keys}
        return {key: item for key, item in items.items() if item is not _LEFT_OUT}
    if isinstance(value, (list, tuple)):
        items_in_order = [_json_value(item, f"{name}[{i}]", notes) for i, item in enumerate(value)]
        return [None if item is _LEFT_OUT else item for item in items_in_order]
    number = _json_number(value)
    if number is _LEFT_OUT:
        notes.append(f"fact {name} is a {type(value).__name__}, no plain value: left out")
    return number


_LEFT_OUT: Any = object()


def _json_number(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, numbers.Integral):  # numpy's integers and floats are none of Python's
        return int(value) if abs(int(value)).bit_length() <= _MAX_INT_BITS else _LEFT_OUT
    if not isinstance(value, numbers.Real):
        return _LEFT_OUT
    real = float(value)
    if math.isfinite(real):
        return real
    return "NaN" if math.isnan(real) else ("Infinity" if real > 0 else "-Infinity")


def _write(value: Any, path: Path) -> None:
    torch.save(value, path)


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write the index under another name first: a reader sees it whole or not at all."""
    temporary = folder / f"{INDEX}.tmp"
    temporary.write_text(json.dumps(index, allow_nan=False, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / INDEX)


# -- reading -----------------------------------------------------------------------------------------------------------


def load(directory: str | os.PathLike[str]) -> Bundle:
    """Read what ``save`` has written, all tensors on the CPU.

    A class of the batch that is not to be found here is replaced by a plain object, with a note.

    Raises:
        BundleError: the folder is broken, incomplete, of a newer version, or something else altogether.
    """
    folder = Path(directory)
    index = _read_index(folder)
    step = _read(folder / STEP)
    weights = _read(folder / WEIGHTS) if WEIGHTS in index["files"] else None
    decoder = Decoder(folder)
    try:
        bundle = Bundle(
            weights=None if weights is None else _named_tensors(weights),
            buffers=_named_tensors(_or_empty(step["buffers"], {})),
            batches=_of(list, decoder.decode(_or_empty(step["batches"], []))),
            random_states=[
                randomness.as_dict(randomness.from_dict(state)) for state in _of(list, step["random_states"])
            ],
            optimizer_state=_optimizer_state(decoder.decode(step["optimizer_state"])),
            facts=_unquoted(index["facts"]),
            notes=[*index["notes"], *decoder.notes],
            attributes=_of(dict, decoder.decode(step.get("attributes") or {})),
        )
    except Exception as error:
        raise _error(folder / STEP, error) from error
    if bundle.batches and len(bundle.batches) != len(bundle.random_states):
        raise BundleError(
            f"{folder / STEP}: {len(bundle.batches)} batches and {len(bundle.random_states)} random states"
        )
    return bundle


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{path}: not there; no incident with what a replay needs was written here") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _error(path, error) from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise BundleError(f'{path}: not the index of a replay, whose "format" is "{FORMAT}"')
    version = index.get("version")
    if type(version) is not int or version < 1:
        raise BundleError(f"{path}: version is {_short(version)}, expected {VERSION}")
    if version > VERSION:
        raise BundleError(f"{path}: version {version} is newer than this gradwatch, which reads {VERSION}: upgrade it")
    for key, kind in {"files": list, "facts": dict, "notes": list}.items():
        if not isinstance(index.get(key), kind):
            raise BundleError(f"{path}: {key} is {_short(index.get(key))}, expected a {kind.__name__}")
    index["notes"] = [str(note) for note in index["notes"]]
    return index


def _read(path: Path) -> dict[str, Any]:
    """Open a file of tensors. Only the zip format: the older one is a pickle from its first byte on."""
    try:
        _expect_zip(path)
        with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
            warnings.simplefilter("ignore")
            return _of(dict, torch.load(path, map_location="cpu", weights_only=True))  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise BundleError(f"{path}: not there, although {INDEX} says that it was written") from None
    except Exception as error:
        raise _error(path, error) from error


def _expect_zip(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            raise ValueError("not a file that torch.save has written")


def _named_tensors(value: Any) -> dict[str, Tensor]:
    return {_of(str, name): _of(Tensor, tensor) for name, tensor in _of(dict, value).items()}


def _or_empty(value: Any, empty: Any) -> Any:
    """Return ``value``, or ``empty`` for what was left out over the limit."""
    return empty if value is None else value


def _optimizer_state(value: Any) -> list[dict[str, Any]] | None:
    return None if value is None else [_of(dict, state) for state in _of(list, value)]


def _unquoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unquoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    return _NONFINITE.get(value, value) if isinstance(value, str) else value


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"expected a {kind.__name__}, got {_short(value)}")  # noqa: TRY004 - it came from a file
    return value


def _error(path: Path, error: BaseException) -> BundleError:
    reason = str(error).strip().partition("\n")[0]
    return BundleError(
        f"{path}: {type(error).__name__}: {reason[:200]}" if reason else f"{path}: {type(error).__name__}"
    )


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value) if not isinstance(value, (dict, list, Tensor)) else f"a {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 3] + "..."
