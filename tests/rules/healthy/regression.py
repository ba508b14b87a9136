"""Numbers: regressions, an equation, rankings, and losses with margins."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adagrad, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from tests.rules.healthy.case import Case, Learner, Training, above, below
from tests.rules.healthy.data import Split, digits, flat, loader, split, standard_digits, table
from tests.rules.healthy.supervised import Supervised, supervised


def error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the share of the variance that is not explained."""
    return (prediction - target).square().mean() / target.var()


def tanh_mlp(inputs: int, outputs: int = 1, width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs))
    )


def relu_mlp(inputs: int, outputs: int = 1, width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))
    )


def friedman(scale: float = 1.0) -> Split:
    """Return the first regression problem of Friedman (1991) with a little noise; the target has that scale."""
    x = torch.rand(4000, 10)
    y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = y + torch.randn(4000)
    return split((x - 0.5) * math.sqrt(12), scale * ((y - y.mean()) / y.std())[:, None], train=3200)


def summed() -> Training:
    data = friedman()
    loss = partial(functional.mse_loss, reduction="sum")
    module = Supervised(relu_mlp(10), data.test, partial(SGD, lr=2e-4, momentum=0.9), loss=loss, score=error)
    return supervised(module, data, 2000, log=20, validate=True)


def small_targets() -> Training:
    data = friedman(1e-2)
    optimizer, schedule = partial(Adam, lr=2e-3), partial(CosineAnnealingLR, T_max=3000)
    loss = functional.mse_loss
    module = Supervised(tanh_mlp(10), data.test, optimizer, schedule=schedule, loss=loss, score=error)
    return supervised(module, data, 3000, log=20)


def huber() -> Training:
    data = table("diabetes")
    optimizer = partial(AdamW, lr=1e-3, weight_decay=0.1)
    module = Supervised(relu_mlp(10, width=32), data.test, optimizer, loss=functional.huber_loss, score=error)
    return supervised(module, data, 1500, batch=32, log=20)


class Uncertain(Learner):
    """Learns mean and variance; the loss is a Gaussian's, and becomes negative."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tanh_mlp(1, 2)

    @staticmethod
    def sample(count: int) -> tuple[Tensor, Tensor]:
        x = 2 * torch.rand(count, 1) - 1
        return x, (3 * x).sin() + torch.randn(count, 1) * (0.05 + 0.1 * (x + 1))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        mean, raw = self.net(x).chunk(2, dim=-1)
        return functional.gaussian_nll_loss(mean, y, functional.softplus(raw) + 1e-4)

    def measure(self) -> float:
        return float(self.loss(self.sample(2000)))

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=2e-3)


def uncertain() -> Training:
    return Training(
        module=Uncertain(),
        train=loader(*Uncertain.sample(4000)),
        trainer={"max_steps": 2000},
        monitor={"log_every_n_steps": 50},
    )


class Equation(Learner):
    """A physics-informed network: u'' = -pi^2 sin(pi x) between two zeros, whose solution is sin(pi x)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tanh_mlp(1, width=32)

    def loss(self, batch: Any) -> Tensor:
        x = batch[0].requires_grad_()
        with torch.enable_grad():
            u = self.net(x)
            (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        inside = (bend / math.pi**2 + (math.pi * x).sin()).square().mean()
        return inside + self.net(torch.tensor([[-1.0], [1.0]])).square().mean()

    def measure(self) -> float:
        x = torch.linspace(-1, 1, 200)[:, None]
        return float((self.net(x) - (math.pi * x).sin()).abs().max())

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=1e-3)


def equation() -> Training:
    return Training(
        module=Equation(),
        train=loader(2 * torch.rand(4096, 1) - 1),
        trainer={"max_steps": 3000},
        monitor={"log_every_n_steps": 50},
    )


class Ranking(Learner):
    """Orders patients by the progress of their disease, from pairs and a margin."""

    def __init__(self, data: Split) -> None:
        super().__init__()
        self.data = data
        self.net = relu_mlp(10, width=32)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        scores, half = self.net(x), len(x) // 2
        order = (y[:half] - y[half:]).sign()
        return functional.margin_ranking_loss(scores[:half], scores[half:], order, margin=0.5)

    def measure(self) -> float:
        scores, y = self.net(self.data.test_x), self.data.test_y
        right = ((scores - scores.T) * (y - y.T) > 0).float().sum()
        return float(right / (y != y.T).sum())

    def configure_optimizers(self) -> Any:
        return AdamW(self.parameters(), lr=3e-4, weight_decay=0.1)


def ranking() -> Training:
    data = table("diabetes")
    return Training(
        module=Ranking(data),
        train=loader(data.x, data.y),
        trainer={"max_steps": 1500},
        monitor={"log_every_n_steps": 20},
    )


def hinge() -> Training:
    data = flat(standard_digits())
    module = Supervised(
        relu_mlp(64, 10), data.test, partial(SGD, lr=0.05, momentum=0.9), loss=functional.multi_margin_loss
    )
    return supervised(module, data, 2000, batch=32, log=20, validate=True)


def labels_apart() -> Training:
    x, y, test_x, test_y = flat(standard_digits())
    loss = functional.binary_cross_entropy_with_logits
    module = Supervised(relu_mlp(64, 10), (test_x, test_y), partial(Adam, lr=1e-3), loss=loss)
    data = Split(x, functional.one_hot(y, 10).float(), test_x, test_y)
    return supervised(module, data, 2000, log=20)


def sigmoid_images() -> Training:
    data = flat(digits())
    network = nn.Sequential(relu_mlp(64, 16), relu_mlp(16, 64), nn.Sigmoid())
    test = (data.test_x, data.test_x)
    module = Supervised(network, test, partial(Adam, lr=2e-3), loss=functional.mse_loss, score=error)
    return supervised(module, Split(data.x, data.x, *test), 2500, log=20, validate=True)


class Ratings(Learner):
    """Factors of users and films, of a table of which a part is known."""

    def __init__(self, users: int = 200, films: int = 150, rank: int = 4) -> None:
        super().__init__()
        truth = torch.randn(users, rank) @ torch.randn(rank, films) / math.sqrt(rank)
        pairs = torch.cartesian_prod(torch.arange(users), torch.arange(films))
        self.pairs = pairs[torch.randperm(len(pairs))]
        self.values = truth[self.pairs[:, 0], self.pairs[:, 1]] + 0.1 * torch.randn(len(pairs))
        self.users, self.films = nn.Embedding(users, 8), nn.Embedding(films, 8)
        for embedding in (self.users, self.films):
            nn.init.normal_(embedding.weight, std=0.3)

    def loss(self, batch: Any) -> Tensor:
        pairs, values = batch
        return functional.mse_loss((self.users(pairs[:, 0]) * self.films(pairs[:, 1])).sum(-1), values)

    def measure(self) -> float:
        return float(self.loss((self.pairs[20000:], self.values[20000:])))

    def configure_optimizers(self) -> Any:
        return Adagrad(self.parameters(), lr=0.1)


def ratings() -> Training:
    module = Ratings()
    return Training(
        module=module,
        train=loader(module.pairs[:20000], module.values[:20000], batch=128),
        trainer={"max_steps": 2500},
        monitor={"log_every_n_steps": 50},
    )


def wine() -> Training:
    data = table("wine")
    module = Supervised(tanh_mlp(13, 3, 16), data.test, partial(SGD, lr=0.02, momentum=0.9, weight_decay=1e-3))
    return supervised(module, data, 2500, batch=2, log=50)


CASES = [
    Case(name="summed-loss", about="MSE summed over 64 samples", make=summed, learned=below("error", 0.15)),
    Case(name="small-targets", about="targets around 0.01", make=small_targets, learned=below("error", 0.15)),
    Case(name="huber", about="few and noisy data", make=huber, learned=below("error", 0.7)),
    Case(name="gaussian", about="a negative loss that is right", make=uncertain, learned=below("nats", -0.5)),
    Case(name="equation", about="second derivatives", make=equation, learned=below("largest error", 0.05)),
    Case(name="ranking", about="pairs with a margin", make=ranking, learned=above("right pairs", 0.65)),
    Case(name="hinge", about="a loss of exactly 0 at times", make=hinge, learned=above("accuracy", 0.93)),
    Case(name="labels-apart", about="ten sigmoids, BCE", make=labels_apart, learned=above("accuracy", 0.93)),
    Case(
        name="sigmoid-images",
        about="an autoencoder whose outputs are pixels between 0 and 1",
        make=sigmoid_images,
        learned=below("error", 0.25),
    ),
    Case(name="ratings", about="embeddings, Adagrad", make=ratings, learned=below("error", 0.2)),
    Case(name="wine", about="2 samples a batch", make=wine, learned=above("accuracy", 0.9)),
]
