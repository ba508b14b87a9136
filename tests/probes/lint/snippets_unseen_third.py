"""A third twenty snippets whose expectations were written before the lint saw them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from tests.probes.lint.kit import Kit

# -- unsafe ------------------------------------------------------------------------------------------------------------


def unsafe_coupling_flow(k: Kit) -> Tensor:
    shift, raw = k.out()[:, :4].chunk(2, -1)
    scale = torch.sigmoid(raw + 2)
    return (k.batch[:, :2] * scale + shift).square().sum(-1) - torch.log(scale).sum(-1)  # unsafe: log-of-sigmoid


def unsafe_log_spectrum(k: Kit) -> Tensor:
    power = torch.fft.rfft(k.out().float()).abs().pow(2)
    return torch.log10(power)  # unsafe: log-of-zero


def unsafe_prototypes(k: Kit) -> Tensor:
    total = torch.zeros(5, 5).index_add(0, k.labels, k.out().float())
    count = torch.zeros(5).scatter_add(0, k.labels, torch.ones(8))
    return total / count[:, None]  # unsafe: division-by-sum


def unsafe_group_advantage(k: Kit) -> Tensor:
    reward = k.weights.view(2, 4, 5).sum(-1)
    advantage = (reward - reward.mean(1, keepdim=True)) / reward.std(1, keepdim=True)  # unsafe: division-by-spread
    return (k.out().log_softmax(-1)[:, 0] * advantage.flatten()).mean()


def unsafe_mutual_information(k: Kit) -> Tensor:
    joint = k.out().mean()
    return joint - torch.log(torch.mean(torch.exp(k.net(k.weights))))  # unsafe: logsumexp-by-hand


def unsafe_bending_energy(k: Kit) -> Tensor:
    radius = (k.out()[:, None] - k.batch[None]).pow(2).sum(-1)
    return (radius * torch.log(radius)).sum()  # unsafe: log-of-zero


def unsafe_rotation_from_trace(k: Kit) -> Tensor:
    rotation = k.out()[:2].reshape(-1)[:9].reshape(3, 3)
    return torch.acos((torch.trace(rotation) - 1) / 2)  # unsafe: angle-at-edge


def unsafe_standardised_by_hand(k: Kit) -> Tensor:
    z = k.out()
    centred = z - z.mean(0, keepdim=True)
    spread = torch.sqrt(torch.mean(centred * centred, dim=0))  # unsafe: sqrt-at-zero
    return centred / spread  # unsafe: division-by-norm


def unsafe_softmin(k: Kit) -> Tensor:
    weight = torch.exp(-k.out())
    return (weight * k.batch).sum(-1) / weight.sum(-1)  # unsafe: softmax-by-hand


def unsafe_poisson(k: Kit) -> Tensor:
    rate = nn.ReLU()(k.out())
    return (rate - k.targets * rate.log()).mean()  # unsafe: log-of-zero


# -- safe --------------------------------------------------------------------------------------------------------------


def safe_affine_flow(k: Kit) -> Tensor:
    shift, raw = k.out()[:, :4].chunk(2, -1)
    log_scale = 2 * torch.tanh(raw / 2)
    return ((k.batch[:, :2] - shift) * torch.exp(-log_scale)).square().sum(-1) + log_scale.sum(-1)


def safe_log_mel(k: Kit) -> Tensor:
    power = torch.fft.rfft(k.out().float()).abs().pow(2)
    return torch.log10(power.clamp(min=1e-10))


def safe_masked_autoencoder(k: Kit) -> Tensor:
    order = torch.argsort(torch.rand(8, 5), dim=1)
    mask = torch.ones(8, 5)
    mask[:, :2] = 0
    mask = torch.gather(mask, 1, torch.argsort(order, dim=1))
    return ((k.out() - k.batch) ** 2 * mask).sum() / mask.sum()


def safe_average_precision_surrogate(k: Kit) -> Tensor:
    score = k.out()[:, 0]
    rank = torch.sigmoid((score[None] - score[:, None]) / 0.1).sum(1) + 0.5
    return (k.targets[:, 0] / rank).mean()


def safe_scaled_cosine_attention(k: Kit) -> Tensor:
    q, v = functional.normalize(k.out(), dim=-1), k.batch
    scores = (q @ q.T) * k.net.bias[0].clamp(max=4.6).exp()
    return scores.masked_fill(torch.ones(8, 8).triu(1).bool(), float("-inf")).softmax(-1).to(v.dtype) @ v


def safe_orthogonal_loss(k: Kit) -> Tensor:
    weight = k.net.weight
    gram = weight @ weight.T
    return ((gram - torch.eye(5)) ** 2).sum() + (weight / weight.norm()).sum() + k.out().mean()


def safe_power_iteration(k: Kit) -> Tensor:
    with torch.no_grad():
        v = functional.normalize(torch.randn(5), dim=0)
        for _ in range(3):
            v = functional.normalize(k.net.weight.T @ (k.net.weight @ v), dim=0)
    return k.out() / torch.dot(v, k.net.weight @ v).abs().clamp(min=1e-4)


def safe_quantile_huber(k: Kit) -> Tensor:
    quantile = (torch.arange(5) + 0.5) / 5
    error = k.batch - k.out()
    huber = torch.where(error.abs() <= 1, 0.5 * error.pow(2), error.abs() - 0.5)
    return ((quantile - (error.detach() < 0).float()).abs() * huber).mean()


def safe_evidential_regression(k: Kit) -> Tensor:
    mean, raw_v, raw_a, raw_b = k.out()[:, :4].float().unbind(-1)
    v, a = functional.softplus(raw_v) + 1e-4, functional.softplus(raw_a) + 1.0
    b = functional.softplus(raw_b) + 1e-4
    omega = 2 * b * (1 + v)
    error = (k.batch[:, 0] - mean) ** 2
    return (0.5 * torch.log(torch.pi / v) - a * torch.log(omega) + (a + 0.5) * torch.log(v * error + omega)).mean()


def safe_truncated_loss(k: Kit) -> Tensor:
    p = k.out().softmax(-1).gather(1, k.labels[:, None])
    return ((1 - (p + 1e-5) ** 0.7) / 0.7).mean()
