"""Small LightningModules for the cases in ``tests/cases.py``.

A class here does not choose between ``lightning.pytorch`` and ``pytorch_lightning``: :func:`bind` puts it on top of
the ``LightningModule`` of either package, so that one table of cases serves both.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule as Base
else:
    from torch.nn import Module as Base

Features, Classes = 6, 3


def bind(cls: type[Base], package: Any) -> Callable[..., Any]:
    """Make ``cls`` a LightningModule of ``package`` (``lightning.pytorch`` or ``pytorch_lightning``)."""
    return type(cls.__name__, (cls, package.LightningModule), {"__module__": cls.__module__})


class Supervised(Base):
    """A network, a loss and an optimizer: what most cases are."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Any], Any],
        loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    ) -> None:
        super().__init__()
        self.network = network
        self.make_optimizer = optimizer
        self.loss = loss

    def training_step(self, batch: Any, _batch_idx: int) -> Any:
        x, y = batch
        loss = self.loss(self.network(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, _batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", self.loss(self.network(x), y))

    def configure_optimizers(self) -> Any:
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])


class Sometimes(Supervised):
    """Leaves out every third batch by returning None."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 3 == 1 else super().training_step(batch, batch_idx)


class Measured(Supervised):
    """Keeps a torchmetrics metric, whose states are neither parameters nor buffers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=Classes)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        with torch.no_grad():
            self.accuracy(self.network(x), y)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        return {"loss": super().training_step(batch, batch_idx), "size": len(x)}


class Scheduled(Supervised):
    """Follows a schedule of the learning rate, step by step."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class OwnClipping(Supervised):
    """Clips by value in its own way."""

    def configure_gradient_clipping(self, optimizer: Any, *_args: Any, **_kwargs: Any) -> None:
        for group in optimizer.param_groups:
            nn.utils.clip_grad_value_(group["params"], 0.01)


class OwnGradientEdit(Supervised):
    """Adds noise to the gradients in its own hook, which runs after those of the callbacks."""

    def on_before_optimizer_step(self, _optimizer: Any) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.add_(torch.randn_like(parameter.grad), alpha=1e-3)


class Teacher(Supervised):
    """Copies itself when training starts and keeps the copy as a moving average of its weights."""

    def on_train_start(self) -> None:
        whole = copy.deepcopy(self)
        self.teacher = whole.network.requires_grad_(requires_grad=False)

    def on_train_batch_end(self, *_args: Any) -> None:
        with torch.no_grad():
            for average, weight in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
                average.lerp_(weight, 0.1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with torch.no_grad():
            target = self.teacher(batch[0]).softmax(-1)
        return super().training_step(batch, batch_idx) + functional.cross_entropy(self.network(batch[0]), target)


class Adversarial(Base):
    """A GAN: two optimizers in manual optimization, the discriminator first. The generator has a BatchNorm."""

    def __init__(self, generator_norm: Callable[[int], nn.Module] = nn.BatchNorm1d) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 8), generator_norm(8), nn.ReLU(), nn.Linear(8, Features))
        self.discriminator = nn.Sequential(nn.Linear(Features, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def verdict(self, x: Tensor, target: float) -> Tensor:
        logits = self.discriminator(x)
        return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    def training_step(self, batch: Any, _batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        discriminate, generate = optimizers
        real, fake = batch[0], self.generator(torch.randn(len(batch[0]), 4))
        loss = self.verdict(real, 1.0) + self.verdict(fake.detach(), 0.0)
        discriminate.zero_grad()
        self.manual_backward(loss)
        discriminate.step()
        self.log("d_loss", loss)
        loss = self.verdict(fake, 1.0)
        generate.zero_grad()
        self.manual_backward(loss)
        generate.step()
        self.log("g_loss", loss)

    def configure_optimizers(self) -> Any:
        return (
            torch.optim.Adam(self.discriminator.parameters(), lr=1e-2, betas=(0.5, 0.9)),
            torch.optim.Adam(self.generator.parameters(), lr=1e-2, betas=(0.5, 0.9)),
        )


class Recurrent(nn.Module):
    """The last state of an LSTM, read by a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(Features, 5, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(5, Classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Attentive(nn.Module):
    """A transformer over float features, with dropout and position codes in a buffer."""

    def __init__(self, length: int = 4, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(Features, width)
        self.register_buffer("positions", torch.linspace(-1, 1, length)[:, None] * torch.ones(width))
        layer = nn.TransformerEncoderLayer(width, 2, dim_feedforward=16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(width, Classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.positions).mean(1))


class Tied(nn.Module):
    """A language model whose output layer is the embedding itself."""

    def __init__(self, words: int = 7, width: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embed(tokens)))).transpose(1, 2)


class Rotation(nn.Module):
    """Complex weights; the output is the real magnitude of the product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(Classes, Features, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.weight.T).abs()


class Unused(nn.Module):
    """Has a layer that the loss does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(Features, Classes)
        self.unused = nn.Linear(Features, Classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)
