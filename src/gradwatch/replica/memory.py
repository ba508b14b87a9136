"""How much memory a side copy takes, and how much there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from gradwatch.replica.tensors import held_tensors, tensors_in, weights_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn
    from torch.optim import Optimizer

MEMINFO = Path("/proc/meminfo")
CGROUPS = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")

# A v1 group without a limit reports the largest page count: nothing below this is meant as "no limit".
NO_LIMIT = 2**60


def bytes_needed(
    module: nn.Module, optimizers: Iterable[Optimizer], *, with_optimizer_state: bool, share_weights: bool
) -> dict[torch.device, int]:
    """Return the bytes by device that a side copy and one backward pass hold: weights, buffers, gradients, state.

    Activations are not in it: nobody knows them before the step has run.
    """
    optimizers = list(optimizers)
    weights = _unique(weights_of(module, optimizers))
    seen = set(map(id, weights))
    copied = [tensor for tensor in _unique(held_tensors(module)) if id(tensor) not in seen]
    copied += [] if share_weights else weights
    if with_optimizer_state:
        states = [dict(optimizer.state) for optimizer in optimizers]
        copied += _unique(tensor for state in states for tensor in tensors_in(list(state.values())))
    gradients = [parameter for parameter in weights if parameter.requires_grad]
    needed: dict[torch.device, int] = {}
    for tensor in [*copied, *gradients]:
        needed[tensor.device] = needed.get(tensor.device, 0) + _size(tensor)
    return needed


def _unique(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors if not is_lazy(tensor)}.values())


def _size(tensor: Tensor) -> int:
    if tensor.is_meta:
        return 0
    if tensor.layout is torch.sparse_coo:
        indices, values = tensor._indices(), tensor._values()  # noqa: SLF001 - the public ones sum duplicates first
        return indices.nbytes + values.nbytes
    return tensor.numel() * tensor.element_size()


def fits(needed: Mapping[torch.device, int], share: float = 0.5) -> bool:
    """Whether ``needed`` is at most that share of what is free on each device; unknown counts as enough."""
    for device, size in needed.items():
        free = free_bytes(device)
        if free is not None and size > share * free:
            return False
    return True


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated on ``device``, or None where nobody says."""
    if device.type == "cpu":
        return _free_host_bytes()
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What the allocator has taken from the driver and no tensor uses.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return None


def _free_host_bytes() -> int | None:
    known = [size for size in (_available(), *_left_in_groups()) if size is not None]
    return max(0, min(known)) if known else None


def _available() -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _left_in_groups() -> list[int]:
    """Return what the control group of this process, and each above it, has left."""
    try:
        lines = CGROUPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    left: list[int] = []
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "", "")[:3]
        if not controllers:
            left += _left(CGROUP_ROOT, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            left += _left(CGROUP_ROOT / "memory", path, *names)
    return left


def _left(root: Path, path: str, limit: str, usage: str, reclaimable: str) -> list[int]:
    """Walk up from the group to the root; inside of a container the path may be the host's and lead nowhere."""
    group = root / path.strip("/")
    found = []
    for folder in [group, *group.parents]:
        if folder == root or root in folder.parents:
            bound, used = _number(folder / limit), _number(folder / usage)
            if bound is not None and used is not None and bound < NO_LIMIT:
                # Cached files count as used and are given up as soon as memory is asked for.
                found.append(bound - used + min(used, _statistic(folder / "memory.stat", reclaimable)))
    return found


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max" is no number
        return None


def _statistic(file: Path, name: str) -> int:
    try:
        fields = (line.split() for line in file.read_text(encoding="ascii").splitlines())
        return next((int(field[1]) for field in fields if field[0] == name), 0)
    except (OSError, ValueError, IndexError):
        return 0
