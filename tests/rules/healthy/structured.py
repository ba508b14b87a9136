"""Networks and tasks of a special structure: heads in turn, experts, parametrised weights, alignments, masks."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import SGD, Adam, AdamW

from tests.rules.healthy.case import Case, Learner, Training, above, below
from tests.rules.healthy.data import Split, digits, flat, loader, standard_digits
from tests.rules.healthy.supervised import Supervised, accuracy, supervised


class InTurn(Learner):
    """One body and two heads; even batches train the one, odd batches the other."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU())
        self.digit, self.ink = nn.Linear(64, 10), nn.Linear(64, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        hidden = self.body(x)
        if batch_idx % 2:
            return functional.mse_loss(self.ink(hidden).squeeze(-1), x.mean(-1))
        return functional.cross_entropy(self.digit(hidden), y)

    def measure(self) -> float:
        data = flat(standard_digits())
        return float(accuracy(self.digit(self.body(data.test_x)), data.test_y))

    def configure_optimizers(self) -> Any:
        return AdamW(self.parameters(), lr=1e-3)


class Experts(nn.Module):
    """Four experts; each sample goes to the two that the router likes best."""

    def __init__(self, width: int = 64, count: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, count)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        chances = self.router(x).softmax(-1)
        weights, chosen = chances.topk(2, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        result = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            sample, place = torch.nonzero(chosen == index, as_tuple=True)
            result = result.index_add(0, sample, weights[sample, place, None] * expert(x[sample]))
        used = functional.one_hot(chosen, len(self.experts)).float().mean((0, 1))
        return x + result, len(self.experts) * (used * chances.mean(0)).sum()


class Mixture(Learner):
    """A classifier with two layers of experts and a loss that spreads the samples among them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(64, 64)
        self.layers = nn.ModuleList(Experts() for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(2))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden, balance = self.enter(x), torch.zeros(())
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden, uneven = layer(norm(hidden))
            balance = balance + uneven
        return self.head(hidden), balance

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        logits, balance = self(x)
        return functional.cross_entropy(logits, y) + 0.01 * balance

    def measure(self) -> float:
        data = flat(standard_digits())
        return float(accuracy(self(data.test_x)[0], data.test_y))

    def configure_optimizers(self) -> Any:
        return AdamW(self.parameters(), lr=1e-3)


def weight_normed() -> Training:
    data = flat(standard_digits())
    layers = (weight_norm(nn.Linear(*sizes)) for sizes in ((64, 96), (96, 96)))
    network = nn.Sequential(next(layers), nn.ReLU(), next(layers), nn.ReLU(), nn.Linear(96, 10))
    module = Supervised(network, data.test, partial(SGD, lr=0.05, momentum=0.9))
    return supervised(module, data, 2000, log=20)


class Block(nn.Module):
    """A pre-norm residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def deep() -> Training:
    data = flat(standard_digits())
    blocks = (Block(32) for _ in range(12))
    network = nn.Sequential(nn.Linear(64, 32), *blocks, nn.LayerNorm(32), nn.Linear(32, 10))
    module = Supervised(network, data.test, partial(AdamW, lr=1e-3))
    return supervised(module, data, 1200, log=10)


class Aligned(Learner):
    """Reads rows of two to four digits without knowing where each begins (CTC)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.columns = nn.Sequential(nn.Conv1d(8, width, 3, padding=1), nn.ReLU())
        self.recurrent = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 11)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.columns(x).transpose(1, 2)
        return self.head(self.recurrent(hidden)[0]).log_softmax(-1)

    def loss(self, batch: Any) -> Tensor:
        x, y, count = batch
        return functional.ctc_loss(self(x).transpose(0, 1), y, 8 * count, count)

    def measure(self) -> float:
        x, y, count = strips(256, test=True)
        right = 0
        for said, wanted, length in zip(self(x).argmax(-1), y, count, strict=True):
            merged = torch.unique_consecutive(said[: 8 * length])
            right += merged[merged > 0].tolist() == wanted[:length].tolist()
        return right / len(x)

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=3e-3)


def strips(count: int, *, test: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return strips of digits side by side, their labels from 1, and how many there are; 0 is the blank."""
    data = standard_digits()
    images, labels = data.test if test else (data.x, data.y)
    chosen = torch.randint(len(images), (count, 4))
    length = torch.randint(2, 5, (count,))
    there = torch.arange(4) < length[:, None]
    x = torch.where(there[:, None, :, None], images[chosen].squeeze(2).transpose(1, 2), data.x.min())
    return x.flatten(2), (labels[chosen] + 1) * there, length


def aligned() -> Training:
    return Training(
        module=Aligned(),
        train=loader(*strips(4000), batch=32),
        trainer={"max_steps": 1200, "gradient_clip_val": 5.0},
        monitor={"log_every_n_steps": 20},
    )


class Outlines(nn.Module):
    """A small U-Net."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.down2 = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.out = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        return self.out(torch.cat([fine, self.up(self.down2(fine))], dim=1))


def overlap(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the Dice coefficient of probabilities and a mask."""
    chance = logits.sigmoid()
    return (2 * (chance * mask).sum() + 1) / (chance.sum() + mask.sum() + 1)


def dice(logits: Tensor, mask: Tensor) -> Tensor:
    return 1 - overlap(logits, mask) + functional.binary_cross_entropy_with_logits(logits, mask)


def segmentation() -> Training:
    data = digits()
    mask, test_mask = (data.x > 0.5).float(), (data.test_x > 0.5).float()
    x, test_x = (2 * images - 0.6 + 0.6 * torch.randn_like(images) for images in (data.x, data.test_x))
    module = Supervised(Outlines(), (test_x, test_mask), partial(Adam, lr=1e-3), loss=dice, score=overlap)
    return supervised(module, Split(x, mask, test_x, test_mask), 1000, batch=32, log=20, validate=True)


class Sine(nn.Module):
    """A layer with a sine (SIREN), with the initial weights of its paper."""

    def __init__(self, inputs: int, outputs: int, *, first: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else (6 / inputs) ** 0.5 / 10
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return (10 * self.linear(x)).sin()


def siren() -> Training:
    """Learn a strip of digits as a function of the place."""
    image = standard_digits().x[:16, 0].transpose(0, 1).flatten(1)
    rows, columns = torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 128)
    places, values = torch.cartesian_prod(rows, columns), image.flatten()[:, None]
    network = nn.Sequential(Sine(2, 96, first=True), Sine(96, 96), Sine(96, 96), nn.Linear(96, 1))
    loss = functional.mse_loss
    module = Supervised(network, (places, values), partial(Adam, lr=5e-4), loss=loss, score=loss)
    return supervised(module, Split(places, values, places, values), 2500, batch=256, log=50)


def few_positives() -> Training:
    """Find one digit among ten, whose rareness the loss makes up for."""
    x, y, test_x, test_y = flat(standard_digits())
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    loss = partial(functional.binary_cross_entropy_with_logits, pos_weight=torch.tensor(9.0))

    def found(logits: Tensor, target: Tensor) -> Tensor:
        right = (logits > 0).float() * target
        return 2 * right.sum() / ((logits > 0).sum() + target.sum())

    data = Split(x, (y == 8).float()[:, None], test_x, (test_y == 8).float()[:, None])
    module = Supervised(network, data.test, partial(Adam, lr=1e-3), loss=loss, score=found)
    return supervised(module, data, 2000, log=50, validate=True)


def on_vectors(module: Learner, steps: int, log: int) -> Training:
    data = flat(standard_digits())
    return Training(
        module=module,
        train=loader(data.x, data.y),
        trainer={"max_steps": steps},
        monitor={"log_every_n_steps": log},
    )


CASES = [
    Case(
        name="in-turn",
        about="two heads; on log steps it is always the turn of the same",
        make=lambda: on_vectors(InTurn(), 2000, 20),
        learned=above("accuracy", 0.93),
    ),
    Case(
        name="experts",
        about="two of four for each sample",
        make=lambda: on_vectors(Mixture(), 1200, 20),
        learned=above("accuracy", 0.95),
    ),
    Case(name="weight-norm", about="parametrised weights", make=weight_normed, learned=above("accuracy", 0.95)),
    Case(name="deep", about="twelve pre-norm blocks", make=deep, learned=above("accuracy", 0.93)),
    Case(name="aligned", about="CTC", make=aligned, learned=above("strips read", 0.7)),
    Case(name="segmentation", about="a U-Net, Dice and BCE", make=segmentation, learned=above("overlap", 0.8)),
    Case(name="siren", about="sines", make=siren, learned=below("error", 0.1)),
    Case(name="few-positives", about="one in ten, weighted", make=few_positives, learned=above("F1", 0.85)),
]
