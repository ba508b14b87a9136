"""Twenty snippets whose expectations were written before the lint saw them: ten unsafe, ten safe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from tests.probes.lint.kit import Kit

# -- unsafe ------------------------------------------------------------------------------------------------------------


def unsafe_forward_algorithm(k: Kit) -> Tensor:
    state, transition = k.out(), k.net.weight
    return torch.log(torch.einsum("bi,ij->bj", torch.exp(state), torch.exp(transition)))  # unsafe: logsumexp-by-hand


def unsafe_renormalised_attention(k: Kit) -> Tensor:
    weight = k.out().softmax(-1) * k.keep
    return weight / weight.sum(-1, keepdim=True)  # unsafe: division-by-sum


def unsafe_cross_entropy_by_where(k: Kit) -> Tensor:
    p = torch.sigmoid(k.out())
    return torch.where(k.targets == 1, -torch.log(p), -torch.log1p(-p))  # unsafe: log-of-sigmoid


def unsafe_expanded_distance(k: Kit) -> Tensor:
    a, b = k.out(), k.batch
    square = a.pow(2).sum(1, keepdim=True) - 2 * a @ b.T + b.pow(2).sum(1)
    return square.sqrt()  # unsafe: sqrt-of-negative


def unsafe_root_of_a_loss(k: Kit) -> Tensor:
    return functional.mse_loss(k.out(), k.batch) ** 0.5  # unsafe: fractional-power


def unsafe_factored_tanh_correction(k: Kit) -> Tensor:
    action = torch.tanh(k.out())
    return torch.log((1 - action) * (1 + action)).sum(-1)  # unsafe: log-of-zero


def unsafe_peak_signal_to_noise(k: Kit) -> Tensor:
    ratio = 1 / functional.mse_loss(k.out(), k.batch)  # unsafe: division-by-zero
    return -10 * torch.log10(ratio)


def unsafe_eps_as_a_half_tensor(k: Kit) -> Tensor:
    z, eps = k.out().half(), torch.tensor(1e-12, dtype=torch.float16)
    return z / (z.abs() + eps)  # unsafe: division-by-zero


def unsafe_log_ratio(k: Kit) -> Tensor:
    p, q = k.out().softmax(-1), k.net(k.weights).softmax(-1)
    return (p * torch.log(p / q)).sum(-1)  # unsafe: division-by-zero, log-of-zero


def unsafe_survival_curve(k: Kit) -> Tensor:
    survival = torch.cumprod(1 - k.out().sigmoid(), dim=1)
    return torch.log(survival)  # unsafe: log-of-zero


# -- safe --------------------------------------------------------------------------------------------------------------


def safe_log_softmax_by_hand(k: Kit) -> Tensor:
    z = k.out()
    log_p = z - z.logsumexp(-1, keepdim=True)
    return log_p + log_p.exp().sum(-1, keepdim=True).log()


def safe_logaddexp_by_hand(k: Kit) -> Tensor:
    a, b = k.out(), k.batch
    top = torch.maximum(a, b)
    return top + torch.log(torch.exp(a - top) + torch.exp(b - top))


def safe_sinc(k: Kit) -> Tensor:
    x = k.out()
    small = x.abs() < 1e-4
    safe = torch.where(small, 1.0, x)
    return torch.where(small, 1.0, safe.sin() / safe)


def safe_count_with_a_write(k: Kit) -> Tensor:
    count = k.keep.sum(-1, keepdim=True)
    count[count == 0] = 1
    return (k.out() * k.keep) / count


def safe_instance_normalisation(k: Kit) -> Tensor:
    variance, mean = torch.var_mean(k.out(), dim=1, keepdim=True, correction=0)
    return (k.out() - mean) / torch.sqrt(variance + 1e-5)


def safe_clustering_targets(k: Kit) -> Tensor:
    distance = (k.out()[:, None] - k.net.weight[None]).square().sum(-1)
    q = 1.0 / (1.0 + distance)
    q = q / q.sum(1, keepdim=True)
    p = q**2 / q.sum(0)
    return (p / p.sum(1, keepdim=True)).detach() - q


def safe_logits_loss_by_hand(k: Kit) -> Tensor:
    x = k.out()
    return x.clamp(min=0) - x * k.targets + torch.log1p(torch.exp(-x.abs()))


def safe_rotation_angle(k: Kit) -> Tensor:
    quaternion = k.out()
    return 2 * torch.atan2(quaternion[:, 1:4].norm(dim=-1), quaternion[:, 0])


def safe_gaussian_density(k: Kit) -> Tensor:
    mean, scale = k.out(), torch.exp(0.1 * k.out())
    return torch.exp(-0.5 * ((k.batch - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))


def safe_chord_angle(k: Kit) -> Tensor:
    a, b = functional.normalize(k.out(), dim=-1), functional.normalize(k.batch, dim=-1)
    return 2 * torch.asin(0.999 * (a - b).norm(dim=-1) / 2)
