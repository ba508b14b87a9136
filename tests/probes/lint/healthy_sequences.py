"""Healthy networks on sequences, graphs and tables: on none of them may the lint say a word."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

WORDS, LENGTH, WIDTH = 20, 10, 16


def text() -> tuple[Tensor, Tensor]:
    """Tokens, 0 being padding, and which of them are words."""
    tokens = torch.randint(1, WORDS, (8, LENGTH))
    lengths = torch.randint(3, LENGTH + 1, (8,))
    words = torch.arange(LENGTH)[None] < lengths[:, None]
    return tokens * words, words


class EncoderModel(nn.Module):
    """A transformer with a causal mask of -inf and a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, WORDS)
        position = torch.arange(LENGTH).unsqueeze(1)
        step = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10000.0) / WIDTH))
        table = torch.zeros(LENGTH, WIDTH)
        table[:, 0::2], table[:, 1::2] = torch.sin(position * step), torch.cos(position * step)
        self.register_buffer("position", table)

    def loss(self) -> Tensor:
        tokens, words = text()
        causal = torch.triu(torch.full((LENGTH, LENGTH), -math.inf), diagonal=1)
        padding = torch.zeros(words.shape).masked_fill(~words, -math.inf)
        h = self.encoder(self.embed(tokens) * math.sqrt(WIDTH) + self.position, causal, padding)
        logits = self.head(h[:, :-1])
        return functional.cross_entropy(logits.reshape(-1, WORDS), tokens[:, 1:].reshape(-1), ignore_index=0)


class RootMeanSquare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * h.to(x.dtype)


class Decoder(nn.Module):
    """Attention by hand, rotary positions, RMSNorm with eps inside, a gated layer, checkpointed."""

    def __init__(self, *, checkpointed: bool = True, reentrant: bool = False) -> None:
        super().__init__()
        self.checkpointed, self.reentrant = checkpointed, reentrant
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.norms = nn.ModuleList([RootMeanSquare(), RootMeanSquare()])
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate, self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def rotated(self, x: Tensor) -> Tensor:
        frequency = 1.0 / (10000 ** (torch.arange(0, WIDTH, 2).float() / WIDTH))
        angle = torch.outer(torch.arange(LENGTH).float(), frequency)
        a, b = x[..., ::2], x[..., 1::2]
        turned = (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos())
        return torch.stack(turned, -1).flatten(-2).to(x.dtype)

    def block(self, h: Tensor, words: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](h)).chunk(3, -1)
        scores = self.rotated(q) @ self.rotated(k).transpose(-2, -1) / math.sqrt(WIDTH)
        scores = scores.masked_fill(torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1), -math.inf)
        scores = scores + (1.0 - words[:, None].float()) * torch.finfo(torch.float32).min
        h = h + self.out(functional.softmax(scores.float(), dim=-1).to(v.dtype) @ v)
        z = self.norms[1](h)
        return h + self.down(functional.silu(self.gate(z)) * self.up(z))

    def loss(self) -> Tensor:
        tokens, words = text()
        h = self.embed(tokens)
        h = (
            checkpoint(self.block, h, words, use_reentrant=self.reentrant)
            if self.checkpointed
            else self.block(h, words)
        )
        logits = h[:, :-1] @ self.embed.weight.T
        each = functional.cross_entropy(logits.transpose(1, 2).float(), tokens[:, 1:], reduction="none")
        keep = words[:, 1:].float()
        return (each * keep).sum() / keep.sum().clamp(min=1)


class Reentrant(Decoder):
    def __init__(self) -> None:
        super().__init__(reentrant=True)


class Recurrent(nn.Module):
    """An LSTM with packed sequences and label smoothing by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, 2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(WIDTH, WORDS)

    def loss(self) -> Tensor:
        tokens, words = text()
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embed(tokens), words.sum(1), batch_first=True, enforce_sorted=False
        )
        h, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=LENGTH)
        log_p = functional.log_softmax(self.head(h[:, :-1]).float(), dim=-1)
        true = -log_p.gather(2, tokens[:, 1:, None]).squeeze(2)
        return (0.9 * true - 0.1 * log_p.mean(-1))[words[:, 1:]].sum() / tokens.numel()


class Translator(nn.Module):
    """A GRU encoder and decoder with additive attention and a masked mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.encoder, self.cell = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.GRUCell(2 * WIDTH, WIDTH)
        self.key, self.query, self.energy = nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8), nn.Linear(8, 1)
        self.head = nn.Linear(WIDTH, WORDS)

    def loss(self) -> Tensor:
        tokens, words = text()
        memory, state = self.encoder(self.embed(tokens))
        h, total = state[0], torch.zeros(())
        for step in range(LENGTH - 1):
            score = self.energy(torch.tanh(self.key(memory) + self.query(h)[:, None])).squeeze(-1)
            weight = score.masked_fill(~words, -math.inf).softmax(-1)
            context = torch.einsum("bt,btd->bd", weight, memory)
            h = self.cell(torch.cat([self.embed(tokens[:, step]), context], -1), h)
            total = total + functional.cross_entropy(self.head(h), tokens[:, step + 1], ignore_index=0)
        return total / LENGTH


class MixtureDensity(nn.Module):
    """A mixture of Gaussians by logsumexp."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 9))

    def loss(self) -> Tensor:
        weight, mean, raw = self.net(torch.randn(8, 4)).float().chunk(3, -1)
        scale = functional.softplus(raw) + 1e-3
        y = torch.randn(8, 1)
        log_density = -0.5 * ((y - mean) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)
        return -torch.logsumexp(weight.log_softmax(-1) + log_density, -1).mean()


class Distributions(nn.Module):
    """Densities by torch.distributions, a divergence, and a GaussianNLLLoss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 6)
        self.nll = nn.GaussianNLLLoss()

    def loss(self) -> Tensor:
        h = self.net(torch.randn(8, 4)).float()
        normal: Any = torch.distributions.Normal(h[:, :2], functional.softplus(h[:, 2:4]) + 1e-4)
        choice: Any = torch.distributions.Categorical(probs=h[:, 4:].softmax(-1))
        prior = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
        divergence = torch.distributions.kl_divergence(normal, prior).sum(-1)
        density = normal.log_prob(torch.randn(8, 2)).sum(-1) + choice.log_prob(torch.randint(0, 2, (8,)))
        return (divergence - density - choice.entropy()).mean() + self.nll(h[:, 0], torch.randn(8), h[:, 1].exp())


class Graph(nn.Module):
    """Message passing with clamped counts and symmetric normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)

    def loss(self) -> Tensor:
        x, edge = torch.randn(12, 5), torch.randint(0, 12, (2, 30))
        h = self.first(x)
        message = torch.zeros_like(h).index_add_(0, edge[1], h[edge[0]])
        count = torch.zeros(12).index_add_(0, edge[1], torch.ones(30)).clamp(min=1)
        h = functional.relu(message / count[:, None])
        degree = torch.bincount(edge[0], minlength=12).float()
        inverse = degree.pow(-0.5)
        inverse = inverse.masked_fill(inverse == math.inf, 0.0)
        h = self.second(h * inverse[:, None])
        pooled = h.mean(0, keepdim=True)
        return functional.cross_entropy(h, torch.randint(0, 3, (12,))) + functional.mse_loss(pooled, torch.zeros(1, 3))


class LowRank(nn.Module):
    """A frozen layer with a low-rank adapter, and a contrastive loss of cosines."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 6) * 0.1), nn.Parameter(torch.zeros(6, 2))

    def loss(self) -> Tensor:
        x = torch.randn(8, 6)
        h = self.frozen(x) + functional.linear(functional.dropout(x, 0.1), self.b @ self.a) * 2.0
        return functional.cosine_embedding_loss(h, x, torch.ones(8)) + functional.triplet_margin_loss(h, x, x.flip(0))


class Diffusion(nn.Module):
    """A denoiser with a sinusoidal embedding of time and a schedule of buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4 + WIDTH, 32), nn.SiLU(), nn.Linear(32, 4))
        beta = torch.linspace(1e-4, 0.02, 50)
        self.register_buffer("alpha_bar", torch.cumprod(1 - beta, 0))

    def embedded(self, t: Tensor) -> Tensor:
        half = WIDTH // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        angle = t[:, None].float() * frequency[None]
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def loss(self) -> Tensor:
        x, noise, t = torch.randn(8, 4), torch.randn(8, 4), torch.randint(0, 50, (8,))
        alpha: Tensor = self.alpha_bar[t][:, None]  # type: ignore[index]
        noisy = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
        weight = (alpha / (1 - alpha)).clamp(max=5.0) / (alpha / (1 - alpha))
        error = (self.net(torch.cat([noisy, self.embedded(t)], -1)) - noise) ** 2
        return (weight * error).mean()


class ValueNetwork(nn.Module):
    """A dueling Q-network with a target network and the Huber loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.value, self.advantage = nn.Linear(4, 16), nn.Linear(16, 1), nn.Linear(16, 3)
        self.target = [copy.deepcopy(part) for part in (self.body, self.value, self.advantage)]

    def loss(self) -> Tensor:
        state, following = torch.randn(8, 4), torch.randn(8, 4)
        action, reward, done = torch.randint(0, 3, (8,)), torch.randn(8), (torch.rand(8) > 0.8).float()
        h = functional.relu(self.body(state))
        advantage = self.advantage(h)
        q = (self.value(h) + advantage - advantage.mean(1, keepdim=True)).gather(1, action[:, None]).squeeze(1)
        with torch.no_grad():
            h = functional.relu(self.target[0](following))
            best = (self.target[1](h) + self.target[2](h)).max(1).values
            goal = reward + 0.99 * (1 - done) * best
        return functional.smooth_l1_loss(q.float(), goal.float()) + functional.huber_loss(q.float(), goal.float())


class PolicyGradient(nn.Module):
    """PPO with standardised advantages, an entropy from logits, and a squashed Gaussian with its correction."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.gauss = nn.Linear(4, 3), nn.Linear(4, 2)

    def loss(self) -> Tensor:
        state, action, old = torch.randn(32, 4), torch.randint(0, 3, (32,)), torch.randn(32) * 0.1 - 1
        advantage = torch.randn(32)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_p = self.policy(state).float().log_softmax(-1)
        ratio = (log_p.gather(1, action[:, None]).squeeze(1) - old).exp()
        clipped = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        entropy = -(log_p.exp() * log_p).sum(-1)
        mean, log_std = self.gauss(state).float().chunk(2, -1)
        normal: Any = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        raw = normal.rsample()
        correction = 2 * (math.log(2) - raw - functional.softplus(-2 * raw))
        squashed = torch.log(1 - torch.tanh(raw).pow(2) + 1e-6)
        entropy_bonus = (normal.log_prob(raw) - correction - squashed).mean()
        return -(clipped + 0.01 * entropy).mean() + 0.01 * entropy_bonus


class Teacher(nn.Module):
    """Distillation from a moving average of the student, with centring and a metric."""

    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 4))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(1, 4))
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(4)

    def loss(self) -> Tensor:
        x = torch.randn(8, 6)
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                slow.mul_(0.99).add_(fast, alpha=0.01)
            out = self.teacher(x)
            target = ((out - self.centre) / 0.04).softmax(-1)
            self.centre = self.centre * 0.9 + out.mean(0, keepdim=True) * 0.1
        logits = self.student(x) / 0.1
        self.accuracy(logits.float(), target.argmax(-1))
        divergence = functional.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
        return divergence - (target * logits.log_softmax(-1)).sum(-1).mean()


class Transcriber(nn.Module):
    """Connectionist temporal classification on log-softmax, over a strided convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(4, WIDTH, 3, 2, 1), nn.BatchNorm1d(WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, 6)
        self.ctc = nn.CTCLoss(zero_infinity=True)

    def loss(self) -> Tensor:
        h = self.net(torch.randn(4, 4, 30)).transpose(1, 2)
        log_p = self.head(h).float().log_softmax(-1).transpose(0, 1)
        return self.ctc(log_p, torch.randint(1, 6, (4, 4)), torch.full((4,), 15), torch.full((4,), 4))


class Experts(nn.Module):
    """A mixture of experts: renormalised top-2 gates, a load balance and a router z-loss."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 4)
        self.experts = nn.ModuleList([nn.Linear(6, 6) for _ in range(4)])

    def loss(self) -> Tensor:
        x = torch.randn(16, 6)
        logits = self.router(x).float()
        gate = logits.softmax(-1)
        top, index = gate.topk(2, -1)
        top = top / top.sum(-1, keepdim=True)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        chosen = outputs.gather(1, index[..., None].expand(-1, -1, 6))
        y = (top[..., None] * chosen).sum(1)
        load = functional.one_hot(index, 4).float().mean((0, 1))
        balance = 4 * (gate.mean(0) * load).sum() + 1e-3 * torch.logsumexp(logits, -1).square().mean()
        return functional.mse_loss(y, x) + balance


SEQUENCES = (
    EncoderModel,
    Decoder,
    Reentrant,
    Recurrent,
    Translator,
    MixtureDensity,
    Distributions,
    Graph,
    LowRank,
    Diffusion,
    ValueNetwork,
    PolicyGradient,
    Teacher,
    Transcriber,
    Experts,
)
