"""What happens at 0 and at the edge of a domain: roots, powers, quotients, logarithms, angles and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from tests.probes.lint.kit import Kit

# -- square roots ------------------------------------------------------------------------------------------------------


def distance_by_hand(k: Kit) -> Tensor:
    return torch.sqrt(((k.out() - k.batch) ** 2).sum(-1))  # unsafe: sqrt-at-zero


def root_mean_squared_error(k: Kit) -> Tensor:
    return functional.mse_loss(k.out(), k.batch).sqrt()  # unsafe: sqrt-at-zero


def root_of_relu(k: Kit) -> Tensor:
    h = nn.ReLU()(k.out())
    return h.flatten().sqrt()  # unsafe: sqrt-at-zero


def root_of_what_is_clamped_to_zero(k: Kit) -> Tensor:
    return torch.sqrt(k.out().clamp(min=0))  # unsafe: sqrt-at-zero


def distances_of_all_pairs(k: Kit) -> Tensor:
    z = k.out()
    difference = z[:, None] - z[None]
    return difference.square().sum(-1).sqrt()  # unsafe: sqrt-at-zero


def magnitude_by_hypot(k: Kit) -> Tensor:
    return torch.hypot(k.out(), k.batch)  # unsafe: sqrt-at-zero


def spread_by_hand(k: Kit) -> Tensor:
    z = k.out()
    return (z - z.mean(0)).pow(2).mean(0).sqrt()  # unsafe: sqrt-at-zero


def distance_with_eps(k: Kit) -> Tensor:
    return torch.sqrt(((k.out() - k.batch) ** 2).sum(-1) + 1e-8)


def distance_by_norm(k: Kit) -> Tensor:
    difference = k.out() - k.batch
    return torch.linalg.vector_norm(difference, dim=-1) + difference.norm(dim=-1) + torch.cdist(k.out(), k.batch)[0]


def root_of_what_is_clamped(k: Kit) -> Tensor:
    return torch.sqrt(k.out().clamp(min=1e-6)) + torch.maximum(k.out(), torch.tensor(1e-6)).sqrt()


def root_without_derivative(k: Kit) -> Tensor:
    with torch.no_grad():
        scale = (k.out() ** 2).sum().sqrt()
    return k.out() * scale + (k.batch**2).sum(-1, keepdim=True).sqrt()


def root_of_a_masked_input(k: Kit) -> Tensor:
    square = k.out().square().sum(-1)
    return torch.where(square > 0, square, torch.ones_like(square)).sqrt()


def root_of_an_exponential(k: Kit) -> Tensor:
    return torch.sqrt(k.out().exp()) + (functional.softplus(k.out()) + 1e-3).sqrt()


def logged_root(k: Kit) -> Tensor:
    loss = functional.mse_loss(k.out(), k.batch)
    k.logged = loss.sqrt()
    return loss


def forces_between_points(k: Kit) -> Tensor:
    point = k.batch.clone().requires_grad_()
    distance = (point[:, None] - point[None]).norm(dim=-1)  # unsafe: norm-differentiated-twice
    energy = (k.net.weight.sum() * distance).tanh().sum()
    return torch.autograd.grad(energy, point, create_graph=True)[0].square().sum()


def penalty_on_the_slope_of_a_norm(k: Kit) -> Tensor:
    x = k.batch.clone().requires_grad_()
    length = torch.linalg.vector_norm(k.net(x), dim=-1)  # unsafe: norm-differentiated-twice
    slope = torch.autograd.grad(length.sum(), x, create_graph=True)[0]
    return (slope.norm(dim=-1) - 1).square().mean()


def penalty_on_the_slope_of_an_old_norm(k: Kit) -> Tensor:
    x = k.batch.clone().requires_grad_()
    length = torch.norm(k.net(x) - x, p=2, dim=1)  # unsafe: norm-differentiated-twice
    return torch.autograd.grad([length.sum()], [x], create_graph=True)[0].square().mean()


def penalty_on_the_slope_of_a_spread(k: Kit) -> Tensor:
    x = k.batch.clone().requires_grad_()
    spread = k.net(x).std(0) + k.net(x).norm(p=1, dim=0)
    return torch.autograd.grad(spread.sum(), x, create_graph=True)[0].square().mean()


def penalty_on_the_slope_of_a_guarded_norm(k: Kit) -> Tensor:
    x = k.batch.clone().requires_grad_()
    length = (k.net(x).square().sum(-1) + 1e-6).sqrt()
    return (torch.autograd.grad(length.sum(), x, create_graph=True)[0].norm(dim=-1) - 1).square().mean()


def rms_norm_with_eps_outside(k: Kit) -> Tensor:
    rms = k.out().pow(2).mean(-1, keepdim=True)
    return k.out() / (torch.sqrt(rms) + 1e-6)  # unsafe: eps-outside-sqrt


def norm_with_eps_outside(k: Kit) -> Tensor:
    z = k.out()
    return 1e-5 + (z * z).sum(-1).sqrt()  # unsafe: eps-outside-sqrt


def power_with_eps_outside(k: Kit) -> Tensor:
    return functional.relu(k.out()) ** 0.5 + 1e-5  # unsafe: eps-outside-sqrt


def rms_norm(k: Kit) -> Tensor:
    z = k.out()
    return z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6)


def root_of_outputs(k: Kit) -> Tensor:
    return torch.sqrt(k.out())  # unsafe: sqrt-of-negative


def root_of_a_discriminant(k: Kit) -> Tensor:
    return (k.out() ** 2 - k.batch**2).sqrt()  # unsafe: sqrt-of-negative


def root_of_a_normalised_output(k: Kit) -> Tensor:
    return functional.layer_norm(k.out(), (5,))[:, :2].sqrt()  # unsafe: sqrt-of-negative


def root_of_a_positive_output(k: Kit) -> Tensor:
    return (functional.softplus(k.out()) + 1e-4).sqrt() + (k.out().tanh() + 1.5).sqrt()


# -- fractional powers -------------------------------------------------------------------------------------------------


def power_of_outputs(k: Kit) -> Tensor:
    return k.out() ** 1.5  # unsafe: fractional-power


def compressed_magnitude(k: Kit) -> Tensor:
    return k.out().abs().pow(0.3)  # unsafe: fractional-power


def focal_weight_below_one(k: Kit) -> Tensor:
    p = k.out().softmax(-1)
    return (1 - p) ** 0.5  # unsafe: fractional-power


def root_as_power(k: Kit) -> Tensor:
    return torch.pow((k.out() ** 2).sum(-1), 0.5)  # unsafe: fractional-power


def focal_weight(k: Kit) -> Tensor:
    p = k.out().sigmoid()
    return (1 - p) ** 2 + (1 - p) ** 2.0 + (1 - p) ** 1.5


def power_of_a_guarded_base(k: Kit) -> Tensor:
    return (k.out().abs() + 1e-4) ** 0.3 + k.out().clamp(min=1e-4) ** 1.7


# -- divisions ---------------------------------------------------------------------------------------------------------


def masked_mean(k: Kit) -> Tensor:
    return (k.out() * k.keep).sum() / k.keep.sum()  # unsafe: division-by-sum


def masked_mean_by_weights_of_the_batch(k: Kit) -> Tensor:
    return (k.out() * k.weights).sum(1) / k.weights.sum(1)  # unsafe: division-by-sum


def mean_of_positives(k: Kit) -> Tensor:
    positive = (k.labels == 1).float()
    return (k.out()[:, 0] * positive).sum().div(positive.sum())  # unsafe: division-by-sum


def mean_of_each_class(k: Kit) -> Tensor:
    members = functional.one_hot(k.labels, 7).float()
    return members.T @ k.out() / members.sum(0)[:, None]  # unsafe: division-by-sum


def normalised_attention_of_relu(k: Kit) -> Tensor:
    score = functional.relu(k.out())
    return score / score.sum(-1, keepdim=True)  # unsafe: division-by-sum


def degree_of_a_node(k: Kit) -> Tensor:
    degree = torch.zeros(5).index_add_(0, k.labels, torch.ones(8))
    return k.out() / degree  # unsafe: division-by-sum


def share_of_signed_numbers(k: Kit) -> Tensor:
    return k.out() / k.out().sum(-1, keepdim=True)  # unsafe: division-by-sum


def masked_mean_with_clamp(k: Kit) -> Tensor:
    return (k.out() * k.keep).sum() / k.keep.sum().clamp(min=1)


def masked_mean_with_eps(k: Kit) -> Tensor:
    return (k.out() * k.weights).sum(1) / (k.weights.sum(1) + 1e-6)


def masked_mean_with_maximum(k: Kit) -> Tensor:
    count = k.keep.sum()
    return (k.out() * k.keep).sum() / torch.maximum(count, torch.ones_like(count))


def masked_mean_behind_an_if(k: Kit) -> Tensor:
    count = k.keep.sum()
    if count == 0:
        return k.out().sum() * 0
    return (k.out() * k.keep).sum() / count


def masked_mean_if_any(k: Kit) -> Tensor:
    loss = k.out().mean()
    if k.keep.any():
        loss = loss + (k.out() * k.keep).sum() / k.keep.sum()
    return loss


def masked_mean_by_python(k: Kit) -> Tensor:
    return (k.out() * k.keep).sum() / max(int(k.keep.sum()), 1)


def share_of_a_softmax(k: Kit) -> Tensor:
    top = k.out().softmax(-1).topk(2, dim=-1).values
    return top / top.sum(-1, keepdim=True)


def unit_vector_by_hand(k: Kit) -> Tensor:
    return k.out() / k.out().norm(dim=-1, keepdim=True)  # unsafe: division-by-norm


def cosine_by_hand(k: Kit) -> Tensor:
    a, b = k.out(), k.batch
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))  # unsafe: division-by-norm


def unit_vector_of_relu(k: Kit) -> Tensor:
    h = functional.relu(k.out())
    length = torch.linalg.norm(h, dim=-1)
    return h / length.unsqueeze(-1)  # unsafe: division-by-norm


def inverse_distance(k: Kit) -> Tensor:
    return torch.cdist(k.out(), k.out()).reciprocal()  # unsafe: division-by-norm


def unit_vector(k: Kit) -> Tensor:
    z = k.out()
    return functional.normalize(z, dim=-1) + z / (z.norm(dim=-1, keepdim=True) + 1e-6)


def unit_vector_by_clamp(k: Kit) -> Tensor:
    z = k.out()
    return z / z.norm(dim=-1, keepdim=True).clamp_min(1e-6) + functional.cosine_similarity(z, k.batch)[:, None]


def unit_weights(k: Kit) -> Tensor:
    direction = k.net.weight / k.net.weight.norm(dim=1, keepdim=True)
    return functional.linear(k.batch, direction)


def standardised(k: Kit) -> Tensor:
    z = k.out()
    return (z - z.mean()) / z.std()  # unsafe: division-by-spread


def batch_norm_by_hand(k: Kit) -> Tensor:
    z = k.out()
    return (z - z.mean(0)) * z.var(0, unbiased=False).rsqrt()  # unsafe: division-by-spread


def scaled_to_one(k: Kit) -> Tensor:
    z = k.batch
    scaled = (z - z.min()) / (z.max() - z.min())  # unsafe: division-by-spread
    return k.net(scaled)


def standardised_rewards(k: Kit) -> Tensor:
    reward = k.batch.sum(1)
    advantage = (reward - reward.mean()).div(torch.std(reward))  # unsafe: division-by-spread
    return k.out() * advantage[:, None]


def standardised_with_eps(k: Kit) -> Tensor:
    z = k.out()
    return (z - z.mean()) / (z.std() + 1e-6) + (z - z.mean(0)) * (z.var(0) + 1e-5).rsqrt()


def scaled_to_one_with_clamp(k: Kit) -> Tensor:
    z = k.batch
    return k.net((z - z.amin()) / (z.amax() - z.amin()).clamp(min=1e-6))


def quotient_of_relu(k: Kit) -> Tensor:
    return k.batch / functional.relu(k.out())  # unsafe: division-by-zero


def odds(k: Kit) -> Tensor:
    p = k.out().sigmoid()
    return p / (1 - p)  # unsafe: division-by-zero


def sign_by_hand(k: Kit) -> Tensor:
    return k.out() / k.out().abs()  # unsafe: division-by-zero


def inverse_square(k: Kit) -> Tensor:
    return (k.out() ** 2) ** -1  # unsafe: division-by-zero


def quotient_by_the_difference_of_pairs(k: Kit) -> Tensor:
    level = k.out()[:, 0]
    return 1 / (level[:, None] - level[None, :])  # unsafe: division-by-zero


def quotient_by_steps(k: Kit) -> Tensor:
    time = k.out().cumsum(0)
    return k.batch[1:] / (time[1:] - time[:-1])


def gated_product(k: Kit) -> Tensor:
    a, b = k.out()[:, :4].chunk(2, -1)
    return (a * b).cumsum(-1) / (a * b).square().sum().add(1e-3) + 1 / (2 + (a * b).tanh())


def quotient_by_what_is_positive(k: Kit) -> Tensor:
    z = k.out()
    return k.batch / z.exp() + k.batch / (functional.softplus(z) + 1e-3) + k.batch / (1 + z**2) + z / 3


def quotient_by_a_masked_divisor(k: Kit) -> Tensor:
    divisor = functional.relu(k.out())
    return k.batch / torch.where(divisor == 0, 1.0, divisor) + k.batch / divisor.masked_fill(divisor == 0, 1.0)


# -- logarithms --------------------------------------------------------------------------------------------------------


def log_of_relu(k: Kit) -> Tensor:
    return torch.log(functional.relu(k.out()))  # unsafe: log-of-zero


def log_of_square(k: Kit) -> Tensor:
    return (k.out() ** 2).sum(-1).log()  # unsafe: log-of-zero


def log_of_count(k: Kit) -> Tensor:
    prior = torch.bincount(k.labels, minlength=5).float().log()  # unsafe: log-of-zero
    return k.out() + prior


def gumbel_noise(k: Kit) -> Tensor:
    noise = -torch.log(-torch.log(torch.rand(8, 5)))  # unsafe: log-of-zero
    return k.out() + noise


def log_of_one_minus_tanh_squared(k: Kit) -> Tensor:
    action = k.out().tanh()
    return torch.log(1 - action.pow(2))  # unsafe: log-of-zero


def logit_of_sigmoid(k: Kit) -> Tensor:
    return torch.logit(k.out().sigmoid())  # unsafe: log-of-zero


def log_of_relu_with_eps(k: Kit) -> Tensor:
    return torch.log(functional.relu(k.out()) + 1e-6) + torch.log(functional.relu(k.out()).clamp(min=1e-6))


def gumbel_noise_with_eps(k: Kit) -> Tensor:
    noise = -torch.log(-torch.log(torch.rand(8, 5) * 0.99 + 1e-6))
    return k.out() + noise


def log_of_one_minus_tanh_squared_with_eps(k: Kit) -> Tensor:
    return torch.log(1 - k.out().tanh().pow(2) + 1e-6)


def logit_with_eps(k: Kit) -> Tensor:
    return torch.logit(k.out().sigmoid(), eps=1e-4)


def log_of_outputs(k: Kit) -> Tensor:
    return torch.log(k.out())  # unsafe: log-of-negative


def log_of_a_convolution(k: Kit) -> Tensor:
    return functional.conv1d(k.out()[:, None], torch.ones(1, 1, 3)).squeeze(1).log10()  # unsafe: log-of-negative


def log1p_of_outputs(k: Kit) -> Tensor:
    return torch.log1p(k.out())  # unsafe: log-of-negative


def log_of_a_positive_output(k: Kit) -> Tensor:
    return torch.log(k.out().exp() * 0 + 2) + torch.log(functional.softplus(k.out()) + 1e-6)


def entropy_by_xlogy(k: Kit) -> Tensor:
    p = k.out().softmax(-1)
    return -torch.xlogy(p, p)  # unsafe: derivative-of-xlogx


def entropy_by_entr(k: Kit) -> Tensor:
    return torch.special.entr(k.out().softmax(-1))  # unsafe: derivative-of-xlogx


def entropy_of_relu(k: Kit) -> Tensor:
    h = functional.relu(k.out())
    return torch.special.xlogy(h, h)  # unsafe: derivative-of-xlogx


def entropy_of_logits(k: Kit) -> Tensor:
    z = k.out()
    p = z.softmax(-1)
    return -(p * z.log_softmax(-1)) + torch.xlogy(p, p.clamp(min=1e-6))


# -- masks that come too late ------------------------------------------------------------------------------------------


def root_behind_where(k: Kit) -> Tensor:
    z = k.out() + 0.5
    return torch.where(z > 0, z.sqrt(), 0.0)  # unsafe: masked-too-late


def log_behind_where(k: Kit) -> Tensor:
    rate = k.weights * functional.softplus(k.out())
    return torch.where(k.weights > 0, rate.log(), torch.zeros_like(rate))  # unsafe: masked-too-late


def quotient_behind_where(k: Kit) -> Tensor:
    count = k.out() * k.weights
    return torch.where(count == 0, 0.0, k.batch / count)  # unsafe: masked-too-late


def root_in_front_of_where(k: Kit) -> Tensor:
    z = k.out() + 0.5
    return torch.where(z > 0, torch.where(z > 0, z, 1.0).sqrt(), 0.0)


def padding_behind_where(k: Kit) -> Tensor:
    return torch.where(k.keep, k.out().exp().sqrt(), 0.0) + torch.where(k.keep, k.out() / (1 + k.weights**2), 0.0)


# -- angles ------------------------------------------------------------------------------------------------------------


def angle_of_vectors(k: Kit) -> Tensor:
    cosine = functional.cosine_similarity(k.out(), k.batch, dim=-1)
    return torch.acos(cosine)  # unsafe: angle-at-edge


def angle_of_clamped_cosine(k: Kit) -> Tensor:
    a, b = functional.normalize(k.out(), dim=-1), functional.normalize(k.batch, dim=-1)
    return (a * b).sum(-1).clamp(-1, 1).arccos()  # unsafe: angle-at-edge


def angle_of_outputs(k: Kit) -> Tensor:
    return torch.asin(k.out())  # unsafe: angle-at-edge


def inverse_of_tanh(k: Kit) -> Tensor:
    return torch.atanh(k.out().tanh())  # unsafe: angle-at-edge


def hyperbolic_distance(k: Kit) -> Tensor:
    return torch.acosh(1 + 2 * (k.out() - k.batch).pow(2).sum(-1))  # unsafe: angle-at-edge


def angle_inside_the_edge(k: Kit) -> Tensor:
    cosine = functional.cosine_similarity(k.out().float(), k.batch, dim=-1)
    return torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6)) + torch.asin(0.9 * k.out().tanh()).sum(-1)


def inverse_of_scaled_tanh(k: Kit) -> Tensor:
    return torch.atanh(k.out().tanh() * 0.99)


def direction_between_points(k: Kit) -> Tensor:
    point = k.out()[:, :2]
    step = point[:, None] - point[None]
    return torch.atan2(step[..., 1], step[..., 0])  # unsafe: atan2-at-origin


def direction_of_relu(k: Kit) -> Tensor:
    h = functional.relu(k.out())
    return torch.atan2(h[:, 1], h[:, 0])  # unsafe: atan2-at-origin


def direction_of_masked_vectors(k: Kit) -> Tensor:
    v = k.out() * k.keep
    return torch.arctan2(v[:, 1], v[:, 0])  # unsafe: atan2-at-origin


def direction_of_outputs(k: Kit) -> Tensor:
    z = k.out()
    return torch.atan2(z[:, 1], z[:, 0]) + torch.atan2(functional.relu(z[:, 1]), functional.relu(z[:, 0]) + 1e-3)


# -- statistics --------------------------------------------------------------------------------------------------------


def spread_of_a_selection(k: Kit) -> Tensor:
    return k.out()[k.labels == 2].std()  # unsafe: spread-of-one


def variance_of_a_selection(k: Kit) -> Tensor:
    chosen = torch.masked_select(k.out(), k.keep)
    return torch.var(chosen.float())  # unsafe: spread-of-one


def spread_of_one_sample(k: Kit) -> Tensor:
    return k.out()[:1].std(dim=0)  # unsafe: spread-of-one


def spread_of_many(k: Kit) -> Tensor:
    return k.out().std(dim=0) + k.out()[k.labels == 2].var(0, unbiased=False)


def spread_of_a_selection_behind_an_if(k: Kit) -> Tensor:
    chosen = k.out()[k.labels == 2]
    if len(chosen) < 2:
        return k.out().mean()
    return chosen.std()


def mean_of_a_selection(k: Kit) -> Tensor:
    error = (k.out() - k.batch) ** 2
    return error[k.keep].mean()  # unsafe: mean-of-nothing


def mean_of_a_class(k: Kit) -> Tensor:
    return k.out()[k.labels == 1].square().mean()  # unsafe: mean-of-nothing


def mean_of_masked_select(k: Kit) -> Tensor:
    return torch.mean(k.out().masked_select(k.keep))  # unsafe: mean-of-nothing


def mean_of_an_index(k: Kit) -> Tensor:
    return k.out()[k.labels].mean() + k.out()[:, 1:3].mean()


def mean_off_the_diagonal(k: Kit) -> Tensor:
    z = k.out() @ k.out().T
    return z[~torch.eye(8, dtype=torch.bool)].mean()


def mean_of_a_selection_if_any(k: Kit) -> Tensor:
    return k.out()[k.keep].mean() if k.keep.any() else k.out().mean()


def variance_as_a_difference(k: Kit) -> Tensor:
    z = k.out()
    return (z**2).mean(0) - z.mean(0) ** 2  # unsafe: variance-by-subtraction


def variance_as_a_difference_of_products(k: Kit) -> Tensor:
    z = k.out()
    mean = z.mean(-1)
    return (z * z).mean(-1) - mean * mean  # unsafe: variance-by-subtraction


def variance_as_a_difference_through_views(k: Kit) -> Tensor:
    z = k.out().float()
    mean = torch.mean(z, dim=1, keepdim=True).squeeze(1)
    return torch.sub(z.square().mean(1), mean.square())  # unsafe: variance-by-subtraction


def variance(k: Kit) -> Tensor:
    z = k.out()
    return z.var(0, correction=0) + ((z - z.mean(0)) ** 2).mean(0)
