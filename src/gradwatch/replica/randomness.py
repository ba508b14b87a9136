"""The states of all random generators that a training step may draw from."""

from __future__ import annotations

import random
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

_EMPTY: Mapping[str, Any] = MappingProxyType({})
# Whether this build of torch has them: to ask modules that are otherwise not in use, at every batch, takes longer than
# to read the state of the CPU's generator.
_CUDA = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
_XPU = torch.xpu._is_compiled()  # noqa: SLF001 - there is no public one
_MPS = torch.backends.mps.is_available()
_CPU = torch.default_generator


class RandomState(NamedTuple):
    """States of torch (uint8 tensors), numpy's global generator, Python's ``random`` and further generators.

    ``devices`` has the accelerators that were in use, as ``"cuda:0"``; ``numpy`` and ``python`` are None where they
    were not captured. ``sources`` are the generators whose states ``generators`` holds, by name: they are empty when
    the state was read from a file.
    """

    cpu: Tensor
    devices: Mapping[str, Tensor] = _EMPTY
    numpy: dict[str, Any] | None = None
    python: tuple[Any, ...] | None = None
    generators: Mapping[str, Tensor] = _EMPTY
    sources: Mapping[str, torch.Generator] = _EMPTY


def capture(generators: Mapping[str, torch.Generator] = _EMPTY) -> RandomState:
    """Return the states of everything random in this process, and of ``generators``."""
    return _capture(generators, with_numpy=True, with_python=True)


def restore(state: RandomState, generators: Mapping[str, torch.Generator] = _EMPTY) -> None:
    """Set the generators back to ``state``; what was not captured is left alone.

    Args:
        state: what ``capture`` or a tracker returned.
        generators: those that take the states of ``state.generators`` by name, in place of the captured ones: the
            generators of a side copy are other objects.
    """
    _CPU.set_state(state.cpu)
    devices = dict(_device_generators()) if state.devices else {}
    for name, saved in state.devices.items():
        if name in devices:
            devices[name].set_state(saved)
    if state.numpy is not None:
        np.random.set_state(state.numpy)  # noqa: NPY002 - the global generator is the one to set back
    if state.python is not None:
        random.setstate(state.python)
    for name, generator in {**state.sources, **generators}.items():
        if name in state.generators:
            generator.set_state(state.generators[name])


@contextmanager
def preserved(generators: Mapping[str, torch.Generator] = _EMPTY) -> Iterator[RandomState]:
    """Set everything random back on exit, after an error too."""
    state = capture(generators)
    try:
        yield state
    finally:
        restore(state)


def generators_in(module: nn.Module) -> dict[str, torch.Generator]:
    """Return the generators that ``module`` and its submodules hold, once each, by dotted name.

    Looked for in attributes, and in the lists, tuples and dictionaries among them (``noise.0``, ``noise.key``).
    """
    found: dict[int, tuple[str, torch.Generator]] = {}
    for prefix, owner in module.named_modules():
        for name, value in _one_level(vars(owner)):
            if isinstance(value, torch.Generator) and value is not _CPU:
                found.setdefault(id(value), (f"{prefix}.{name}" if prefix else name, value))
    return dict(found.values())


def _one_level(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(attributes.items()):
        if name in _OF_EVERY_MODULE:
            continue
        yield name, value
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", item) for key, item in list(value.items()))
        elif isinstance(value, (list, tuple)):
            yield from ((f"{name}.{index}", item) for index, item in enumerate(value))


_OF_EVERY_MODULE = frozenset(vars(torch.nn.Module()))


class RandomTracker:
    """Captures the random states before every training batch, at the price of those that a step really uses.

    torch's are always captured (under 1 µs each). numpy's and Python's, ten to thirty times as dear, are captured on
    trial at batches 1, 2, 4, 8 and so on, and at every batch once a step has been seen to move them. The generators
    of the module are looked for at the same batches.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._generators: dict[str, torch.Generator] = {}
        self._batches = 0
        self._numpy = False
        self._python = False
        self._on_trial: RandomState | None = None

    def before_batch(self) -> RandomState:
        """Return the states as they are before this batch."""
        self._batches += 1
        if self._batches & (self._batches - 1):
            return _capture(self._generators, with_numpy=self._numpy, with_python=self._python)
        self._generators = generators_in(self._module)
        self._on_trial = capture(self._generators)
        return self._on_trial

    def after_batch(self) -> None:
        """On trial batches, find out which generators the step has moved."""
        before, self._on_trial = self._on_trial, None
        if before is not None:
            self._numpy = self._numpy or not _same(before.numpy, _numpy_state())
            self._python = self._python or before.python != random.getstate()


def _capture(generators: Mapping[str, torch.Generator], *, with_numpy: bool, with_python: bool) -> RandomState:
    devices = _device_generators()
    return RandomState(
        _CPU.get_state(),
        {name: generator.get_state() for name, generator in devices} if devices else _EMPTY,
        _numpy_state() if with_numpy else None,
        random.getstate() if with_python else None,
        {name: generator.get_state() for name, generator in generators.items()} if generators else _EMPTY,
        generators,
    )


def _device_generators() -> list[tuple[str, torch.Generator]]:
    """Return the generator of every accelerator in use. Asking one that is not in use would initialise it."""
    found = []
    if _CUDA and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found += [(f"cuda:{i}", generator) for i, generator in enumerate(torch.cuda.default_generators)]
    if _XPU and torch.xpu.is_initialized():  # type: ignore[no-untyped-call]
        found += [(f"xpu:{i}", generator) for i, generator in enumerate(torch.xpu.default_generators)]
    if _MPS:
        found.append(("mps", torch.mps._get_default_mps_generator()))  # noqa: SLF001 - the public calls copy its state
    return found


def _numpy_state() -> dict[str, Any]:
    state: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002 - as above
    return state


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(np.array_equal(a, b))


# -- plain form ------------------------------------------------------------------------------------------------------


def as_dict(state: RandomState) -> dict[str, Any]:
    """Return ``state`` as dictionaries, lists, numbers and tensors: what ``torch.load(weights_only=True)`` opens."""
    return {
        "cpu": state.cpu,
        "devices": dict(state.devices),
        "numpy": _plain(state.numpy),
        "python": None if state.python is None else [state.python[0], list(state.python[1]), state.python[2]],
        "generators": dict(state.generators),
    }


def from_dict(data: Any) -> RandomState:
    """Return the state that ``as_dict`` has written.

    Raises:
        ValueError: it is not the state of any generator of this version of torch, numpy and Python.
    """
    try:
        python = data["python"]
        state = RandomState(
            data["cpu"],
            dict(data["devices"]),
            _unplain(data["numpy"]),
            None if python is None else (python[0], tuple(python[1]), python[2]),
            dict(data["generators"]),
        )
        _try(state)
    except Exception as error:
        raise ValueError(f"not the state of a random generator: {type(error).__name__}: {error}") from error
    return state


def _try(state: RandomState) -> None:
    """Set generators of no importance to ``state``, so that a broken one is noticed before it reaches the real ones."""
    torch.Generator().set_state(state.cpu)
    if not all(isinstance(saved, torch.Tensor) for saved in (*state.devices.values(), *state.generators.values())):
        raise TypeError("a state is no tensor")
    if state.python is not None:
        random.Random().setstate(state.python)  # noqa: S311 - nothing is drawn from it
    if state.numpy is not None:
        kind = getattr(np.random, state.numpy["bit_generator"])
        kind().state = state.numpy


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):  # torch has few operations for unsigned integers: their bits travel as bytes
        return {"dtype": str(value.dtype), "bytes": torch.from_numpy(value.copy().view(np.uint8))}
    return value.item() if isinstance(value, np.generic) else value


def _unplain(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value.keys() == {"dtype", "bytes"}:
        return value["bytes"].numpy().view(np.dtype(value["dtype"]))
    return {key: _unplain(item) for key, item in value.items()}
