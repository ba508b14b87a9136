"""One computation per forward entry of the catalogue, and more where an entry has several wordings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tests.diagnosis.catalogue.births import Case

t = torch.tensor
INF = math.inf
HALF = torch.float16


def entropy(x: Tensor) -> Tensor:
    p = x.softmax(-1)
    return (p * p.log()).sum()


def by_hand(x: Tensor) -> Tensor:
    return -(1 - x.sigmoid().clamp(1e-8, 1 - 1e-8)).log().sum()


def min_max(x: Tensor) -> Tensor:
    return ((x - x.min()) / (x.max() - x.min())).sum()


def attention(q: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, q, q).sum()


def additive_masks(x: Tensor) -> Tensor:
    lowest = torch.finfo(x.dtype).min
    return (torch.full_like(x, lowest) + torch.full_like(x, lowest)).sum() * x.sum()


ELEMENTWISE = [
    Case("log of a softmax that is 0", "log", entropy, [t([200.0, 0, 0])], ["2 of 3", "softmax"], ["log_softmax"]),
    Case("log of 1 - p that is 0", "log", by_hand, [t([40.0, 0, 0])], ["1 of 3", "1 - 1e-8"], ["with_logits"]),
    Case(
        "log of a sigmoid that is 0",
        "log",
        lambda x: x.sigmoid().log().sum(),
        [t([-200.0, 0])],
        ["sigmoid"],
        ["logsigmoid"],
    ),
    Case(
        "log after a clamp that lets 0 through",
        "log",
        lambda x: x.clamp(min=1e-8).log().sum(),
        [t([0.0, 1], dtype=HALF)],
        ["rounds to 0 in float16"],
        ["clamp(min=1e-4)"],
    ),
    Case("log of 0", "log2", lambda x: x.log2().sum(), [t([0.0, 1])], ["log2 of 0", "1 of 2 values is 0"], ["clamp"]),
    Case("log of a negative number", "log", lambda x: x.log().sum(), [t([-4.0, 1])], ["from -4 to 1"], ["softplus"]),
    Case("log1p at -1 or below", "log1p", lambda x: x.log1p().sum(), [t([-1.0, 1])], ["from -1 to 1"], ["-1 + 1e-6"]),
    Case(
        "square root of a negative number",
        "sqrt",
        lambda x: torch.where(x > 0, x.sqrt(), x).sum(),
        [t([-1.0, -4])],
        ["from -4 to -1", "that value does not reach it", "the only gradient is not"],
        ["mask the input of sqrt", "clamp"],
    ),
    Case("one over 0", "rsqrt", lambda x: x.rsqrt().sum(), [t([0.0, 1])], ["rsqrt of 0", "1 of 2"], ["x + 1e-6"]),
    Case(
        "fractional power of a negative number",
        "pow",
        lambda x: (x**0.5).sum(),
        [t([-1.0, 4])],
        ["from -1 to 4", "exponent 0.5"],
        ["clamp"],
    ),
    Case(
        "fractional power of a negative number",
        "pow",
        lambda x, e: (x**e).sum(),
        [t([-1.0, 4]), t([0.5, 0.5])],
        ["exponent 0.5"],
        ["abs()"],
    ),
    Case("negative power of 0", "pow", lambda x: (x**-2).sum(), [t([0.0, 1])], ["power -2", "1 of 2"], ["1e-6"]),
    Case(
        "power beyond the largest number",
        "pow",
        lambda x: (x**3).sum(),
        [t([1e20, 0])],
        ["from 0 to 1e+20", "3.40282e+38"],
        ["learning rate"],
    ),
    Case(
        "exponential beyond the largest number",
        "exp",
        lambda x: x.exp().sum(),
        [t([95.0, 1])],
        ["from 1 to 95", "3.40282e+38"],
        ["clamp(-30, 20)"],
    ),
    Case(
        "exponential beyond the largest number",
        "exp",
        lambda x: x.exp().sum(),
        [t([12.0], dtype=HALF)],
        ["is 12,", "65504"],
        ["clamp(max=10)"],
    ),
    Case("arc function outside of [-1, 1]", "asin", lambda x: x.asin().sum(), [t([2.0, 0])], ["0 to 2"], ["1 - 1e-6"]),
    Case("infinite at ±1", "atanh", lambda x: x.tanh().atanh().sum(), [t([20.0, 1])], ["to 1."], ["before the tanh"]),
    Case("acosh below 1", "acosh", lambda x: x.acosh().sum(), [t([0.5])], ["it is 0.5"], ["1 + 1e-6"]),
    Case("logit at 0 or 1", "logit", lambda x: x.logit(eps=1e-8).sum(), [t([1.0])], ["is 1."], ["eps=1e-6"]),
    Case("gamma function at a pole", "lgamma", lambda x: x.lgamma().sum(), [t([0.0, 1])], ["lgamma"], ["softplus"]),
    Case("periodic function of an infinity", "tan", lambda x: x.tan().sum(), [t([INF, 1])], ["tan of an"], ["finite"]),
    Case("activation of -inf", "gelu", lambda x: F.gelu(x).sum(), [t([-INF, 1])], ["gelu", "0 times -inf"], ["-inf"]),
    Case("activation of -inf", "silu", lambda x: F.silu(x).sum(), [t([-INF, 1])], ["silu"], ["-inf"]),
]

ARITHMETIC = [
    Case("scaling of a constant to [0, 1]", "div", min_max, [torch.ones(4)], ["constant"], ["clamp(min=1e-6)"]),
    Case(
        "division by an integer 0",
        "div",
        lambda x: x[x > 9].sum() / (x > 9).sum(),
        [t([1.0, 2])],
        ["integer 0", "0/0, NaN", "all gradients are finite"],
        ["clamp(min=1)"],
    ),
    Case(
        "division by a count of 0",
        "div",
        lambda x: x.sum() / (x > 9).float().sum(),
        [t([1.0, 2])],
        ["the divisor is 0", "infinite", "nothing was selected"],
        ["clamp(min=1)"],
    ),
    Case("division by the number 0", "div", lambda x: (x / 0).sum(), [t([1.0, 2])], ["number 0"], ["max(n, 1)"]),
    Case(
        "zero divided by zero",
        "div",
        lambda x, y: (x / y).sum(),
        [t([0.0, 1]), t([0.0, 2])],
        ["0/0", "1 of 2 values is 0"],
        ["torch.where(y == 0, 1, y)"],
    ),
    Case(
        "zero divided by zero",
        "div",
        lambda x: F.normalize(x, dim=0).sum(),
        [torch.zeros(2, dtype=HALF)],
        ["2 of 2 values are 0"],
        ["1e-4"],
    ),
    Case(
        "division by zero",
        "div",
        lambda x, y: (x / y).sum(),
        [t([1.0, 1]), t([0.0, 2])],
        ["an infinity", "1 of 2"],
        ["1e-8 is 0 in float16"],
    ),
    Case(
        "division by zero",
        "remainder",
        lambda x, y: torch.remainder(x, y).sum(),
        [t([1.0, 1]), t([0.0, 2])],
        ["NaN", "1 of 2"],
        ["eps"],
    ),
    Case(
        "quotient beyond the largest number",
        "reciprocal",
        lambda x: (1 / x).sum(),
        [t([1e-39, 1])],
        ["1e-39"],
        ["tiny"],
    ),
    Case(
        "infinity over infinity", "div", lambda x: (x / x).sum(), [t([INF, 1])], ["1 of 2 values is +inf"], ["softmax"]
    ),
    Case("zero times the log of zero", "mul", entropy, [t([200.0, 0, 0])], ["0 * log(0)"], ["log_softmax", "xlogy"]),
    Case(
        "zero times infinity",
        "mul",
        lambda x, m: (x * m).sum(),
        [t([INF, 1]), t([0.0, 1])],
        ["0 * inf"],
        ["torch.where(mask, x, 0)"],
    ),
    Case(
        "number that is not finite",
        "mul",
        lambda x: (x * math.nan).sum(),
        [t([1.0])],
        ["number NaN", "coefficient"],
        ["schedule"],
    ),
    Case("infinity minus infinity", "sub", lambda x: (x - x).sum(), [t([INF, 1])], ["inf - inf"], ["masks"]),
    Case(
        "arithmetic beyond the largest number",
        "add",
        additive_masks,
        [torch.ones(2, dtype=torch.bfloat16)],
        ["bfloat16", "-3.38953e+38"],
        ["additive masks"],
    ),
    Case(
        "arithmetic beyond the largest number",
        "mul",
        lambda x: (x * x).sum(),
        [t([1e30])],
        ["1e+30 and 1e+30"],
        ["learning rate"],
    ),
]

REDUCTIONS = [
    Case(
        "mean of nothing",
        "mean",
        lambda x: x[x > 9].mean(),
        [t([1.0, 2])],
        ["empty", "(0,)", "all gradients are finite"],
        ["clamp(min=1)"],
    ),
    Case("spread of one element", "std", lambda x: x.std(0).sum(), [torch.ones(1, 3)], ["(1, 3)"], ["drop_last"]),
    Case("spread of one element", "var", lambda x: x.var(0).sum(), [torch.ones(1, 3)], ["n - 1"], ["correction=0"]),
    Case(
        "sum over infinities of both signs",
        "sum",
        lambda x: x.sum(),
        [t([INF, -INF, 1])],
        ["2 of 3 values are ±inf"],
        ["softmax"],
    ),
    Case(
        "reduction beyond the largest number",
        "sum",
        lambda x: x.sum(),
        [torch.full((3,), 60000.0, dtype=HALF)],
        ["sum of 3 values", "60000", "65504"],
        ["x.float().sum()"],
    ),
    Case(
        "reduction beyond the largest number",
        "prod",
        lambda x: x.prod(),
        [torch.full((50,), 10.0)],
        ["50", "10"],
        ["logarithms"],
    ),
    Case(
        "reduction beyond the largest number",
        "linalg_vector_norm",
        lambda x: x.norm(),
        [torch.full((2,), 3e38)],
        ["3e+38"],
        ["learning rate"],
    ),
    Case(
        "reduction beyond the largest number",
        "avg_pool2d",
        lambda x: F.avg_pool2d(x, 2).sum(),
        [torch.full((1, 1, 2, 2), 3e38)],
        ["4 values"],
        ["bound"],
    ),
]

SOFTMAX = [
    Case(
        "softmax over nothing but -inf",
        "softmax",
        lambda x: x.softmax(-1)[1].sum(),
        [t([[-INF, -INF], [0.0, 1]])],
        ["softmax", "-inf", "The loss is finite", "the only gradient"],
        ["one key", "need_weights=False"],
    ),
    Case(
        "softmax over nothing but -inf",
        "log_softmax",
        lambda x: x.log_softmax(-1).sum(),
        [t([[-INF, -INF]])],
        ["log_softmax"],
        ["-1e4"],
    ),
    Case("softmax of +inf", "softmax", lambda x: x.softmax(-1).sum(), [t([[INF, 1]])], ["+inf"], ["temperature"]),
    Case(
        "attention scores beyond the largest number",
        "scaled_dot_product_flash_attention",
        attention,
        [torch.full((1, 1, 2, 4), 1e25)],
        ["queries are 1e+25"],
        ["Normalise queries"],
    ),
    Case(
        "attention over infinities",
        "scaled_dot_product_flash_attention",
        attention,
        [torch.full((1, 1, 2, 4), INF)],
        ["infinity"],
        ["valid"],
    ),
]

LOSSES = [
    Case(
        "loss over nothing",
        "mse_loss",
        lambda x: F.mse_loss(x, torch.zeros(0)),
        [torch.zeros(0)],
        ["(0,)"],
        ["reduction='sum'"],
    ),
    Case(
        "targets of weight 0",
        "nll_loss",
        lambda x: F.cross_entropy(x, t([0, 0]), weight=t([0.0, 1, 1])),
        [torch.ones(2, 3)],
        ["1 of 3 values is 0"],
        ["clamp(min=1e-6)"],
    ),
    Case(
        "all targets ignored",
        "nll_loss",
        lambda x: F.cross_entropy(x, t([-100, -100])),
        [torch.ones(2, 3)],
        ["all of the 2", "all gradients are finite: this step would not harm the weights"],
        ["skip the batch", "clamp(min=1)"],
    ),
    Case(
        "CTC alignment that does not exist",
        "ctc_loss",
        lambda x: F.ctc_loss(x.log_softmax(-1), t([[1, 2, 1]]), t([2]), t([3])),
        [torch.ones(2, 1, 4)],
        ["fewer frames"],
        ["zero_infinity=True", "input_lengths"],
    ),
    Case(
        "logits that are infinite",
        "binary_cross_entropy_with_logits",
        lambda x: F.binary_cross_entropy_with_logits(x, t([0.0, 0])),
        [t([-INF, 1])],
        ["infinite input"],
        ["fill masked logits with 0"],
    ),
    Case(
        "negative target of a divergence",
        "xlogy",
        lambda x: F.kl_div(x, t([-0.5, 0.5])),
        [t([-1.0, 0])],
        ["from -0.5 to 0.5"],
        ["log-probabilities first"],
    ),
    Case(
        "loss of an infinite input",
        "mse_loss",
        lambda x: F.mse_loss(x, t([INF, 0])),
        [t([INF, 1])],
        ["infinity"],
        ["loss(x[mask], y[mask])"],
    ),
    Case(
        "loss beyond the largest number",
        "mse_loss",
        lambda x: F.mse_loss(x, t([0.0, 0])),
        [t([1e20, 1])],
        ["from 1 to 1e+20", "target 0"],
        ["Scale the targets"],
    ),
]

NETWORKS = [
    Case(
        "cast to a smaller range",
        "to_copy",
        lambda x: x.half().sum(),
        [t([1e5, 1])],
        ["float16 overflowed", "from 1 to 100000", "65504"],
        ["bfloat16"],
    ),
    Case("cast to a smaller range", "to_copy", lambda x: x.bfloat16().sum(), [t([3.4e38])], ["3.4e+38"], ["float32"]),
    Case(
        "matrix product of an infinity",
        "mm",
        lambda x, w: (x @ w).sum(),
        [t([[INF, 1]]), t([[0.0], [1]])],
        ["mm"],
        ["torch.where"],
    ),
    Case(
        "matrix product beyond the largest number",
        "addmm",
        lambda x, w: F.linear(x, w, w[:, 0]).sum(),
        [torch.full((2, 64), 200.0, dtype=HALF), torch.full((64, 64), 6.0, dtype=HALF)],
        ["6 and 200 and 6", "65504"],
        ["bf16-mixed"],
    ),
    Case(
        "matrix product beyond the largest number",
        "convolution",
        lambda x, w: F.conv1d(x, w).sum(),
        [torch.full((1, 4, 4), 1e25), torch.full((2, 4, 3), 1e25)],
        ["1e+25"],
        ["learning rate"],
    ),
    Case(
        "normalisation with eps 0",
        "layer_norm",
        lambda x: F.layer_norm(x, (3,), eps=0.0).sum(),
        [torch.ones(2, 3)],
        ["eps=0", "input, 1,"],
        ["1e-5"],
    ),
    Case(
        "normalisation by a negative variance",
        "batch_norm",
        lambda x: F.batch_norm(x, torch.zeros(2), t([-1.0, 1]), training=False).sum(),
        [t([[1.0, -1]])],
        ["negative running variance"],
        ["reset_running_stats"],
    ),
    Case(
        "normalisation of an infinity",
        "layer_norm",
        lambda x: F.layer_norm(x, (3,)).sum(),
        [t([[INF, 1, 0]])],
        ["inf - inf"],
        ["overflow in the layer before"],
    ),
    Case(
        "normalisation beyond the largest number",
        "layer_norm",
        lambda x: F.layer_norm(x, (2,)).sum(),
        [torch.full((1, 2), 3e38)],
        ["3e+38"],
        ["learning rate"],
    ),
]

SOLVING = [
    Case(
        "singular matrix",
        "linalg_inv_ex",
        lambda x: torch.linalg.inv_ex(x)[0].sum(),
        [torch.ones(3, 3)],
        ["singular", "(3, 3)"],
        ["torch.eye"],
    ),
    Case(
        "singular matrix",
        "linalg_solve_ex",
        lambda x: torch.linalg.solve_ex(x, torch.ones(3))[0].sum(),
        [torch.ones(3, 3)],
        ["linalg_solve_ex"],
        ["lstsq"],
    ),
    Case("determinant of 0", "linalg_slogdet", torch.logdet, [torch.zeros(3, 3)], ["determinant is 0"], ["Cholesky"]),
]

WRITES = [
    Case(
        "NaN written on purpose",
        "masked_fill",
        lambda x: x.masked_fill(x > 0, math.nan).sum(),
        [t([1.0, -1])],
        ["masked_fill wrote"],
        ["0 * NaN is NaN"],
    ),
    Case(
        "NaN written on purpose",
        "full",
        lambda x: (x * torch.full((2,), math.nan)).sum(),
        [t([1.0, -1])],
        ["full wrote"],
        ["torch.where"],
    ),
]

GENERAL = [
    Case("anything of an infinity", "sinc", lambda x: x.sinc().sum(), [t([INF, 1])], ["sinc", "are 1."], ["sinc"]),
    Case(
        "anything beyond the largest number",
        "linalg_cross",
        lambda x, y: torch.linalg.cross(x, y).sum(),
        [t([1e25, 0, 0]), t([0, 1e25, 0])],
        ["from 0 to 1e+25", "3.40282e+38"],
        ["learning rate"],
    ),
    Case(
        "any other operation",
        "i0",
        lambda x: torch.special.i0(x).sum(),
        [t([100.0, 1])],
        ["i0 made an infinity", "from 1 to 100"],
        ["i0"],
    ),
]

FORWARD_CASES = [
    *ELEMENTWISE,
    *ARITHMETIC,
    *REDUCTIONS,
    *SOFTMAX,
    *LOSSES,
    *NETWORKS,
    *SOLVING,
    *WRITES,
    *GENERAL,
]
