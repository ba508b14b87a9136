"""Logarithms, exponentials and losses of probabilities: unsafe spellings, and their stable forms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from tests.probes.lint.kit import Kit

# -- log of softmax ----------------------------------------------------------------------------------------------------


def log_of_softmax(k: Kit) -> Tensor:
    return torch.log(torch.softmax(k.out(), -1))  # unsafe: log-of-softmax


def log_of_a_softmax_module(k: Kit) -> Tensor:
    p = nn.Softmax(dim=-1)(k.out())
    return -p.log().mean()  # unsafe: log-of-softmax


def log_of_gathered_softmax(k: Kit) -> Tensor:
    p = functional.softmax(k.out(), dim=-1)
    true = p.gather(1, k.labels[:, None]).squeeze(1)
    return -true.log()  # unsafe: log-of-softmax


def log_of_indexed_softmax(k: Kit) -> Tensor:
    p = k.out().softmax(-1).unsqueeze(0).transpose(0, 1).reshape(8, 5)
    return -torch.log2(p[torch.arange(8), k.labels])  # unsafe: log-of-softmax


def entropy_of_softmax(k: Kit) -> Tensor:
    p = k.out().softmax(-1)
    return -(p * p.log()).sum(-1)  # unsafe: log-of-softmax


def log_of_softmax_picked_by_labels(k: Kit) -> Tensor:
    p = k.out().softmax(-1)
    one_hot = functional.one_hot(k.labels, 5)
    return -(p * one_hot).sum(-1).log()  # unsafe: log-of-softmax


def log_of_softmax_with_an_eps_that_float16_loses(k: Kit) -> Tensor:
    p = k.out().half().softmax(-1)
    return (p + 1e-9).log()  # unsafe: eps-without-effect


def log_softmax(k: Kit) -> Tensor:
    return functional.log_softmax(k.out(), -1) + k.out().log_softmax(-1)


def log_of_softmax_plus_eps(k: Kit) -> Tensor:
    return (k.out().softmax(-1) + 1e-6).log()


def log_of_clamped_softmax(k: Kit) -> Tensor:
    return k.out().softmax(-1).clamp(min=1e-6).log() + k.out().softmax(-1).clamp_min(1e-6).log()


def log_of_the_largest_probability(k: Kit) -> Tensor:
    return k.out().softmax(-1).max(-1).values.log() + k.out().softmax(-1).amax(-1).log()


# -- log of sigmoid ----------------------------------------------------------------------------------------------------


def log_of_sigmoid(k: Kit) -> Tensor:
    return torch.log(torch.sigmoid(k.out()))  # unsafe: log-of-sigmoid


def log_of_one_minus_sigmoid(k: Kit) -> Tensor:
    p = functional.sigmoid(k.out())
    return torch.log(1 - p)  # unsafe: log-of-sigmoid


def log1p_of_minus_sigmoid(k: Kit) -> Tensor:
    return torch.log1p(-k.out().sigmoid())  # unsafe: log-of-sigmoid


def cross_entropy_by_hand(k: Kit) -> Tensor:
    p = nn.Sigmoid()(k.out())
    positive = k.targets * torch.log(p)  # unsafe: log-of-sigmoid
    return -(positive + (1 - k.targets) * torch.log(1.0 - p))  # unsafe: log-of-sigmoid


def likelihood_picked_by_labels(k: Kit) -> Tensor:
    p = k.out().sigmoid()
    true = p * k.targets + (1 - p) * (1 - k.targets)
    return -true.log()  # unsafe: log-of-sigmoid


def likelihood_picked_by_where(k: Kit) -> Tensor:
    p = k.out().sigmoid()
    return -torch.where(k.targets > 0.5, p, 1 - p).log()  # unsafe: log-of-sigmoid


def logsigmoid(k: Kit) -> Tensor:
    return functional.logsigmoid(k.out()) + nn.LogSigmoid()(-k.out())


def log_of_sigmoid_with_eps(k: Kit) -> Tensor:
    p = k.out().sigmoid()
    return torch.log(p + 1e-6) + torch.log(1 - p + 1e-6)


def log_of_clamped_sigmoid(k: Kit) -> Tensor:
    p = k.out().sigmoid().clamp(0.01, 0.99)
    return torch.log(p) + torch.log(1 - p)


# -- losses ------------------------------------------------------------------------------------------------------------


def bce_of_sigmoid(k: Kit) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        p = torch.sigmoid(k.out().float())
        return functional.binary_cross_entropy(p, k.targets)  # unsafe: bce-of-sigmoid


def bce_module_of_sigmoid_module(k: Kit) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        p = nn.Sequential(nn.Linear(5, 1), nn.Sigmoid())(k.out().float())
        return nn.BCELoss()(p, k.targets[:, :1])  # unsafe: bce-of-sigmoid


def bce_of_reshaped_sigmoid(k: Kit) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        p = k.out().float().sigmoid().view(-1).float()
        return functional.binary_cross_entropy(input=p, target=k.targets.view(-1))  # unsafe: bce-of-sigmoid


def bce_with_logits(k: Kit) -> Tensor:
    return functional.binary_cross_entropy_with_logits(k.out(), k.targets) + nn.BCEWithLogitsLoss()(k.out(), k.targets)


def bce_of_clamped_probabilities(k: Kit) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return functional.binary_cross_entropy(k.out().float().sigmoid().clamp(0.001, 0.999), k.targets)


def nll_of_softmax(k: Kit) -> Tensor:
    return functional.nll_loss(k.out().softmax(-1), k.labels)  # unsafe: nll-of-probabilities


def nll_module_of_softmax(k: Kit) -> Tensor:
    p = nn.Softmax(-1)(k.out())
    return nn.NLLLoss()(p, k.labels)  # unsafe: nll-of-probabilities


def divergence_of_softmax(k: Kit) -> Tensor:
    p, q = k.out().softmax(-1), k.weights.softmax(-1)
    return functional.kl_div(p, q, reduction="batchmean")  # unsafe: nll-of-probabilities


def nll_of_log_softmax(k: Kit) -> Tensor:
    return functional.nll_loss(k.out().log_softmax(-1), k.labels) + nn.NLLLoss()(nn.LogSoftmax(-1)(k.out()), k.labels)


def divergence_of_logarithms(k: Kit) -> Tensor:
    q = k.weights.log_softmax(-1)
    first = functional.kl_div(k.out().log_softmax(-1), q, reduction="batchmean", log_target=True)
    return first + nn.KLDivLoss(reduction="batchmean")(k.out().log_softmax(-1), q.exp())


def cross_entropy_of_softmax(k: Kit) -> Tensor:
    return functional.cross_entropy(k.out().softmax(-1), k.labels)  # unsafe: double-softmax


def cross_entropy_of_a_network_that_ends_in_softmax(k: Kit) -> Tensor:
    network = nn.Sequential(nn.Linear(5, 5), nn.Softmax(dim=-1))
    return nn.CrossEntropyLoss()(network(k.batch), k.labels)  # unsafe: double-softmax


def cross_entropy_of_softmax_sequence(k: Kit) -> Tensor:
    p = k.out().softmax(-1)[None].permute(1, 2, 0)
    return functional.cross_entropy(p, k.labels[:, None])  # unsafe: double-softmax


def cross_entropy_of_log_softmax(k: Kit) -> Tensor:
    return functional.cross_entropy(k.out().log_softmax(-1), k.labels)  # the same number as of logits


def cross_entropy_with_soft_targets(k: Kit) -> Tensor:
    return functional.cross_entropy(k.out(), k.weights.softmax(-1), label_smoothing=0.1)


def logits_loss_of_sigmoid(k: Kit) -> Tensor:
    return functional.binary_cross_entropy_with_logits(k.out().sigmoid(), k.targets)  # unsafe: double-sigmoid


def logits_loss_module_of_sigmoid(k: Kit) -> Tensor:
    return nn.BCEWithLogitsLoss()(nn.Sigmoid()(k.out()), k.targets)  # unsafe: double-sigmoid


def logits_loss_of_sliced_sigmoid(k: Kit) -> Tensor:
    p = torch.sigmoid(k.out())[:, 0]
    return functional.binary_cross_entropy_with_logits(p, k.targets[:, 0])  # unsafe: double-sigmoid


# -- exponentials ------------------------------------------------------------------------------------------------------


def log_of_exp(k: Kit) -> Tensor:
    return torch.log(torch.exp(k.out()))  # unsafe: log-of-exp


def log_of_exp_through_views(k: Kit) -> Tensor:
    e = k.out().exp().t().contiguous().float()
    return e.log()  # unsafe: log-of-exp


def log_of_exp_plus_eps(k: Kit) -> Tensor:
    return (k.out().exp() + 1e-6).log10()  # unsafe: log-of-exp


def log_of_bounded_exp(k: Kit) -> Tensor:
    return torch.log(torch.exp(k.out().tanh() * 4))


def softplus_by_hand(k: Kit) -> Tensor:
    return torch.log(1 + torch.exp(k.out()))  # unsafe: softplus-by-hand


def softplus_by_log1p(k: Kit) -> Tensor:
    return torch.log1p(k.out().exp())  # unsafe: softplus-by-hand


def logistic_loss_by_hand(k: Kit) -> Tensor:
    margin = (2 * k.targets - 1) * k.out()
    return ((-margin).exp() + 1.0).log().mean()  # unsafe: softplus-by-hand


def softplus(k: Kit) -> Tensor:
    return functional.softplus(k.out()) + nn.Softplus()(k.out())


def softplus_of_a_negative_number(k: Kit) -> Tensor:
    return torch.log1p(torch.exp(-k.out().abs())) + k.out().clamp(min=0)


def logsumexp_by_hand(k: Kit) -> Tensor:
    return torch.log(torch.exp(k.out()).sum(-1))  # unsafe: logsumexp-by-hand


def log_of_mean_of_exp(k: Kit) -> Tensor:
    return k.out().exp().mean().log()  # unsafe: logsumexp-by-hand


def log_of_weighted_sum_of_exp(k: Kit) -> Tensor:
    total = (k.keep * torch.exp(k.out())).sum(1, keepdim=True)
    return k.out() - torch.log(total + 1e-6)  # unsafe: logsumexp-by-hand


def log_likelihood_of_a_mixture(k: Kit) -> Tensor:
    density = torch.exp(-0.5 * (k.batch - k.out()) ** 2) / math.sqrt(2 * math.pi)
    return density.mean(-1).log()  # unsafe: logsumexp-by-hand


def logaddexp_by_hand(k: Kit) -> Tensor:
    return torch.log(torch.exp(k.out()) + torch.exp(k.batch))  # unsafe: logsumexp-by-hand


def logaddexp(k: Kit) -> Tensor:
    return torch.logaddexp(k.out(), k.batch)


def logsumexp(k: Kit) -> Tensor:
    return torch.logsumexp(k.out(), -1) - math.log(5)


def logsumexp_less_the_maximum(k: Kit) -> Tensor:
    z = k.out()
    top = z.amax(-1, keepdim=True)
    return (z - top).exp().sum(-1).log() + top.squeeze(-1)


def logsumexp_less_a_detached_maximum(k: Kit) -> Tensor:
    z = k.out()
    shifted = z - z.max(dim=-1, keepdim=True)[0].detach()
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def logsumexp_of_cosines(k: Kit) -> Tensor:
    z = functional.normalize(k.out(), dim=-1)
    return (z @ z.T / 0.1).exp().sum(-1).log()


def softmax_by_hand(k: Kit) -> Tensor:
    e = torch.exp(k.out())
    return e / e.sum(-1, keepdim=True)  # unsafe: softmax-by-hand


def softmax_by_hand_in_place(k: Kit) -> Tensor:
    e = (k.out() / 0.07).exp()
    e /= e.sum(dim=1)[:, None]  # unsafe: softmax-by-hand
    return e


def masked_softmax_by_hand(k: Kit) -> Tensor:
    e = torch.exp(k.out()) * k.keep
    return e / (e.sum(-1, keepdim=True) + 1e-6)  # unsafe: softmax-by-hand


def kernel_weights(k: Kit) -> Tensor:
    weight = torch.exp(-((k.out() - k.batch) ** 2) / 0.02)
    return weight / weight.sum(-1, keepdim=True)  # unsafe: softmax-by-hand


def cross_entropy_of_exponentials(k: Kit) -> Tensor:
    z = k.out()
    true = z.gather(1, k.labels[:, None]).exp()
    return true / z.exp().sum(-1, keepdim=True)  # unsafe: softmax-by-hand


def share_of_the_positive(k: Kit) -> Tensor:
    z = k.out()
    positive, negative = z[:, 0].exp(), z[:, 1:].exp().sum(1)
    return positive / (positive + negative)  # unsafe: softmax-by-hand


def share_of_the_positive_cosine(k: Kit) -> Tensor:
    z = functional.normalize(k.out(), dim=-1)
    similar = (z @ z.T / 0.1).exp() * ~torch.eye(8, dtype=torch.bool)
    return -(similar[:, 0] / similar.sum(1)).clamp(min=1e-6).log()


def softmax_less_the_maximum(k: Kit) -> Tensor:
    z = k.out()
    e = torch.exp(z - z.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def masked_softmax_less_its_maximum(k: Kit) -> Tensor:
    z = k.out()
    top = z.masked_fill(~k.keep, -1e4).amax(-1, keepdim=True).detach()
    e = torch.exp(z - top) * k.keep
    return e / (e.sum(-1, keepdim=True) + 1e-6)


def softmax_less_the_maximum_of_the_same(k: Kit) -> Tensor:
    z = k.out()
    e = torch.exp(z - torch.max(z, -1, keepdim=True).values)
    return e / e.sum(-1, keepdim=True)


def sigmoid_by_hand(k: Kit) -> Tensor:
    return 1 / (1 + torch.exp(-k.out()))  # unsafe: sigmoid-by-hand


def sigmoid_by_reciprocal(k: Kit) -> Tensor:
    return (1.0 + (-k.out()).exp()).reciprocal()  # unsafe: sigmoid-by-hand


def swish_by_hand(k: Kit) -> Tensor:
    z = k.out()
    return z / (torch.exp(-1.7 * z) + 1)  # unsafe: sigmoid-by-hand


def tanh_by_hand(k: Kit) -> Tensor:
    z = k.out()
    return (z.exp() - (-z).exp()) / (z.exp() + (-z).exp())  # unsafe: sigmoid-by-hand


def sigmoid_of_a_bounded_number(k: Kit) -> Tensor:
    return 1 / (1 + torch.exp(-k.out().clamp(-30, 30)))


def expm1_by_hand(k: Kit) -> Tensor:
    return torch.exp(k.out() * 1e-3) - 1  # unsafe: expm1-by-hand


def opacity_of_a_ray(k: Kit) -> Tensor:
    density = functional.relu(k.out())
    return 1.0 - torch.exp(-density * 0.1)  # unsafe: expm1-by-hand


def expm1_by_adding_minus_one(k: Kit) -> Tensor:
    return -1 + k.out().exp()  # unsafe: expm1-by-hand


def expm1(k: Kit) -> Tensor:
    return torch.expm1(k.out() * 1e-3) - torch.expm1(-k.out().abs())


def divergence_of_a_gaussian(k: Kit) -> Tensor:
    mean, logvar = k.out(), k.out() * 0.1
    return -0.5 * (1 + logvar - mean.pow(2) - logvar.exp()).sum(-1)


def log1p_by_hand(k: Kit) -> Tensor:
    return torch.log(1 + k.out() ** 2)  # unsafe: log1p-by-hand


def log1p_by_hand_of_a_magnitude(k: Kit) -> Tensor:
    return (k.out().abs() + 1).log()  # unsafe: log1p-by-hand


def log1p_by_hand_through_a_view(k: Kit) -> Tensor:
    shifted = (1.0 + functional.relu(k.out())).view(-1)
    return torch.log(shifted)  # unsafe: log1p-by-hand


def log1p(k: Kit) -> Tensor:
    return torch.log1p(k.out() ** 2) + torch.log(2 + k.out() ** 2)


def log_of_one_plus_a_count(k: Kit) -> Tensor:
    return k.out().mean(-1) * torch.log(1 + k.keep.sum(-1))
