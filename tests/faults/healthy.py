"""Healthy trainings that look ill: values that are infinite, NaN or missing on purpose, where nothing is wrong."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests import cases
from tests.cases import ADAM, Case, Setup, labelled, loader, perceptron, supervised
from tests.networks import Classes, Features, Supervised

if TYPE_CHECKING:
    from collections.abc import Callable

INF = math.inf
Length = 4


def later_overflow(package: Any) -> Setup:
    """A GradScaler that starts low and grows every second step, until its growth overflows."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    plugin = package.plugins.precision.MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    return supervised(package, perceptron(), ADAM, plugins=[plugin], max_epochs=8)


class MaskedAttention(nn.Module):
    """-inf where a key is in the future or padding; every query keeps a valid key."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(Features, 2, batch_first=True)
        self.register_buffer("future", torch.full((Length, Length), -INF).triu(1))
        self.head = nn.Linear(Features, Classes)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.zeros(len(x), Length)
        padding[:, -1] = -INF
        mixed, _ = self.attention(x, x, x, attn_mask=self.future, key_padding_mask=padding)
        return self.head(mixed.mean(1))


class PaddedPooling(nn.Module):
    """Pads with -inf before a max, as max-pooling does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4 * 16, Classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.pad(self.convolution(x), (1, 1, 1, 1), value=-INF)
        return self.head(functional.max_pool2d(hidden, 2).flatten(1))


class ForbiddenClass(nn.Module):
    """A frozen parameter adds -inf to a class that is never a target: log-softmax gives -inf there."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(Features, Classes + 1)
        self.allowed = nn.Parameter(torch.tensor([0.0] * Classes + [-INF]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.allowed).log_softmax(-1)


class LowRank(nn.Module):
    """A frozen layer with an update B A x, where B starts at zero, so that A has a zero gradient at first."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(Features, Classes).requires_grad_(requires_grad=False)
        self.a, self.b = nn.Linear(Features, 2, bias=False), nn.Linear(2, Classes, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.b(self.a(x))


class Placeholders(nn.Module):
    """Buffers that are not finite from the start: a best value, an observer's range, a row nobody has filled."""

    best: Tensor
    range: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(Features, Classes)
        self.register_buffer("best", torch.tensor(INF))
        self.register_buffer("range", torch.tensor([INF, -INF]))
        self.register_buffer("unfilled", torch.full((3,), math.nan))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        with torch.no_grad():
            self.best.copy_(torch.minimum(self.best, y.abs().min()))
            self.range.copy_(
                torch.stack([torch.minimum(self.range[0], y.min()), torch.maximum(self.range[1], y.max())])
            )
        return y


class MovingMask(nn.Module):
    """Keeps this step's mask in a buffer: -inf from the start, each time elsewhere."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(Features, Features)
        self.head = nn.Linear(Features, Classes)
        self.register_buffer("mask", torch.tensor([-INF] + [0.0] * (Features - 1)))
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            self.mask.copy_(self.mask.roll(1))
        return self.head((self.body(x) + self.mask).softmax(-1))


class GrowingMask(nn.Module):
    """Builds its causal mask anew when it meets a longer sequence; the first one is 1 by 1 and has no -inf."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(Features, 2, batch_first=True)
        self.head = nn.Linear(Features, Classes)
        self.register_buffer("mask", torch.full((1, 1), -INF).triu(1), persistent=False)
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        x = x[:, : min(1 + self.seen // 2, Length)]
        if x.shape[1] > len(self.mask):
            self.mask = torch.full((x.shape[1], x.shape[1]), -INF).triu(1)
        mixed, _ = self.attention(x, x, x, attn_mask=self.mask)
        return self.head(mixed.mean(1))


class MissingLabels(Supervised):
    """NaN stands for "no label" and is left out by torch.where, on both sides of the difference."""

    def training_step(self, batch: Any, _batch_idx: int) -> Any:
        x, y = batch
        known = ~y.isnan()
        error = self.network(x)[:, 0] - torch.where(known, y, 0.0)
        return torch.where(known, error.square(), 0.0).sum() / known.sum().clamp(min=1)


class UnusedPadding(Supervised):
    """Reads the samples as far as they are valid; what follows in the batch is NaN."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return super().training_step((x[:, :Features], y), batch_idx)


class NothingMatched(Supervised):
    """Logs the mean over an empty selection in validation: NaN by design."""

    def validation_step(self, batch: Any, _batch_idx: int) -> None:
        x, _y = batch
        self.log("precision", x[x > 1e9].mean())


class SkipsBadLosses(Supervised):
    """The user's own protection: returns None when the loss is not finite, which a batch here and there makes it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss if loss.isfinite() else None


class BadGradients(Supervised):
    """A finite loss with a NaN in a gradient at every step: the slope of sqrt at zero, times zero."""

    network: Any

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + (self.network[0].bias * 0.0).sqrt().sum()

    def repair(self) -> None:
        """Set what is bad to zero."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)


class RepairsBeforeTheStep(BadGradients):
    """The user's own protection, in the hook that comes last before clipping."""

    def on_before_optimizer_step(self, _optimizer: Any) -> None:
        self.repair()


class RepairsAfterBackward(BadGradients):
    """The user's own protection, after each backward."""

    def on_after_backward(self) -> None:
        self.repair()


class SkipsByHand(Supervised):
    """The same in manual optimization: no backward and no step for a bad loss."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        if loss.isfinite():
            self.manual_backward(loss)
            optimizer.step()


def with_a_nan(samples: int = 20) -> DataLoader[Any]:
    """Return normal samples with one NaN, in the second batch."""
    x = torch.randn(samples, Features)
    x[5, 2] = math.nan
    return DataLoader(TensorDataset(x, torch.randint(Classes, (samples,))), batch_size=4)


def padded() -> DataLoader[Any]:
    x = torch.cat([torch.randn(20, Features), torch.full((20, 3), math.nan)], 1)
    return loader(x, torch.randint(Classes, (20,)))


def partly_labelled(package: Any) -> Setup:
    y = torch.randn(20)
    y[::3] = math.nan
    return supervised(package, perceptron(), ADAM, cls=MissingLabels, data=loader(torch.randn(20, Features), y))


def padded_rows(package: Any) -> Setup:
    """Rows that no batch selects have a zero gradient; the padding row always has."""
    network = nn.Sequential(
        nn.Embedding(50, Classes, sparse=True, padding_idx=0), nn.Flatten(1), nn.Unflatten(1, (2, -1))
    )
    data = loader(torch.randint(9, (20, 2)), torch.randint(2, (20, Classes)))
    return supervised(package, network, partial(torch.optim.SparseAdam, lr=1e-2), data=data)


def heavy_dropout(package: Any) -> Setup:
    network = nn.Sequential(nn.Linear(Features, 8), nn.ReLU(), nn.Dropout(0.9), nn.Linear(8, Classes))
    return supervised(package, network)


def zero_residual(package: Any) -> Setup:
    """A block whose last layer starts at zero: the layers before it have no gradient in the first step."""
    last = nn.Linear(8, Classes)
    nn.init.zeros_(last.weight)
    return supervised(package, nn.Sequential(nn.Linear(Features, 8), nn.ReLU(), last))


def plain(network: Callable[[], nn.Module], *shape: int) -> Callable[[Any], Setup]:
    """Build a supervised case around a network."""
    return lambda package: supervised(package, network(), ADAM, data=labelled(*(shape or (Features,))))


def special(cls: type[Any], data: Callable[[], DataLoader[Any]]) -> Callable[[Any], Setup]:
    """Build a supervised case around a way to take a step."""
    return lambda package: supervised(package, perceptron(), ADAM, cls=cls, data=data())


def nothing_matched(package: Any) -> Setup:
    return supervised(package, perceptron(), cls=NothingMatched, validation=labelled(Features))


HEALTHY = (
    *(
        cases.named(name)
        for name in ("scaled", "scaled_fused", "frozen", "unused", "accumulation", "teacher", "sparse")
    ),
    cases.named("returns_none"),
    Case("later_overflow", later_overflow),
    Case("masked_attention", plain(MaskedAttention, Length, Features)),
    Case("padded_pooling", plain(PaddedPooling, 1, 6, 6)),
    Case("forbidden_class", plain(ForbiddenClass)),
    Case("low_rank", plain(LowRank)),
    Case("zero_residual", zero_residual),
    Case("placeholders", plain(Placeholders)),
    Case("moving_mask", plain(MovingMask)),
    Case("growing_mask", plain(GrowingMask, Length, Features)),
    Case("partly_labelled", partly_labelled),
    Case("padded_rows", padded_rows),
    Case("heavy_dropout", heavy_dropout),
    Case("unused_padding", special(UnusedPadding, padded)),
    Case("nothing_matched", nothing_matched),
    Case("skips_bad_losses", special(SkipsBadLosses, with_a_nan)),
    Case("repairs_before_the_step", special(RepairsBeforeTheStep, partial(labelled, Features))),
    Case("repairs_after_backward", special(RepairsAfterBackward, partial(labelled, Features))),
    Case("skips_by_hand", special(SkipsByHand, with_a_nan)),
)
