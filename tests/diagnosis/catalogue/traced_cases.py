"""Computations as the trace sees them: with the infinities that were written on purpose, and with complex numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

t = torch.tensor
INF = math.inf


class TracedCase(NamedTuple):
    """A computation, the operation in it that is named, the words that must be said, and those that must not."""

    entry: str
    op: str
    step: Callable[[], Tensor]
    says: Sequence[str]
    advises: Sequence[str]
    avoids: Sequence[str] = ()


def masked(*rows: int) -> Tensor:
    """Four by three ones, of which whole rows are -inf."""
    return torch.ones(4, 3).masked_fill(torch.zeros(4, 1, dtype=torch.bool).index_fill(0, t(rows), value=True), -INF)


def masked_target() -> Tensor:
    logits = torch.ones(4, 3).masked_fill(F.one_hot(t([0, 1, 2, 0]), 3).bool() & (torch.arange(4)[:, None] == 2), -INF)
    return F.cross_entropy(logits, t([0, 1, 2, 0]))


def padded_mean() -> Tensor:
    return torch.ones(4, 3).masked_fill(torch.eye(4, 3).bool(), -INF).mean()


def attention(scale: float, mask: Tensor) -> Tensor:
    q = torch.full((1, 1, 4, 4), scale)
    return F.scaled_dot_product_attention(q, q, torch.ones(1, 1, 4, 4), attn_mask=mask)


def infinite_loss() -> Tensor:
    return torch.where(torch.ones(()) > 0, INF, torch.ones(()))


def zero_row() -> Tensor:
    direction = torch.ones(4, 3)
    direction[2] = 0.0
    return torch._weight_norm(direction, torch.ones(4, 1))


NOT_BORN = ["made NaN", "finite values", "overflow"]
NOTHING_SELECTED = ["selected", "count"]

DELIBERATE = [
    TracedCase(
        "target that is masked",
        "nll_loss",
        masked_target,
        ["masked with -inf", "1 of 12 values is -inf", "log-probability"],
        ["Never mask the class that is the target", "ignore_index"],
        NOT_BORN,
    ),
    TracedCase(
        "mask in a mean",
        "mean",
        padded_mean,
        ["on purpose", "padding", "3 of 12 values are -inf"],
        ["x[valid].mean()"],
        NOT_BORN,
    ),
    TracedCase(
        "largest of nothing but -inf",
        "amax",
        lambda: masked(1).amax(-1).sum(),
        ["every element has been masked with -inf at [1]", "3 of 12"],
        ["x[valid.any(-1)]"],
        NOT_BORN,
    ),
    TracedCase(
        "largest of nothing but -inf",
        "logsumexp",
        lambda: masked(1).logsumexp(-1).sum(),
        ["logsumexp", "-inf at [1]"],
        ["one element valid in each row"],
        NOT_BORN,
    ),
    TracedCase(
        "mask in a result",
        "dot",
        lambda: torch.dot(torch.ones(2).masked_fill(t([True, False]), -INF), torch.ones(2)),
        ["on purpose", "reaches the result in dot", "1 of 2 values is -inf"],
        ["right before a softmax"],
        NOT_BORN,
    ),
    TracedCase(
        "mask in a result", "where", infinite_loss, ["reaches the result in where."], ["finite number"], NOT_BORN
    ),
]

BORN = [
    TracedCase(
        "division by the number 0",
        "div",
        lambda: torch.ones(2) / 0.0,
        ["A division by 0 at [0]", "the divisor is the number 0", "infinite"],
        ["schedule", "max(n, 1)"],
        NOTHING_SELECTED,
    ),
    TracedCase(
        "division by zero",
        "div",
        lambda: torch.ones(2) / (torch.ones(2) - 1.0),
        ["A division by 0", "2 of 2 values are 0"],
        ["clamp(min=1e-6)"],
        NOTHING_SELECTED,
    ),
    TracedCase(
        "division by an integer 0",
        "div",
        lambda: torch.ones(2) / (t(1) - 1),
        ["A division by 0", "an integer 0"],
        ["If the divisor is a count"],
        ["selected"],
    ),
    TracedCase(
        "division by an integer 0",
        "div",
        lambda: torch.zeros(()) / (torch.ones(2) > 9).sum().float(),
        ["the divisor is 0", "0/0, NaN"],
        ["clamp(min=1)"],
        ["selected"],
    ),
    TracedCase(
        "division by a count of 0",
        "div",
        lambda: torch.zeros(()) / (torch.ones(2) > 9).float().mean(),
        ["count or sum that is 0", "so nothing was selected"],
        ["count.clamp(min=1)"],
    ),
    TracedCase(
        "attention scores beyond the largest number",
        "scaled_dot_product_attention",
        lambda: attention(1e25, t([[0.0, -INF, 0, 0]] * 4)),
        ["scores", "overflowed", "queries are 1e+25, keys 1e+25"],
        ["Normalise queries and keys"],
        ["masked"],
    ),
    TracedCase(
        "attention over infinities",
        "scaled_dot_product_attention",
        lambda: attention(1.0, torch.zeros(4, 4).masked_fill(torch.eye(4).bool(), INF)),
        ["met an infinity"],
        ["one key valid"],
        ["overflowed"],
    ),
    TracedCase(
        "number that is not finite",
        "mul",
        lambda: torch.ones(2) * INF,
        ["the number +inf", "computed in Python"],
        ["schedule"],
        ["overflow", "0 * inf"],
    ),
    TracedCase(
        "number that is not finite",
        "mul",
        lambda: torch.zeros(2) * -INF,
        ["the number -inf", "0 * inf"],
        ["schedule"],
        ["of finite values"],
    ),
    TracedCase(
        "number that is not finite", "div", lambda: torch.ones(2) / math.nan, ["the number NaN"], ["loss weight"]
    ),
    TracedCase(
        "infinity minus infinity",
        "add",
        lambda: torch.ones(2).masked_fill(t([True, False]), INF) + -INF,
        ["inf - inf"],
        ["boolean masks"],
    ),
    TracedCase(
        "logsumexp of nothing",
        "logsumexp",
        lambda: torch.ones(0, 3).logsumexp(0),
        ["empty", "(0, 3)", "-inf"],
        ["skip the term"],
        ["made an infinity"],
    ),
    TracedCase(
        "logarithm in xlogy",
        "xlogy",
        lambda: torch.xlogy(t([-1.0, 1]), t([2.0, -3])),
        ["NaN at [1]", "x is from -1 to 1, y from -3 to 2"],
        ["y.clamp(min=1e-6)", "x may be negative"],
        ["the values are", "kl_div"],
    ),
    TracedCase(
        "logarithm in xlogy",
        "xlogy",
        lambda: torch.xlogy(t([-1.0, 1]), t([0.0, 3])),
        ["infinite at [0]", "y from 0 to 3"],
        ["y.clamp(min=1e-6)"],
    ),
    TracedCase("logarithm in xlogy", "xlogy", lambda: torch.xlogy(torch.ones(2), 0.0), ["y 0."], ["y.clamp(min=1e-6)"]),
    TracedCase(
        "weight norm of a row of zeros",
        "weight_norm_interface",
        zero_row,
        ["Weight normalisation", "a row of it is 0 at [2, 0]", "3 of 12 values are 0"],
        ["never the direction"],
        ["weight_norm_interface"],
    ),
    TracedCase(
        "log of a complex 0",
        "log",
        lambda: torch.zeros(2, dtype=torch.complex64).log(),
        ["log of 0", "real part"],
        ["log(x + 1e-6)", "x.angle()"],
        ["x.clamp", "log_softmax"],
    ),
    TracedCase(
        "one over 0",
        "reciprocal",
        lambda: 1.0 / torch.zeros(2, dtype=torch.complex64),
        ["NaN"],
        ["reciprocal(x + 1e-6)"],
        ["clamp"],
    ),
    TracedCase(
        "zero divided by zero",
        "div",
        lambda: torch.zeros(2, dtype=torch.complex64) / torch.zeros(2, dtype=torch.complex64),
        ["0/0"],
        ["x / (y + 1e-6)"],
        ["clamp"],
    ),
    TracedCase(
        "gamma function at a pole", "lgamma", lambda: t([-0.0, 1]).lgamma(), ["(at [0]):", "from 0 to 1"], ["softplus"]
    ),
]

TRACED_CASES = [*DELIBERATE, *BORN]
