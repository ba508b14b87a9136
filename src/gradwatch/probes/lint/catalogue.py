"""Every rule of the graph lint: its code, what it means, its message, the stable form, and where that is described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradwatch.records import Severity

_DOCS = "https://docs.pytorch.org/docs/stable"
_LOG_SUM_EXP = (
    "P. Blanchard, D. J. Higham, N. J. Higham, Accurately computing the log-sum-exp and softmax functions, IMA Journal"
    " of Numerical Analysis 41 (2021)"
)
_HIGHAM = "N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition (2002)"
_VARIANCE = (
    "T. F. Chan, G. H. Golub, R. J. LeVeque, Algorithms for Computing the Sample Variance, The American Statistician"
    " 37 (1983)"
)
_MIXED = "P. Micikevicius et al., Mixed Precision Training, ICLR 2018"
_LOG1MEXP = "M. Mächler, Accurately Computing log(1 - exp(-|a|)), vignette of the R package Rmpfr (2012)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule. ``message`` is a sentence with a place for the ``cause``; ``advice`` is the stable form, as code."""

    code: str
    meaning: str
    message: str
    advice: str
    reference: str
    severity: Severity = "warning"


RULES: tuple[Rule, ...] = (
    Rule(
        code="log-of-softmax",
        meaning="the logarithm of a softmax whose probabilities nothing keeps away from 0",
        message="log of a softmax: {cause}, so that the log is -inf and the derivative NaN",
        advice="F.log_softmax(x, dim), or torch.logsumexp over the classes that are added up",
        reference=_LOG_SUM_EXP,
    ),
    Rule(
        code="log-of-sigmoid",
        meaning="the logarithm of a sigmoid, or of 1 minus a sigmoid",
        message="log of a sigmoid: {cause}, so that one of log(p) and log(1 - p) is -inf",
        advice="F.logsigmoid(x) for log(p), F.logsigmoid(-x) for log(1 - p), or F.binary_cross_entropy_with_logits",
        reference=f"{_DOCS}/generated/torch.nn.BCEWithLogitsLoss.html",
    ),
    Rule(
        code="bce-of-sigmoid",
        meaning="binary cross entropy of probabilities that come from a sigmoid",
        message="binary_cross_entropy of a sigmoid: {cause}; the loss is then cut off at 100 and its gradient is 0",
        advice="F.binary_cross_entropy_with_logits(x, target), without the sigmoid",
        reference=f"{_DOCS}/amp.html (prefer binary_cross_entropy_with_logits over binary_cross_entropy)",
    ),
    Rule(
        code="nll-of-probabilities",
        meaning="nll_loss or kl_div of probabilities, where log-probabilities are expected",
        message="a loss that expects log-probabilities is given probabilities ({cause}): it is bounded and misleading",
        advice="F.nll_loss(F.log_softmax(x, dim), target), F.cross_entropy(x, target), or"
        " F.kl_div(F.log_softmax(x, dim), target)",
        reference=f"{_DOCS}/generated/torch.nn.NLLLoss.html",
    ),
    Rule(
        code="double-softmax",
        meaning="cross_entropy of probabilities: it takes the softmax a second time",
        message="{cause} and takes the softmax again: the loss cannot come near 0, and gradients are small",
        advice="F.cross_entropy(logits, target), without the softmax",
        reference=f"{_DOCS}/generated/torch.nn.CrossEntropyLoss.html (the input is expected to be unnormalized logits)",
    ),
    Rule(
        code="double-sigmoid",
        meaning="binary_cross_entropy_with_logits of probabilities: it takes the sigmoid a second time",
        message="binary_cross_entropy_with_logits takes the sigmoid again: {cause}, where logits are expected",
        advice="F.binary_cross_entropy_with_logits(logits, target), without the sigmoid",
        reference=f"{_DOCS}/generated/torch.nn.BCEWithLogitsLoss.html",
    ),
    Rule(
        code="log-of-exp",
        meaning="log(exp(x)), with or without an eps",
        message="log of an exponential: {cause}, and the log brings nothing back",
        advice="x itself; for log(exp(x) + c) torch.logaddexp(x, log_c)",
        reference=f"{_DOCS}/generated/torch.logaddexp.html",
    ),
    Rule(
        code="softplus-by-hand",
        meaning="log(1 + exp(x)) or log1p(exp(x))",
        message="softplus written by hand: {cause}, and the derivative is inf / inf, NaN",
        advice="F.softplus(x)",
        reference=_LOG1MEXP,
    ),
    Rule(
        code="logsumexp-by-hand",
        meaning="log(sum(exp(x))) or log(mean(exp(x))) of an x that is neither bounded nor less its maximum",
        message="log of a sum of exponentials: {cause}, and so is the result",
        advice="torch.logsumexp(x, dim); for a mean, torch.logsumexp(x, dim) - math.log(n)",
        reference=_LOG_SUM_EXP,
    ),
    Rule(
        code="softmax-by-hand",
        meaning="exp(x) / sum(exp(x)) of an x that is neither bounded nor less its maximum",
        message="softmax written by hand: {cause}, and the quotient is inf / inf or 0 / 0, NaN",
        advice="torch.softmax(x, dim), with masked logits at -inf; for sums of weights, torch.logsumexp",
        reference=_LOG_SUM_EXP,
    ),
    Rule(
        code="sigmoid-by-hand",
        meaning="a quotient by 1 + exp(x) or by exp(x) + exp(-x)",
        message="sigmoid or tanh written by hand: {cause}, and the derivative there is 0 * inf, NaN",
        advice="torch.sigmoid(x), F.silu(x) or torch.tanh(x)",
        reference=_HIGHAM,
    ),
    Rule(
        code="log-of-zero",
        meaning="the logarithm (or logit) of what can be exactly 0",
        message="log of what can be 0: {cause}; the result is then infinite, and so is the derivative",
        advice="torch.log(x.clamp(min=eps)) or torch.log(x + eps), with an eps that the dtype holds (1e-6; 1e-4 in"
        " float16); for log(1 - exp(x)) torch.log(-torch.expm1(x)) of an x kept below 0",
        reference=f"{_DOCS}/notes/autograd.html (gradients for non-differentiable functions); {_LOG1MEXP}",
    ),
    Rule(
        code="log-of-negative",
        meaning="the logarithm of what has both signs",
        message="log of what can be negative: {cause}; the result is then NaN",
        advice="torch.log(F.softplus(x) + eps), or let the network predict the logarithm itself",
        reference=f"{_DOCS}/generated/torch.log.html",
    ),
    Rule(
        code="derivative-of-xlogx",
        meaning="xlogy(x, x) or entr(x) of what can be exactly 0",
        message="the derivative of x * log(x) at 0 is infinite, and 0 is reached: {cause}",
        advice="torch.xlogy(x, x.clamp(min=eps)); for an entropy of logits, torch.softmax(z) * F.log_softmax(z)",
        reference=f"{_DOCS}/generated/torch.xlogy.html",
    ),
    Rule(
        code="sqrt-at-zero",
        meaning="a square root of what can be exactly 0, with a derivative taken",
        message="the derivative of sqrt at 0 is infinite, and 0 is reached: {cause}; times 0 that is NaN",
        advice="torch.sqrt(x + eps) or torch.linalg.vector_norm(x, dim=...), whose derivative at 0 is 0",
        reference=f"{_DOCS}/notes/autograd.html (gradients for non-differentiable functions)",
    ),
    Rule(
        code="norm-differentiated-twice",
        meaning="a Euclidean norm that can be exactly 0, under autograd.grad(create_graph=True)",
        message="the second derivative of a norm at 0 is NaN (the first is set to 0), and 0 is reached: {cause}",
        advice="torch.sqrt(x.square().sum(dim) + eps)",
        reference=f"{_DOCS}/notes/autograd.html (gradients for non-differentiable functions)",
    ),
    Rule(
        code="eps-outside-sqrt",
        meaning="sqrt(x) + eps where sqrt(x + eps) is meant",
        message="the eps stands outside of the sqrt, where it keeps no derivative finite: {cause}",
        advice="torch.sqrt(x + eps)",
        reference=f"{_DOCS}/generated/torch.nn.LayerNorm.html (the eps stands inside of the root)",
    ),
    Rule(
        code="sqrt-of-negative",
        meaning="a square root of what has both signs",
        message="sqrt of what can be negative: {cause}; the result is then NaN",
        advice="torch.sqrt(F.softplus(x) + eps), or torch.sqrt(x.clamp(min=eps)) where only rounding makes it negative",
        reference=f"{_DOCS}/generated/torch.sqrt.html",
    ),
    Rule(
        code="fractional-power",
        meaning="a fractional power of a base that can be negative, or 0 for an exponent below 1",
        message="a fractional power of a base that can be 0 or negative: {cause}; the derivative at 0 is infinite, and"
        " below 0 the result is NaN",
        advice="x.clamp(min=eps) ** p, or x.sign() * (x.abs() + eps) ** p",
        reference=f"{_DOCS}/generated/torch.pow.html",
    ),
    Rule(
        code="division-by-sum",
        meaning="a division by a sum, mean or count that nothing keeps away from 0",
        message="division by a sum, mean or count that can be 0: {cause}",
        advice="total / count.clamp(min=1); for weights, x / (x.sum(dim, keepdim=True) + eps)",
        reference=f"{_DOCS}/generated/torch.clamp.html",
    ),
    Rule(
        code="division-by-norm",
        meaning="a division by a norm or distance that nothing keeps away from 0",
        message="division by a norm or distance that can be 0: {cause}",
        advice="F.normalize(x, dim=-1), F.cosine_similarity(x, y, dim=-1), or x / norm.clamp(min=eps)",
        reference=f"{_DOCS}/generated/torch.nn.functional.normalize.html",
    ),
    Rule(
        code="division-by-spread",
        meaning="a division by a standard deviation, variance or range that nothing keeps away from 0",
        message="division by a spread that can be 0: {cause}",
        advice="(x - x.mean()) / (x.std() + eps), F.layer_norm, or (x - lo) / (hi - lo).clamp(min=eps)",
        reference=f"{_DOCS}/generated/torch.nn.LayerNorm.html",
    ),
    Rule(
        code="division-by-zero",
        meaning="a division by what can be exactly 0",
        message="division by what can be 0: {cause}",
        advice="x / y.clamp(min=eps) for a positive y, or x / torch.where(y == 0, 1, y)",
        reference=f"{_DOCS}/notes/autograd.html (division by zero)",
    ),
    Rule(
        code="spread-of-one",
        meaning="std or var, which divide by n - 1, of what may be one element",
        message="std or var of what may be one element, which is 0 / 0, NaN: {cause}",
        advice="x.std(correction=0), or leave the term out where fewer than 2 elements are selected",
        reference=f"{_DOCS}/generated/torch.std.html",
    ),
    Rule(
        code="mean-of-nothing",
        meaning="a mean over elements that a condition selects, perhaps none",
        message="mean of what may be empty, which is 0 / 0, NaN: {cause}",
        advice="(x * mask).sum() / mask.sum().clamp(min=1)",
        reference=f"{_DOCS}/generated/torch.mean.html",
    ),
    Rule(
        code="variance-by-subtraction",
        meaning="mean(x^2) - mean(x)^2",
        message="a variance as the difference of two means: {cause}, so that it can come out negative",
        advice="x.var(dim, correction=0), or ((x - x.mean(dim, keepdim=True)) ** 2).mean(dim)",
        reference=_VARIANCE,
    ),
    Rule(
        code="angle-at-edge",
        meaning="acos, asin, atanh or acosh at the edge of the domain",
        message="the derivative is infinite at the edge of the domain, and beyond it the result is NaN: {cause}",
        advice="torch.acos(x.clamp(-1 + 1e-6, 1 - 1e-6)) in float32; for angles of vectors, torch.atan2 of the norms"
        " of their cross and dot products",
        reference=f"{_DOCS}/generated/torch.acos.html; W. Kahan, How Futile are Mindless Assessments of Roundoff in"
        " Floating-Point Computation? (2006), section 12",
    ),
    Rule(
        code="atan2-at-origin",
        meaning="atan2 of two values that can both be exactly 0",
        message="atan2 has no direction at (0, 0), and its derivative grows without bound nearby: {cause}",
        advice="torch.atan2(y, torch.where((x == 0) & (y == 0), 1, x)), or leave those elements out",
        reference=f"{_DOCS}/generated/torch.atan2.html",
        severity="info",
    ),
    Rule(
        code="clamp-without-effect",
        meaning="a clamp whose limit rounds to the value that it is to keep away",
        message="the limit of the clamp rounds to what it is to keep away: {cause}",
        advice="x.clamp(eps, 1 - eps) with eps = torch.finfo(x.dtype).eps",
        reference=f"{_DOCS}/type_info.html",
    ),
    Rule(
        code="eps-without-effect",
        meaning="an eps that is 0, or whose inverse is infinite, in the dtype at hand",
        message="the eps guards nothing in this dtype: {cause}",
        advice="x + torch.finfo(x.dtype).eps, or compute this part in float32",
        reference=_MIXED,
    ),
    Rule(
        code="mask-overflow",
        meaning="additive masks that together go beyond the largest number",
        message="masked scores overflow to -inf, and a row that is masked everywhere becomes NaN: {cause}",
        advice="join the masks as booleans and fill once: scores.masked_fill(a | b, torch.finfo(scores.dtype).min)",
        reference=f"{_DOCS}/type_info.html",
    ),
    Rule(
        code="mask-beyond-range",
        meaning="a mask value that the dtype at hand cannot hold",
        message="the mask is infinite in this dtype, and a row that is masked everywhere becomes NaN: {cause}",
        advice="scores.masked_fill(mask, torch.finfo(scores.dtype).min), in the dtype of the scores",
        reference=_MIXED,
    ),
    Rule(
        code="masked-too-late",
        meaning="torch.where on the result of log, sqrt, a power or a division, in place of its input",
        message="torch.where hides the result where it is not finite, but the derivative is still 0 * inf, NaN: {cause}"
        " after it was computed",
        advice="mask the input too: torch.where(ok, torch.where(ok, x, 1.0).log(), 0.0)",
        reference="https://docs.jax.dev/en/latest/faq.html (gradients contain NaN where using where)",
    ),
    Rule(
        code="expm1-by-hand",
        meaning="exp(x) - 1 or 1 - exp(x)",
        message="the difference of exp(x) and 1 loses all digits near x = 0: {cause}",
        advice="torch.expm1(x), or -torch.expm1(x)",
        reference=f"{_DOCS}/generated/torch.special.expm1.html",
        severity="info",
    ),
    Rule(
        code="log1p-by-hand",
        meaning="log(1 + x)",
        message="log(1 + x) loses the digits of a small x: {cause}",
        advice="torch.log1p(x)",
        reference=f"{_DOCS}/generated/torch.log1p.html",
        severity="info",
    ),
)
_BY_CODE = {rule.code: rule for rule in RULES}


def rule_of(code: str) -> Rule:
    """Return the rule with this code."""
    return _BY_CODE[code]


_INTRODUCTION = """# The graph lint

At the first training step, gradwatch records the operations of that step on a side copy and looks for compositions
that are numerically unsafe although nothing is NaN yet. Each is a finding with your source line and the stable form.

- It looks at how a value is computed, not at its size in this batch: a ReLU, a count, a sum of squares can be exactly
  0, whatever they were today. The range in this batch is evidence, no more.
- A guard silences it: `+ eps`, `clamp(min=eps)`, `maximum`, `torch.where` on the *input*, an `if` on the value; the eps
  must exist in the dtype at hand (1e-8 is 0 in float16).
- It speaks of your own lines only. What PyTorch, Lightning or an installed package computes inside of its functions is
  not looked at.
- It speaks of what the loss depends on. Metrics that are only logged cannot harm the training. A derivative that nobody
  takes is not judged.
- Severity `warning`: breaks with plausible values. `info`: loses accuracy, or is unsafe nowhere but on other backends.

What it does not see: values in a batch that are wrong (a target of 0 in `log(target)`), overflow of a network that
diverges, code that is not executed in the first step, TorchScript and compiled code.
"""


def as_markdown() -> str:
    """Return the page ``docs/graph_lint.md``."""
    rows = ["| code | severity | what is unsafe | stable form |", "|---|---|---|---|"]
    rows += [f"| `{r.code}` | {r.severity} | {_cell(r.meaning)} | {_cell(r.advice)} |" for r in RULES]
    references = [f"- `{r.code}`: {r.reference}." for r in RULES]
    return "\n".join([_INTRODUCTION, "## Rules", "", *rows, "", "## References", "", *references, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
