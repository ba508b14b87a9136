"""The formulas of single fields at the edge of what they are defined for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.case import BF16, FP32, SCALER, Case, Truth, ZooModule

if TYPE_CHECKING:
    from collections.abc import Callable

BAD = 5
Pair = tuple[Tensor, Tensor]
Triple = tuple[Tensor, Tensor, Tensor]


def normal(*shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(8, *shape, generator=generator) for _ in range(8)]


def positive(*shape: int) -> list[Tensor]:
    return [x.abs() + 0.5 for x in normal(*shape)]


def with_bad(inputs: list[Tensor], sample: int, value: float) -> list[Tensor]:
    """Overwrite one sample of the bad batch."""
    inputs[BAD][sample] = value
    return inputs


def labelled(inputs: list[Tensor]) -> list[Pair]:
    return [(x, torch.arange(8) % 2) for x in inputs]


def enlarged(factor: float) -> list[Tensor]:
    return [factor * x if i == BAD else x for i, x in enumerate(normal(6))]


class Field(ZooModule):
    """A linear model with as many outputs as the formula needs."""

    outputs = 1
    bias = True

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, self.outputs, bias=self.bias)

    def predict(self, x: Tensor) -> Tensor:
        return self.net(x).float().squeeze(-1)


class Diffusion(Field):
    """Recovers the image from predicted noise; at the last step of a zero-terminal schedule no image is left."""

    outputs = 6

    def loss(self, batch: Triple) -> Tensor:
        image, noise, level = batch
        noisy = level.sqrt() * image + (1 - level).sqrt() * noise
        recovered = (noisy - (1 - level).sqrt() * self.predict(noisy)) / level.sqrt()  # born: diffusion-zero-signal
        return functional.mse_loss(recovered, image)


def noise_levels(value: float) -> list[Triple]:
    levels = [torch.linspace(0.2, 0.9, 8)[:, None].clone() for _ in range(8)]
    return list(zip(normal(6), normal(6)[::-1], with_bad(levels, 7, value), strict=True))


class NoiseEmbedding(Field):
    """Conditions on the logarithm of the noise level."""

    def loss(self, batch: Triple) -> Tensor:
        image, noise, sigma = batch
        condition = sigma.log() / 4  # born: diffusion-zero-noise
        return (self.predict(image + sigma * noise + condition) - image.mean(-1)).square().mean()


class PolicyAdvantage(Field):
    """Normalises advantages by their deviation, which is zero when all rewards are equal."""

    def loss(self, batch: Pair) -> Tensor:
        state, reward = batch
        centred = reward - reward.mean()
        advantage = centred / reward.std()  # born: policy-equal-rewards
        return -(functional.logsigmoid(self.predict(state)) * advantage).mean()


class PolicyRatio(Field):
    """The ratio of new to old probability, for an action that the old policy would hardly ever take."""

    def loss(self, batch: Pair) -> Tensor:
        state, old = batch
        ratio = torch.exp(functional.logsigmoid(self.predict(state)) - old)  # born: policy-ratio-overflow
        return torch.maximum(ratio, ratio.clamp(0.8, 1.2)).mean()  # every advantage is -1


class Radiance(Field):
    """Volume rendering: transmittance from the logarithm of 1 - alpha, with an alpha of exactly 1."""

    outputs = 4

    def loss(self, batch: Pair) -> Tensor:
        x, target = batch
        alpha = 1 - torch.exp(-0.1 * functional.softplus(self.predict(x)))
        logarithm = torch.log(1 - alpha)  # born: rendering-opaque-sample
        transmittance = logarithm.cumsum(-1).exp()
        return functional.mse_loss((transmittance * alpha).sum(-1), target)


class Disparity(Field):
    """Compares inverse depths; missing depth is stored as 0."""

    def loss(self, batch: Pair) -> Tensor:
        x, depth = batch
        disparity = depth.reciprocal()  # born: disparity-of-missing-depth
        return functional.l1_loss(self.predict(x), disparity)


class Survival(Field):
    """Log-likelihood of a hazard that underflows to zero."""

    def loss(self, batch: Pair) -> Tensor:
        x, event = batch
        hazard = torch.exp(self.predict(x).clamp(max=5))
        logarithm = hazard.log()  # born: survival-zero-hazard
        return (hazard - event.float() * logarithm).mean()


class PercentageError(Field):
    """Mean absolute percentage error of a series that is zero once."""

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        error = (y - self.predict(x)).abs() / y.abs()  # born: percentage-error-of-zero
        return error.mean()


class SymmetricError(Field):
    """Symmetric percentage error where forecast and truth are both zero."""

    bias = False

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        forecast = functional.relu(self.predict(x))
        error = (y - forecast).abs() / (y.abs() + forecast)  # born: symmetric-error-zero-by-zero
        return error.mean()


def demand() -> list[Pair]:
    return list(zip(with_bad(normal(6), 2, 0.0), with_bad(positive(), 2, 0.0), strict=True))


class GraphConvolution(Field):
    """Symmetric normalisation of an adjacency matrix with an isolated node."""

    def loss(self, batch: Pair) -> Tensor:
        adjacency, y = batch
        scale = adjacency.sum(-1).pow(-0.5)  # born: graph-isolated-node
        normalised = scale[..., None] * adjacency * scale[..., None, :]
        return functional.mse_loss(self.predict(normalised).mean(-1), y)


def graphs() -> list[Pair]:
    graph = 1 - torch.eye(6).repeat(8, 1, 1)
    isolated = graph.clone()
    isolated[3, 4], isolated[3, :, 4] = 0, 0
    return [(isolated if i == BAD else graph, y) for i, y in enumerate(normal())]


class Ranking(Field):
    """Bayesian personalised ranking with the sigmoid written out."""

    def loss(self, batch: Pair) -> Tensor:
        liked, other = batch
        probability = torch.sigmoid(self.predict(liked) - self.predict(other))
        return -probability.log().mean()  # born: ranking-log-sigmoid


class Popularity(Field):
    """Corrects sampled logits by the logarithm of how often an item was seen; a new item was seen 0 times."""

    outputs = 2

    def loss(self, batch: Triple) -> Tensor:
        x, count, y = batch
        correction = torch.log(count / 100)  # born: popularity-of-new-item
        return functional.cross_entropy(self.predict(x) - correction, y)


def seen() -> list[Triple]:
    counts = with_bad(positive(2), 4, 0.0)
    return [(x, count, torch.arange(8) % 2) for x, count in zip(normal(6), counts, strict=True)]


class Spectrogram(Field):
    """The log-mel spectrum of digital silence."""

    outputs = 2

    def loss(self, batch: Pair) -> Tensor:
        wave, y = batch
        power = torch.fft.rfft(wave).abs().square()
        mel = power.log()  # born: spectrum-of-silence
        return functional.cross_entropy(self.predict(mel), y)


class Separation(Field):
    """Scale-invariant signal-to-noise ratio against a silent target."""

    outputs = 6

    def loss(self, batch: Pair) -> Tensor:
        mixture, target = batch
        estimate = self.predict(mixture)
        power = target.square().sum(-1, keepdim=True)
        scale = (estimate * target).sum(-1, keepdim=True) / power  # born: si-snr-silence
        signal = scale * target
        ratio = (signal.square().sum(-1) + 1e-8) / ((estimate - signal).square().sum(-1) + 1e-8)
        return -torch.log10(ratio).mean()


class Autoencoder(Field):
    """The Kullback-Leibler term of a variational autoencoder with an unbounded log-variance."""

    outputs = 4

    def loss(self, batch: Pair) -> Tensor:
        x, _ = batch
        mean, log_variance = self.predict(x).chunk(2, -1)
        variance = log_variance.exp()  # born: autoencoder-log-variance
        return 0.5 * (mean.square() + variance - 1 - log_variance).mean()


class Coupling(Field):
    """A normalising flow whose scale is exactly zero for an input of zeros."""

    outputs = 6
    bias = False

    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.net.weight, 0.2)

    def loss(self, batch: Pair) -> Tensor:
        x, _ = batch
        scale = self.predict(x)
        log_det = scale.abs().log().sum(-1)  # born: flow-zero-scale
        return (0.5 * (scale * x.flip(-1)).square().sum(-1) - log_det).mean()


class PointCloud(Field):
    """Scales a cloud to the unit sphere; one cloud is a single point."""

    outputs = 2

    def loss(self, batch: Pair) -> Tensor:
        points, y = batch
        centred = points - points.mean(1, keepdim=True)
        radius = centred.square().sum(-1).amax(1).sqrt()
        unit = centred / radius[:, None, None]  # born: point-cloud-without-extent
        return functional.cross_entropy(self.predict(unit).amax(1), y)


class Magnitude(Field):
    """The magnitude of a star whose measured flux, after subtraction of the background, is negative."""

    def loss(self, batch: Pair) -> Tensor:
        x, flux = batch
        magnitude = -2.5 * torch.log10(flux)  # born: magnitude-of-negative-flux
        return functional.mse_loss(self.predict(x), magnitude)


class Rotation(Field):
    """Normalises a predicted quaternion, which is zero for an input of zeros."""

    outputs = 4
    bias = False

    def loss(self, batch: Pair) -> Tensor:
        x, _ = batch
        raw = self.predict(x)
        quaternion = raw / raw.square().sum(-1, keepdim=True).sqrt()  # born: quaternion-zero-norm
        return (1 - quaternion[:, 0]).mean()


class Count(Field):
    """The Poisson likelihood of a rate that underflows to zero."""

    def loss(self, batch: Pair) -> Tensor:
        x, count = batch
        rate = functional.softplus(self.predict(x))
        return (rate - count * torch.log(rate)).mean()  # born: poisson-zero-rate


class Scatter(Field):
    """A normal density from ``torch.distributions`` whose scale underflows to zero."""

    outputs = 2

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        mean, raw = self.predict(x).unbind(-1)
        density: Any = torch.distributions.Normal(mean, functional.softplus(raw), validate_args=False)
        return -density.log_prob(y).mean()  # born: normal-zero-scale


class Coulomb(Field):
    """The energy of two charges that coincide."""

    def loss(self, batch: Pair) -> Tensor:
        x, distance = batch
        energy = self.predict(x) / (4 * math.pi * distance)  # born: charges-coincide
        return energy.square().mean()


def paired(inputs: list[Tensor], targets: list[Tensor]) -> list[Pair]:
    return list(zip(inputs, targets, strict=True))


def case(
    name: str, module: type[ZooModule], batches: Callable[[], list[Any]], truth: tuple[str, str], source: str
) -> Case:
    """Return a case of a bad forward value, the same at every precision."""
    op, transition = truth
    born = Truth(phase="forward", op=op, module="", transition=f"finite->{transition}")  # type: ignore[arg-type]
    everywhere = {FP32: born, BF16: born, SCALER: born}
    return Case(name=name, module=module, batches=batches, truth=everywhere, source=source)


OPAQUE = Truth(phase="backward", op="log", module="")
# The density divides by a variance of zero and takes the logarithm of a scale of zero: both are births.
SCALELESS = Truth(phase="forward", module="")

CASES = [
    case(
        "diffusion-zero-signal",
        Diffusion,
        lambda: noise_levels(0.0),
        ("div", "inf"),
        "textbook: schedules with zero terminal signal, and prediction of noise",
    ),
    case(
        "diffusion-zero-noise",
        NoiseEmbedding,
        lambda: noise_levels(0.0),
        ("log", "inf"),
        "textbook: conditioning on log sigma",
    ),
    case(
        "policy-equal-rewards",
        PolicyAdvantage,
        lambda: paired(normal(6), [torch.ones(8) if i == BAD else r for i, r in enumerate(normal())]),
        ("div", "nan"),
        "textbook: advantage normalisation without eps",
    ),
    case(
        "policy-ratio-overflow",
        PolicyRatio,
        lambda: paired(normal(6), with_bad([-x for x in positive()], 6, -500.0)),
        ("exp", "inf"),
        "textbook: importance ratio of a stale policy",
    ),
    Case(
        name="rendering-opaque-sample",
        module=Radiance,
        batches=lambda: paired(enlarged(1000), positive()),
        truth={FP32: OPAQUE, BF16: OPAQUE, SCALER: OPAQUE},
        source="textbook: transmittance through log(1 - alpha)",
    ),
    case(
        "disparity-of-missing-depth",
        Disparity,
        lambda: paired(normal(6), with_bad(positive(), 3, 0.0)),
        ("reciprocal", "inf"),
        "textbook: missing depth stored as zero",
    ),
    case(
        "survival-zero-hazard",
        Survival,
        lambda: labelled(enlarged(1000)),
        ("log", "inf"),
        "textbook: likelihood of a hazard",
    ),
    case(
        "percentage-error-of-zero",
        PercentageError,
        lambda: paired(normal(6), with_bad(positive(), 1, 0.0)),
        ("div", "inf"),
        "textbook: MAPE of intermittent demand",
    ),
    case(
        "symmetric-error-zero-by-zero",
        SymmetricError,
        demand,
        ("div", "nan"),
        "textbook: sMAPE where forecast and truth are zero",
    ),
    case("graph-isolated-node", GraphConvolution, graphs, ("pow", "inf"), "pytorch_geometric#500: degree ** -0.5"),
    case(
        "ranking-log-sigmoid",
        Ranking,
        lambda: paired(enlarged(1000), normal(6)),
        ("log", "inf"),
        "textbook: log(sigmoid(x)) in place of logsigmoid",
    ),
    case("popularity-of-new-item", Popularity, seen, ("log", "inf"), "textbook: sampled softmax correction"),
    case(
        "spectrum-of-silence",
        Spectrogram,
        lambda: labelled(with_bad(normal(10), 1, 0.0)),
        ("log", "inf"),
        "textbook: log-mel of digital silence",
    ),
    case(
        "si-snr-silence",
        Separation,
        lambda: paired(normal(6), with_bad(normal(6), 0, 0.0)),
        ("div", "nan"),
        "textbook: scale-invariant SNR against a silent source",
    ),
    case(
        "autoencoder-log-variance",
        Autoencoder,
        lambda: labelled(enlarged(1000)),
        ("exp", "inf"),
        "synthcity#331, pytorch_geometric#500: exp of a log-variance",
    ),
    case(
        "flow-zero-scale",
        Coupling,
        lambda: labelled(with_bad(positive(6), 4, 0.0)),
        ("log", "inf"),
        "textbook: log-determinant of a singular coupling",
    ),
    case(
        "point-cloud-without-extent",
        PointCloud,
        lambda: labelled(with_bad(normal(5, 6), 2, 0.5)),
        ("div", "nan"),
        "textbook: scaling to the unit sphere",
    ),
    case(
        "magnitude-of-negative-flux",
        Magnitude,
        lambda: paired(normal(6), with_bad(positive(), 3, -0.5)),
        ("log10", "nan"),
        "textbook: magnitudes of faint sources",
    ),
    case(
        "quaternion-zero-norm",
        Rotation,
        lambda: labelled(with_bad(normal(6), 5, 0.0)),
        ("div", "nan"),
        "kornia#4007: quaternions",
    ),
    case(
        "poisson-zero-rate",
        Count,
        lambda: paired(enlarged(1000), positive()),
        ("log", "inf"),
        "textbook: Poisson likelihood of log 0",
    ),
    Case(
        name="normal-zero-scale",
        module=Scatter,
        batches=lambda: paired(enlarged(1000), positive()),
        truth={FP32: SCALELESS, BF16: SCALELESS, SCALER: SCALELESS},
        source="textbook: softplus of a large negative number as a scale",
    ),
    case(
        "charges-coincide",
        Coulomb,
        lambda: paired(normal(6), with_bad(positive(), 7, 0.0)),
        ("div", "inf"),
        "textbook: 1 / r",
    ),
]
