"""Bugs beside something harmless that looks alike, and bugs in what a step keeps or changes around its loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.zoo.batches import SIZE, eight
from tests.zoo.case import BF16, FP32, Case, Truth, ZooModule

GUILTY = 5
NAN = float("nan")


class MissingLabels(ZooModule):
    """Missing labels are NaN and indexed away, as they should be; the logarithm of a count of 0 is not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        offset = batch["count"].log()[:, None]  # born: missing-labels-beside-a-count-of-zero
        error = self.head(batch["x"]).float() + offset - batch["y"]
        return error[~batch["y"].isnan()].square().mean()


def counted(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    y = torch.randn(SIZE, 2, generator=generator)
    y[0, 0] = y[3, 1] = NAN
    count = torch.randint(1, 9, (SIZE,), generator=generator).float()
    if bad:
        count[GUILTY] = 0
    return {"x": torch.randn(SIZE, 3, generator=generator), "y": y, "count": count}


class StackedTasks(ZooModule):
    """Two tasks are stacked; the NaN of the first, a missing target, is left out by ``nanmean``."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        out = self.head(x).float()[:, 0]
        first = (x[:, 0] - y).square()
        second = out * x.sum(1).log()  # born: stacked-beside-a-missing-target
        tasks = torch.stack([first, second], 1)
        return tasks[:, 0].detach().nanmean() + tasks[:, 1].mean()


def stacked(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    x, y = torch.rand(SIZE, 3, generator=generator) + 0.1, torch.randn(SIZE, generator=generator)
    y[0] = NAN
    if bad:
        x[GUILTY] = -1
    return x, y


class TwoColumns(ZooModule):
    """One tensor is filled column by column; -inf in the first is harmless, as only its exponential is used."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def loss(self, batch: Tensor) -> Tensor:
        features = batch.new_empty(SIZE, 2)
        features[:, 0] = torch.log(batch[:, 0])
        features[:, 1] = torch.sqrt(batch[:, 1] - batch[:, 2])  # born: second-column-of-one-tensor
        out = self.head(batch).float()
        return (features[:, 0].exp() * out[:, 0]).mean() + (features[:, 1] * out[:, 1]).mean()


def columns(generator: Generator, *, bad: bool) -> Tensor:
    x = torch.rand(SIZE, 3, generator=generator)
    x[:, 1] += 2
    x[0, 0] = 0
    if bad:
        x[GUILTY, 1] = -1
    return x


class CooledDown(ZooModule):
    """A temperature is kept as a number on the module and lowered after each batch, until it is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)
        self.temperature = 5.0

    def loss(self, batch: Tensor) -> Tensor:
        logits = self.head(batch).float() / self.temperature  # born: temperature-kept-as-a-number
        return logits.softmax(-1).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.temperature -= 1.0
        return loss


class RunningMean(ZooModule):
    """A mean of earlier batches is kept as a plain tensor; the next batch takes its logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)
        self.level = torch.tensor(1.0)

    def loss(self, batch: Tensor) -> Tensor:
        return self.head(batch).float().square().mean() * self.level.log().abs()  # born: mean-kept-as-a-tensor

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.level = batch.abs().mean()
        return loss


def fading(generator: Generator, *, bad: bool) -> Tensor:
    return torch.randn(SIZE, 3, generator=generator)


def silent_before_last() -> list[Tensor]:
    batches = eight(fading)()
    batches[4] = torch.zeros(SIZE, 3)
    return batches


class StandardisedInPlace(ZooModule):
    """The very first batch is standardised in place, and has a constant row."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"]
        x -= x.mean(1, keepdim=True)
        x /= x.std(1, keepdim=True)  # born: first-batch-standardised-in-place
        return self.head(x).float().square().mean()


def rows(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    return {"x": torch.randn(SIZE, 3, generator=generator)}


def constant_row_first() -> list[dict[str, Tensor]]:
    batches = eight(rows)()
    batches[0]["x"][GUILTY] = 0.5
    return batches


class OwnClipping(ZooModule):
    """Gradients are brought to unit length in ``configure_gradient_clipping``, also those of length 0."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2, bias=False)

    def loss(self, batch: Tensor) -> Tensor:
        return self.head(batch).float().square().mean()

    def configure_gradient_clipping(self, *_args: Any, **_kwargs: Any) -> None:
        for gradient in [parameter.grad for parameter in self.parameters() if parameter.grad is not None]:
            gradient.div_(gradient.norm())  # born: own-clipping-of-a-zero-gradient


def silence(generator: Generator, *, bad: bool) -> Tensor:
    return torch.randn(SIZE, 3, generator=generator) * (not bad)


class Decorated(ZooModule):
    """A step behind a decorator whose wrapper takes whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        weight = x.square().sum(1).log()  # born: step-behind-a-decorator
        return (functional.cross_entropy(self.head(x).float(), y, reduction="none") * weight).mean()

    def training_step(self, *arguments: Any) -> Tensor:
        return self.loss(arguments[0])


def labelled(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    x = torch.randn(SIZE, 3, generator=generator)
    if bad:
        x[GUILTY] = 0
    return x, torch.arange(SIZE) % 2


def everywhere(truth: Truth) -> dict[str, Truth]:
    return {FP32: truth, BF16: truth}


CASES = [
    Case(
        name="missing-labels-beside-a-count-of-zero",
        module=MissingLabels,
        batches=eight(counted),
        truth=everywhere(Truth(phase="forward", op="log", module="", sample=GUILTY, transition="finite->inf")),
        source="textbook: missing labels as NaN, and an exposure of 0 as offset",
    ),
    Case(
        name="stacked-beside-a-missing-target",
        module=StackedTasks,
        batches=eight(stacked),
        truth=everywhere(Truth(phase="forward", op="log", module="", sample=GUILTY, transition="finite->nan")),
        source="textbook: multi-task losses in one tensor",
    ),
    Case(
        name="second-column-of-one-tensor",
        module=TwoColumns,
        batches=eight(columns),
        truth=everywhere(Truth(phase="forward", op="sqrt", module="", sample=GUILTY, transition="finite->nan")),
        source="textbook: features computed column by column",
    ),
    Case(
        name="temperature-kept-as-a-number",
        module=CooledDown,
        batches=eight(fading),
        truth=everywhere(Truth(phase="forward", op="div", module="")),
        source="textbook: an annealed temperature",
        variants=False,  # the variants replace the step, in which the number changes
    ),
    Case(
        name="mean-kept-as-a-tensor",
        module=RunningMean,
        batches=silent_before_last,
        truth=everywhere(Truth(phase="forward", op="log", module="", transition="finite->inf")),
        source="textbook: a running level without a buffer",
        variants=False,  # as above
    ),
    Case(
        name="first-batch-standardised-in-place",
        module=StandardisedInPlace,
        batches=constant_row_first,
        truth={FP32: Truth(phase="forward", op="div", module="", sample=GUILTY, transition="finite->nan")},
        source="textbook: preprocessing inside the step",
        bad_batch=0,
        variants=False,  # a batch that is changed in place cannot be run twice, as checkpointing does
    ),
    Case(
        name="own-clipping-of-a-zero-gradient",
        module=OwnClipping,
        batches=eight(silence),
        truth={FP32: Truth(phase="backward", op="div", module="", transition="finite->nan")},
        source="textbook: normalised gradients",
        variants=False,  # manual optimization does not clip
    ),
    Case(
        name="step-behind-a-decorator",
        module=Decorated,
        batches=eight(labelled),
        truth=everywhere(Truth(phase="forward", op="log", module="", sample=GUILTY, transition="finite->inf")),
        source="textbook: a timing decorator without functools.wraps",
        variants=False,  # as above
    ),
]
