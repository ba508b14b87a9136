"""Attention over nothing: rows that are masked from end to end, normalisers that are zero, infinite biases.

A mask's own -inf is context and no birth, also where ``log`` of a 0/1 mask has made it: the guilty operation is the
one that turns it into NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.zoo.batches import SIZE, eight
from tests.zoo.case import BF16, FP32, SCALER, Case, Truth, ZooModule

ALL = (FP32, BF16, SCALER)  # autocast changes the type of the scores, not where the NaN comes from
EMPTY = 3  # the sample of the bad batch in which nothing is left to attend to
WORDS, LENGTH, WIDTH = 11, 5, 8

Sentences = tuple[Tensor, Tensor, Tensor]


def sentences(generator: Generator, *, bad: bool) -> Sentences:
    """Return words, which of them are valid (one sentence of the bad batch is empty), and a class a word."""
    words = torch.randint(WORDS, (SIZE, LENGTH), generator=generator)
    lengths = torch.randint(2, LENGTH + 1, (SIZE,), generator=generator)
    if bad:
        lengths[EMPTY] = 0
    valid = torch.arange(LENGTH) < lengths[:, None]
    return words, valid, torch.randint(3, (SIZE, LENGTH), generator=generator)


def every(truth: Truth) -> dict[str, Truth]:
    """Return the same truth for every precision."""
    return dict.fromkeys(ALL, truth)


class Tagger(ZooModule):
    """A tagger with ``nn.MultiheadAttention`` that returns its weights; the loss is over valid words alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def loss(self, batch: Sentences) -> Tensor:
        words, valid, tags = batch
        x = self.embed(words)
        mixed, _ = self.attention(x, x, x, key_padding_mask=~valid)  # born: mha-empty-sentence
        return functional.cross_entropy(self.head(x + mixed)[valid].float(), tags[valid])


class SelfAttention(nn.Module):
    """One head; keys that are padding are filled with -inf."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.mT / math.sqrt(WIDTH)).masked_fill(~valid[:, None], -math.inf)
        return scores.softmax(-1) @ v  # born: masked-fill-empty-sentence


class Classifier(ZooModule):
    """A classifier of sentences that averages over all positions after attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.attend = SelfAttention()
        self.head = nn.Linear(WIDTH, 3)

    def loss(self, batch: Sentences) -> Tensor:
        words, valid, tags = batch
        x = self.embed(words)
        return functional.cross_entropy(self.head((x + self.attend(x, valid)).mean(1)), tags[:, 0])


class Pooling(ZooModule):
    """Attention pooling with a learned query; the mask is added as its logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.score = nn.Linear(WIDTH, 1)
        self.head = nn.Linear(WIDTH, 3)

    def loss(self, batch: Sentences) -> Tensor:
        words, valid, tags = batch
        x = self.embed(words)
        scores = self.score(x)[..., 0] + valid.float().log()  # -inf at the padding of every harmless batch too
        weights = scores.softmax(-1)  # born: log-mask-empty-sentence
        return functional.cross_entropy(self.head((weights[..., None] * x).sum(1)), tags[:, 0])


class Repaired(ZooModule):
    """Cross-attention with an additive mask; ``nan_to_num`` repairs the forward values and not the gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def loss(self, batch: Sentences) -> Tensor:
        words, valid, tags = batch
        x = self.embed(words)
        mask = torch.zeros(valid.shape).masked_fill(~valid, -math.inf)
        scores = self.query(x) @ x.mT / math.sqrt(WIDTH) + mask[:, None]
        weights = scores.softmax(-1)  # born: nan-to-num-after-softmax
        return functional.cross_entropy(self.head((x + weights.nan_to_num(0.0) @ x).mean(1)), tags[:, 0])


class LinearAttention(nn.Module):
    """Attention with the feature map elu + 1, normalised by the sum over keys."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = functional.elu(q) + 1, (functional.elu(k) + 1) * valid[..., None]
        normaliser = (q * k.sum(1, keepdim=True)).sum(-1, keepdim=True)
        return q @ (k.mT @ v) / normaliser  # born: linear-attention-empty-sentence


class LinearTagger(ZooModule):
    """A tagger with linear attention; padding carries the label -100, so that its NaN never enters the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.attend = LinearAttention()
        self.head = nn.Linear(WIDTH, 3)

    def loss(self, batch: Sentences) -> Tensor:
        words, valid, tags = batch
        logits = self.head(self.attend(self.embed(words), valid))
        return functional.cross_entropy(logits.flatten(0, 1).float(), tags.masked_fill(~valid, -100).flatten())


class ShortestPaths(ZooModule):
    """A graph transformer biased by distance relative to the nearest neighbour; what cannot be reached is at inf."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, WIDTH)
        self.head = nn.Linear(WIDTH, 1)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        x, hops = self.project(batch["x"]), batch["hops"]
        distance = hops.float().masked_fill(hops < 0, math.inf)
        relative = distance - distance.amin(-1, keepdim=True)  # born: relative-distance-unreachable
        weights = (x @ x.mT / math.sqrt(WIDTH) - relative).softmax(-1)
        return functional.mse_loss(self.head((weights @ x).mean(1))[:, 0].float(), batch["y"])


def molecules(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    """Return graphs by atoms, hops between them (-1: no path; none at all from one atom if bad) and a property."""
    hops = torch.randint(-1, 4, (SIZE, 6, 6), generator=generator)
    hops[:, range(6), [1, 2, 3, 4, 5, 0]] = 1
    if bad:
        hops[EMPTY, 4] = -1
    x = torch.randn(SIZE, 6, 4, generator=generator)
    return {"x": x, "hops": hops, "y": torch.randn(SIZE, generator=generator)}


class GraphAttention(ZooModule):
    """Graph attention that multiplies by the adjacency and divides by the sum over neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, WIDTH)
        self.score = nn.Linear(WIDTH, 2)
        self.head = nn.Linear(WIDTH, 1)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        h, adjacency = self.project(batch["x"]), (batch["hops"] == 1).float()
        sender, receiver = self.score(h).float().unbind(-1)
        strength = functional.leaky_relu(receiver[:, :, None] + sender[:, None]).exp() * adjacency
        weights = strength / strength.sum(-1, keepdim=True)  # born: graph-attention-lone-atom
        return functional.mse_loss(self.head((weights @ h.float()).mean(1))[:, 0].float(), batch["y"])


class Experts(ZooModule):
    """A mixture of experts: the best two of those allowed for a sample, their gates made to sum to one."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 4)
        self.experts = nn.ModuleList(nn.Linear(6, 3) for _ in range(4))

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, allowed, y = batch
        gates, chosen = (self.router(x).softmax(-1) * allowed).topk(2, dim=-1)
        gates = gates / gates.sum(-1, keepdim=True)  # born: experts-none-allowed
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        picked = outputs.gather(1, chosen[..., None].expand(-1, -1, 3))
        return functional.cross_entropy((gates[..., None] * picked).sum(1).float(), y)


def routed(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, the experts a sample may use (none for one sample of the bad batch) and classes."""
    x = torch.randn(SIZE, 6, generator=generator)
    allowed = torch.rand(SIZE, 4, generator=generator).argsort(-1) < 3
    if bad:
        allowed[EMPTY] = False
    return x, allowed, torch.randint(3, (SIZE,), generator=generator)


CASES = [
    Case(
        name="mha-empty-sentence",
        module=Tagger,
        batches=eight(sentences),
        truth=every(Truth(phase="backward", op="softmax", module="attention", sample=EMPTY, transition="inf->nan")),
        source="github.com/pytorch/pytorch/issues/41508",
    ),
    Case(
        name="masked-fill-empty-sentence",
        module=Classifier,
        batches=eight(sentences),
        truth=every(Truth(phase="forward", op="softmax", module="attend", sample=EMPTY, transition="inf->nan")),
        source="github.com/facebookresearch/Mask2Former/issues/243",
    ),
    Case(
        name="log-mask-empty-sentence",
        module=Pooling,
        batches=eight(sentences),
        truth=every(Truth(phase="forward", op="softmax", module="", sample=EMPTY, transition="inf->nan")),
        source="textbook: a 0/1 mask added to attention scores as its logarithm",
    ),
    Case(
        name="nan-to-num-after-softmax",
        module=Repaired,
        batches=eight(sentences),
        truth=every(Truth(phase="backward", op="softmax", module="", sample=EMPTY, transition="inf->nan")),
        source="github.com/pytorch/pytorch/issues/41508: repairing the weights afterwards",
    ),
    Case(
        name="linear-attention-empty-sentence",
        module=LinearTagger,
        batches=eight(sentences),
        truth=every(Truth(phase="backward", op="div", module="attend", sample=EMPTY, transition="finite->nan")),
        source="textbook: linear attention without a small constant in its normaliser",
    ),
    Case(
        name="relative-distance-unreachable",
        module=ShortestPaths,
        batches=eight(molecules),
        truth=every(Truth(phase="forward", op="sub", module="", sample=EMPTY, transition="inf->nan")),
        source="textbook: infinite distances made relative to the smallest of their row",
    ),
    Case(
        name="graph-attention-lone-atom",
        module=GraphAttention,
        batches=eight(molecules),
        truth=every(Truth(phase="forward", op="div", module="", sample=EMPTY, transition="finite->nan")),
        source="textbook: attention over an empty neighbourhood",
    ),
    Case(
        name="experts-none-allowed",
        module=Experts,
        batches=eight(routed),
        truth=every(Truth(phase="forward", op="div", module="", sample=EMPTY, transition="finite->nan")),
        source="textbook: top-k gates renormalised by a sum that may be zero",
    ),
]
