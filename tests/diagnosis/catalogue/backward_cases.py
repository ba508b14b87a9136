"""Computations whose loss may be finite and whose derivative is not."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tests.diagnosis.catalogue.births import Case

t = torch.tensor
INF = math.inf
HALF = torch.float16


class Inverse(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, *grads: Any) -> Any:
        return grads[0] / 0


def inverse(x: Tensor) -> Tensor:
    result: Tensor = Inverse.apply(x)  # type: ignore[no-untyped-call]
    return (result * t([2.0, 3.0])).sum()


def left_vectors(x: Tensor) -> Tensor:
    return (torch.linalg.svd(x)[0] * torch.arange(9.0).view(3, 3)).sum()


def eigenvectors(x: Tensor) -> Tensor:
    return (torch.linalg.eigh(x)[1] * torch.arange(9.0).view(3, 3)).sum()


def standardised(x: Tensor) -> Tensor:
    return ((x - x.mean(0)) / (x.var(0).sqrt() + 1e-5)).sum()


def penalty(x: Tensor) -> Tensor:
    gradient = torch.autograd.grad(x.norm(), x, create_graph=True)[0]
    return gradient.sum()


MASKED = "gradient of a masked element"
SLOPE = "infinite slope"

BACKWARD_CASES = [
    Case(
        "derivative of a custom Function",
        "Inverse",
        inverse,
        [t([1.0, 2])],
        ["Inverse", ": from 2 to 3 went into its own code"],
        ["gradcheck"],
        True,
    ),
    Case(
        MASKED,
        "sqrt",
        lambda x: torch.where(x > 0, x.sqrt(), x).sum(),
        [t([0.0, 4])],
        ["derivative of sqrt", "where leaves", "0 * inf", "The loss is finite, but the only gradient is not."],
        ["Mask the input of sqrt, not its output"],
        True,
    ),
    Case(
        MASKED,
        "sqrt",
        lambda x: (x.sqrt() * t([0.0, 1])).sum(),
        [t([0.0, 4])],
        ["mul leaves"],
        ["Mask the input"],
        True,
    ),
    Case(MASKED, "sqrt", lambda x: x.sqrt()[t([1])].sum(), [t([0.0, 1])], ["index"], ["Mask the input"], True),
    Case(
        MASKED,
        "log",
        lambda x: x.log().masked_fill(x == 0, 0).sum(),
        [t([0.0, 1])],
        ["masked_fill leaves"],
        ["torch.where(valid, x, 1.0)"],
        True,
    ),
    Case(SLOPE, "sqrt", lambda x: x.pow(2).sum().sqrt(), [torch.zeros(2)], ["at 0", "exactly there"], ["eps"], True),
    Case(
        SLOPE,
        "sqrt",
        standardised,
        [torch.ones(4, 3)],
        ["3 of 3 values are exactly there", "0 * inf"],
        ["sqrt(x + 1e-6)", "added to the result does not help"],
        True,
    ),
    Case(SLOPE, "pow", lambda x: x.pow(0.5).sum(), [t([0.0, 4])], ["1 of 2 values is"], ["clamp(min=1e-6)"], True),
    Case(
        SLOPE,
        "acos",
        lambda x: x.clamp(-1, 1).acos().sum(),
        [t([1.0, 0])],
        ["acos", "±1", "1 of 2"],
        ["strictly"],
        True,
    ),
    Case(SLOPE, "acosh", lambda x: x.acosh().sum(), [t([1.0, 2])], ["acosh", "at 1"], ["min=1 + 1e-6"], True),
    Case(SLOPE, "xlogy", lambda x: torch.xlogy(x, x).sum(), [t([0.0, 1])], ["second argument"], ["xlogy"], True),
    Case(SLOPE, "special_entr", lambda x: torch.special.entr(x).sum(), [t([0.0, 1])], ["entr"], ["log_softmax"], True),
    Case(
        SLOPE,
        "linalg_vector_norm",
        penalty,
        [torch.zeros(2)],
        ["at the zero vector"],
        ["(x.square().sum(-1) + 1e-6).sqrt()"],
        True,
    ),
    Case(
        "derivative of a probability in float16",
        "binary_cross_entropy",
        lambda x: F.binary_cross_entropy(x, t([1.0, 0], dtype=HALF)),
        [t([0.0, 1.0], dtype=HALF)],
        ["p * (1 - p)"],
        ["binary_cross_entropy_with_logits"],
        True,
    ),
    Case(
        "derivative of a loss over nothing",
        "nll_loss",
        lambda x: F.cross_entropy(x, t([0, 0]), weight=t([0.0, 1, 1])),
        [torch.ones(2, 3)],
        ["total weight"],
        ["reduction='sum'"],
        True,
    ),
    Case(
        "derivative of logsumexp over nothing but -inf",
        "logsumexp",
        lambda x: x.logsumexp(-1)[1].sum(),
        [t([[-INF, -INF], [0.0, 1]])],
        ["-inf minus -inf"],
        ["-1e4"],
        True,
    ),
    Case(
        "equal singular values or eigenvalues", "linalg_svd", left_vectors, [torch.eye(3)], ["equal"], ["svdvals"], True
    ),
    Case(
        "equal singular values or eigenvalues",
        "linalg_eigh",
        eigenvectors,
        [torch.eye(3)],
        ["linalg_eigh"],
        ["eigvalsh"],
        True,
    ),
    Case(
        "derivative of a singular factorisation",
        "linalg_cholesky_ex",
        lambda x: torch.linalg.cholesky_ex(x)[0].sum(),
        [torch.zeros(3, 3)],
        ["singular"],
        ["torch.eye"],
        True,
    ),
    Case(
        "derivative that divides by 0",
        "lgamma",
        lambda x: x.lgamma().sum(),
        [t([0.0, 1])],
        ["lgamma", "1 of 2"],
        ["clamp(min=1e-6)"],
        True,
    ),
    Case(
        "gradient of 0 times infinity",
        "gelu",
        lambda x: F.gelu(x).sum(),
        [t([-INF, 1])],
        ["derivative of gelu", "inf"],
        ["mask the input of gelu"],
        True,
    ),
    Case(
        "gradient beyond the largest number of float16",
        "mul",
        lambda x: (x * 6.0).sum() * 60000,
        [t([1.0, 1], dtype=HALF)],
        ["65504", "multiplied by 65536"],
        ["init_scale"],
        True,
        65536.0,
    ),
    Case(
        "gradient beyond the largest number",
        "mul",
        lambda x: (x * 1e30 * 1e30).sum(),
        [t([1e-30])],
        ["1e+30", "3.40282e+38"],
        ["clip the gradient norm"],
        True,
    ),
    Case(
        "any other derivative",
        "i0",
        lambda x: torch.special.i0(x).sum(),
        [t([100.0, 1])],
        ["derivative of i0"],
        ["Clamp its input"],
        True,
    ),
]
