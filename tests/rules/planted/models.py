"""Small LightningModules, built the way that users build theirs; a case spoils one thing in them."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


def sgd(lr: float, **options: Any) -> Callable[[Any], Optimizer]:
    return partial(torch.optim.SGD, lr=lr, **options)


def adam(lr: float, **options: Any) -> Callable[[Any], Optimizer]:
    return partial(torch.optim.Adam, lr=lr, **options)


def adamw(lr: float, **options: Any) -> Callable[[Any], Optimizer]:
    return partial(torch.optim.AdamW, lr=lr, **options)


class Learner(LightningModule):
    """A loss and an optimizer: what all of them have.

    Args:
        optimizer: makes it from the parameters.
        loss: of outputs and targets.
        schedule: makes a schedule of the learning rate from the optimizer.
        interval: when it takes a step.
    """

    def __init__(
        self,
        *,
        optimizer: Callable[[Any], Optimizer],
        loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        interval: str = "step",
    ) -> None:
        super().__init__()
        self.make_optimizer = optimizer
        self.criterion = loss
        self.make_schedule = schedule
        self.interval = interval

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.criterion(self(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", self.criterion(self(x), y))

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if self.make_schedule is None:
            return optimizer
        schedule = {"scheduler": self.make_schedule(optimizer), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def stack(*sizes: int, activation: Callable[[], nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    """Linear layers with activations between them, and BatchNorms if asked for."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes[:-1]):
        layers += [nn.Linear(wide, narrow), *([nn.BatchNorm1d(narrow)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class Perceptron(Learner):
    """Linear layers: ``net.0``, ``net.2`` and so on."""

    def __init__(
        self, *sizes: int, activation: Callable[[], nn.Module] = nn.ReLU, norm: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.net = stack(*sizes, activation=activation, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Convolutional(Learner):
    """Two convolutions over images of 8 x 8 pixels, ``features.0`` and ``features.4`` (3 without norm), and a head."""

    def __init__(
        self, *, norm: bool = True, activation: Callable[[], nn.Module] = nn.ReLU, width: int = 8, **options: Any
    ) -> None:
        super().__init__(**options)
        norms = [[nn.BatchNorm2d(width)], [nn.BatchNorm2d(2 * width)]] if norm else [[], []]
        self.features = nn.Sequential(
            *(nn.Conv2d(1, width, 3, padding=1), *norms[0], activation(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), *norms[1], activation(), nn.MaxPool2d(2)),
        )
        self.head = nn.Linear(8 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(1))


class Recurrent(Learner):
    """The last state of a recurrent layer, read by a linear head."""

    def __init__(
        self,
        outputs: int = 3,
        *,
        cell: Callable[..., nn.Module] = nn.GRU,
        features: int = 2,
        hidden: int = 16,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.rnn: nn.Module = cell(features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Transformer(Learner):
    """A sentence classifier with learned positions."""

    def __init__(
        self,
        outputs: int = 3,
        *,
        vocabulary: int = 20,
        length: int = 8,
        width: int = 16,
        depth: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, outputs)

    def hidden(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.encoder(self.embed(tokens) + self.positions(places)).mean(1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(tokens))


class Autoencoder(Learner):
    """Learns to repeat its input through a narrow code; the labels of the data set are not used."""

    def __init__(
        self, *sizes: int, activation: Callable[[], nn.Module] = nn.ReLU, norm: bool = False, **options: Any
    ) -> None:
        super().__init__(**{"loss": functional.mse_loss, **options})
        self.encoder = stack(*sizes, activation=activation, norm=norm)
        self.decoder = stack(*reversed(sizes), activation=activation, norm=norm)

    def code(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.code(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].flatten(1)
        return self.criterion(self(x), x)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x = batch[0].flatten(1)
        self.log("val_loss", self.criterion(self(x), x))


class Block(nn.Module):
    """Adds ``scale`` times a small perceptron to its input."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.fc2(functional.gelu(self.fc1(self.norm(x))))


class Residual(Learner):
    """A stem, residual blocks and a head."""

    def __init__(
        self,
        features: int = 16,
        outputs: int = 4,
        *,
        width: int = 16,
        depth: int = 3,
        scale: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.stem = nn.Linear(features, width)
        self.blocks = nn.Sequential(*(Block(width, scale) for _ in range(depth)))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class Recommender(Learner):
    """Matrix factorisation: what a user thinks of an item is the product of their vectors."""

    def __init__(
        self, *, users: int = 30, items: int = 20, width: int = 8, limit: float | None = None, **options: Any
    ) -> None:
        super().__init__(**{"loss": functional.mse_loss, **options})
        self.users = nn.Embedding(users, width, max_norm=limit)
        self.items = nn.Embedding(items, width, max_norm=limit)

    def forward(self, pairs: Tensor) -> Tensor:
        return (self.users(pairs[:, 0]) * self.items(pairs[:, 1])).sum(1)
