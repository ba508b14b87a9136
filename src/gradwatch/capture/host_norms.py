"""L2 norms of tensors as numbers on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradwatch.numerics import UNDERFLOW, exact_l2_norms, few_l2_norms, l2_norms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def screening_norms(tensors: Sequence[Tensor]) -> np.ndarray:
    """Return the L2 norm of each tensor, float64, shape [n], in one pass and one transfer.

    A finite norm proves finite elements; an infinite one may come from squares that overflow.
    """
    if not tensors:
        return np.zeros(0)
    few = few_l2_norms(tensors)
    if few is not None:
        return np.array(few)
    norms: np.ndarray = l2_norms(tensors).cpu().double().numpy()
    return norms


def host_norms(tensors: Sequence[Tensor]) -> np.ndarray:
    """Return the L2 norm of each tensor, float64, shape [n]; measured twice where squares over- or underflow."""
    norms = screening_norms(tensors)
    if not norms.size or (norms.min() >= UNDERFLOW and norms.max() < np.inf):
        return norms  # nearly always; NaN compares as false
    doubtful = np.flatnonzero(~(np.isfinite(norms) & (norms >= UNDERFLOW)))
    norms = norms.copy()
    norms[doubtful] = exact_l2_norms([tensors[int(i)] for i in doubtful]).cpu().numpy()
    return norms
