"""Everything that a training leaves behind, bit by bit, and how two trainings differ in it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

OURS = ("health/", "grad_norm/", "weight_norm/", "update_ratio/")


@dataclass(frozen=True, slots=True)
class Bits:
    """A tensor as raw bytes, so that NaN equals itself and -0.0 does not equal 0.0."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, tensor: Tensor) -> Bits:
        """Copy the bytes of ``tensor``; of a sparse one, those of its dense form."""
        dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
        raw = dense.cpu().contiguous().reshape(-1).view(torch.uint8)
        return cls(tensor.dtype, tuple(tensor.shape), raw.numpy().tobytes())

    def tensor(self) -> Tensor:
        """Return the values again, flat."""
        return torch.frombuffer(bytearray(self.data), dtype=self.dtype) if self.data else torch.empty(0)


Fingerprint = dict[str, Any]


def fingerprint(trainer: Any, module: nn.Module) -> Fingerprint:
    """Name everything that a monitor must leave alone, with its value.

    Args:
        trainer: A Trainer whose fit has ended.
        module: The LightningModule it trained.

    Returns:
        A flat mapping from a path such as ``weights/net.0.weight`` to :class:`Bits` or a plain Python value.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    found = {
        "weights": dict(module.named_parameters()),
        "gradients": {name: parameter.grad for name, parameter in module.named_parameters()},
        "buffers": dict(module.named_buffers()),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "scaler": None if scaler is None else scaler.state_dict(),
        "random": {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()},  # noqa: NPY002
        "metrics": {k: v for k, v in trainer.callback_metrics.items() if not k.startswith(OURS)},
        "progress": {"global_step": trainer.global_step, "epoch": trainer.current_epoch, "stop": trainer.should_stop},
        "modules": {name: _inside(inner) for name, inner in module.named_modules()},
        "optimizer_hooks": [_step_hooks(optimizer) for optimizer in trainer.optimizers],
        "tensor_hooks": {name: _hooks(parameter) for name, parameter in module.named_parameters()},
        "globals": _globals(),
    }
    return dict(_flat("", found))


def checkpoint_fingerprint(path: Any, callback: str = "NumericalHealthMonitor") -> Fingerprint:
    """Name everything in a checkpoint but the state of the monitor's own callback.

    Raises:
        pickle.UnpicklingError: If the file does not open with ``weights_only=True``.
    """
    content = torch.load(path, weights_only=True)
    content["callbacks"] = {key: value for key, value in content["callbacks"].items() if callback not in key}
    return dict(_flat("checkpoint", content))


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Say in one line each where two fingerprints differ; an empty list means that they are equal bit by bit."""
    lines = [f"{name}: only in the first" for name in first if name not in second]
    lines += [f"{name}: only in the second" for name in second if name not in first]
    shared = [name for name in first if name in second]
    return lines + [f"{name}: {why}" for name in shared if (why := _difference(first[name], second[name]))]


def _difference(first: Any, second: Any) -> str | None:
    if first == second and type(first) is type(second):
        return None
    if not isinstance(first, Bits) or not isinstance(second, Bits):
        return f"{_short(first)} against {_short(second)}"
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return f"{first.dtype} {first.shape} against {second.dtype} {second.shape}"
    size = first.dtype.itemsize
    one, two = (np.frombuffer(bits.data, np.uint8).reshape(-1, size) for bits in (first, second))
    where = np.flatnonzero((one != two).any(1))
    values = [bits.tensor()[int(where[0])].item() for bits in (first, second)]
    return f"{len(where)} of {len(one)} elements differ, the first at [{where[0]}]: {values[0]!r} against {values[1]!r}"


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Walk containers down to tensors and plain values."""
    if isinstance(value, Tensor):
        yield path, Bits.of(value)
    elif isinstance(value, np.ndarray):
        yield path, Bits.of(torch.from_numpy(value.copy()))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{path}/{key}" if path else str(key), inner)
    elif isinstance(value, (list, tuple)) and not _long(value):
        for index, inner in enumerate(value):
            yield from _flat(f"{path}/{index}", inner)
    else:
        yield path, repr(value) if isinstance(value, float) else value


def _long(value: Iterable[Any]) -> bool:
    """Python's random state is 625 numbers: one entry, not 625."""
    items = list(value)
    return len(items) > 100 and all(isinstance(item, int) for item in items)


def _inside(module: nn.Module) -> dict[str, Any]:
    """List what a monitor could leave in a module: hooks, attributes, a changed mode."""
    hooks = {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks") and value is not None}
    return {"mode": module.training, "hooks": hooks, "attributes": " ".join(sorted(vars(module)))}


def _hooks(tensor: Tensor) -> int:
    """Count the hooks on a tensor and on the accumulation of its gradient."""
    return len(tensor._backward_hooks or ()) + len(tensor._post_accumulate_grad_hooks or ())


def _step_hooks(optimizer: torch.optim.Optimizer) -> int:
    """Count the hooks around ``optimizer.step``."""
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


def _globals() -> dict[str, Any]:
    """List the process-wide switches of torch that a monitor might touch."""
    return {
        "anomaly": torch.is_anomaly_enabled(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default_dtype": str(torch.get_default_dtype()),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "module_hooks": len(nn.modules.module._global_forward_hooks),
    }
