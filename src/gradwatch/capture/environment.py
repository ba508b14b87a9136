"""Versions, hardware, random seeds and determinism flags of this process, for ``run_start``."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

PACKAGES = ("gradwatch", "torch", "lightning", "pytorch-lightning", "tensorboard", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, where installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device | str) -> dict[str, Any]:
    """Return host, platform, processor count, thread count and the name of the training device."""
    device = torch.device(device)
    described: dict[str, Any] = {
        "hostname": platform.node(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        described["device_name"] = torch.cuda.get_device_name(device)
        described["cuda"] = torch.version.cuda
    return described


def script() -> str | None:
    """Return the name of the program that runs; neither its folder nor its arguments, which may hold secrets."""
    return Path(sys.argv[0]).name or None if sys.argv else None


def determinism() -> dict[str, Any]:
    """Return the flags that decide whether the same batch gives the same bits twice."""
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "anomaly_mode": torch.is_anomaly_enabled(),
    }


def seeds() -> dict[str, Any]:
    """Return torch's initial seed, and the seed that Lightning's ``seed_everything`` leaves in the environment."""
    return {"torch": torch.initial_seed(), "PL_GLOBAL_SEED": os.environ.get("PL_GLOBAL_SEED")}


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Return class, defaults and the sizes and rates of the parameter groups, in JSON-ready values."""
    return {
        "class": type(optimizer).__qualname__,
        "defaults": {key: plain(value) for key, value in optimizer.defaults.items()},
        "groups": [
            {"parameters": len(group["params"]), **{k: plain(v) for k, v in group.items() if k != "params"}}
            for group in optimizer.param_groups
        ],
    }


def describe_scheduler(scheduler: Any, optimizers: Sequence[Optimizer], **use: Any) -> dict[str, Any]:
    """Return class, optimizer (its index) and plain settings of a learning rate scheduler.

    What changes from step to step is left out, and so is what JSON has no form for: the ``repr`` of a function is
    another one in every process.

    Args:
        scheduler: of whatever class.
        optimizers: in the order in which records count them.
        use: how the loop calls it (interval, frequency, monitored metric).
    """
    stepped = getattr(scheduler, "optimizer", None)
    described: dict[str, Any] = {
        "class": type(scheduler).__qualname__,
        "optimizer": next((i for i, optimizer in enumerate(optimizers) if optimizer is stepped), None),
        **{key: plain(value) for key, value in use.items()},
        "settings": {
            key: plain(value)
            for key, value in getattr(scheduler, "__dict__", {}).items()
            if not key.startswith("_") and key not in _PROGRESS and _is_plain(value)
        },
    }
    parts = getattr(scheduler, "_schedulers", None)  # of SequentialLR and ChainedScheduler
    if isinstance(parts, (list, tuple)):
        described["schedulers"] = [describe_scheduler(part, optimizers) for part in parts]
    return described


def learning_rates(optimizer: Optimizer) -> list[float]:
    """Return the learning rate of each parameter group that has one."""
    return [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]


_PROGRESS = ("last_epoch", "best", "cooldown_counter", "num_bad_epochs")
_MANY = 100


def _is_plain(value: Any) -> bool:
    """Whether a setting has a form in JSON and is short enough to be one."""
    if isinstance(value, (list, tuple)):
        return len(value) <= _MANY and all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def plain(value: Any) -> Any:
    """Return ``value`` where JSON has a form for it, a number for a one-element tensor, else its ``repr``."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return repr(value)
