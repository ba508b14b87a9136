"""How far two sets of tensors are apart, without a copy of all the differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gradwatch.numerics.norms import l2_norms, total_norm
from gradwatch.numerics.views import PIECE, pieces, real_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


@torch.no_grad()
def difference_norms(new: Sequence[Tensor], old: Sequence[Tensor]) -> Tensor:
    """Return ‖new - old‖ of each pair of tensors, without waiting for a device.

    The differences are taken in float32 at least (two half-precision numbers differ exactly in it) and in batches of
    a mebibyte: a full copy takes ten times as long on the CPU, in which most goes to pages the system has to map.

    Args:
        new: any shape, strides, layout and dtype.
        old: the same shapes, each on the device of its partner.

    Returns:
        Shape [n], float64 (float32 on MPS), on the device of the first tensor; overflow as in `l2_norms`.

    Raises:
        ValueError: if the two have different lengths, or a pair different shapes.
    """
    if [tensor.shape for tensor in new] != [tensor.shape for tensor in old]:
        raise ValueError(f"expected pairs of one shape, got {len(new)} and {len(old)} tensors that do not match")
    if not new:
        return torch.zeros(0, dtype=torch.float64, device="cpu")
    counts: list[int] = []
    parts = [l2_norms(batch).to(new[0].device) for batch in _batches(_all_differences(new, old, counts))]
    per_tensor = torch.split(torch.cat(parts), counts)
    return torch.stack(
        [norms[0] if count == 1 else total_norm(norms) for norms, count in zip(per_tensor, counts, strict=True)]
    )


def _all_differences(new: Sequence[Tensor], old: Sequence[Tensor], counts: list[int]) -> Iterator[Tensor]:
    """Yield the pieces of every difference; note in ``counts`` how many each tensor had."""
    for pair in zip(new, old, strict=True):
        counts.append(0)
        for difference in _differences(*pair):
            counts[-1] += 1
            yield difference


def _differences(new: Tensor, old: Tensor) -> Iterator[Tensor]:
    if new.layout is not torch.strided or old.layout is not torch.strided:
        yield new - old  # the indices need not be the same
        return
    for first, second in pieces(real_value(new), real_value(old)):
        wide = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
        yield first.to(wide) - second.to(wide)


def _batches(tensors: Iterator[Tensor]) -> Iterator[list[Tensor]]:
    batch: list[Tensor] = []
    size = 0
    for tensor in tensors:
        size += tensor.numel()
        if batch and size > PIECE:
            yield batch
            batch, size = [], tensor.numel()
        batch.append(tensor)
    yield batch
