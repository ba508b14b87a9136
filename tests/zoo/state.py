"""Bad weights, buffers and batches: what was wrong before the arithmetic of the step, or survives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.case import BF16, FP32, SCALER, Case, Truth, ZooModule

BAD = 5
Pair = tuple[Tensor, Tensor]


def features(*shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(8, *shape, generator=generator) for _ in range(8)]


def labels() -> Tensor:
    return torch.arange(8) % 2


class Classifier(ZooModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)

    def logits(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x))).float()

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.logits(x), y)


class Rescaled(Classifier):
    """Divides its first layer by the deviation of the batch, before the step; the bad batch is constant."""

    def on_train_batch_start(self, batch: Pair, batch_idx: int) -> None:
        with torch.no_grad():
            self.body.weight.div_(batch[0].std())


class Averaged(Classifier):
    """Swaps averaged weights in after every fifth batch. Nothing has ever been counted: the average is 0 / 0."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(2, 8)
        self.count = torch.zeros(())

    def on_train_batch_end(self, outputs: Any, batch: Pair, batch_idx: int) -> None:
        if (batch_idx + 1) % 5 == 0:
            with torch.no_grad():
                self.head.weight.copy_(self.total / self.count)


class Uninitialised(Classifier):
    """A parameter made by ``torch.empty``; what was in that memory is written here on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.full((8,), 0.1))
        with torch.no_grad():
            self.prompt[3] = torch.nan

    def logits(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)) + self.prompt).float()


class MatchedStatistics(ZooModule):
    """Pulls the variance of its features towards the running one. A batch of 1e25 has made that infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.ones(6))

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        spread = (x * self.scale).float().clamp(-10, 10).var(0)
        running: Any = self.norm.running_var
        mismatch = functional.mse_loss(spread, running.clone())
        return functional.cross_entropy(self.head(self.norm(x)).float(), y) + 0.1 * mismatch


class Codebook(ZooModule):
    """Vector quantisation whose codes are the means of their samples; the bad batch leaves one code without any."""

    codes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.decoder = nn.Linear(4, 6)
        self.register_buffer("codes", torch.randn(2, 4))

    def loss(self, batch: Pair) -> Tensor:
        x, group = batch
        z = self.encoder(x).float()
        with torch.no_grad():
            member = functional.one_hot(group, 2).to(z.dtype)
            total, size = (member[:, :, None] * z[:, None]).sum(0), member.sum(0)
            means = total / size[:, None]  # born: codebook-without-members
            self.codes.copy_(means)
        error = (z - self.codes.mean(0)).square().mean()
        return functional.mse_loss(self.decoder(z).float(), x) + error


class Pictures(ZooModule):
    """A small convolutional regression on batches given as a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 1)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        z = torch.relu(self.conv(batch["image"])).mean((2, 3))
        return functional.mse_loss(self.head(z).squeeze(-1).float(), batch["target"])


def pictures(value: float, sample: int) -> list[dict[str, Tensor]]:
    images = features(1, 8, 8)
    images[BAD][sample, 0, 4, 4] = value
    return [{"image": x, "target": torch.linspace(-1, 1, 8)} for x in images]


@dataclass
class Example:
    x: Tensor
    y: Tensor


class Structured(Classifier):
    def loss(self, batch: Any) -> Tensor:
        return super().loss((batch.x, batch.y))


class Nested(Classifier):
    def loss(self, batch: Any) -> Tensor:
        (x, shift), y = batch
        return super().loss((x + shift, y))


class Regression(Classifier):
    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        return functional.mse_loss(self.logits(x)[:, 0], y)


class InPlace(Classifier):
    """Takes the logarithm of its counts in place: the batch itself is changed, and a second look would mislead."""

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).float()

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        counts = batch["counts"]
        counts.log_()  # born: batch-changed-in-place
        return super().loss((counts, batch["label"]))


def counted() -> list[dict[str, Tensor]]:
    inputs = [x.abs() * 10 + 1 for x in features(6)]
    inputs[BAD][2, 1] = 0
    return [{"counts": x, "label": labels()} for x in inputs]


class Sensor:
    """Stands for what lies outside the program: it is neither copied nor rewound with the module."""

    def __init__(self) -> None:
        self.has_failed = False

    def __deepcopy__(self, memo: Any) -> Sensor:
        return self

    def read(self, time: int) -> float:
        fails, self.has_failed = time == BAD and not self.has_failed, self.has_failed or time == BAD
        return float("nan") if fails else 1.0


class Measured(Classifier):
    """Multiplies by what a sensor says, which is NaN once; whoever asks again gets the right value."""

    def __init__(self) -> None:
        super().__init__()
        self.sensor = Sensor()

    def loss(self, batch: tuple[Tensor, Tensor, int]) -> Tensor:
        x, y, time = batch
        return super().loss((x * self.sensor.read(time), y))


def replaced(inputs: list[Tensor], index: tuple[int, ...], value: float) -> list[Tensor]:
    inputs[BAD][index] = value
    return inputs


def everywhere(truth: Truth) -> dict[str, Truth]:
    return {FP32: truth, BF16: truth, SCALER: truth}


def given(tensor: str, sample: int) -> dict[str, Truth]:
    return everywhere(Truth(phase="input", tensor=tensor, sample=sample, line=False))


def constant() -> list[Pair]:
    inputs = features(6)
    inputs[BAD].fill_(0.5)
    return [(x, labels()) for x in inputs]


def targets() -> list[Pair]:
    values = [torch.linspace(-1, 1, 8) for _ in range(8)]
    return list(zip(features(6), replaced(values, (2,), torch.nan), strict=True))


def enormous() -> list[Pair]:
    inputs = features(6)
    inputs[BAD][0] = 1e25
    return [(x, labels()) for x in inputs]


CASES = [
    Case(
        name="weight-divided-before-step",
        module=Rescaled,
        batches=constant,
        truth=everywhere(Truth(phase="parameter", tensor="body.weight", line=False)),
        source="textbook: weights edited between steps",
        variants=False,  # the bug is in a hook of the training loop
    ),
    Case(
        name="average-of-nothing",
        module=Averaged,
        batches=lambda: [(x, labels()) for x in features(6)],
        # Written after batch 4, without any operation of a step; the first step that meets it is 5.
        truth=everywhere(Truth(phase="parameter", tensor="head.weight", line=False)),
        source="textbook: weight averaging swapped in before the first sample",
        variants=False,  # as above
    ),
    Case(
        name="uninitialised-parameter",
        module=Uninitialised,
        batches=lambda: [(x, labels()) for x in features(6)],
        truth=everywhere(Truth(phase="parameter", tensor="prompt", line=False)),
        source="STALE#16, hopwise#271: nn.Parameter(torch.empty(...))",
        bad_batch=0,  # it is there from the start
    ),
    Case(
        name="infinite-running-variance",
        module=MatchedStatistics,
        batches=enormous,
        # Batch 5 writes the buffer with a finite loss and finite gradients; the loss of batch 6 is the first bad one.
        truth={p: Truth(phase="buffer", tensor="norm.running_var", line=False) for p in (FP32, BF16)},
        source="pytorch#1206: running statistics poisoned by one batch",
        bad_batch=6,
        variants=False,  # two batches take part: under accumulation both are in one step
    ),
    Case(
        name="codebook-without-members",
        module=Codebook,
        batches=lambda: [(x, torch.zeros(8).long() if i == BAD else labels()) for i, x in enumerate(features(6))],
        truth=everywhere(Truth(phase="forward", op="div", module="", transition="finite->nan")),
        source="textbook: vector quantisation with an empty cluster",
    ),
    Case(
        name="nan-pixel-in-dictionary",
        module=Pictures,
        batches=lambda: pictures(torch.nan, 3),
        truth=given("batch['image']", 3),
        source="GatedConvolution#27, Marigold#111: NaN made by the data pipeline",
    ),
    Case(
        name="infinite-pixel",
        module=Pictures,
        batches=lambda: pictures(torch.inf, 6),
        truth=given("batch['image']", 6),
        source="geo-deep-learning#68: no-data values in rasters",
    ),
    Case(
        name="nan-in-dataclass",
        module=Structured,
        batches=lambda: [Example(x, labels()) for x in replaced(features(6), (1, 2), torch.nan)],
        truth=given("batch.x", 1),
        source="textbook: missing value in a table",
    ),
    Case(
        name="nan-in-nested-list",
        module=Nested,
        batches=lambda: [[[x, torch.zeros(8, 1)], labels()] for x in replaced(features(6), (7, 5), torch.nan)],
        truth=given("batch[0][0]", 7),
        source="textbook: missing value in a table",
    ),
    Case(
        name="nan-label",
        module=Regression,
        batches=targets,
        truth=given("batch[1]", 2),
        source="pytorch#89543, AReaL PR#1347: NaN targets",
    ),
    Case(
        name="batch-changed-in-place",
        module=InPlace,
        batches=counted,
        truth=everywhere(Truth(phase="forward", op="log", module="", transition="finite->inf")),
        source="textbook: in-place preprocessing in the step",
        variants=False,  # the step cannot run twice on the same tensors, as checkpointing would
    ),
    Case(
        name="transient-reading",
        module=Measured,
        batches=lambda: [(x, labels(), time) for time, x in enumerate(features(6))],
        truth=everywhere(Truth(phase="not_reproduced", line=False)),
        source="pytorch#190632, pytorch#166211: a value that no replay shows again",
        variants=False,  # checkpointing and compilation run the step more than once, and the second run is healthy
    ),
]
