"""Batches of the zoo: eight a case, drawn from one seeded generator, so that every call gives the same data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

BATCHES, BAD_BATCH, SIZE = 8, 5, 8  # SIZE: samples in a batch


class Maker(Protocol):
    """Draws one batch."""

    def __call__(self, generator: torch.Generator, *, bad: bool) -> Any: ...


def eight(make: Maker, seed: int = 7) -> Callable[[], list[Any]]:
    """Return what makes the batches of a case."""

    def build() -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        return [make(generator, bad=index == BAD_BATCH) for index in range(BATCHES)]

    return build
