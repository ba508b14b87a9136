"""One pass over the gradients of one optimizer, and one transfer to the host."""

from __future__ import annotations

import math
import sys
from array import array
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from gradwatch.capture.host_norms import as_array, screening_norms
from gradwatch.numerics import UNDERFLOW, exact_l2_norms, l2_norms, nonfinite_counts, total_norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gradwatch.capture.parameters import ParameterGroup

# From norms like these on, sums of squares overflow float32 and float64.
OVERFLOWS, OVERFLOWS_DOUBLE = 1.8e19, 1.3e154
DOUBLE = frozenset({torch.float64, torch.complex128})


class Gradients(NamedTuple):
    """The gradients of one optimizer's parameters, read once.

    ``positions`` maps ``tensors`` to the group's parameters; a parameter without gradient has no entry.
    ``norms`` are L2 norms, one a tensor, unscaled; ``extras`` are the host values of the scalars that travelled along.
    ``counts`` (NaN, +inf, -inf per tensor, shape [n, 3]) is None when nothing is non-finite.
    ``huge``: finite, but the square of an element overflows float32.
    """

    tensors: list[Tensor]
    positions: np.ndarray
    norms: array[float]
    total: float
    extras: list[float]
    counts: np.ndarray | None = None
    huge: bool = False

    @property
    def finite(self) -> bool:
        """Whether every element of every gradient is finite."""
        return self.counts is None

    def divided_by(self, loss_scale: float) -> Gradients:
        """Return the norms without a GradScaler's scale, for gradients that are still multiplied by it."""
        norms = array("d", [norm / loss_scale for norm in self.norms])
        return self._replace(norms=norms, total=self.total / loss_scale)


def read_gradients(group: ParameterGroup, extras: Sequence[Tensor] = ()) -> Gradients:
    """Measure the gradients of ``group``; ``extras`` are one-element tensors that share the transfer to the host."""
    found = [parameter.grad for parameter in group.parameters]
    tensors = [gradient for gradient in found if gradient is not None]
    positions = group.positions
    if len(tensors) < len(found):
        positions = np.array([i for i, gradient in enumerate(found) if gradient is not None], dtype=np.intp)
    norms, host = _measured(tensors, extras)
    measured = Gradients(tensors, positions, norms, math.hypot(*norms), host)
    return measured if measured.total < OVERFLOWS else _look_closer(measured)


def _measured(tensors: list[Tensor], extras: Sequence[Tensor]) -> tuple[array[float], list[float]]:
    if all(tensor.is_cpu for tensor in (*tensors[:1], *extras)):
        return screening_norms(tensors), [extra.item() for extra in extras]
    return _from_device(l2_norms(tensors) if tensors else None, extras)


def _from_device(norms: Tensor | None, extras: Sequence[Tensor]) -> tuple[array[float], list[float]]:
    # float32 where the device has no float64 (MPS); losses and norms keep their range in it.
    device = norms.device if norms is not None else extras[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    scalars = [extra.detach().to(device, wide, non_blocking=True).reshape(1) for extra in extras]
    packed = torch.cat(([] if norms is None else [norms.to(wide)]) + scalars).cpu().double().numpy()
    split = packed.size - len(scalars)
    return as_array(packed[:split]), packed[split:].tolist()


def _look_closer(measured: Gradients) -> Gradients:
    """Tell a non-finite element from a norm whose squares have overflowed: only after the cheap screen has fired."""
    counts = nonfinite_counts(measured.tensors).cpu().numpy()
    if counts.any():  # hypot has infinity win over NaN, clip_grad_norm_ the other way round
        total = math.nan if any(map(math.isnan, measured.norms)) else measured.total
        return measured._replace(counts=counts, total=total)
    exact = exact_l2_norms(measured.tensors)
    norms = exact.cpu().numpy()
    limits = [OVERFLOWS_DOUBLE if tensor.dtype in DOUBLE else OVERFLOWS for tensor in measured.tensors]
    huge = bool((norms >= limits).any())
    total = min(float(total_norm(exact)), sys.float_info.max)  # as each norm is bounded: elements are finite here
    return measured._replace(norms=as_array(norms), total=total, huge=huge)


def without_underflow(measured: Gradients, loss_scale: float | None = None) -> Gradients:
    """Return ``measured`` with norms too small for float32 squares measured again in float64 (log steps only)."""
    small = [i for i, norm in enumerate(measured.norms) if norm < UNDERFLOW]
    if not (measured.finite and small):
        return measured
    norms = measured.norms[:]
    for i, norm in zip(small, exact_l2_norms([measured.tensors[i] for i in small]).tolist(), strict=True):
        norms[i] = norm / (loss_scale or 1.0)
    return measured._replace(norms=norms, total=math.hypot(*norms))


def total_on_device(group: ParameterGroup) -> Tensor | None:
    """Return the total norm as a 0-dim tensor, without waiting for it: non-finite once any gradient is.

    A norm whose squares overflow reads as infinite here; the caller compares with the verdict at the step.
    """
    tensors = [p.grad for p in group.parameters if p.grad is not None]
    return total_norm(l2_norms(tensors)) if tensors else None
