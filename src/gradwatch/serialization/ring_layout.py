"""The layout of the ring file ``last_steps*.bin``, which keeps the last optimizer steps of a run that is killed.

The file has a fixed size: a prelude, a header in JSON, and for each optimizer ``slots`` rows of one size. Step number
``n`` of an optimizer (its sequence, from 1 on) is row ``n % slots``; a row of zeros has not been written yet. Each row
ends in a checksum of all that comes before it: a row that was cut off while it was written, or of which a power cut has
left one page old and one new, is seen to be neither. One such row at most is lost, and ``SLOTS`` is one more than
the steps that are promised.

Numbers are little-endian and 64 bits wide. Norms too, which come in this width: half of it would need a conversion at
every step, and would overflow where a float64 model does not.
"""

from __future__ import annotations

import json
import math
import struct
import sys
import zlib
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.records import LastSteps
from gradwatch.serialization.codec import SchemaError

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS = 64
SLOTS = STEPS + 1
VERSION = 1
MAGIC = b"gwlast64"
MAX_HEADER_BYTES = 16 * 2**20
# Of all optimizers together. With more, the file would take more than 50 MB; networks have a thousand or two.
MAX_PARAMETERS = 100_000
# Stands for a parameter without a gradient: no norm is negative.
NO_GRADIENT = -1.0

PRELUDE = struct.Struct("<8sIIII")  # magic, version, slots, bytes of the header, checksum of the header
# sequence, flags, time, step, epoch, batch, loss, total norm, coefficient, learning rate, loss scale
ROW = struct.Struct("<QQdqqqddddd")
CHECKSUM = struct.Struct("<Q")
NORM_BYTES = 8

HAS_BATCH, HAS_LOSS, HAS_LR, HAS_SCALE, SKIPPED = 1, 2, 4, 8, 16


class Columns(NamedTuple):
    """The parameters of one optimizer by name, and ``layer_of`` each: a position in ``layers``."""

    parameters: list[str]
    layers: list[str]
    layer_of: list[int]

    @property
    def row_bytes(self) -> int:
        """The size of one row."""
        return ROW.size + NORM_BYTES * len(self.parameters) + CHECKSUM.size


class Header(NamedTuple):
    """Whose steps these are."""

    run_id: str
    rank: int
    pid: int
    optimizers: list[Columns]

    @property
    def row_bytes(self) -> int:
        """The size of all rows together, for one slot."""
        return sum(columns.row_bytes for columns in self.optimizers)


class Row(NamedTuple):
    """One optimizer step; None is what was not known. ``norms`` are per parameter, ``NO_GRADIENT`` without one."""

    time: float
    step: int
    epoch: int
    batch_idx: int | None
    loss: float | None
    grad_norm: float
    coefficient: float
    lr: float | None
    loss_scale: float | None
    skipped: bool
    norms: Sequence[float]


def header_bytes(header: Header) -> bytes:
    """Return prelude and header.

    Raises:
        ValueError: there are too many parameters, or their names are too long.
    """
    count = sum(len(columns.parameters) for columns in header.optimizers)
    if count > MAX_PARAMETERS:
        raise ValueError(f"{count:,} parameters are more than {MAX_PARAMETERS:,}")
    text = json.dumps({**header._asdict(), "optimizers": [columns._asdict() for columns in header.optimizers]})
    content = text.encode("ascii")
    if len(content) > MAX_HEADER_BYTES:
        raise ValueError(f"the parameters' names take more than {MAX_HEADER_BYTES >> 20} MiB")
    return PRELUDE.pack(MAGIC, VERSION, SLOTS, len(content), zlib.crc32(content)) + content


def read_header(content: bytes) -> Header:
    """Return the header that ``header_bytes`` has written as JSON.

    Raises:
        SchemaError: it is none.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise SchemaError("its header is not JSON") from None
    entries = data.get("optimizers") if isinstance(data, dict) else None
    if not (isinstance(entries, list) and isinstance(data.get("run_id"), str)):
        raise SchemaError("its header names no run and no optimizers")
    if not all(_is_count(data.get(key)) for key in ("rank", "pid")):
        raise SchemaError("its header names no rank and no process")
    header = Header(data["run_id"], data["rank"], data["pid"], [_read_columns(entry) for entry in entries])
    if sum(len(columns.parameters) for columns in header.optimizers) > MAX_PARAMETERS:
        raise SchemaError(f"its header names more than {MAX_PARAMETERS:,} parameters")
    return header


def read_row(content: bytes, parameters: int) -> tuple[int, Row] | None:
    """Return sequence number and values of a row, or None where none was written, or not to its end."""
    end = len(content) - CHECKSUM.size
    sequence, flags, time, step, epoch, batch, loss, norm, coefficient, lr, scale = ROW.unpack_from(content)
    if sequence == 0 or zlib.crc32(content[:end]) != CHECKSUM.unpack_from(content, end)[0] or not math.isfinite(time):
        return None
    row = Row(
        time=time,
        step=step,
        epoch=epoch,
        batch_idx=batch if flags & HAS_BATCH else None,
        loss=loss if flags & HAS_LOSS else None,
        grad_norm=norm,
        coefficient=coefficient,
        lr=lr if flags & HAS_LR else None,
        loss_scale=scale if flags & HAS_SCALE else None,
        skipped=bool(flags & SKIPPED),
        norms=list(struct.unpack_from(f"<{parameters}d", content, ROW.size)),
    )
    return sequence, row


def norm_bytes(norms: Sequence[float]) -> bytes:
    """Return norms as they stand in a row; an array is the quickest."""
    numbers = array("d", norms)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def flags_of(row: Row) -> int:
    """Return what of a row is known, as bits."""
    return (
        HAS_BATCH * (row.batch_idx is not None)
        | HAS_LOSS * (row.loss is not None)
        | HAS_LR * (row.lr is not None)
        | HAS_SCALE * (row.loss_scale is not None)
        | SKIPPED * row.skipped
    )


def as_event(rows: list[Row], columns: Columns, *, rank: int, optimizer: int, reason: str) -> LastSteps:
    """Return rows, oldest first and at least one, as an event at the time and place of the last of them."""
    last = rows[-1]
    return LastSteps(
        time=last.time,
        step=last.step,
        epoch=last.epoch,
        batch_idx=last.batch_idx,
        rank=rank,
        optimizer=optimizer,
        reason=reason,
        steps=[row.step for row in rows],
        epochs=[row.epoch for row in rows],
        batches=[row.batch_idx for row in rows],
        loss=[row.loss for row in rows],
        grad_norm=[row.grad_norm for row in rows],
        coefficient=[row.coefficient for row in rows],
        lr=[row.lr for row in rows],
        loss_scale=[row.loss_scale for row in rows],
        skipped=[row.skipped for row in rows],
        layers=_by_layer([row.norms for row in rows], columns),
    )


def _by_layer(norms: list[Sequence[float]], columns: Columns) -> dict[str, list[float | None]]:
    members: list[list[int]] = [[] for _ in columns.layers]
    for parameter, layer in enumerate(columns.layer_of):
        members[layer].append(parameter)
    return {
        layer: [_joined([row[i] for i in own]) for row in norms]
        for layer, own in zip(columns.layers, members, strict=True)
    }


def _joined(norms: list[float]) -> float | None:
    """Return the norm of several together: ``hypot`` neither overflows nor underflows; NaN wins over infinity."""
    there = [norm for norm in norms if norm != NO_GRADIENT]
    if not there:
        return None
    return math.nan if any(map(math.isnan, there)) else math.hypot(*there)


def _read_columns(entry: Any) -> Columns:
    if not isinstance(entry, dict):
        raise SchemaError("its header describes an optimizer by something else than an object")
    names: Any
    layers: Any
    layer_of: Any
    names, layers, layer_of = map(entry.get, Columns._fields)
    if not (_are(str, names) and _are(str, layers) and _are(int, layer_of)):
        raise SchemaError("its header lists no parameters and layers")
    if len(names) != len(layer_of) or not all(0 <= layer < len(layers) for layer in layer_of):
        raise SchemaError("its header does not say to which layers the parameters belong")
    return Columns(names, layers, layer_of)


def _are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
