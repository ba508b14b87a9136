"""Random generators of numpy and Python that stand beside a module's code, as globals of its file.

Neither a copy of the module nor torch's dispatcher sees them, so a step that runs again would draw from the real ones.
"""

from __future__ import annotations

import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

_KINDS = (random.Random, np.random.Generator, np.random.RandomState)


@contextmanager
def rewound(module: nn.Module) -> Iterator[None]:
    """Set such generators back on exit. Others are left alone: a thread that loads data may be drawing from them."""
    undo = [_saved(generator) for generator in generators_beside(module)]
    try:
        yield
    finally:
        for restore in undo:
            restore()


def generators_beside(module: nn.Module) -> list[Any]:
    """Return the generators among the globals of the files that the classes of ``module`` and its parts stand in."""
    classes = {cls for owner in module.modules() for cls in type(owner).__mro__}
    files = [sys.modules.get(name) for name in {cls.__module__ for cls in classes}]
    values = [value for file in files if file is not None for value in list(vars(file).values())]
    found = {id(value): value for value in values if issubclass(type(value), _KINDS)}
    return [value for value in found.values() if not isinstance(value, random.SystemRandom)]


def _saved(generator: Any) -> Callable[[], None]:
    """Return what sets the generator back to its present state."""
    if isinstance(generator, random.Random):
        state = generator.getstate()
        return lambda: generator.setstate(state)
    if isinstance(generator, np.random.RandomState):
        legacy = generator.get_state()
        return lambda: generator.set_state(legacy)
    bits = generator.bit_generator
    position = bits.state
    return lambda: setattr(bits, "state", position)
