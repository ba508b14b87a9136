"""Fine-tuning: networks that have been trained before, with parts of them frozen."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW

from tests.rules.healthy.case import Case, Training, above
from tests.rules.healthy.data import Split, flat, standard_digits
from tests.rules.healthy.optimization import mlp
from tests.rules.healthy.schedules import warmup_cosine
from tests.rules.healthy.supervised import Supervised, supervised
from tests.rules.healthy.vision import normed_cnn


def pretrain(network: nn.Module, data: Split, steps: int = 300) -> None:
    """Train with a plain loop, so that there is something to fine-tune."""
    optimizer = AdamW(network.parameters(), lr=2e-3)
    for _ in range(steps):
        chosen = torch.randint(len(data.x), (64,))
        loss = functional.cross_entropy(network(data.x[chosen]), data.y[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def halves() -> tuple[Split, Split]:
    """Return the digits below 5, to train before, and the others, with labels from 0 as well."""
    x, y, test_x, test_y = standard_digits()
    small, test_small = y < 5, test_y < 5
    return (
        Split(x[small], y[small], test_x[test_small], test_y[test_small]),
        Split(x[~small], y[~small] - 5, test_x[~test_small], test_y[~test_small] - 5),
    )


class LowRank(nn.Module):
    """A frozen linear layer and a correction of low rank that begins at 0 (LoRA)."""

    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2 * self.up(self.down(x))


def low_rank() -> Training:
    """Read digits that lie on their side with a network that knows upright ones."""
    data = standard_digits()
    network = mlp()
    pretrain(network, data)
    turned = Split(data.x.rot90(1, (2, 3)), data.y, data.test_x.rot90(1, (2, 3)), data.test_y)
    layers = [LowRank(part) if isinstance(part, nn.Linear) else part for part in network.children()]
    steps = 1500
    optimizer, schedule = partial(AdamW, lr=3e-3), warmup_cosine(steps)
    module = Supervised(nn.Sequential(*layers), turned.test, optimizer, schedule=schedule)
    return supervised(module, turned, steps, log=20, validate=True)


def by_layer() -> Training:
    """Train every layer at its own rate, the lower the slower."""
    before, after = halves()
    network = normed_cnn()
    pretrain(network, before)
    network[-1] = nn.Linear(512, 5)

    def optimizer(parameters: Any) -> AdamW:
        parts = [list(network[:4].parameters()), list(network[4:-1].parameters()), list(network[-1].parameters())]
        rates = (3e-5, 2e-4, 1e-3)
        return AdamW([{"params": part, "lr": rate} for part, rate in zip(parts, rates, strict=True)])

    module = Supervised(network, after.test, optimizer, schedule=warmup_cosine(1000))
    return supervised(module, after, 1000, batch=32, log=20, validate=True)


class FrozenNorms(nn.Module):
    """Keeps every BatchNorm as it was trained: its statistics stand still, and so do scale and shift."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's own signature
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def frozen_norms() -> Training:
    before, after = halves()
    network = normed_cnn()
    pretrain(network, before)
    network[-1] = nn.Linear(512, 5)
    module = Supervised(FrozenNorms(network), after.test, partial(SGD, lr=5e-3, momentum=0.9))
    return supervised(module, after, 1200, batch=8, log=20)


class Unfreezing(Supervised):
    """Trains the head alone for 20 epochs, and everything from then on."""

    def __init__(self, network: nn.Sequential, test: tuple[Tensor, Tensor]) -> None:
        super().__init__(network, test, AdamW)
        self.body, self.head = network[:-1], network[-1]

    def on_train_epoch_start(self) -> None:
        self.body.requires_grad_(self.current_epoch >= 20)

    def configure_optimizers(self) -> Any:
        return AdamW([{"params": self.body.parameters(), "lr": 1e-4}, {"params": self.head.parameters(), "lr": 1e-3}])


def unfreezing() -> Training:
    before, after = halves()
    network = normed_cnn()
    pretrain(network, before)
    network[-1] = nn.Linear(512, 5)
    return supervised(Unfreezing(network, after.test), after, 1100, batch=32, log=20)


class Distilled(Supervised):
    """Learns from the soft answers of a trained teacher, and from the labels."""

    def __init__(self, teacher: nn.Module, network: nn.Module, test: tuple[Tensor, Tensor]) -> None:
        super().__init__(network, test, partial(AdamW, lr=1e-3))
        self.teacher = teacher.requires_grad_(requires_grad=False)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        with torch.no_grad():
            soft = (self.teacher.eval()(x) / 3).softmax(-1)
        logits = self(x)
        distance = functional.kl_div((logits / 3).log_softmax(-1), soft, reduction="batchmean")
        return 9 * distance + functional.cross_entropy(logits, y)


def distilled() -> Training:
    data = standard_digits()
    teacher = normed_cnn()
    pretrain(teacher, data)
    return supervised(Distilled(teacher, mlp(width=48), data.test), data, 1500, log=20)


def linear_probe() -> Training:
    """Train one linear layer on the features of a frozen network."""
    before, after = halves()
    network = normed_cnn()
    pretrain(network, before)
    body = network[:-1].eval()
    with torch.no_grad():
        x, test_x = body(after.x), body(after.test_x)
    scale = x.std()
    data = flat(Split(x / scale, after.y, test_x / scale, after.test_y))
    module = Supervised(nn.Linear(512, 5), data.test, partial(SGD, lr=1e-3, momentum=0.9, weight_decay=1e-4))
    return supervised(module, data, 2000, batch=32, log=50, validate=True)


CASES = [
    Case(name="low-rank", about="LoRA on a frozen network", make=low_rank, learned=above("accuracy", 0.9)),
    Case(name="by-layer", about="three rates, 3e-5 to 1e-3", make=by_layer, learned=above("accuracy", 0.95)),
    Case(
        name="frozen-norms",
        about="BatchNorm in eval mode, 8 samples a batch",
        make=frozen_norms,
        learned=above("accuracy", 0.95),
    ),
    Case(name="unfreezing", about="head first, all later", make=unfreezing, learned=above("accuracy", 0.95)),
    Case(name="distilled", about="a frozen teacher, KL", make=distilled, learned=above("accuracy", 0.95)),
    Case(name="linear-probe", about="frozen features", make=linear_probe, learned=above("accuracy", 0.9)),
]
