"""Images: convolutional networks on scikit-learn's handwritten digits."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from gradwatch.demo.digits import DigitsCNN, digit_loaders
from tests.rules.healthy.case import Case, Learner, Training, above, below
from tests.rules.healthy.data import Split, digits, loader, standard_digits
from tests.rules.healthy.schedules import one_cycle, warmup_cosine
from tests.rules.healthy.supervised import Supervised, accuracy, supervised


class Demo(DigitsCNN, Learner):
    """The CNN of the demo, measured on the test images."""

    def loss(self, *arguments: Any) -> Tensor:
        return functional.cross_entropy(*arguments)

    def measure(self) -> float:
        _, _, x, y = digits()
        return float(accuracy(self(x), y))


def demo() -> Training:
    train, test = digit_loaders()
    return Training(module=Demo(), train=train, validation=test, trainer={"max_steps": 1000})


class Residual(nn.Module):
    """A basic block of a ResNet. ``zero``: the last scale begins at 0, so that the block begins as the identity."""

    def __init__(self, width: int, *, zero: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        if zero:
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(hidden)))


class ReZero(nn.Module):
    """A residual branch without normalisation, multiplied by one learned number that begins at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.branch(x)


def resnet(width: int = 16, *, zero: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Residual(width, zero=zero),
        nn.MaxPool2d(2),
        Residual(width, zero=zero),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 10),
    )


def group_normed(width: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.GroupNorm(4, width),
        nn.SiLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1, stride=2),
        nn.GroupNorm(4, 2 * width),
        nn.SiLU(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1, stride=2),
        nn.GroupNorm(4, 2 * width),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )


def plain_cnn(width: int = 12) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def normed_cnn(width: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * width, 10),
    )


def resnet_one_cycle() -> Training:
    data, steps = standard_digits(), 1100
    optimizer = partial(SGD, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    module = Supervised(resnet(), data.test, optimizer, schedule=one_cycle(steps, 0.1))
    return supervised(module, data, steps, validate=True)


def zero_gamma() -> Training:
    data, steps = standard_digits(), 1000
    optimizer = partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-4)
    module = Supervised(resnet(zero=True), data.test, optimizer, schedule=warmup_cosine(steps))
    return supervised(module, data, steps, log=20)


def rezero() -> Training:
    data = standard_digits()
    blocks = (ReZero(64) for _ in range(6))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), *blocks, nn.Linear(64, 10))
    module = Supervised(network, data.test, partial(torch.optim.Adam, lr=1e-3))
    return supervised(module, data, 1500, log=20, validate=True)


def group_norm() -> Training:
    data, steps = standard_digits(), 1200
    optimizer = partial(AdamW, lr=2e-3)
    network = nn.Sequential(group_normed(), nn.LogSoftmax(dim=-1))
    schedule = partial(CosineAnnealingLR, T_max=steps)
    module = Supervised(network, data.test, optimizer, schedule=schedule, loss=functional.nll_loss)
    return supervised(module, data, steps, log=10)


def tiny_batches() -> Training:
    data = standard_digits()
    module = Supervised(plain_cnn(), data.test, partial(SGD, lr=3e-3, momentum=0.9))
    return supervised(module, data, 2500, batch=4)


def dropout() -> Training:
    data = standard_digits()
    network = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10)),
    )
    module = Supervised(network, data.test, partial(torch.optim.Adam, lr=1e-3))
    return supervised(module, data, 1500, log=20, validate=True)


def label_noise() -> Training:
    x, y, *test = standard_digits()
    wrong = torch.rand(len(y)) < 0.3
    noisy = torch.where(wrong, torch.randint(10, y.shape), y)
    module = Supervised(normed_cnn(8), (test[0], test[1]), partial(AdamW, lr=1e-3, weight_decay=0.1))
    return supervised(module, Split(x, noisy, *test), 1000, log=20)


def small_last_batch() -> Training:
    data = standard_digits()
    module = Supervised(normed_cnn(), data.test, partial(AdamW, lr=1e-3))
    return Training(
        module=module,
        train=loader(data.x, data.y, batch=102, drop_last=False),
        trainer={"max_steps": 1000},
        monitor={"log_every_n_steps": 20},
    )


def overfit() -> Training:
    data = standard_digits()
    few = Split(data.x[:256], data.y[:256], *data.test)
    module = Supervised(plain_cnn(), (few.x, few.y), partial(torch.optim.Adam, lr=2e-3), score=functional.cross_entropy)
    return supervised(module, few, 2000, batch=32, log=20)


def heavy_decay() -> Training:
    data = standard_digits()
    module = Supervised(normed_cnn(), data.test, partial(AdamW, lr=2e-3, weight_decay=1.0))
    return supervised(module, data, 1000, validate=True)


class Patches(nn.Module):
    """A small vision transformer: 16 patches of 2 x 2 pixels and a class token, pre-norm."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, stride=2)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(17, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.position
        return self.head(self.encoder(tokens)[:, 0])


def vision_transformer() -> Training:
    data, steps = standard_digits(), 1200
    module = Supervised(Patches(), data.test, partial(AdamW, lr=2e-3), schedule=warmup_cosine(steps, 120))
    return supervised(module, data, steps, validate=True)


CASES = [
    Case(name="digits-cnn", about="the demo", make=demo, learned=above("accuracy", 0.95)),
    Case(
        name="resnet-one-cycle",
        about="BatchNorm, SGD with Nesterov momentum, one cycle up to 0.1",
        make=resnet_one_cycle,
        learned=above("accuracy", 0.95),
    ),
    Case(name="zero-gamma", about="residual branches begin at 0", make=zero_gamma, learned=above("accuracy", 0.95)),
    Case(name="rezero", about="one learned number a branch, from 0", make=rezero, learned=above("accuracy", 0.93)),
    Case(name="group-norm", about="GroupNorm, SiLU and a cosine", make=group_norm, learned=above("accuracy", 0.95)),
    Case(name="tiny-batches", about="4 samples a batch", make=tiny_batches, learned=above("accuracy", 0.93)),
    Case(name="dropout", about="half of the units dropped, twice", make=dropout, learned=above("accuracy", 0.93)),
    Case(name="label-noise", about="30 % random labels", make=label_noise, learned=above("clean accuracy", 0.85)),
    Case(
        name="small-last-batch",
        about="102 samples a batch, and 9 at the end of an epoch",
        make=small_last_batch,
        learned=above("accuracy", 0.95),
    ),
    Case(name="overfit", about="256 images by heart", make=overfit, learned=below("training loss", 1e-3)),
    Case(name="heavy-decay", about="AdamW with decay 1", make=heavy_decay, learned=above("accuracy", 0.95)),
    Case(
        name="vision-transformer",
        about="warm-up and cosine, class token, dropout",
        make=vision_transformer,
        learned=above("accuracy", 0.9),
    ),
]
