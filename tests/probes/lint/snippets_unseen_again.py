"""Another twenty snippets whose expectations were written before the lint saw them.

One was corrected afterwards: the dice loss divides by a sum, which has a code of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from tests.probes.lint.kit import Kit

# -- unsafe ------------------------------------------------------------------------------------------------------------


def unsafe_dice(k: Kit) -> Tensor:
    p, y = functional.relu(k.out()), k.targets
    return 1 - 2 * (p * y).sum() / (p.sum() + y.sum())  # unsafe: division-by-sum


def unsafe_pearson(k: Kit) -> Tensor:
    a, b = k.out().flatten(), k.batch.flatten()
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / torch.sqrt((a * a).sum() * (b * b).sum())  # unsafe: division-by-norm, sqrt-at-zero


def unsafe_geometric_mean(k: Kit) -> Tensor:
    return torch.exp(torch.log(functional.relu(k.out())).mean(-1))  # unsafe: log-of-zero


def unsafe_class_weights(k: Kit) -> Tensor:
    weight = 1.0 / torch.bincount(k.labels, minlength=5).float()  # unsafe: division-by-sum
    return functional.cross_entropy(k.out(), k.labels, weight=weight)


def unsafe_whitening_per_class(k: Kit) -> Tensor:
    total = torch.zeros(())
    for c in range(5):
        members = k.out()[k.labels == c]
        total = total + members.mean()  # unsafe: mean-of-nothing
    return total


def unsafe_discriminator(k: Kit) -> Tensor:
    real, fake = (nn.Sequential(nn.Linear(5, 1), nn.Sigmoid())(x) for x in (k.batch, k.out()))
    return -(torch.log(real) + torch.log(1.0 - fake)).mean()  # unsafe: log-of-sigmoid


def unsafe_quantisation(k: Kit) -> Tensor:
    scale = k.out().detach().abs().amax() / 127
    return k.out() / scale  # unsafe: division-by-zero


def unsafe_attention_entropy(k: Kit) -> Tensor:
    scores = (k.out() @ k.batch.T).masked_fill(torch.ones(8, 8, dtype=torch.bool).triu(1), -torch.inf)
    p = scores.softmax(-1)
    return -(p * torch.log2(p)).nansum(-1)  # unsafe: log-of-softmax


def unsafe_odds_ratio(k: Kit) -> Tensor:
    log_p = k.out().log_softmax(-1)[:, 0]
    return log_p - torch.log1p(-torch.exp(log_p))  # unsafe: log-of-zero


def unsafe_great_circle(k: Kit) -> Tensor:
    a = torch.sin(k.out()[:, 0] / 2) ** 2 + torch.cos(k.out()[:, 1]) * torch.sin(k.out()[:, 2] / 2) ** 2
    return 2 * torch.asin(torch.sqrt(a.clamp(0, 1)))  # unsafe: sqrt-at-zero, angle-at-edge


# -- safe --------------------------------------------------------------------------------------------------------------


def safe_dice(k: Kit) -> Tensor:
    p, y = k.out().sigmoid(), k.targets
    return 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)


def safe_structural_similarity(k: Kit) -> Tensor:
    a, b = k.out()[None], k.batch[None]
    mean_a, mean_b = functional.avg_pool1d(a, 3, 1), functional.avg_pool1d(b, 3, 1)
    cross = functional.avg_pool1d(a * b, 3, 1) - mean_a * mean_b
    spread_a = functional.avg_pool1d(a * a, 3, 1) - mean_a**2
    spread_b = functional.avg_pool1d(b * b, 3, 1) - mean_b**2
    top = (2 * mean_a * mean_b + 1e-4) * (2 * cross + 9e-4)
    return 1 - (top / ((mean_a**2 + mean_b**2 + 1e-4) * (spread_a + spread_b + 9e-4))).mean()


def safe_intersection_over_union(k: Kit) -> Tensor:
    a, b = k.out()[:, :4].sigmoid(), k.weights[:, :4]
    low, high = torch.max(a[:, :2], b[:, :2]), torch.min(a[:, 2:], b[:, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    area = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (a, b)]
    return 1 - overlap / (area[0] + area[1] - overlap + 1e-6)


def safe_class_means(k: Kit) -> Tensor:
    one_hot = functional.one_hot(k.labels, 5).float()
    return (one_hot.T @ k.out()) / one_hot.sum(0).clamp(min=1.0)[:, None]


def safe_margin_product(k: Kit) -> Tensor:
    weight = functional.normalize(k.net.weight, dim=-1)
    cosine = functional.linear(functional.normalize(k.out().float(), dim=-1), weight)
    angle = torch.acos(cosine.float().clamp(-1 + 1e-6, 1 - 1e-6))
    return functional.cross_entropy(30 * torch.cos(angle + 0.1), k.labels)


def safe_returns(k: Kit) -> Tensor:
    reward = k.weights.sum(1)
    with torch.no_grad():
        baseline = reward.mean()
        scale = reward.std().clamp(min=1e-4)
    return -(k.out().log_softmax(-1)[:, 0] * (reward - baseline) / scale).mean()


def safe_sinkhorn(k: Kit) -> Tensor:
    log_p = k.out() / 0.05
    for _ in range(3):
        log_p = log_p - torch.logsumexp(log_p, 0, keepdim=True)
        log_p = log_p - torch.logsumexp(log_p, 1, keepdim=True)
    return log_p.exp()


def safe_huber_by_hand(k: Kit) -> Tensor:
    error = (k.out() - k.batch).abs()
    return torch.where(error < 1.0, 0.5 * error**2, error - 0.5)


def safe_kernel_discrepancy(k: Kit) -> Tensor:
    both = torch.cat([k.out(), k.batch])
    square = (both[:, None] - both[None]).pow(2).sum(-1)
    width = square.detach().mean().clamp(min=1e-3)
    return torch.exp(-square / width).mean()


def safe_group_normalisation(k: Kit) -> Tensor:
    z = k.out()[:, :4].reshape(8, 2, 2)
    z = (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return z.flatten(1)
