"""Matrices without an inverse, repeated singular values, powers that overflow.

Decompositions run in fp32 also under autocast, as users write it: ``.float()`` before ``torch.linalg``.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.zoo.batches import SIZE, eight
from tests.zoo.case import BF16, FP32, SCALER, Case, Truth, ZooModule

ALL = (FP32, BF16, SCALER)
GUILTY = 4  # the sample of the bad batch whose matrix is degenerate


def every(truth: Truth) -> dict[str, Truth]:
    """Return the same truth for every precision."""
    return dict.fromkeys(ALL, truth)


class Alignment(ZooModule):
    """Pose refinement: predicted keypoints are turned onto the target by a singular value decomposition."""

    def __init__(self) -> None:
        super().__init__()
        self.refine = nn.Linear(3, 3, bias=False)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        keypoints, target = batch
        source = self.refine(keypoints).float()
        u, _, vh = torch.linalg.svd(source.mT @ target)  # born: alignment-of-missing-keypoints
        return functional.mse_loss(source @ u @ vh, target)


def poses(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return keypoints and their targets; of one person in the bad batch nothing was found: all zeros."""
    keypoints = torch.randn(SIZE, 6, 3, generator=generator)
    target = keypoints + 0.1 * torch.randn(SIZE, 6, 3, generator=generator)
    if bad:
        keypoints[GUILTY] = 0.0
    return keypoints, target


class Frames(ZooModule):
    """Local frames of protein residues, made orthonormal by a QR decomposition."""

    def __init__(self) -> None:
        super().__init__()
        self.refine = nn.Linear(3, 3, bias=False)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        keypoints, target = batch
        vectors = self.refine(keypoints[:, :3]).float()
        frame, _ = torch.linalg.qr(vectors.mT)  # born: frame-of-missing-residue
        return functional.mse_loss(frame, target[:, :3])


class LaplacianEncoding(ZooModule):
    """Node positions from the eigenvectors of a graph's weighted Laplacian."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = nn.Linear(1, 1)
        self.head = nn.Linear(5, 1)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        weight = self.edge(batch["length"][..., None])[..., 0].float().exp() * batch["adjacency"]
        laplacian = torch.diag_embed(weight.sum(-1)) - weight
        _, vectors = torch.linalg.eigh(laplacian)  # born: laplacian-without-edges
        return functional.mse_loss(self.head(vectors.abs()).mean((1, 2)).float(), batch["y"])


class Centrality(ZooModule):
    """Eigenvector centrality by power iteration, without a small constant in the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 1)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        vector = torch.ones(len(batch["adjacency"]), 5, 1)
        for _ in range(3):
            product = (batch["adjacency"] @ vector).float()
            length = torch.linalg.vector_norm(product, dim=1, keepdim=True)
            vector = product / length  # born: centrality-without-edges
        return functional.mse_loss(self.head(vector[..., 0])[:, 0].float(), batch["y"])


def graphs(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    """Return graphs by edge lengths and symmetric adjacency (a path at least; one without edges if bad)."""
    upper = (torch.rand(SIZE, 5, 5, generator=generator) < 0.3).float().triu(1)
    upper[:, range(4), range(1, 5)] = 1.0
    length = torch.rand(SIZE, 5, 5, generator=generator)
    if bad:
        upper[GUILTY] = 0.0
    y = torch.randn(SIZE, generator=generator)
    return {"length": length + length.mT, "adjacency": upper + upper.mT, "y": y}


class Diversity(ZooModule):
    """A determinantal point process: the log-volume spanned by the items of a basket."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8, bias=False)

    def loss(self, batch: Tensor) -> Tensor:
        items = self.embed(batch).float()
        kernel = (items[:, :, None] * items[:, None]).sum(-1)
        return -torch.logdet(kernel).mean() + items.square().mean()  # born: volume-with-empty-item


def baskets(generator: Generator, *, bad: bool) -> Tensor:
    """Return baskets of three items; one item of the bad batch has no attributes."""
    items = torch.randn(SIZE, 3, 6, generator=generator)
    if bad:
        items[GUILTY, 1] = 0.0
    return items


class RidgelessHead(ZooModule):
    """Meta-learning with a least-squares head in closed form, solved per task without a ridge."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        h = x * self.scale
        gram, moment = (h[..., None] * h[..., None, :]).sum(1), (h * y[..., None]).sum(1)
        solution, _ = torch.linalg.solve_ex(gram, moment)  # born: least-squares-unused-feature
        return functional.mse_loss((h * solution[:, None]).sum(-1) * self.scale.mean(), y)


def tasks(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return tasks of five samples; in one task of the bad batch a feature is never used."""
    x = torch.randn(SIZE, 5, 3, generator=generator)
    if bad:
        x[GUILTY, :, 2] = 0.0
    return x, torch.randn(SIZE, 5, generator=generator)


class Correlated(ZooModule):
    """The log-determinant of windowed covariances by Cholesky factors, as in a Gaussian likelihood."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))

    def loss(self, batch: Tensor) -> Tensor:
        x = (batch - batch.mean(1, keepdim=True)) * self.gain
        covariance = (x[..., None] * x[..., None, :]).mean(1)
        factor, _ = torch.linalg.cholesky_ex(covariance)
        half_logdet = factor.diagonal(dim1=1, dim2=2).log().sum(-1)  # born: likelihood-of-dead-channel
        return (covariance.diagonal(dim1=1, dim2=2).sum(-1) - 2 * half_logdet).mean()


def windows(generator: Generator, *, bad: bool) -> Tensor:
    """Return windows of three channels; one channel of the bad batch is silent."""
    x = torch.randn(SIZE, 10, 3, generator=generator)
    if bad:
        x[GUILTY, :, 2] = 0.0
    return x


class Whitening(ZooModule):
    """Features whitened by the eigenvalues of their covariance over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, label = batch
        x = x - x.mean(0)
        covariance = (x[..., None] * x[:, None]).mean(0)
        values, vectors = torch.linalg.eigh(covariance)
        scale = values.rsqrt()  # born: whitening-of-dead-features
        return functional.cross_entropy(self.head(x @ vectors * scale).float(), label)


def features(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return features and labels; all features but one are zero in the bad batch.

    The covariance is diagonal then, and its zero eigenvalues are exact with any LAPACK.
    """
    x = torch.randn(SIZE, 4, generator=generator)
    if bad:
        x[:, 1:] = 0.0
    return x, torch.randint(3, (SIZE,), generator=generator)


class StateSpace(ZooModule):
    """A linear state space model over irregular times: the transition is a matrix exponential."""

    def __init__(self) -> None:
        super().__init__()
        self.dynamics = nn.Parameter(torch.tensor([[0.5, 1.0], [1.0, 0.5]]))
        self.head = nn.Linear(2, 1)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        state, gap, y = batch
        transition = torch.linalg.matrix_exp(self.dynamics * gap[:, None, None])  # born: transition-over-long-gap
        later = (transition * state[:, None]).sum(-1)
        return functional.mse_loss(self.head(later)[:, 0].float(), y)


def visits(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return states, the time until the next visit (of one sample in the bad batch very long) and outcomes."""
    gap = 0.1 + 0.4 * torch.rand(SIZE, generator=generator)
    if bad:
        gap[GUILTY] = 365.0
    return torch.randn(SIZE, 2, generator=generator), gap, torch.randn(SIZE, generator=generator)


class Barycentric(ZooModule):
    """Colours interpolated inside triangles by ratios of areas."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Linear(2, 3)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        corners, point, colour = batch
        opposite, following = corners.roll(-1, 1) - point[:, None], corners.roll(-2, 1) - point[:, None]
        parts = torch.linalg.det(torch.stack([opposite, following], -1))
        weights = parts / parts.sum(-1, keepdim=True)  # born: triangle-without-area
        return functional.mse_loss((weights[..., None] * self.colour(corners).float()).sum(1), colour)


def triangles(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return corners, a point inside and its colour; the corners of one triangle of the bad batch coincide."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) + 0.2 * torch.rand(SIZE, 3, 2, generator=generator)
    if bad:
        corners[GUILTY] = 0.5
    return corners, corners.sum(1) / 3 if not bad else corners[:, 0], torch.rand(SIZE, 3, generator=generator)


CASES = [
    Case(
        name="alignment-of-missing-keypoints",
        module=Alignment,
        batches=eight(poses),
        truth=every(Truth(phase="backward", op="linalg_svd", module="", sample=GUILTY)),
        source="github.com/pytorch/pytorch/issues/49886",
    ),
    Case(
        name="frame-of-missing-residue",
        module=Frames,
        batches=eight(poses),
        truth=every(Truth(phase="backward", op="linalg_qr", module="", sample=GUILTY)),
        source="github.com/pytorch/pytorch/issues/42792",
    ),
    Case(
        name="laplacian-without-edges",
        module=LaplacianEncoding,
        batches=eight(graphs),
        truth=every(Truth(phase="backward", op="linalg_eigh", module="", sample=GUILTY)),
        source="github.com/jax-ml/jax/issues/8732: the same for repeated eigenvalues",
    ),
    Case(
        name="centrality-without-edges",
        module=Centrality,
        batches=eight(graphs),
        truth=every(Truth(phase="forward", op="div", module="", sample=GUILTY, transition="finite->nan")),
        source="textbook: power iteration on a zero matrix",
    ),
    Case(
        name="volume-with-empty-item",
        module=Diversity,
        batches=eight(baskets),
        truth=every(Truth(phase="forward", op="linalg_slogdet", module="", sample=GUILTY, transition="finite->inf")),
        source="textbook: log-determinant of a singular kernel",
    ),
    Case(
        name="least-squares-unused-feature",
        module=RidgelessHead,
        batches=eight(tasks),
        truth=every(Truth(phase="forward", op="linalg_solve_ex", module="", sample=GUILTY)),
        source="textbook: normal equations without a ridge",
    ),
    Case(
        name="likelihood-of-dead-channel",
        module=Correlated,
        batches=eight(windows),
        truth=every(Truth(phase="forward", op="log", module="", sample=GUILTY, transition="finite->inf")),
        source="textbook: Gaussian likelihood with a singular covariance",
    ),
    Case(
        name="whitening-of-dead-features",
        module=Whitening,
        batches=eight(features),
        truth=every(Truth(phase="forward", op="rsqrt", module="", transition="finite->inf")),
        source="github.com/rctn/sparsecoding/pull/79",
    ),
    Case(
        name="transition-over-long-gap",
        module=StateSpace,
        batches=eight(visits),
        truth=every(Truth(phase="forward", op="linalg_matrix_exp", module="", sample=GUILTY)),
        source="textbook: exponential of a matrix with a large norm",
    ),
    Case(
        name="triangle-without-area",
        module=Barycentric,
        batches=eight(triangles),
        truth=every(Truth(phase="forward", op="div", module="", sample=GUILTY, transition="finite->nan")),
        source="textbook: barycentric coordinates in a degenerate triangle",
    ),
]
