"""Healthy models in which a careless look would see samples mixed: module, batch and loss of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

if TYPE_CHECKING:
    from collections.abc import Callable

N, T, F = 12, 5, 6
_STATE = torch.Generator().manual_seed(3)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_STATE)


def labels(count: int = 3, size: int = N) -> Tensor:
    return torch.randint(count, (size,), generator=_STATE)


class Healthy(NamedTuple):
    """A model, its batch, its loss, and whether there is an answer (else a reason why not)."""

    model: Callable[[], nn.Module]
    batch: Any
    loss: Callable[[nn.Module, Any], Any]
    answered: bool = True


def classify(module: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(module(batch[0]), batch[1])


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.InstanceNorm2d(8),
        nn.GroupNorm(2, 8),
        nn.Dropout(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


class TimeFirst(nn.Module):
    """(N, T, F) in, with time first inside."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.attention = nn.LSTM(F, F), nn.MultiheadAttention(F, 2)
        self.head = nn.Linear(F, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.recurrent(x.transpose(0, 1))
        return self.head(self.attention(h, h, h)[0][-1])


class SequenceFirst(nn.Module):
    """Tokens (T, N) in, logits (T, N, 9) out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.recurrent, self.head = nn.Embedding(9, F), nn.GRU(F, F), nn.Linear(F, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0])


class Patches(nn.Module):
    """Frames folded into the batch, and folded out again; attention over the patches of each."""

    def __init__(self, *, frames_first: bool) -> None:
        super().__init__()
        self.frames_first = frames_first
        self.dense, self.norm = nn.Linear(F, F), nn.BatchNorm1d(F)
        self.attention, self.head = nn.MultiheadAttention(F, 2, batch_first=True), nn.Linear(F, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        rows = (x.transpose(0, 1) if self.frames_first else x).reshape(n * t, F)
        rows = self.norm(self.dense(rows))
        h = rows.view(t, n, F).transpose(0, 1) if self.frames_first else rows.view(n, t, F)
        return self.head(self.attention(h, h, h)[0].mean(1))


class Packed(nn.Module):
    """Sorts by length, packs, runs, unpacks, and brings the samples back into their order."""

    def __init__(self, *, sorts: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, F, padding_idx=0)
        self.recurrent, self.head, self.sorts = nn.LSTM(F, F, batch_first=True), nn.Linear(F, 3), sorts

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        order = lengths.argsort(descending=True) if self.sorts else torch.arange(len(lengths))
        packed = pack_padded_sequence(
            self.embedding(tokens[order]), lengths[order], batch_first=True, enforce_sorted=self.sorts
        )
        h, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        return self.head(h.sum(1))[order.argsort()]


class Trimmed(nn.Module):
    """Cut to the longest sample, with a mask on the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, F)
        layer = nn.TransformerEncoderLayer(F, 2, 8, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(F, 3)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        tokens = tokens[:, : int(lengths.max())]
        padding = torch.arange(tokens.shape[1]) >= lengths[:, None]
        return self.head(self.encoder(self.embedding(tokens), src_key_padding_mask=padding)[:, 0])


class FrozenEncoder(Trimmed):
    """In eval mode without gradients, PyTorch takes its fast path, with nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(F, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2).requires_grad_(False)
        self.embedding.requires_grad_(False)


class Experts(nn.Module):
    """Each row goes to the expert that it scores highest."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.parts = nn.Linear(F, 3), nn.ModuleList([nn.Linear(F, 3) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.gate(x).argmax(-1)
        out = x.new_zeros(len(x), 3)
        for index, part in enumerate(self.parts):
            rows = (chosen == index).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, part(x[rows]))
        return out


class TwoTowers(nn.Module):
    """The similarities of all pairs, as CLIP returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(F, 4), nn.Linear(F, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return functional.normalize(self.one(x), dim=1) @ functional.normalize(self.two(y), dim=1).T


class NTXent(nn.Module):
    """Each sample against all others, without itself."""

    def forward(self, z: Tensor) -> Tensor:
        n = len(z)
        similar = (z @ z.T)[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)
        return similar.logsumexp(1)


class Contrastive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.criterion = nn.Linear(F, 4), NTXent()


class MemoryBank(nn.Module):
    """Keys of batches before."""

    bank: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(F, 4)
        self.register_buffer("bank", normal(20, 4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        logits = z @ self.bank.T
        self.bank = torch.cat([z.detach(), self.bank])[:20]
        return logits


class Stateful(nn.Module):
    """Keeps its state from one batch to the next."""

    state: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.GRU(F, F, batch_first=True), nn.Linear(F, 3)
        self.register_buffer("state", torch.zeros(1, N, F))

    def forward(self, x: Tensor) -> Tensor:
        h, state = self.recurrent(x, self.state)
        self.state = state.detach()
        return self.head(h[:, -1])


class Graph(nn.Module):
    """Nodes and edges, or a dense adjacency."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(F, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.dense(x)
        if edges.is_floating_point():
            return edges @ h
        return h.index_add(0, edges[1], h[edges[0]])


class HeldGraph(Graph):
    """The edges belong to the module."""

    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", _EDGES)

    def forward(self, x: Tensor, edges: Tensor | None = None) -> Tensor:
        return super().forward(x, self.edges if edges is None else edges)


class PointCloud(nn.Module):
    """One sequence a batch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.convolution = kind, nn.Conv1d(F, F, 3, padding=1)
        self.recurrent, self.head = nn.LSTM(F, F), nn.Linear(F, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "convolution":
            return self.head(self.convolution(x.T.unsqueeze(0))[0].T)
        return self.head(self.recurrent(x)[0])


class OwnStatistics(nn.Module):
    """No running statistics: those of the batch in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(F, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Functional(nn.Module):
    """The same without a module for it, as meta-learning code has it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(F, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(functional.batch_norm(self.one(x), None, None, training=True))


class Compares(nn.Module):
    """Takes a sample and what has been made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(F, 3), nn.Linear(F, 3)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.one(x) + self.two(other)


class MinibatchStd(nn.Module):
    """As in StyleGAN's discriminator."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.std(0).mean().expand(len(x), 1)], 1)


class PerSample(nn.Module):
    """A loop over the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(F, F), nn.Tanh(), nn.Linear(F, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.net(row) for row in x])


class Adversaries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = nn.Linear(4, F), nn.Linear(F, 1)


def rescaled(module: nn.Module, batch: Any) -> Tensor:
    """As data-dependent initialisation does."""
    layers: Any = module
    with torch.no_grad():
        layers[0].weight.div_(layers[0](batch[0]).std())
    return classify(module, batch)


def mixup(module: nn.Module, batch: Any) -> Tensor:
    partner = torch.randperm(len(batch[0]))
    return classify(module, (0.7 * batch[0] + 0.3 * batch[0][partner], batch[1]))


def beside_its_mixup(module: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(module(batch[0], 0.7 * batch[0] + 0.3 * batch[0].roll(1, 0)), batch[1])


def real_and_fake(module: nn.Module, batch: Any) -> Tensor:
    parts: Any = module
    fake = parts.generator(torch.randn(len(batch[0]), 4))
    scores = parts.discriminator(torch.cat([batch[0], fake])).squeeze(1)
    return functional.softplus(scores).mean()


def contrastive(module: nn.Module, batch: Any) -> Tensor:
    parts: Any = module
    return parts.criterion(torch.cat([parts.encoder(batch[0]), parts.encoder(batch[0] + 0.1)])).mean()


def with_lengths(module: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(module(batch[0], batch[1]), batch[2])


def pairs(module: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(module(*batch), torch.arange(len(batch[0])))


def next_token(module: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(module(batch[0]).flatten(0, 1), batch[1].flatten())


_LENGTHS = torch.tensor([5, 2, 3, 4, 5, 1, 3, 2, 4, 5, 2, 3])
_PADDED = torch.randint(1, 9, (N, T), generator=_STATE) * (torch.arange(T) < _LENGTHS[:, None])
_SERIES, _VECTORS = (normal(N, T, F), labels()), (normal(N, F), labels())
_TOKENS = (torch.randint(9, (T + 4, N), generator=_STATE), torch.randint(9, (T + 4, N), generator=_STATE))
_EDGES = torch.randint(N, (2, 20), generator=_STATE)


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(F, F), nn.Tanh(), nn.Linear(F, 3))


HEALTHY: dict[str, Healthy] = {
    "images with all normalisations": Healthy(images, (normal(N, 3, 6, 6), labels()), classify),
    "time first inside": Healthy(TimeFirst, _SERIES, classify),
    "sequence first": Healthy(SequenceFirst, _TOKENS, next_token),
    "patches, samples first": Healthy(lambda: Patches(frames_first=False), _SERIES, classify),
    "patches, frames first": Healthy(lambda: Patches(frames_first=True), _SERIES, classify),
    "packed": Healthy(lambda: Packed(sorts=False), (_PADDED, _LENGTHS, labels()), with_lengths),
    "packed, sorted": Healthy(lambda: Packed(sorts=True), (_PADDED, _LENGTHS, labels()), with_lengths),
    "trimmed and masked": Healthy(Trimmed, (_PADDED, _LENGTHS, labels()), with_lengths),
    "nested tensors": Healthy(FrozenEncoder, (_PADDED, _LENGTHS, labels()), with_lengths),
    "experts": Healthy(Experts, _VECTORS, classify),
    "weights scaled by the batch": Healthy(_perceptron, _VECTORS, rescaled, answered=False),
    "two towers": Healthy(TwoTowers, (normal(N, F), normal(N, F)), pairs),
    "contrastive loss": Healthy(Contrastive, _VECTORS, contrastive),
    "memory bank": Healthy(MemoryBank, _VECTORS, lambda module, batch: module(batch[0]).logsumexp(1).mean()),
    "mixup": Healthy(_perceptron, _VECTORS, mixup, answered=False),
    "mixup beside the sample": Healthy(Compares, _VECTORS, beside_its_mixup),
    "adversaries": Healthy(Adversaries, _VECTORS, real_and_fake),
    "a loop over samples": Healthy(PerSample, _VECTORS, classify),
    "state between batches": Healthy(Stateful, _SERIES, classify, answered=False),
    "statistics of the batch": Healthy(OwnStatistics, _VECTORS, classify, answered=False),
    "statistics of the batch by a function": Healthy(Functional, _VECTORS, classify, answered=False),
    "minibatch standard deviation": Healthy(
        lambda: nn.Sequential(nn.Linear(F, F), MinibatchStd(), nn.Linear(F + 1, 3)), _VECTORS, classify, answered=False
    ),
    "graph with edges": Healthy(Graph, (normal(N, F), _EDGES, labels()), with_lengths, answered=False),
    "graph with edges of its own": Healthy(HeldGraph, _VECTORS, classify, answered=False),
    "graph with adjacency": Healthy(Graph, (normal(N, F), normal(N, N), labels()), with_lengths, answered=False),
    "one sequence through a convolution": Healthy(
        lambda: PointCloud("convolution"), _VECTORS, classify, answered=False
    ),
    "one sequence through an LSTM": Healthy(lambda: PointCloud("LSTM"), _VECTORS, classify, answered=False),
    "one sample": Healthy(_perceptron, (normal(1, F), labels(3, 1)), classify, answered=False),
    "one sample again and again": Healthy(
        _perceptron, (torch.ones(N, F), torch.ones(N, dtype=torch.long)), classify, answered=False
    ),
}
