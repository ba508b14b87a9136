"""Overflow, underflow and rounding in float16 and bfloat16, and exponentials that leave the range of any type.

CPU autocast casts fewer operations to float32 than CUDA autocast: ``exp``, ``pow``, ``sum`` and ``norm`` stay in half
precision there. Every truth below holds for both, since it names the operation whose *result* does not fit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.case import BF16, FP32, HEALTHY, SCALER, Case, Truth, ZooModule

BAD = 5
Pair = tuple[Tensor, Tensor]


def normal(*shape: int) -> list[Tensor]:
    """Return eight tensors of standard normal numbers."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, *shape, generator=generator) for _ in range(8)]


def classified(*shape: int, outlier: float) -> list[Pair]:
    """Return features with two classes; one sample of the bad batch is ``outlier`` times larger."""
    inputs = normal(*shape)
    inputs[BAD][3] *= outlier
    return [(x, torch.arange(8) % 2) for x in inputs]


class FeedForward(nn.Module):
    """The two matrices of a T5 block, whose residual stream is not normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.wi = nn.Linear(16, 64, bias=False)
        self.wo = nn.Linear(64, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.wi(x))
        return self.wo(hidden)  # born: half-feed-forward


class HalfFeedForward(ZooModule):
    def __init__(self) -> None:
        super().__init__()
        self.feed_forward = FeedForward()
        with torch.no_grad():
            self.feed_forward.wo.weight.abs_().mul_(30)  # a few large weights, as in the trained T5
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 2)

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.head(self.norm(x + self.feed_forward(x))).float(), y)


class HalfCache(ZooModule):
    """Keeps its features in half precision to save memory."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 1)

    def loss(self, batch: Pair) -> Tensor:
        energy, y = batch
        cached = energy.half()  # born: hard-coded-half
        return functional.mse_loss(self.head(cached.float() / 1e4).squeeze(-1), y)


def energies() -> list[Pair]:
    inputs = [1e4 + 1e3 * x for x in normal(6)]
    inputs[BAD][2, 4] = 7e4
    return [(x, torch.linspace(-1, 1, 8)) for x in inputs]


class ItemCounts(ZooModule):
    """Feeds integer counts to a model that somebody has made half precision by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 1)

    def loss(self, batch: Pair) -> Tensor:
        counts, y = batch
        frequency = counts.to(torch.float16) / 1000  # born: integer-to-half
        return functional.mse_loss(self.embed(frequency.float()).squeeze(-1), y)


def counted() -> list[Pair]:
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randint(2000, (8, 3), generator=generator) for _ in range(8)]
    inputs[BAD][6, 0] = 70_000
    return [(x, torch.linspace(0, 1, 8)) for x in inputs]


class GaussianRegression(ZooModule):
    """Predicts a mean and the logarithm of a variance, without limits on the latter."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(6, 1)
        self.log_variance = nn.Linear(6, 1)

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        mean, log_variance = self.mean(x).squeeze(-1).float(), self.log_variance(x).squeeze(-1).float()
        precision = torch.exp(-log_variance)  # born: log-variance-overflow
        return 0.5 * (log_variance + (y - mean) ** 2 * precision).mean()


def regressed() -> list[Pair]:
    inputs = normal(6)
    inputs[BAD] *= 1000.0
    return [(x, x[:, 0] / x[:, 0].std()) for x in inputs]


class Softplus(ZooModule):
    """Writes softplus as in the textbook."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(6, 1)

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        score = self.score(x).squeeze(-1).float()
        exponential = score.exp()  # born: softplus-by-hand
        return (torch.log(1 + exponential) - y * score).mean()


def scored() -> list[Pair]:
    inputs = normal(6)
    inputs[BAD] *= 1000.0
    return [(x, (x[:, 0] > 0).float()) for x in inputs]


class Contrastive(ZooModule):
    """CLIP without the normalisation of the features: scaled similarities do not fit in float16."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(8, 16, bias=False)
        self.text = nn.Linear(8, 16, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(4.6))

    def loss(self, batch: Pair) -> Tensor:
        image, text = batch
        similarity = self.image(image) @ self.text(text).T
        logits = similarity * self.logit_scale.exp()  # born: contrastive-logits-in-half
        return functional.cross_entropy(logits.float(), torch.arange(len(logits)))


def paired() -> list[Pair]:
    images, texts = normal(8), normal(8)
    images[BAD][1] *= 50
    texts[BAD][1] *= 50
    return [(0.1 * x, 0.1 * y) if i != BAD else (x, y) for i, (x, y) in enumerate(zip(images, texts, strict=True))]


class CosineHead(ZooModule):
    """Divides by a norm whose guard is below the smallest float16."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(6, 4, bias=False)
        self.classes = nn.Linear(4, 2)

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        z = self.project(x)
        norm = z.norm(dim=-1, keepdim=True).to(z.dtype)
        direction = z / (norm + 1e-12)  # born: norm-guard-lost-in-half
        return functional.cross_entropy(self.classes(direction).float(), y)


class RootMeanSquare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean_square = x.pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(mean_square + 1e-8)  # born: rms-guard-lost-in-half


class PaddedTokens(ZooModule):
    """Normalises the zero vectors of padding, in pure float16."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = RootMeanSquare()
        self.head = nn.Linear(6, 2)

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.head(self.norm(x)).float(), y)


class MeanPool(ZooModule):
    """Sums before it divides, in pure float16."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        total = x.abs().sum(1)  # born: sum-in-half
        return functional.cross_entropy(self.head(total / x.shape[1]).float(), y)


class Prototypes(ZooModule):
    """Squares distances in pure float16."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(2, 6))

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        offset = x[:, None] - self.prototypes
        square = offset.pow(2)  # born: squared-distance-in-half
        return functional.cross_entropy(-square.mean(-1).float(), y)


class DoublyMasked(ZooModule):
    """Adds the padding mask twice: in the model and once more in the layer. Lowest + lowest is -inf."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(6, 6)
        self.key = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, padding, y = batch
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        mask = padding[:, None] * torch.finfo(scores.dtype).min
        scores = scores + mask.to(scores.dtype)
        scores = scores + mask.to(scores.dtype)  # born: mask-added-twice
        return functional.cross_entropy(self.head(scores.softmax(-1) @ x).mean(1).float(), y)


def padded() -> list[tuple[Tensor, Tensor, Tensor]]:
    padding = torch.zeros(8, 1, 4)
    padding[:4, :, 2:] = 1
    empty = padding.clone()
    empty[7] = 1  # a text without a single token
    inputs = normal(4, 6)
    return [(x, (empty if i == BAD else padding)[:, 0], torch.arange(8) % 2) for i, x in enumerate(inputs)]


class ClampedProbability(ZooModule):
    """Clamps to 1 - 1e-3, which is 1 in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(6, 1)

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        p = torch.sigmoid(self.score(x).squeeze(-1)).clamp(1e-3, 1 - 1e-3)
        other = torch.log(1 - p)  # born: clamp-lost-in-bfloat16
        return -(y * p.log() + (1 - y) * other).float().mean()


class Velocity(ZooModule):
    """Differences of time stamps, in pure bfloat16: 1000 and 1001 are the same number."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 1)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        position, time, y = batch
        speed = position.diff() / time.diff()  # born: time-steps-in-bfloat16
        return functional.mse_loss(self.head(speed).squeeze(-1).float(), y.float())


def tracks() -> list[tuple[Tensor, Tensor, Tensor]]:
    clock = torch.arange(6.0).expand(8, 6)
    target = torch.linspace(-1, 1, 8)
    return [(x, clock + 1000 * (i == BAD), target) for i, x in enumerate(normal(6))]


def silent(*, rows: int) -> list[Pair]:
    inputs = normal(6)
    inputs[BAD][:rows] = 0
    return [(x, torch.arange(8) % 2) for x in inputs]


def everywhere(truth: Truth) -> dict[str, Truth]:
    return {FP32: truth, BF16: truth, SCALER: truth}


def overflow(op: str, module: str = "") -> Truth:
    return Truth(phase="forward", op=op, module=module, transition="finite->inf")


CASES = [
    Case(
        name="half-feed-forward",
        module=HalfFeedForward,
        batches=lambda: classified(16, outlier=5000),
        truth={FP32: HEALTHY, BF16: HEALTHY, SCALER: overflow("mm", "feed_forward.wo")},
        source="transformers#5651: T5's output matrix leaves float16, LayerNorm turns the inf into NaN",
    ),
    Case(
        name="hard-coded-half",
        module=HalfCache,
        batches=energies,
        truth=everywhere(overflow("to_copy")),
        source="ultralytics PR#24731: values above 65504 cast to half in place",
    ),
    Case(
        name="integer-to-half",
        module=ItemCounts,
        batches=counted,
        truth=everywhere(overflow("to_copy")),
        source="textbook: float16 ends at 65504, counts do not",
    ),
    Case(
        name="log-variance-overflow",
        module=GaussianRegression,
        batches=regressed,
        truth=everywhere(overflow("exp")),
        source="synthcity#331: exp of an unbounded log-variance",
    ),
    Case(
        name="softplus-by-hand",
        module=Softplus,
        batches=scored,
        truth=everywhere(overflow("exp")),
        source="textbook: log(1 + exp(x))",
    ),
    Case(
        name="contrastive-logits-in-half",
        module=Contrastive,
        batches=paired,
        truth={FP32: HEALTHY, BF16: HEALTHY, SCALER: overflow("mul")},
        source="CLIP PR#530, kornia#3481: the logit scale",
    ),
    Case(
        name="norm-guard-lost-in-half",
        module=CosineHead,
        batches=lambda: silent(rows=1),
        truth={
            FP32: HEALTHY,
            BF16: HEALTHY,
            SCALER: Truth(phase="forward", op="div", module="", transition="finite->nan"),
        },
        source="pytorch_geometric PR#2106: eps 1e-12 is 0 in float16",
    ),
    Case(
        name="rms-guard-lost-in-half",
        module=PaddedTokens,
        batches=lambda: silent(rows=2),
        truth={FP32: overflow("rsqrt", "norm")},
        source="pytorch_geometric PR#2106, in an RMSNorm with eps 1e-8",
        trainer={"precision": "16-true"},
    ),
    Case(
        name="sum-in-half",
        module=MeanPool,
        batches=lambda: [(100 * x if i == BAD else x, y) for i, (x, y) in enumerate(classified(1000, 4, outlier=1))],
        truth={FP32: overflow("sum")},
        source="textbook: a mean written as sum / n",
        trainer={"precision": "16-true"},
    ),
    Case(
        name="squared-distance-in-half",
        module=Prototypes,
        batches=lambda: classified(6, outlier=500),
        truth={FP32: overflow("pow")},
        source="textbook: 256 squared leaves float16",
        trainer={"precision": "16-true"},
    ),
    Case(
        name="mask-added-twice",
        module=DoublyMasked,
        batches=padded,
        truth=everywhere(overflow("add")),
        source="transformers PR#17306, NeMo Automodel PR#2658: finfo.min + finfo.min",
    ),
    Case(
        name="clamp-lost-in-bfloat16",
        module=ClampedProbability,
        batches=scored,
        truth={FP32: HEALTHY, BF16: overflow("log"), SCALER: HEALTHY},
        source="apex#358: a clamp that rounds to 1",
    ),
    Case(
        name="time-steps-in-bfloat16",
        module=Velocity,
        batches=tracks,
        truth={FP32: overflow("div")},
        source="textbook: bfloat16 has 8 bits of significand",
        trainer={"precision": "bf16-true"},
    ),
]
