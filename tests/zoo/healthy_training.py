"""Healthy runs that look ill: calibration of the loss scale, missing and zero gradients, masks, extreme values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.case import BF16, FP32, HEALTHY, SCALER, Case, ZooModule

Pair = tuple[Tensor, Tensor]
EVERYWHERE = {FP32: HEALTHY, BF16: HEALTHY, SCALER: HEALTHY}


def features(*shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(8, *shape, generator=generator) for _ in range(8)]


def classified(*shape: int) -> list[Pair]:
    return [(x, torch.arange(8) % 2) for x in features(*shape)]


class Classifier(ZooModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x))

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.head(self.hidden(x)).float(), y)


class LowRank(Classifier):
    """A frozen body with a low-rank adapter that starts at zero: half of its gradients are exactly zero."""

    def __init__(self) -> None:
        super().__init__()
        self.body.requires_grad_(requires_grad=False)
        self.down = nn.Linear(6, 2, bias=False)
        self.up = nn.Linear(2, 8, bias=False)
        nn.init.zeros_(self.up.weight)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x) + self.up(self.down(x)))


class Frozen(Classifier):
    """Trains its head only; the optimizer knows all parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body.requires_grad_(requires_grad=False)


class Unused(Classifier):
    """Has a layer that takes no part in the loss and gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(6, 6)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Teacher(Classifier):
    """Learns from a moving average of itself, which has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(6, 8)
        self.teacher.load_state_dict(self.body.state_dict())
        self.teacher.requires_grad_(requires_grad=False)

    def loss(self, batch: Pair) -> Tensor:
        with torch.no_grad():
            target = torch.tanh(self.teacher(batch[0])).float()
        return super().loss(batch) + functional.mse_loss(self.hidden(batch[0]).float(), target)

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for average, weight in zip(self.teacher.parameters(), self.body.parameters(), strict=True):
                average.lerp_(weight, 0.1)


class PartlyLabelled(ZooModule):
    """Missing labels are NaN, and replaced before any arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        known = ~y.isnan()
        error = self.net(x).float() - torch.where(known, y, 0.0)
        return (error.square() * known).sum() / known.sum()


def partly_labelled() -> list[Pair]:
    result = list(zip(features(6), features(3), strict=True))
    for _, y in result:
        y[::3, 1] = torch.nan
    return result


class Causal(ZooModule):
    """Causal attention with its mask of -inf in a buffer."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(6, 6)
        self.key = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)
        self.register_buffer("mask", torch.full((5, 5), -torch.inf).triu(1))

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        scores = self.query(x) @ self.key(x).transpose(1, 2) + self.mask
        return functional.cross_entropy(self.head(scores.softmax(-1).to(x.dtype) @ x).mean(1).float(), y)


class Satisfied(ZooModule):
    """A hinge loss whose margins are all kept: loss and gradients are exactly zero."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 1, bias=False)
        nn.init.ones_(self.head.weight)

    def loss(self, batch: Pair) -> Tensor:
        x, _ = batch
        return functional.relu(1 - self.head(x.abs() + 1).squeeze(-1).float()).mean()


class Scaled(Classifier):
    """Multiplies its loss by a constant, and divides its learning rate by the same."""

    factor = 1.0

    def loss(self, batch: Pair) -> Tensor:
        return self.factor * super().loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3 / self.factor)


class Tiny(Scaled):
    factor = 1e-30


class Huge(Scaled):
    factor = 1e20


class Annotated(ZooModule):
    """A batch with a column that is NaN throughout and takes no part in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(self.head(batch["x"]).float(), batch["label"])


def annotated() -> list[dict[str, Tensor]]:
    return [{"x": x, "label": y, "age": torch.full((8,), torch.nan)} for x, y in classified(6)]


class Calibrated(Classifier):
    """A steep loss, so that the first scales are too large for float16."""

    def loss(self, batch: Pair) -> Tensor:
        return 10 * super().loss(batch)


CASES = [
    Case(
        name="scale-calibration",
        module=Calibrated,
        batches=lambda: classified(6),
        truth={SCALER: HEALTHY},
        source="lightning#9799, pytorch#111739: overflow while the loss scale is found",
        trainer={"scaler_init_scale": 2.0**24},
    ),
    Case(
        name="scale-starts-far-too-large",
        module=Calibrated,
        batches=lambda: classified(6),
        truth={SCALER: HEALTHY},  # every step of the run is skipped, and the scale still is 2 ** 32
        source="textbook: an init_scale of 2 ** 40",
        trainer={"scaler_init_scale": 2.0**40},
    ),
    Case(
        name="low-rank-adapter-at-zero",
        module=LowRank,
        batches=lambda: classified(6),
        truth=EVERYWHERE,
        source="textbook: LoRA starts with zero",
    ),
    Case(
        name="frozen-body",
        module=Frozen,
        batches=lambda: classified(6),
        truth=EVERYWHERE,
        source="SLRT#74: layers frozen on purpose",
    ),
    Case(
        name="unused-layer",
        module=Unused,
        batches=lambda: classified(6),
        truth=EVERYWHERE,
        source="lightning#17212: parameters without a gradient",
    ),
    Case(
        name="moving-average-teacher",
        module=Teacher,
        batches=lambda: classified(6),
        truth=EVERYWHERE,
        source="textbook: mean teacher",
    ),
    Case(
        name="missing-labels-masked",
        module=PartlyLabelled,
        batches=partly_labelled,
        truth=EVERYWHERE,
        source="pytorch#89543, done right",
    ),
    Case(
        name="causal-mask-in-buffer",
        module=Causal,
        batches=lambda: classified(5, 6),
        truth=EVERYWHERE,
        source="textbook: causal attention",
    ),
    Case(
        name="loss-exactly-zero",
        module=Satisfied,
        batches=lambda: classified(6),
        truth=EVERYWHERE,
        source="textbook: hinge loss on separable data",
    ),
    Case(
        name="tiny-gradients",
        module=Tiny,
        batches=lambda: classified(6),
        truth={FP32: HEALTHY, BF16: HEALTHY},
        source="textbook: a loss in odd units",
    ),
    Case(
        name="huge-finite-loss",
        module=Huge,
        batches=lambda: classified(6),
        truth={FP32: HEALTHY, BF16: HEALTHY},
        source="textbook: a loss in odd units",
    ),
    Case(
        name="unused-nan-column",
        module=Annotated,
        batches=annotated,
        truth=EVERYWHERE,
        source="textbook: a batch carries more than the model reads",
    ),
]
