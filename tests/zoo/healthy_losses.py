"""Losses that meet infinities, NaNs and domain edges on purpose, and handle them rightly: nothing may be reported."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.zoo.batches import SIZE, eight
from tests.zoo.case import BF16, FP32, HEALTHY, SCALER, Case, ZooModule

TRUTH = dict.fromkeys((FP32, BF16, SCALER), HEALTHY)


class LegalMoves(ZooModule):
    """A policy over the legal moves: the others have logits of -inf, and are never the target."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 6)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        board, legal, move = batch
        logits = self.net(board).masked_fill(~legal, -math.inf)
        return functional.nll_loss(functional.log_softmax(logits, -1), move)


def boards(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return boards, legal moves (in one batch a single one for each board) and the moves made."""
    board = torch.randn(SIZE, 5, generator=generator)
    move = torch.randint(6, (SIZE,), generator=generator)
    legal = torch.rand(SIZE, 6, generator=generator) < (0.0 if bad else 0.6)
    return board, legal | functional.one_hot(move, 6).bool(), move


class SafeRoot(ZooModule):
    """The double where: the input of the root is masked, and so is its output."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, depth = batch
        discriminant = self.net(x)[:, 0].float() + 0.5
        inside = discriminant > 0
        root = torch.where(inside, torch.where(inside, discriminant, 1.0).sqrt(), 0.0)
        return functional.mse_loss(root, depth)


def regression(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return inputs, with large negative ones in one batch, and targets."""
    x = torch.randn(SIZE, 3, generator=generator)
    return (x * 100 if bad else x), torch.rand(SIZE, generator=generator)


class MissingLabels(ZooModule):
    """Regression on several targets; missing ones are NaN, and leave the difference before it is squared."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, target = batch
        known = ~target.isnan()
        difference = torch.where(known, self.net(x).float() - target, 0.0)
        return difference.square().sum() / known.sum().clamp(min=1)


def incomplete(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return inputs and targets with missing labels; in one batch all are missing."""
    x, target = torch.randn(SIZE, 4, generator=generator), torch.randn(SIZE, 3, generator=generator)
    missing = torch.rand(SIZE, 3, generator=generator) < (1.0 if bad else 0.3)
    return x, target.masked_fill(missing, math.nan)


class SoftTargets(ZooModule):
    """Divergence from targets with exact zeros, by ``xlogy`` of the targets alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 5)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, target = batch
        log_p = functional.log_softmax(self.net(x).float(), -1)
        return (torch.xlogy(target, target) - target * log_p).sum(-1).mean()


def smoothed(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return inputs and target distributions with zeros; plain labels in one batch."""
    x = torch.randn(SIZE, 4, generator=generator)
    target = functional.relu(torch.randn(SIZE, 5, generator=generator)) + 0.01 * torch.eye(SIZE, 5)
    if bad:
        target = functional.one_hot(torch.arange(SIZE) % 5, 5).float()
    return x, target / target.sum(-1, keepdim=True).clamp(min=1e-3)


class Charbonnier(ZooModule):
    """A smooth absolute error, with its epsilon inside the root; some errors are exactly 0."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 4, bias=False)

    def loss(self, batch: Tensor) -> Tensor:
        return torch.sqrt((self.net(batch).float() - batch) ** 2 + 1e-6).mean()


def sparse_signals(generator: Generator, *, bad: bool) -> Tensor:
    """Return signals, in one batch of zeros."""
    signal = torch.randn(SIZE, 4, generator=generator)
    return torch.zeros_like(signal) if bad else signal


class Marginal(ZooModule):
    """The probability of any of several right answers: log-sum-exp over scores, the others at -inf."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 6)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, right = batch
        scores = self.net(x).float()
        allowed = torch.where(right, scores, -math.inf)
        return (torch.logsumexp(scores, -1) - torch.logsumexp(allowed, -1)).mean()


def answers(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return questions and which answers are right (at least one, exactly one in one batch)."""
    x = torch.randn(SIZE, 4, generator=generator)
    right = torch.rand(SIZE, 6, generator=generator) < (0.0 if bad else 0.4)
    return x, right | functional.one_hot(torch.arange(SIZE) % 6, 6).bool()


class LogMask(ZooModule):
    """Attention over a set with the logarithm of its mask added: log(0) is meant, and one element is always valid."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(3, 1)
        self.head = nn.Linear(3, 1)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        items, mask, y = batch
        weight = (self.score(items)[..., 0] + mask.log()).softmax(-1)
        pooled = (weight[..., None] * items).sum(1)
        return functional.mse_loss(self.head(pooled)[:, 0].float(), y)


def sets(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return sets of vectors, their masks (in one batch of single elements) and targets."""
    items = torch.randn(SIZE, 5, 3, generator=generator)
    size = torch.randint(1, 2 if bad else 6, (SIZE, 1), generator=generator)
    return items, (torch.arange(5) < size).float(), torch.randn(SIZE, generator=generator)


class ConfidentLogits(ZooModule):
    """Binary cross-entropy with logits of a hundred on the wrong side: a large loss, and a finite one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)
        nn.init.ones_(self.net.weight)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return functional.binary_cross_entropy_with_logits(self.net(x)[:, 0], y)


def confident(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return inputs, far out in one batch, and labels."""
    x = torch.randn(SIZE, 2, generator=generator)
    return (x.sign() * 100 if bad else x), torch.arange(SIZE) % 2.0


class NearestPrototype(ZooModule):
    """Distance to the nearest prototype, found by a running minimum that starts at infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.arange(8.0).reshape(4, 2) / 8)

    def loss(self, batch: Tensor) -> Tensor:
        best = torch.full((len(batch),), math.inf)
        for prototype in self.prototypes:
            best = torch.minimum(best, (batch - prototype).square().sum(-1))
        return best.mean()


def planar(generator: Generator, *, bad: bool) -> Tensor:
    """Return points in the plane, in one batch all the same."""
    point = torch.randn(SIZE, 2, generator=generator)
    return torch.full_like(point, 0.25) if bad else point


class RecallWeighted(ZooModule):
    """The weight of the positives depends on their recall, which is 0/0 = NaN in a batch that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits = self.net(x)[:, 0].float()
        found = ((logits.detach() > 0) & (y > 0)).sum()
        recall = found / y.sum()
        weight = torch.where(recall < 0.5, 2.0, 1.0)
        return functional.binary_cross_entropy_with_logits(logits, y, pos_weight=weight)


def imbalanced(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return inputs and labels, in one batch without a positive."""
    x = torch.randn(SIZE, 4, generator=generator)
    return x, torch.zeros(SIZE) if bad else torch.arange(SIZE) % 2.0


class ClassWeights(ZooModule):
    """Inverse class frequencies of the batch: infinite for an absent class, which is then given weight 0."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, label = batch
        frequency = functional.one_hot(label, 3).float().mean(0)
        weight = torch.nan_to_num(1 / frequency, posinf=0.0)
        return functional.cross_entropy(self.net(x).float(), label, weight=weight)


def classes(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return inputs and labels; one class is absent in one batch."""
    x = torch.randn(SIZE, 4, generator=generator)
    return x, torch.arange(SIZE) % (2 if bad else 3)


CASES: list[Case] = [
    Case(
        name="healthy-legal-moves",
        module=LegalMoves,
        batches=eight(boards),
        truth=TRUTH,
        source="usual practice: illegal moves at -inf",
    ),
    Case(
        name="healthy-double-where",
        module=SafeRoot,
        batches=eight(regression),
        truth=TRUTH,
        source="pytorch/pytorch#68425: the remedy",
    ),
    Case(
        name="healthy-missing-labels",
        module=MissingLabels,
        batches=eight(incomplete),
        truth=TRUTH,
        source="pytorch/pytorch#89543: the remedy",
    ),
    Case(
        name="healthy-xlogy-of-targets",
        module=SoftTargets,
        batches=eight(smoothed),
        truth=TRUTH,
        source="usual practice: what xlogy is for",
    ),
    Case(
        name="healthy-charbonnier",
        module=Charbonnier,
        batches=eight(sparse_signals),
        truth=TRUTH,
        source="usual practice: epsilon inside of the root",
    ),
    Case(
        name="healthy-marginal-likelihood",
        module=Marginal,
        batches=eight(answers),
        truth=TRUTH,
        source="usual practice: log-sum-exp with some terms at -inf",
    ),
    Case(
        name="healthy-log-of-mask",
        module=LogMask,
        batches=eight(sets),
        truth=TRUTH,
        source="usual practice: the logarithm of a mask added to scores",
    ),
    Case(
        name="healthy-confident-logits",
        module=ConfidentLogits,
        batches=eight(confident),
        truth=TRUTH,
        source="usual practice: binary cross-entropy with logits",
    ),
    Case(
        name="healthy-running-minimum",
        module=NearestPrototype,
        batches=eight(planar),
        truth=TRUTH,
        source="usual practice: a minimum that starts at infinity",
    ),
    Case(
        name="healthy-undefined-recall",
        module=RecallWeighted,
        batches=eight(imbalanced),
        truth=TRUTH,
        source="talmolab/sleap-nn#692: a metric that is NaN by design, without a gradient through it",
    ),
    Case(
        name="healthy-absent-class",
        module=ClassWeights,
        batches=eight(classes),
        truth=TRUTH,
        source="usual practice: inverse frequencies with nan_to_num",
    ),
]
