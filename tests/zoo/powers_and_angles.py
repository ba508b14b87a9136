"""Fractional powers at zero, and inverse functions of angles and probabilities at the end of their domain."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.zoo.batches import SIZE, eight
from tests.zoo.case import BF16, FP32, SCALER, Case, Truth, ZooModule

ALL = (FP32, BF16, SCALER)


class CompressedSpectrum(ZooModule):
    """Speech enhancement by a mask on the magnitudes, compared after power-law compression."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 9), nn.Sigmoid())

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        noisy, clean = batch
        estimate = self.mask(torch.log1p(noisy)).float() * noisy
        compressed = estimate**0.3  # born: compression-of-a-silent-bin
        return functional.mse_loss(compressed, clean**0.3)


def magnitudes(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return magnitudes of noisy and clean frames; one bin of the bad batch has been filtered out."""
    clean = 0.1 + torch.rand(SIZE, 9, generator=generator)
    noisy = clean + torch.rand(SIZE, 9, generator=generator)
    if bad:
        noisy[2, 0] = 0.0
    return noisy, clean


class SoftFocal(ZooModule):
    """Focal loss with gamma below 1, whose slope is infinite at a probability of exactly 1."""

    gamma = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 1)
        nn.init.ones_(self.net.weight)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, sign = batch
        true = torch.sigmoid(sign * self.net(x)[:, 0].float())
        weight = (1 - true) ** self.gamma  # born: focal-gamma-below-one
        return -(weight * torch.log(true)).mean()


def votes(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return features and labels -1 or 1; the bad batch holds a very easy positive."""
    x, sign = torch.randn(SIZE, 5, generator=generator) * 0.3, torch.arange(SIZE) % 2 * 2.0 - 1
    if bad:
        x[5] = 10.0
    return x, sign


class RotationRegression(ZooModule):
    """Predicts a small rotation from a gyroscope as a quaternion; the loss is the angle to the true one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        gyroscope, target = batch
        vector = self.net(gyroscope).float()
        quaternion = functional.normalize(torch.cat([torch.ones_like(vector[:, :1]), vector], -1), dim=-1)
        cosine = (quaternion * target).sum(-1).abs().clamp(max=1.0)
        angle = 2 * torch.acos(cosine)  # born: quaternion-angle-of-zero
        return angle.square().mean()


def rotations(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return gyroscope readings and true quaternions; one sample of the bad batch stands still."""
    gyroscope = torch.randn(SIZE, 6, generator=generator)
    target = functional.normalize(torch.randn(SIZE, 4, generator=generator) + torch.tensor([3.0, 0, 0, 0]), dim=-1)
    if bad:
        gyroscope[3] = 0.0
        target[3] = torch.tensor([1.0, 0, 0, 0])
    return gyroscope, target


class Refraction(nn.Module):
    """Snell's law with a learned refractive index for each material."""

    def __init__(self) -> None:
        super().__init__()
        self.index = nn.Embedding(4, 1)

    def forward(self, material: Tensor, angle: Tensor) -> Tensor:
        index = 1.1 + functional.softplus(self.index(material)[:, 0] - 1)
        return torch.asin(index * torch.sin(angle))  # born: total-reflection


class Lens(ZooModule):
    """Fits the refraction of rays that leave a dense material."""

    def __init__(self) -> None:
        super().__init__()
        self.surface = Refraction()

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        material, angle, observed = batch
        return functional.mse_loss(self.surface(material, angle), observed)


def refracted(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return materials, angles of incidence (one of the bad batch beyond the critical angle) and observed angles."""
    material = torch.randint(4, (SIZE,), generator=generator)
    angle = 0.2 * torch.rand(SIZE, generator=generator)
    if bad:
        angle[6] = 1.5
    return material, angle, angle * 1.2


class Heading(ZooModule):
    """The heading of a vehicle from corrected velocities, by a division instead of atan2."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        sensor, velocity, heading = batch
        corrected = velocity * torch.exp(0.1 * self.scale(sensor).float())
        slope = corrected[:, 1] / corrected[:, 0]  # born: heading-due-north
        return functional.mse_loss(torch.atan(slope), heading)


def driven(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return sensor readings, velocities (one of the bad batch points due north) and headings."""
    sensor = torch.randn(SIZE, 4, generator=generator)
    velocity = 0.5 + torch.rand(SIZE, 2, generator=generator)
    if bad:
        velocity[1, 0] = 0.0
    return sensor, velocity, torch.atan2(velocity[:, 1], velocity[:, 0])


class Denoiser(ZooModule):
    """A convolutional denoiser on linear light, compared after gamma correction."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.fill_(0.1)
            self.conv.bias.fill_(0.05)  # type: ignore[union-attr]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        noisy, clean = batch
        restored = self.conv(noisy).float()
        return functional.l1_loss(restored ** (1 / 2.2), clean ** (1 / 2.2))  # born: gamma-of-a-negative-pixel


def pictures(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return noisy and clean pictures; one of the bad batch has its black level subtracted twice."""
    clean = 0.2 + 0.8 * torch.rand(SIZE, 1, 6, 6, generator=generator)
    noisy = clean + 0.02 * torch.randn(SIZE, 1, 6, 6, generator=generator)
    if bad:
        noisy[4] -= 2.0
    return noisy, clean


class GeneralizedMean(nn.Module):
    """Generalised-mean pooling (Radenovic, Tolias and Chum, 2018) without its clamp."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        power = x.pow(self.p).mean((2, 3))
        return power.pow(1 / self.p)  # born: generalized-mean-of-black


class Retrieval(ZooModule):
    """An image classifier with generalised-mean pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.pool = GeneralizedMean()
        self.head = nn.Linear(4, 3)
        nn.init.uniform_(self.conv.weight, 0.1, 0.3)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, label = batch
        return functional.cross_entropy(self.head(self.pool(torch.relu(self.conv(image)).float())), label)


def photographs(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return images, one of them black in the bad batch, and labels."""
    image = 1 + torch.rand(SIZE, 1, 6, 6, generator=generator)
    if bad:
        image[0] = 0.0
    return image, torch.arange(SIZE) % 3


class Calibration(ZooModule):
    """Scales the logits of a frozen model's probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(4, 1)
        nn.init.constant_(self.scale.weight, 0.25)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        confidence, correct = batch
        logits = torch.logit(confidence)  # born: logit-of-certainty
        return functional.binary_cross_entropy_with_logits(self.scale(logits)[:, 0].float(), correct)


def calibrated(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return probabilities of four models (one of the bad batch was rounded to 1) and correctness."""
    confidence = 0.05 + 0.9 * torch.rand(SIZE, 4, generator=generator)
    if bad:
        confidence[7, 3] = 1.0
    return confidence, torch.arange(SIZE) % 2.0


class OfflinePolicy(ZooModule):
    """Likelihood of stored actions under a Gaussian squashed by tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        observation, action = batch
        mean = self.net(observation).float()
        before = torch.atanh(action)  # born: saturated-action
        correction = torch.log(1 - action**2 + 1e-6)
        return (0.5 * (before - mean) ** 2 + correction).sum(-1).mean()


def replayed(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return observations and actions in -1..1; one of the bad batch sits on the limit."""
    observation = torch.randn(SIZE, 4, generator=generator)
    action = torch.tanh(torch.randn(SIZE, 2, generator=generator))
    if bad:
        action[2, 1] = -1.0
    return observation, action


class RadianceField(ZooModule):
    """Points moved by a network and described by their spherical coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.move = nn.Linear(3, 1)
        self.head = nn.Linear(2, 1)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        point, density = batch
        point = point * torch.exp(0.1 * self.move(point).float())
        radius = point.norm(dim=-1)
        polar = torch.acos(point[:, 2] / radius)  # born: polar-angle-of-the-pole
        features = torch.stack([radius, polar], -1)
        return functional.mse_loss(self.head(features)[:, 0].float(), density)


def points(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return points, one of them on the axis in the bad batch, and densities."""
    point = torch.randn(SIZE, 3, generator=generator)
    if bad:
        point[5] = torch.tensor([0.0, 0.0, 2.0])
    return point, torch.rand(SIZE, generator=generator)


class GraphConvolution(nn.Module):
    """Graph convolution (Kipf and Welling, 2017), normalised by degrees on either side."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        scale = adjacency.sum(1).pow(-0.5)  # born: isolated-node
        return self.linear((scale[:, None] * adjacency * scale) @ x)


class NodeClassifier(ZooModule):
    """One graph convolution and the cross-entropy of its nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GraphConvolution()

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, adjacency, label = batch
        return functional.cross_entropy(self.conv(x, adjacency), label)


def graph(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, an adjacency matrix (one node of the bad batch has no edge) and labels."""
    x = torch.randn(SIZE, 4, generator=generator)
    ring = torch.eye(SIZE).roll(1, 0)
    adjacency = ring + ring.T
    if bad:
        adjacency[3], adjacency[:, 3] = 0.0, 0.0
    return x, adjacency, torch.arange(SIZE) % 3


class PointUpsampling(ZooModule):
    """Interpolates point features by inverse distances, as in PointNet++ but without its epsilon."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Linear(3, 4)
        self.head = nn.Linear(4, 1)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        fine, coarse, y = batch
        weight = 1 / torch.cdist(fine, coarse).square()  # born: coincident-points
        weight = weight / weight.sum(-1, keepdim=True)
        hidden = torch.relu(weight @ self.coarse(coarse))
        return functional.mse_loss(self.head(hidden)[:, 0].float(), y)


def clouds(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return fine points, coarse points (one of the bad batch is one of the fine ones) and targets."""
    fine, coarse = torch.randn(SIZE, 3, generator=generator), torch.randn(4, 3, generator=generator) * math.sqrt(2)
    if bad:
        fine[6], coarse[1] = 1.0, 1.0
    return fine, coarse, torch.randn(SIZE, generator=generator)


CASES: list[Case] = [
    Case(
        name="compression-of-a-silent-bin",
        module=CompressedSpectrum,
        batches=eight(magnitudes),
        truth=dict.fromkeys(ALL, Truth(phase="backward", op="pow", module="", transition="finite->inf")),
        source="textbook: fractional power at 0",
    ),
    Case(
        name="focal-gamma-below-one",
        module=SoftFocal,
        batches=eight(votes),
        truth=dict.fromkeys(ALL, Truth(phase="backward", op="pow", module="", transition="finite->inf")),
        source="mkocabas/focal-loss-keras#17: gamma below 1",
    ),
    Case(
        name="quaternion-angle-of-zero",
        module=RotationRegression,
        batches=eight(rotations),
        truth=dict.fromkeys(ALL, Truth(phase="backward", op="acos", module="", transition="finite->inf")),
        source="kornia/kornia#4007: acos behind a clamp that lets the gradient of the edge pass",
    ),
    Case(
        name="total-reflection",
        module=Lens,
        batches=eight(refracted),
        truth=dict.fromkeys(ALL, Truth(phase="forward", op="asin", module="surface", transition="finite->nan")),
        source="textbook: arcsine of a number above 1",
    ),
    Case(
        name="heading-due-north",
        module=Heading,
        batches=eight(driven),
        # y / 0 is inf, whose arctangent is finite again; the derivative of the division is not.
        truth=dict.fromkeys(ALL, Truth(phase="backward", op="div", module="")),
        source="textbook: an angle by division instead of atan2",
    ),
    Case(
        name="gamma-of-a-negative-pixel",
        module=Denoiser,
        batches=eight(pictures),
        truth=dict.fromkeys(ALL, Truth(phase="forward", op="pow", module="", transition="finite->nan")),
        source="textbook: gamma correction of an unbounded prediction",
    ),
    Case(
        name="generalized-mean-of-black",
        module=Retrieval,
        batches=eight(photographs),
        truth=dict.fromkeys(ALL, Truth(phase="backward", op="pow", module="pool", transition="finite->inf")),
        source="textbook: generalised-mean pooling without its clamp",
    ),
    Case(
        name="logit-of-certainty",
        module=Calibration,
        batches=eight(calibrated),
        truth=dict.fromkeys(ALL, Truth(phase="forward", op="logit", module="", transition="finite->inf")),
        source="textbook: logit of a probability that was rounded to 1",
    ),
    Case(
        name="saturated-action",
        module=OfflinePolicy,
        batches=eight(replayed),
        truth=dict.fromkeys(ALL, Truth(phase="forward", op="atanh", module="", transition="finite->inf")),
        source="textbook: likelihood of a stored action at the limit of tanh",
    ),
    Case(
        name="polar-angle-of-the-pole",
        module=RadianceField,
        batches=eight(points),
        truth=dict.fromkeys(ALL, Truth(phase="backward", op="acos", module="", transition="finite->inf")),
        source="textbook: spherical coordinates on their axis",
    ),
    Case(
        name="isolated-node",
        module=NodeClassifier,
        batches=eight(graph),
        truth=dict.fromkeys(ALL, Truth(phase="forward", op="pow", module="conv", transition="finite->inf")),
        source="textbook: degree normalisation of a node without edges",
    ),
    Case(
        name="coincident-points",
        module=PointUpsampling,
        batches=eight(clouds),
        truth=dict.fromkeys(ALL, Truth(phase="forward", op="reciprocal", module="", transition="finite->inf")),
        source="textbook: inverse-distance weights of coincident points",
    ),
]
