"""What a training goes through, hook by hook, and what it leaves beyond weights: the attributes of every module."""

from __future__ import annotations

import csv
import hashlib
import random
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tests.noninterference.fingerprint import OURS, Bits, Fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# Compared elsewhere, or with the `id` of an object in it.
NOT_PLAIN = ("_modules", "_parameters", "_buffers", "_torchdynamo_wrapper_id", "_metric_attributes")


class Witness:
    """Mixed into a Callback, writes down at each hook: gradients, random states, batch, losses, tensor identities."""

    def __init__(self) -> None:
        self.seen: Fingerprint = {}
        self._calls = 0
        self._weights: list[Tensor] = []
        self._places: list[int] = []
        self._gradients: list[weakref.ref[Tensor] | None] = []

    def on_train_batch_start(self, _trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._weights = self._weights or list(pl_module.parameters())
        self._note("start", {"batch": digest(_tensors(batch)), **self._state(pl_module)})

    def on_before_backward(self, _trainer: Any, _pl_module: Any, loss: Tensor) -> None:
        self._note("backward", {"loss": digest([loss])})

    def on_before_optimizer_step(self, _trainer: Any, pl_module: Any, _optimizer: Any) -> None:
        self._note("step", self._state(pl_module))

    def on_before_zero_grad(self, _trainer: Any, pl_module: Any, _optimizer: Any) -> None:
        self._note("zero_grad", self._state(pl_module))

    def on_train_batch_end(self, _trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._note("end", {"batch": digest(_tensors(batch)), "outputs": digest(_tensors(outputs))})
        self._note("state", self._state(pl_module))

    def _note(self, hook: str, values: dict[str, Any]) -> None:
        self._calls += 1
        self.seen |= {f"moments/{self._calls}/{hook}/{name}": value for name, value in values.items()}

    def _state(self, module: nn.Module) -> dict[str, Any]:
        parameters, buffers = list(module.parameters()), list(module.buffers())
        gradients = [parameter.grad for parameter in parameters]
        before, self._gradients = self._gradients, [None if g is None else weakref.ref(g) for g in gradients]
        places, self._places = self._places, [p.data_ptr() for p in parameters if not _lazy(p)]
        return {
            "weights": digest(parameters),
            "buffers": digest(buffers),
            "gradients": digest(gradients),
            "versions": [p._version for p in [*parameters, *buffers]],
            "versions of gradients": [None if g is None else g._version for g in gradients],
            "same weights": [new is old for new, old in zip(parameters, self._weights, strict=False)],
            "same memory": places == self._places,
            "same gradients": [
                ref is not None and ref() is new for ref, new in zip(before, gradients, strict=False) if new is not None
            ],
            "requires_grad": [p.requires_grad for p in parameters],
            "random": hashlib.sha256(repr(_random_states()).encode()).hexdigest(),
        }


def digest(tensors: Iterable[Tensor | None]) -> list[str]:
    """Return one short text for the bits of each tensor."""
    found = [None if tensor is None or _lazy(tensor) else Bits.of(tensor) for tensor in tensors]
    return [
        "none" if bits is None else f"{bits.dtype}{bits.shape}{hashlib.sha256(bits.data).hexdigest()}" for bits in found
    ]


def attributes(module: nn.Module) -> Fingerprint:
    """Return plain values and tensors among the attributes of all modules inside, by path."""
    found: Fingerprint = {}
    for name, inner in module.named_modules():
        for key, value in vars(inner).items():
            if key not in NOT_PLAIN and not key.endswith("_hooks"):
                found |= dict(_plain(f"attributes/{name}/{key}", value))
    return found


def logged(root: Path) -> Fingerprint:
    """Return what the CSV loggers below ``root`` have written for the user."""
    found: Fingerprint = {}
    for path in sorted(root.rglob("metrics.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{k: v for k, v in row.items() if not k.startswith(OURS)} for row in csv.DictReader(file)]
        found[f"logged/{path.relative_to(root)}"] = rows
    return found


def _plain(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor):
        yield path, Bits.of(value)
    elif isinstance(value, torch.Generator):
        yield path, Bits.of(value.get_state())
    elif isinstance(value, np.random.Generator):
        yield path, repr(value.bit_generator.state)
    elif isinstance(value, np.ndarray):
        yield path, Bits.of(torch.from_numpy(value.copy()))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _plain(f"{path}/{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _plain(f"{path}/{index}", item)
    elif isinstance(value, (int, float, str, bytes, type(None))):
        yield path, repr(value)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _random_states() -> Any:
    _, key, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one is meant
    return torch.get_rng_state().tolist(), list(key), rest, random.getstate()


def _lazy(tensor: Tensor) -> bool:
    return bool(is_lazy(tensor))
