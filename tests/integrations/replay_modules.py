"""Modules whose step breaks at the bad batch of ``breaking``, each with some state that a replay has to restore."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as twin
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils import parametrizations

if TYPE_CHECKING:
    from torch.optim import Optimizer

WIDTH = 3
BAD = 2


def breaking(*, bad: int | None = BAD, batches: int = 4) -> list[Tensor]:
    """Batches of four samples; in batch ``bad`` one sample is so negative that the logarithm of its sum is NaN."""
    generator = torch.Generator().manual_seed(3)
    data = [torch.rand(4, WIDTH, generator=generator) + 0.5 for _ in range(batches)]
    if bad is not None:
        data[bad][1] = -9.0
    return data


class Base(LightningModule):
    """The loss is the logarithm of something positive, as long as the batch is."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.score(batch).log().mean()

    def score(self, batch: Tensor) -> Tensor:
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD((p for p in self.parameters() if p.requires_grad), lr=1e-3)


def _positive(layer: nn.Linear) -> nn.Linear:
    nn.init.uniform_(layer.weight, 0.5, 1.0)
    return layer


class Plain(Base):
    def __init__(self) -> None:
        super().__init__()
        self.layer = _positive(nn.Linear(WIDTH, 1, bias=False))

    def score(self, batch: Tensor) -> Tensor:
        return self.layer(batch)


class Sized(Plain):
    """Hyperparameters: nested, with a default, and one that is no plain value."""

    def __init__(self, width: int, options: dict[str, Any], activation: Any = None, factor: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = _positive(nn.Linear(width, options["heads"]["count"], bias=options["bias"]))
        self.activation, self.factor = activation, factor


class Together(Plain):
    """All hyperparameters in one argument, as argparse and hydra leave them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.save_hyperparameters(config)
        self.layer = _positive(nn.Linear(config["width"], self.hparams.heads, bias=False))  # type: ignore[attr-defined]


class Forgetful(Plain):
    """An argument that nothing records."""

    def __init__(self, width: int, depth: int, color: str = "red") -> None:
        super().__init__()
        self.save_hyperparameters("depth", "color")
        self.layer = _positive(nn.Linear(width, 1, bias=False))


class TwinPackage(twin.LightningModule):
    """The same for ``pytorch_lightning``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = _positive(nn.Linear(WIDTH, 1, bias=False))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.layer(batch).log().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Configured(Base):
    """Layers that come to be in ``configure_model``, after those of ``setup``."""

    layer: nn.Linear
    gain: nn.Parameter

    def setup(self, stage: str) -> None:
        self.width = WIDTH
        self.gain = nn.Parameter(torch.ones(1))

    def configure_model(self) -> None:
        if not hasattr(self, "layer"):
            self.layer = _positive(nn.Linear(self.width, 1, bias=False))

    def score(self, batch: Tensor) -> Tensor:
        return self.layer(batch) * self.gain


class DataInSetup(Plain):
    """``setup`` loads data, which are only where the run was."""

    data_are_here = True

    def setup(self, stage: str) -> None:
        if not DataInSetup.data_are_here:
            message = "no data here"
            raise FileNotFoundError(message)


class LayersFromData(DataInSetup):
    """The same, and a layer is made from them."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.extra = nn.Parameter(torch.ones(1))

    def score(self, batch: Tensor) -> Tensor:
        return super().score(batch) * self.extra


class Lazy(Base):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(2, bias=False)
        self.norm = nn.LazyBatchNorm1d()

    def score(self, batch: Tensor) -> Tensor:
        return self.norm(self.layer(batch)).square() + batch.sum(1, keepdim=True)

    def configure_optimizers(self) -> Any:
        with torch.no_grad():
            self.score(torch.ones(4, WIDTH))
        return super().configure_optimizers()


class Parametrized(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.layer = parametrizations.weight_norm(self.layer)


class Tied(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(WIDTH, 1, bias=False)
        self.second.weight = self.layer.weight

    def score(self, batch: Tensor) -> Tensor:
        return self.layer(batch) + self.second(batch)


class HalfFrozen(Base):
    """Frozen by ``on_fit_start``, which no replay calls: parameters, and a norm in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)
        self.layer = _positive(nn.Linear(WIDTH, 1, bias=False))
        self.head = nn.Parameter(torch.ones(1))

    def on_train_start(self) -> None:
        self.norm.eval()
        self.layer.requires_grad_(requires_grad=False)

    def score(self, batch: Tensor) -> Tensor:
        return self.layer(self.norm(batch)) * self.head


class Buffers(Base):
    """A buffer that no state_dict has, and one that comes to be at the first batch; the value depends on both."""

    steps: Tensor
    late: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.layer = _positive(nn.Linear(WIDTH, 1, bias=False))
        self.register_buffer("steps", torch.zeros(()), persistent=False)
        self.register_buffer("late", None)

    def score(self, batch: Tensor) -> Tensor:
        self.late = torch.ones(1) if self.late is None else self.late + 1
        self.steps = self.steps + 1
        return self.layer(batch.abs()) * (BAD + 0.5 - self.steps) * (BAD + 1.5 - self.late)


class Random(Plain):
    """Three kinds of randomness decide which value is born; a replay with other numbers comes out finite."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def score(self, batch: Tensor) -> Tensor:
        drawn = random.random() + float(np.random.rand())  # noqa: NPY002 - the global generator is the point
        self.drawn = torch.tensor(drawn) + self.dropout(torch.ones(16)).sum()
        expected = getattr(self, "expected", self.drawn)
        return self.layer(batch) * torch.where(self.drawn == expected, 1.0, float("inf"))


class TwoOptimizers(Base):
    """Manual optimization; the second step of the batch is the bad one."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = (_positive(nn.Linear(WIDTH, 1, bias=False)) for _ in range(2))

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizers: Any = self.optimizers()
        for optimizer, loss in zip(optimizers, (self.harmless, self.harmful), strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss(batch))
            optimizer.step()
        schedulers: Any = self.lr_schedulers()
        schedulers.step()

    def harmless(self, batch: Tensor) -> Tensor:
        return self.first(batch).square().mean()

    def harmful(self, batch: Tensor) -> Tensor:
        return self.second(batch).log().mean()

    def configure_optimizers(self) -> Any:
        optimizers: list[Optimizer] = [torch.optim.Adam(part.parameters()) for part in (self.first, self.second)]
        return optimizers, [torch.optim.lr_scheduler.StepLR(optimizers[0], 1)]


class Quadratic(Base):
    """LBFGS moves the weight within its step, to where the logarithm is not defined."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 2.0))

    def score(self, batch: Tensor) -> Tensor:
        return self.weight * batch.abs().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=1.5, max_iter=4)


class OneCycle(Plain):
    """A schedule over the whole training, whose length only its data tell."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)]


class LargeSum(Base):
    """Every gradient is finite; their sum over the accumulation window overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.weight * (3e38 if batch_idx else 3e37)).sum() * 3


class FiniteElsewhere(Plain):
    """Something outside of module, batch and random numbers decides."""

    broken = False

    def score(self, batch: Tensor) -> Tensor:
        return super().score(batch.abs()) * (float("nan") if FiniteElsewhere.broken and batch.min() < 0 else 1.0)


class BackwardOnly(Plain):
    """The value is finite, its derivative is not."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.layer(batch.abs()) * (batch > 0).all(1, keepdim=True)).sqrt().mean()


class Grumpy(Plain):
    """Ends the process where it can."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.save_hyperparameters()
        if getattr(Grumpy, "now", None) is not None:
            raise Grumpy.now  # type: ignore[attr-defined]


def plain() -> LightningModule:
    return Plain()


def raising() -> LightningModule:
    message = "first line\nsecond line"
    raise KeyError(message)


def leaving() -> LightningModule:
    raise SystemExit(3)


def endless() -> LightningModule:
    return endless()


def a_number() -> int:
    return 7


def needy(width: int) -> LightningModule:
    return Plain()


NOT_CALLABLE = 7


class Net(nn.Module):
    """For a loop written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = _positive(nn.Linear(WIDTH, 1, bias=False))
        self.norm = nn.BatchNorm1d(1)


def loss_of(module: Any, batch: Tensor) -> Tensor:
    return (module.layer(batch).log() + 0.0 * module.norm(module.layer(batch))).mean()
