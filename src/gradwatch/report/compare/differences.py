"""What differs between groups of runs in their settings and in their parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.report.compare.settings import decides, is_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.records import ParameterRow
    from gradwatch.report.compare.settings import Flat

NOT_RECORDED = "not recorded"
_MOST_LISTED = 4


class SettingRow(NamedTuple):
    """One setting that differs: its value in each group. ``decides``: it makes them different experiments."""

    name: str
    values: tuple[str, ...]
    decides: bool


def differing(groups: Sequence[Sequence[Flat]]) -> list[SettingRow]:
    """Return the settings in which groups differ, seeds left out; first those that make different experiments."""
    names = dict.fromkeys(name for group in groups for flat in group for name in flat if not is_seed(name))
    rows = []
    for name in names:
        values = [_distinct(group, name) for group in groups]
        if any(value != values[0] for value in values[1:]):
            rows.append(SettingRow(name, tuple(map(", ".join, values)), decides(name)))
    return sorted(rows, key=lambda row: not row.decides)


def shown(value: Any) -> str:
    """Return a setting as a user would write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _distinct(group: Sequence[Flat], name: str) -> list[str]:
    values = sorted({shown(flat[name]) if name in flat else NOT_RECORDED for flat in group})
    return [*values[:_MOST_LISTED], "..."] if len(values) > _MOST_LISTED else values


class ParameterDifferences(NamedTuple):
    """How the parameter table of one run differs from that of another."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def parameters_differ(one: Sequence[ParameterRow], other: Sequence[ParameterRow]) -> ParameterDifferences:
    """Return layers that only one of two tables has, and the parameters that are not alike in both."""
    layers_one, layers_other = ({row.layer: None for row in rows} for rows in (one, other))
    known = {row.name: row for row in one}
    pairs = [(known[row.name], row) for row in other if row.name in known]
    return ParameterDifferences(
        added=tuple(layer for layer in layers_other if layer not in layers_one),
        removed=tuple(layer for layer in layers_one if layer not in layers_other),
        changed=tuple(f"{a.name}: {_described(a, b)} -> {_described(b, a)}" for a, b in pairs if _described(a, b)),
    )


def _described(row: ParameterRow, other: ParameterRow) -> str:
    """Return what of a parameter is not as it is in the other."""
    parts = []
    if row.shape != other.shape:
        parts.append("x".join(map(str, row.shape)) or "scalar")
    if row.dtype != other.dtype:
        parts.append(row.dtype)
    if row.requires_grad != other.requires_grad:
        parts.append("trained" if row.requires_grad else "frozen")
    if row.optimizer != other.optimizer:
        parts.append("no optimizer" if row.optimizer is None else f"optimizer {row.optimizer}")
    return ", ".join(parts)
