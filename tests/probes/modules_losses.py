"""Losses with kinks, offsets and plateaus, and what makes weights and activations random or constrained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from tests.probes.modules_generative import network
from tests.probes.probed import (
    CLASSES,
    FEATURES,
    NOT_RESOLVABLE,
    PASS,
    PASS_OR_KINK,
    SAMPLES,
    Probe,
    classifier,
    probed,
    vectors,
)


class Judged(Probe):
    """A network with any loss of its outputs and the classes."""

    def __init__(self, model: nn.Module, judge: Any, learning_rate: float) -> None:
        super().__init__()
        self.network = model
        self.judge = judge
        self.learning_rate = learning_rate

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return self.judge(self.network(x), y)


def judged(judge: Any, model: Any = None, learning_rate: float = 0.05) -> Any:
    """Return what builds a network with the loss ``judge(outputs, classes)``."""
    return lambda: Judged(network(FEATURES, CLASSES) if model is None else model(), judge, learning_rate)


def one_hot(outputs: Tensor, y: Tensor) -> Tensor:
    return functional.one_hot(y, CLASSES).to(outputs.dtype)


def l1(outputs: Tensor, y: Tensor) -> Tensor:
    return functional.l1_loss(outputs, one_hot(outputs, y))


def median(outputs: Tensor, y: Tensor) -> Tensor:
    errors = (outputs - one_hot(outputs, y)).square().flatten()
    return errors.median() + errors.sort().values[-5:].mean() + errors.quantile(0.3)


def gaussian_process(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the negative log-likelihood of classes under a kernel of the outputs."""
    kernel = (-torch.cdist(outputs, outputs).square()).exp() + 0.1 * torch.eye(SAMPLES)
    factor = torch.linalg.cholesky(kernel)
    target = torch.cholesky_solve(y[:, None].to(outputs.dtype), factor)[:, 0]
    return 0.5 * (y.to(outputs.dtype) * target).sum() + factor.diagonal().log().sum()


def constant(outputs: Tensor, y: Tensor) -> Tensor:
    return outputs.softmax(-1).sum(-1).mean()


def offset(amount: float) -> Any:
    """Return cross-entropy that starts at ``amount``."""
    return lambda outputs, y: amount + functional.cross_entropy(outputs, y)


class Sparse(Probe):
    """A linear model with an L1 penalty whose weights start at zero, exactly at the kink."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, CLASSES)
        nn.init.zeros_(self.linear.weight)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.linear(x), y) + 0.1 * self.linear.weight.abs().sum()


def dead_start() -> nn.Module:
    """Return a network whose hidden layer starts at zero: each ReLU stands exactly at its kink."""
    hidden = nn.Linear(FEATURES, 8)
    nn.init.zeros_(hidden.weight)
    nn.init.zeros_(hidden.bias)
    return nn.Sequential(hidden, nn.ReLU(), nn.Linear(8, CLASSES))


class Unused(Probe):
    """A layer that the loss does not use, and one that it uses only as a constant zero."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, CLASSES)
        self.unused = nn.Linear(FEATURES, CLASSES)
        self.silenced = nn.Linear(FEATURES, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.network(x) + 0 * self.silenced(x), y)


def dropouts() -> nn.Module:
    return nn.Sequential(
        nn.Dropout(0.1), nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16), nn.SELU(),
        nn.AlphaDropout(0.2), nn.Unflatten(1, (4, 4)), nn.Dropout1d(0.3), nn.FeatureAlphaDropout(0.2), nn.Flatten(),
        nn.Linear(16, CLASSES),
    )  # fmt: skip


def spectral() -> nn.Module:
    return nn.Sequential(spectral_norm(nn.Linear(FEATURES, 16)), nn.Tanh(), nn.Linear(16, CLASSES))


def weight_normed() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(FEATURES, 16)), nn.Tanh(), weight_norm(nn.Linear(16, CLASSES)))


def orthogonal_net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 8), nn.Tanh(), orthogonal(nn.Linear(8, 8)), nn.Tanh(), nn.Linear(8, CLASSES)
    )


class Spectrum(nn.Module):
    """A learned complex filter between a Fourier transform and its inverse."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(FEATURES // 2 + 1, dtype=torch.complex64))
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.irfft(torch.fft.rfft(x) * self.filter, FEATURES).tanh())


class FourierMixing(nn.Module):
    """FNet's mixing: the real part of a Fourier transform of two layers' output, with the phase of each value too."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, 8)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft(self.enter(x).tanh())
        return self.head(torch.cat([spectrum.real, (spectrum + 0.1j).abs()], -1))


class GraphNet(nn.Module):
    """Messages along the edges of a ring, added up where they arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.message = nn.Linear(2 * FEATURES, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        source = torch.arange(SAMPLES).repeat(2)
        goal = torch.cat([source[:SAMPLES].roll(1), source[:SAMPLES].roll(3)])
        messages = self.message(torch.cat([x[source], x[goal]], -1)).tanh()
        return self.head(torch.zeros(SAMPLES, 8).index_add(0, goal, messages))


class EulerOde(nn.Module):
    """A neural ODE by ten steps of Euler's rule."""

    def __init__(self) -> None:
        super().__init__()
        self.field = network(FEATURES, FEATURES)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(10):
            x = x + 0.1 * self.field(x)
        return self.head(x)


CASES = (
    probed("hinge-loss", judged(functional.multi_margin_loss), vectors, PASS, "no margin is exactly met"),
    probed("l1-loss", judged(l1), vectors, PASS, "no error is exactly zero"),
    probed("order-statistics", judged(median), vectors, PASS, "random errors have no ties"),
    probed(
        "l1-penalty-at-zero",
        Sparse,
        vectors,
        PASS,
        "at its kink |w| has the centred difference zero, and so has autograd; away from it all is smooth",
    ),
    probed(
        "relu-at-zero",
        judged(functional.cross_entropy, dead_start),
        vectors,
        PASS_OR_KINK,
        "all ReLUs stand at their kink, where one-sided slopes differ; nearby, the code is right",
    ),
    probed("gaussian-process", judged(gaussian_process), vectors, PASS, "smooth: distances of zero enter squared"),
    probed("constant-loss", judged(constant), vectors, NOT_RESOLVABLE, "the true gradient is zero"),
    probed("offset-1e3", judged(offset(1e3)), vectors, PASS, "float64 resolves a slope of one at a loss of a thousand"),
    probed(
        "offset-1e6",
        judged(offset(1e6)),
        vectors,
        PASS | NOT_RESOLVABLE,
        "round-off of the loss is near the tolerance: no pass is owed, an alarm would be false",
    ),
    probed(
        "offset-1e12",
        judged(offset(1e12)),
        vectors,
        NOT_RESOLVABLE,
        "round-off of the loss exceeds what a step changes",
    ),
    probed(
        "tiny-loss",
        judged(lambda outputs, y: 1e-12 * functional.cross_entropy(outputs, y), learning_rate=5e10),
        vectors,
        PASS,
        "only relative errors count",
    ),
    probed(
        "unused-parameters",
        Unused,
        vectors,
        PASS,
        "no gradient, or one of zero, is right where the loss does not move",
        single={
            f"{name}.{part}": PASS | NOT_RESOLVABLE for name in ("unused", "silenced") for part in ("weight", "bias")
        },
    ),
    probed("dropout-everywhere", classifier(dropouts), vectors, PASS, "the same units are dropped again"),
    probed(
        "spectral-norm",
        classifier(spectral),
        vectors,
        PASS | {"explained"},
        "singular vectors are updated under no_grad; the nearer they are to their limit, the less of it shows",
        stops=("inside-the-network",),
    ),
    probed("weight-norm", classifier(weight_normed), vectors, PASS, "smooth"),
    probed("orthogonal", classifier(orthogonal_net), vectors, PASS, "a matrix exponential is smooth"),
    probed(
        "complex-parameter",
        classifier(Spectrum),
        vectors,
        PASS,
        "torch's gradient of a complex weight fits its two parts",
    ),
    probed("complex-inside", classifier(FourierMixing), vectors, PASS, "real in, real out, nowhere at zero"),
    probed("graph-network", classifier(GraphNet), vectors, PASS, "smooth, and index_add keeps its order on one thread"),
    probed("neural-ode", classifier(EulerOde), vectors, PASS, "smooth"),
)
