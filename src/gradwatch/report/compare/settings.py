"""The settings of a run as a flat table, and which of them make two runs different experiments."""

from __future__ import annotations

import re
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradwatch.records import ParameterRow, RunStart

Flat = dict[str, Any]

TABLE = "model.table"  # a mark of the parameter table: for comparing, not for showing

# What says nothing about an experiment: when and where it ran, what it was called.
_LEFT_OUT = re.compile(
    r"type|time|step|epoch|batch_idx|rank|run_id|resumed_from|steps_before|hardware\.(pid|hostname)|settings\.(dirpath|clip)"
    r"|git|clip\.(family|reason|source)|precision\.plugin|schedulers\[\d+\]\.settings\.base_lrs"
)
# What is worth knowing and makes no other experiment: seeds, the machine, what only the monitor does.
_BESIDE = re.compile(
    r"seeds\..*|hardware\.(platform|cpu_count|torch_threads)|git\.(branch|dirty)|script|settings\..*"
    r"|versions\.(gradwatch|tensorboard|pytorch-lightning)"
)
_SEEDS = re.compile(r"seeds\..*")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in the repr of an object, another one in every process


def flatten(start: RunStart) -> Flat:
    """Return the settings of a run by dotted name; of parameter groups that agree, each setting once."""
    tree = asdict(start)
    tree.pop("parameters")
    tree["optimizers"] = [_optimizer(optimizer) for optimizer in start.optimizers]
    flat = {name: value for name, value in _leaves("", tree) if not _LEFT_OUT.fullmatch(name)}
    flat = {_short(name, start): value for name, value in flat.items()}
    if isinstance(device := flat.get("hardware.device"), str):
        flat["hardware.device"] = device.partition(":")[0]  # which of several devices is no setting
    return flat | _parameters(start.parameters)


def decides(name: str) -> bool:
    """Whether runs that differ in this setting are different experiments, and no seeds of one."""
    return not _BESIDE.fullmatch(name)


def is_seed(name: str) -> bool:
    """Whether this setting is a seed."""
    return _SEEDS.fullmatch(name) is not None


def seed_of(start: RunStart) -> str | None:
    """Return the seed that the user has set: Lightning's, else torch's."""
    seed = start.seeds.get("PL_GLOBAL_SEED")
    seed = start.seeds.get("torch") if seed is None else seed
    return None if seed is None else str(seed)


def experiment_of(flat: Flat) -> str:
    """Return what two runs share if, and only if, they are seeds of one experiment."""
    return repr(sorted((name, repr(value)) for name, value in flat.items() if decides(name)))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), item)
    elif isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list, tuple)) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(f"{name}[{index}]", item)
    else:
        yield name, _ADDRESS.sub("", value) if isinstance(value, str) else value


def _optimizer(described: Any) -> Any:
    """Return an optimizer with what all of its parameter groups share said once."""
    groups = described.get("groups") if isinstance(described, dict) else None
    if not isinstance(groups, list) or not groups or not all(isinstance(group, dict) for group in groups):
        return described
    groups = [_as_configured(group) for group in groups]
    shared = {key: value for key, value in groups[0].items() if all(group.get(key) == value for group in groups)}
    apart = [{key: value for key, value in group.items() if key not in shared} for group in groups]
    rest = {key: value for key, value in described.items() if key not in ("groups", "defaults")}
    return {**rest, **shared, **({"groups": apart} if any(apart) else {})}


def _as_configured(group: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter group with the rate that the user gave: a schedule has put its first one in its place."""
    configured = {key: value for key, value in group.items() if key not in ("initial_lr", "parameters")}
    return configured | ({"lr": group["initial_lr"]} if "initial_lr" in group else {})


def _short(name: str, start: RunStart) -> str:
    """Return a name without the index of an only optimizer or scheduler, and without what every name of it has."""
    for kind in ("optimizer", "scheduler"):
        if len(getattr(start, f"{kind}s", ())) == 1:
            name = re.sub(rf"^{kind}s\[0\]\.", f"{kind}.", name)
    return name.replace(".settings.", ".") if name.startswith("scheduler") else name


def _parameters(rows: list[ParameterRow]) -> Flat:
    """Return how many parameters there are, and a mark that two tables share if they are the same."""
    table = [(row.name, row.shape, row.dtype, row.requires_grad, row.optimizer) for row in rows]
    return {
        "model.parameters": sum(_size(row.shape) for row in rows),
        "model.trained": sum(_size(row.shape) for row in rows if row.requires_grad),
        TABLE: sha256(repr(table).encode("utf-8", "backslashreplace")).hexdigest()[:12],
    }


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
