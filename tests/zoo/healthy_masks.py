"""Healthy look-alikes: masks of -inf, padding, and values that are not finite and never reach loss or gradients."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.zoo.attention import LENGTH, WIDTH, WORDS, Sentences, sentences
from tests.zoo.batches import SIZE, eight
from tests.zoo.case import BF16, FP32, HEALTHY, SCALER, Case, ZooModule
from tests.zoo.losses import Speech, restricted, speech

ALL = (FP32, BF16, SCALER)


class Sentence(ZooModule):
    """What the models of sentences share: an embedding, one attention in between, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def mix(self, x: Tensor, valid: Tensor) -> Tensor:
        raise NotImplementedError

    def loss(self, batch: Sentences) -> Tensor:
        words, valid, tags = batch
        x = self.embed(words)
        return functional.cross_entropy(self.head((x + self.mix(x, valid)).mean(1)).float(), tags[:, 0])


class CausalAndPadding(Sentence):
    """A causal mask and a float mask of the padding; every row keeps its first key."""

    def mix(self, x: Tensor, valid: Tensor) -> Tensor:
        padding = torch.zeros(valid.shape).masked_fill(~valid, -math.inf)
        causal = torch.full((LENGTH, LENGTH), -math.inf).triu(1)
        mixed: Tensor = self.attention(x, x, x, key_padding_mask=padding, attn_mask=causal)[0]
        return mixed


class CausalByHand(Sentence):
    """Hand-written causal attention with a bool mask."""

    def mix(self, x: Tensor, valid: Tensor) -> Tensor:
        future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        return (x @ x.mT / math.sqrt(WIDTH)).masked_fill(future, -math.inf).softmax(-1) @ x


class EmptyRowInFusedAttention(Sentence):
    """A fully masked row in ``scaled_dot_product_attention``, which answers with zeros."""

    def mix(self, x: Tensor, valid: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x, attn_mask=valid[:, None].expand(-1, LENGTH, -1))


class EmptyRowRepaired(Sentence):
    """A NaN is born in a fully masked row and repaired; ``masked_fill`` keeps it out of the gradients."""

    def mix(self, x: Tensor, valid: Tensor) -> Tensor:
        scores = (x @ x.mT / math.sqrt(WIDTH)).masked_fill(~valid[:, None], -math.inf)
        return scores.softmax(-1).nan_to_num(0.0) @ x


class EmptyRowGuarded(Sentence):
    """A row that would be empty attends to everything, and its result is thrown away."""

    def mix(self, x: Tensor, valid: Tensor) -> Tensor:
        empty = ~valid.any(1, keepdim=True)
        scores = (x @ x.mT / math.sqrt(WIDTH)).masked_fill(~(valid | empty)[:, None], -math.inf)
        return (scores.softmax(-1) @ x).masked_fill(empty[..., None], 0.0)


class MaskedMax(Sentence):
    """Max pooling over valid words after ``masked_fill(-inf)``; no sentence is empty."""

    def mix(self, x: Tensor, valid: Tensor) -> Tensor:
        return x.masked_fill(~valid[..., None], -math.inf).amax(1, keepdim=True)


def padded(generator: Generator, *, bad: bool) -> Sentences:
    """Return sentences of which none is empty; those of the bad batch have one word each."""
    words, valid, tags = sentences(generator, bad=False)
    return words, valid & (torch.arange(LENGTH) < 1) if bad else valid, tags


class PaddedMaxPool(ZooModule):
    """Max pooling whose padding is -inf, over images that are negative at the border."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(3, 2, padding=1), nn.Flatten(), nn.Linear(16, 2))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, label = batch
        return functional.cross_entropy(self.net(image).float(), label)


def images(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return images and labels; the bad batch is dark."""
    image = torch.rand(SIZE, 1, 6, 6, generator=generator) - (5.0 if bad else 0.0)
    return image, torch.randint(2, (SIZE,), generator=generator)


class TopKLogits(ZooModule):
    """Cross-entropy among the best three moves and the target; the others are suppressed by -inf."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        logits, move = self.net(batch["board"]).float(), batch["move"]
        kept = torch.zeros_like(logits).scatter(1, logits.topk(3).indices, 1.0).scatter(1, move[:, None], 1.0)
        return functional.cross_entropy(logits.masked_fill(kept == 0, -math.inf), move)


class SparseRows(ZooModule):
    """A sparse embedding with padding: most rows have no gradient, that of the padding is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH, padding_idx=0, sparse=True)
        self.head = nn.Linear(WIDTH, 3)

    def loss(self, batch: Sentences) -> Tensor:
        words, valid, tags = batch
        return functional.cross_entropy(self.head(self.embed(words * valid).mean(1)).float(), tags[:, 0])


class ForgivingSpeech(Speech):
    """CTC with ``zero_infinity``: a clip that is too short counts nothing."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        log_probs = self.net(batch["frames"]).float().permute(2, 0, 1).log_softmax(-1)
        lengths = batch["frame_count"], batch["letter_count"]
        return functional.ctc_loss(log_probs, batch["letters"], *lengths, zero_infinity=True)


class SegmentMax(ZooModule):
    """The maximum over the nodes of every graph, from -inf; graphs without nodes are set to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.node = nn.Linear(3, 4)
        self.head = nn.Linear(4, 1)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, graph, y = batch
        h = self.node(x).float()
        index = graph[:, None].expand(-1, 4)
        pooled = torch.full((SIZE, 4), -math.inf).scatter_reduce(0, index, h, "amax")
        pooled = torch.where(pooled.isinf(), 0.0, pooled)
        return functional.mse_loss(self.head(pooled)[:, 0].float(), y)


def segments(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return nodes, the graph of each and a value a graph; several graphs of the bad batch have no nodes."""
    graph = torch.arange(24) % (5 if bad else SIZE)
    return torch.randn(24, 3, generator=generator), graph, torch.randn(SIZE, generator=generator)


class ForbiddenTransitions(ZooModule):
    """The forward algorithm of a chain with forbidden transitions at -inf; a path is always left."""

    forbidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 3)
        self.transition = nn.Parameter(torch.zeros(3, 3))
        self.register_buffer("forbidden", torch.tensor([[0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=torch.bool))

    def loss(self, batch: Sentences) -> Tensor:
        words, _, tags = batch
        emission = self.embed(words)
        transition = self.transition.masked_fill(self.forbidden, -math.inf)
        alpha = emission[:, 0].masked_fill(torch.tensor([False, False, True]), -math.inf)
        for step in range(1, LENGTH):
            alpha = (alpha[:, :, None] + transition).logsumexp(1) + emission[:, step]
        return (alpha.logsumexp(-1) - emission.gather(2, tags[..., None]).sum((1, 2))).mean()


class UnusedField(ZooModule):
    """A classifier whose batches carry a field that the loss never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(self.net(batch["board"]).float(), batch["move"])


def clocked(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    """Return positions with the time a player took: not known for some of the bad batch, and without limit."""
    batch = restricted(generator, bad=False)
    batch["seconds"] = torch.rand(SIZE, generator=generator)
    if bad:
        batch["seconds"][2], batch["seconds"][3] = math.nan, math.inf
    return batch


HEALTHY_EVERYWHERE = dict.fromkeys(ALL, HEALTHY)
HEALTHY_UNSCALED = dict.fromkeys((FP32, BF16), HEALTHY)

CASES = [
    Case(
        name="healthy-causal-and-padding",
        module=CausalAndPadding,
        batches=eight(padded),
        truth=HEALTHY_EVERYWHERE,
        source="textbook: attention masks with a key left in every row",
    ),
    Case(
        name="healthy-causal-by-hand",
        module=CausalByHand,
        batches=eight(padded),
        truth=HEALTHY_EVERYWHERE,
        source="textbook: a causal mask",
    ),
    Case(
        name="healthy-empty-row-in-fused-attention",
        module=EmptyRowInFusedAttention,
        batches=eight(sentences),
        truth=HEALTHY_EVERYWHERE,
        source="torch 2.13: scaled_dot_product_attention returns zeros for a row without keys",
    ),
    Case(
        name="healthy-empty-row-repaired",
        module=EmptyRowRepaired,
        batches=eight(sentences),
        truth=HEALTHY_EVERYWHERE,
        source="github.com/pytorch/pytorch/issues/41508: repaired in a way that holds",
    ),
    Case(
        name="healthy-empty-row-guarded",
        module=EmptyRowGuarded,
        batches=eight(sentences),
        truth=HEALTHY_EVERYWHERE,
        source="github.com/facebookresearch/Mask2Former/issues/243: the guard proposed there",
    ),
    Case(
        name="healthy-masked-max",
        module=MaskedMax,
        batches=eight(padded),
        truth=HEALTHY_EVERYWHERE,
        source="textbook: masked max pooling",
    ),
    Case(
        name="healthy-padded-max-pool",
        module=PaddedMaxPool,
        batches=eight(images),
        truth=HEALTHY_EVERYWHERE,
        source="textbook: max pooling pads with -inf",
    ),
    Case(
        name="healthy-top-k-logits",
        module=TopKLogits,
        batches=eight(restricted),
        truth=HEALTHY_EVERYWHERE,
        source="textbook: suppressed logits, the target never among them",
    ),
    Case(
        name="healthy-sparse-rows",
        module=SparseRows,
        batches=eight(sentences),
        truth=HEALTHY_UNSCALED,
        source="textbook: sparse gradients",
        variants=False,  # torch.compile cannot trace the backward pass of a sparse embedding with padding, and warns
    ),
    Case(
        name="healthy-ctc-zero-infinity",
        module=ForgivingSpeech,
        batches=eight(speech),
        truth=HEALTHY_EVERYWHERE,
        source="github.com/wenet-e2e/wenet/pull/2299",
    ),
    Case(
        name="healthy-segment-max",
        module=SegmentMax,
        batches=eight(segments),
        truth=HEALTHY_EVERYWHERE,
        source="textbook: scatter-max from -inf",
    ),
    Case(
        name="healthy-forbidden-transitions",
        module=ForbiddenTransitions,
        batches=eight(sentences),
        truth=HEALTHY_EVERYWHERE,
        source="textbook: a conditional random field with forbidden transitions",
    ),
    Case(
        name="healthy-unused-field",
        module=UnusedField,
        batches=eight(clocked),
        truth=HEALTHY_EVERYWHERE,
        source="textbook: metadata in a batch",
    ),
]
