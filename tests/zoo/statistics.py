"""Statistics over too little: of one sample, of none, of a constant."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.zoo.batches import SIZE, eight
from tests.zoo.case import BF16, FP32, SCALER, Case, Truth, ZooModule

ALL = (FP32, BF16, SCALER)
GUILTY = 5  # the sample of the bad batch that has nothing to average, or no spread


def every(truth: Truth) -> dict[str, Truth]:
    """Return the same truth for every precision."""
    return dict.fromkeys(ALL, truth)


class Redundancy(ZooModule):
    """Self-supervision by invariance, variance and covariance terms; the covariance divides by n - 1."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        first, second = (self.encoder(view).float() for view in batch)
        centred = first - first.mean(0)
        spread = functional.relu(1 - (first.var(0, correction=0) + 1e-4).sqrt()).mean()
        covariance = (centred.T @ centred) / (len(centred) - 1)  # born: covariance-of-one-sample
        redundancy = (covariance - covariance.diag().diag()).pow(2).sum()
        return functional.mse_loss(first, second) + spread + 0.1 * redundancy


def views(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return two views of the samples; the bad batch is what is left over at the end of an epoch, one sample."""
    x = torch.randn(SIZE, 6, generator=generator)
    noisy = x + 0.1 * torch.randn(SIZE, 6, generator=generator)
    return (x[:1], noisy[:1]) if bad else (x, noisy)


class Detector(ZooModule):
    """Classification of every anchor, and regression of those that hold an object."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv1d(2, 8, 3, padding=1)
        self.score = nn.Conv1d(8, 1, 1)
        self.box = nn.Conv1d(8, 2, 1)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        h, positive = self.body(batch["signal"]).relu(), batch["positive"]
        boxes = self.box(h).float().mT
        score = functional.binary_cross_entropy_with_logits(self.score(h)[:, 0].float(), positive.float())
        error = boxes[positive] - batch["boxes"][positive]
        return score + error.abs().mean()  # born: mean-of-no-positives


class FocalDetector(Detector):
    """Focal loss of every anchor, divided by the number of objects."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        h, target = self.body(batch["signal"]).relu(), batch["positive"].float()
        logits = self.score(h)[:, 0].float()
        entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        focal = (target - logits.sigmoid()).pow(2) * entropy
        return focal.sum() / target.sum() + 0.01 * self.box(h).float().abs().mean()  # born: focal-sum-over-no-objects


def anchors(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    """Return signals, which positions hold an object (none in the bad batch), and the boxes."""
    positive = torch.rand(SIZE, 10, generator=generator) < 0.3
    if bad:
        positive[:] = False
    signal = torch.randn(SIZE, 2, 10, generator=generator)
    return {"signal": signal, "positive": positive, "boxes": torch.rand(SIZE, 10, 2, generator=generator)}


class MinMax(nn.Module):
    """Scales every image to 0..1 by its own extremes."""

    def forward(self, image: Tensor) -> Tensor:
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        return (image - low) / (high - low)  # born: min-max-of-flat-image


class Scanner(ZooModule):
    """A convolutional classifier that rescales its input inside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.rescale = MinMax()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 2)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, label = batch
        return functional.cross_entropy(self.head(self.conv(self.rescale(image)).relu().mean((2, 3))).float(), label)


def scans(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return images and labels; one image of the bad batch is uniformly grey."""
    image = torch.rand(SIZE, 1, 6, 6, generator=generator)
    if bad:
        image[GUILTY] = 0.5
    return image, torch.randint(2, (SIZE,), generator=generator)


class TimeNorm(nn.Module):
    """Normalises every channel over time; the small constant stands outside the square root."""

    def forward(self, x: Tensor) -> Tensor:
        deviation = x.var(-1, keepdim=True).sqrt() + 1e-5  # born: constant-outside-the-root
        return (x - x.mean(-1, keepdim=True)) / deviation


class Sensors(ZooModule):
    """Sensors with a learned gain each, normalised over time."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 1))
        self.norm = TimeNorm()
        self.conv = nn.Conv1d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        signal, label = batch
        h = self.conv(self.norm(signal * self.gain)).relu().mean(-1)
        return functional.cross_entropy(self.head(h).float(), label)


def recordings(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return signals and labels; in one recording of the bad batch a sensor was unplugged."""
    signal = torch.randn(SIZE, 3, 12, generator=generator)
    if bad:
        signal[GUILTY, 1] = 0.0
    return signal, torch.randint(2, (SIZE,), generator=generator)


class BareBatchNorm(nn.Module):
    """Batch normalisation by hand, without a small constant."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / x.var(0, correction=0).sqrt()  # born: batch-norm-of-constant-feature


class Survey(ZooModule):
    """A network on standardised answers of a questionnaire."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = BareBatchNorm()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        answers, y = batch
        return functional.mse_loss(self.net(self.norm(answers))[:, 0].float(), y)


def answers(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return answers and a score; in the bad batch everybody has answered a question alike."""
    x = torch.randn(SIZE, 4, generator=generator)
    if bad:
        x[:, 2] = 1.0
    return x, torch.randn(SIZE, generator=generator)


class Prototypes(ZooModule):
    """A prototypical network: classes are represented by the mean of their support samples."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        support, query = self.encoder(batch["support"]).float(), self.encoder(batch["query"]).float()
        member = functional.one_hot(batch["support_label"], 3).float()
        prototypes = (member[..., None] * support[:, None]).sum(0) / member.sum(0)[:, None]  # born: absent-prototype
        distance = (query[:, None] - prototypes).pow(2).sum(-1)
        return functional.cross_entropy(-distance, batch["query_label"])


def episodes(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    """Return support and query samples with their classes; a class has no support sample in the bad batch."""
    label = torch.arange(SIZE) % (2 if bad else 3)
    support, query = torch.randn(2, SIZE, 6, generator=generator)
    return {"support": support, "support_label": label, "query": query, "query_label": label}


class Segmenter(ZooModule):
    """Dice loss over the pixels that an annotator has marked as known, without smoothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        image, target, known = batch
        p = self.net(image)[:, 0].float().sigmoid()
        overlap, total = (p * target * known).sum((1, 2)), ((p + target) * known).sum((1, 2))
        return 1 - (2 * overlap / total).mean()  # born: dice-of-unknown-image


def annotated(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, masks and known pixels; of one image in the bad batch nothing is known."""
    image = torch.rand(SIZE, 1, 6, 6, generator=generator)
    known = (torch.rand(SIZE, 6, 6, generator=generator) < 0.8).float()
    if bad:
        known[GUILTY] = 0.0
    return image, (image[:, 0] > 0.5).float(), known


class Contrast(ZooModule):
    """Supervised contrastive learning: log-probabilities averaged over the other samples of the same class."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, label = batch
        z = functional.normalize(self.encoder(x).float(), dim=-1)
        itself = torch.eye(len(x), dtype=torch.bool)
        positive = ((label[:, None] == label) & ~itself).float()
        logits = z @ z.T / 0.5
        log_prob = logits - (logits.exp() * ~itself).sum(1, keepdim=True).log()
        return -((positive * log_prob).sum(1) / positive.sum(1)).mean()  # born: anchor-without-positive


def labelled(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return samples of two classes; one sample of the bad batch is the only one of a third."""
    label = torch.arange(SIZE) % 2
    if bad:
        label[GUILTY] = 2
    return torch.randn(SIZE, 6, generator=generator), label


class SetPooling(ZooModule):
    """Max pooling over the valid members of a set: of an empty set only the -inf of the mask is left."""

    def __init__(self) -> None:
        super().__init__()
        self.member = nn.Linear(3, 8)
        self.head = nn.Linear(8, 2)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        points, valid, label = batch
        pooled = self.member(points).masked_fill(~valid[..., None], -math.inf).amax(1)
        logits = self.head(pooled)  # born: max-pool-of-empty-set
        return functional.cross_entropy(logits.float(), label)


def clouds(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return sets of points, which are valid, and labels; one set of the bad batch is empty."""
    count = torch.randint(1, 6, (SIZE, 1), generator=generator)
    if bad:
        count[GUILTY] = 0
    points = torch.randn(SIZE, 5, 3, generator=generator)
    return points, torch.arange(5) < count, torch.randint(2, (SIZE,), generator=generator)


ZERO_BY_ZERO = Truth(phase="forward", op="div", module="", transition="finite->nan")
ZERO_BY_ZERO_IN_SAMPLE = Truth(phase="forward", op="div", module="", sample=GUILTY, transition="finite->nan")

CASES = [
    Case(
        name="covariance-of-one-sample",
        module=Redundancy,
        batches=eight(views),
        truth=every(ZERO_BY_ZERO),
        source="github.com/pmorerio/minimal-entropy-correlation-alignment/issues/5: covariance of a last batch of one",
    ),
    Case(
        name="mean-of-no-positives",
        module=Detector,
        batches=eight(anchors),
        truth=every(Truth(phase="forward", op="mean", module="", transition="finite->nan")),
        source="github.com/WongKinYiu/yolov9/pull/662",
    ),
    Case(
        name="focal-sum-over-no-objects",
        module=FocalDetector,
        batches=eight(anchors),
        truth=every(Truth(phase="forward", op="div", module="", transition="finite->inf")),
        source="github.com/kuangliu/torchcv/issues/35",
    ),
    Case(
        name="min-max-of-flat-image",
        module=Scanner,
        batches=eight(scans),
        truth=every(Truth(phase="forward", op="div", module="rescale", sample=GUILTY, transition="finite->nan")),
        source="github.com/avalonstrel/GatedConvolution_pytorch/issues/27",
    ),
    Case(
        name="constant-outside-the-root",
        module=Sensors,
        batches=eight(recordings),
        truth=every(Truth(phase="backward", op="sqrt", module="norm", sample=GUILTY)),
        source="textbook: eps added to the deviation instead of the variance",
    ),
    Case(
        name="batch-norm-of-constant-feature",
        module=Survey,
        batches=eight(answers),
        truth=every(Truth(phase="forward", op="div", module="norm", transition="finite->nan")),
        source="textbook: standardisation of a constant column",
    ),
    Case(
        name="absent-prototype",
        module=Prototypes,
        batches=eight(episodes),
        truth=every(ZERO_BY_ZERO),
        source="github.com/hieuvmphan/REMINDER/issues/10",
    ),
    Case(
        name="dice-of-unknown-image",
        module=Segmenter,
        batches=eight(annotated),
        truth=every(ZERO_BY_ZERO_IN_SAMPLE),
        source="textbook: Dice loss without smoothing",
    ),
    Case(
        name="anchor-without-positive",
        module=Contrast,
        batches=eight(labelled),
        truth=every(ZERO_BY_ZERO_IN_SAMPLE),
        source="github.com/HobbitLong/SupContrast/issues/141",
    ),
    Case(
        name="max-pool-of-empty-set",
        module=SetPooling,
        batches=eight(clouds),
        truth=every(Truth(phase="forward", op="addmm", module="head", sample=GUILTY, transition="inf->nan")),
        source="textbook: masked max pooling of an empty set",
    ),
]
