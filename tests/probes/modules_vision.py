"""Networks for images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.probes.probed import (
    CLASSES,
    NOT_RESOLVABLE,
    PASS,
    PASS_OR_KINK,
    SAMPLES,
    WIDTH,
    Batches,
    Probe,
    batches_of,
    classifier,
    images,
    probed,
)


def tail(channels: int) -> list[nn.Module]:
    """Return average pooling and a linear classifier."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def relu_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(), *tail(8)
    )


def batch_norm_cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *tail(8))


def group_norm_cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.SiLU(), *tail(8))


def depthwise_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Conv2d(8, 8, 1),
        *tail(8),
    )


def max_pool_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, CLASSES)
    )


def adaptive_pool_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ELU(),
        nn.AdaptiveMaxPool2d((3, 2)),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


class Residual(nn.Module):
    """A residual block; ``zero`` starts its branch at zero by the weight of its last norm."""

    def __init__(self, *, zero: bool) -> None:
        super().__init__()
        last = nn.BatchNorm2d(8)
        self.branch = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            last,
        )
        if zero:
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.branch(x))


def residual_net(*, zero: bool) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), Residual(zero=zero), Residual(zero=zero), *tail(8))


class StochasticDepth(nn.Module):
    """A residual branch that is left out of half of the samples, at random."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        kept = (torch.rand(len(x), 1, 1, 1) < 0.5).to(x.dtype)
        return x + 2 * kept * self.branch(x)


def stochastic_depth_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), StochasticDepth(), StochasticDepth(), StochasticDepth(), *tail(8))


class VisionTransformer(nn.Module):
    """Patches of 4 x 4 pixels, a class token, one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position = nn.Parameter(0.02 * torch.randn(1, 5, WIDTH))
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 16, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.position
        return self.head(self.layer(x)[:, 0])


class UNet(Probe):
    """One level down and up again, with a skip connection; a label for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.leave = nn.Conv2d(8, 1, 1)

    def loss(self, batch: Any) -> Tensor:
        x, mask = batch
        skip = functional.relu(self.enter(x))
        x = self.up(functional.relu(self.down(skip)))
        logits = self.leave(torch.cat([skip, x], 1))
        overlap = (logits.sigmoid() * mask).sum() / (logits.sigmoid().sum() + mask.sum())
        return functional.binary_cross_entropy_with_logits(logits, mask) + 1 - 2 * overlap


def masks() -> Batches:
    """Return images with a mask each."""
    return batches_of(
        lambda g: (
            torch.randn(SAMPLES, 3, 8, 8, generator=g),
            (torch.rand(SAMPLES, 1, 8, 8, generator=g) < 0.4).float(),
        )
    )


class SummedReconstruction(Probe):
    """A denoiser whose squared errors are summed over 16,800 elements, so that the loss is in the thousands."""

    learning_rate = 1e-6

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1))

    def loss(self, batch: Any) -> Tensor:
        (x,) = batch
        return functional.mse_loss(self.network(x + 0.1 * torch.randn_like(x)), x, reduction="sum")


def photographs() -> Batches:
    """Return images of 8 x 3 x 28 x 25 = 16,800 elements."""
    return batches_of(lambda g: (torch.randn(8, 3, 28, 25, generator=g),))


# A bias that the batch norm after it subtracts again has no effect.
CANCELLED = {"network.0.bias": NOT_RESOLVABLE}

CASES = (
    probed("relu-cnn", classifier(relu_cnn), images, PASS, "few kinks, all of them away from the weights"),
    probed(
        "batch-norm-cnn",
        classifier(batch_norm_cnn),
        images,
        PASS,
        "the whole is smooth enough; the bias before the norm has a true gradient of zero",
        single=CANCELLED,
    ),
    probed("group-norm-cnn", classifier(group_norm_cnn), images, PASS, "smooth"),
    probed(
        "depthwise-cnn",
        classifier(depthwise_cnn),
        images,
        PASS,
        "grouped convolutions, piecewise smooth",
        single={"network.1.bias": NOT_RESOLVABLE},
    ),
    probed("max-pool-cnn", classifier(max_pool_cnn), images, PASS, "random images have no ties"),
    probed("adaptive-pool-cnn", classifier(adaptive_pool_cnn), images, PASS, "random images have no ties"),
    probed("residual-net", classifier(lambda: residual_net(zero=False)), images, PASS, "few kinks", single=CANCELLED),
    probed(
        "zero-init-residual",
        classifier(lambda: residual_net(zero=True)),
        images,
        PASS_OR_KINK,
        "a branch of zero, added to what a ReLU has set to zero, stands exactly at the kink of the next ReLU",
        single=CANCELLED,
    ),
    probed("stochastic-depth", classifier(stochastic_depth_net), images, PASS, "the same samples are kept again"),
    probed("vision-transformer", classifier(VisionTransformer), images, PASS, "smooth, its dropout repeated"),
    probed("u-net", UNet, masks, PASS, "transposed convolution and two losses, few kinks"),
    probed(
        "summed-loss",
        SummedReconstruction,
        photographs,
        PASS,
        "a loss of thousands is resolved in float64, though not in float32",
    ),
)
