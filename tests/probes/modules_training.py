"""Ways to train: optimizers, precisions, batches, checkpointing, compilation, frozen and shared weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.probes.modules_generative import network
from tests.probes.modules_vision import batch_norm_cnn, relu_cnn
from tests.probes.probed import (
    CLASSES,
    FEATURES,
    PASS,
    Batches,
    Classifier,
    Probe,
    classifier,
    images,
    probed,
    vectors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lightning.pytorch import LightningModule


def perceptron() -> nn.Module:
    return network(FEATURES, CLASSES)


class SecondOrder(Classifier):
    """Trains by LBFGS, which calls the step several times."""

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=3)


class Checkpointed(nn.Module):
    """Two blocks with dropout, computed again in the backward pass."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Dropout(0.3)) for _ in range(2))
        self.head = nn.Linear(16, CLASSES)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


class Compiled(Probe):
    """A part of the network is compiled by a backend without code generation."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.network = torch.compile(perceptron(), backend=backend)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.network(x), y)


class LowRank(nn.Module):
    """LoRA: a frozen layer and a trained correction of rank two, which starts at zero."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(0.1 * torch.randn(2, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.mT @ self.up.mT


def low_rank() -> nn.Module:
    return nn.Sequential(LowRank(nn.Linear(FEATURES, 16)), nn.Tanh(), LowRank(nn.Linear(16, CLASSES)))


class TiedAutoencoder(Probe):
    """The decoder is the encoder, transposed; both layers share one bias-free weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(4, FEATURES))
        self.shift = nn.Parameter(torch.zeros(FEATURES))

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        return (functional.linear(x, self.weight).tanh() @ self.weight + self.shift - x).square().mean()


class Keyed(Probe):
    """Takes a batch of any shape: ``read`` finds inputs and classes in it."""

    def __init__(self, read: Callable[[Any], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.network = perceptron()
        self.read = read

    def loss(self, batch: Any) -> Tensor:
        x, y = self.read(batch)
        loss = functional.cross_entropy(self.network(x), y)
        self.log("loss", loss, batch_size=len(y))
        return loss


@dataclass
class Sample:
    """A batch as a dataclass."""

    x: Tensor
    y: Tensor
    weight: float = 1.0


class Pair(NamedTuple):
    """A batch as a named tuple."""

    x: Tensor
    y: Tensor


def as_mixed() -> Batches:
    return [(x, "train", 7, None, {"classes": [y]}) for x, y in vectors()]


def as_dict() -> Batches:
    return [{"x": x, "y": y, "name": ["a"] * len(y), "missing": None} for x, y in vectors()]


def as_dataclass() -> Batches:
    return [Sample(x, y) for x, y in vectors()]


def as_named_tuple() -> Batches:
    return [Pair(x, y) for x, y in vectors()]


def as_float64() -> Batches:
    return [(x.double(), y) for x, y in vectors()]


def double() -> LightningModule:
    return Classifier(perceptron()).double()


def keyed(read: Callable[[Any], tuple[Tensor, Tensor]]) -> Callable[[], LightningModule]:
    """Return what builds a classifier whose batches are read by ``read``."""
    return lambda: Keyed(read)


def precision(name: str) -> Mapping[str, str]:
    """Return the Trainer's arguments for a precision."""
    return {"precision": name}


RIGHT = "the derivative is judged in float64, whatever the training computes in"
CASES = (
    probed("lbfgs", lambda: SecondOrder(perceptron()), vectors, PASS, "each call of the step is like any other"),
    probed(
        "accumulated",
        classifier(perceptron),
        vectors,
        PASS,
        "a micro-batch is a batch",
        trainer={"accumulate_grad_batches": 2},
    ),
    probed(
        "clipped-by-the-trainer",
        classifier(perceptron),
        vectors,
        PASS,
        "clipping comes after the gradient",
        trainer={"gradient_clip_val": 0.01},
    ),
    probed(
        "clipped-by-value",
        classifier(perceptron),
        vectors,
        PASS,
        "clipping comes after the gradient",
        trainer={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    ),
    probed(
        "checkpoint-reentrant",
        classifier(lambda: Checkpointed(reentrant=True)),
        vectors,
        PASS,
        "the second forward pass drops the same units",
    ),
    probed(
        "checkpoint-non-reentrant",
        classifier(lambda: Checkpointed(reentrant=False)),
        vectors,
        PASS,
        "the second forward pass drops the same units",
    ),
    probed("compiled-eager", lambda: Compiled("eager"), vectors, PASS, "the same operations"),
    probed("compiled-aot-eager", lambda: Compiled("aot_eager"), vectors, PASS, "the same operations"),
    probed("frozen-base-lora", classifier(low_rank), vectors, PASS, "frozen weights need no gradient"),
    probed("tied-autoencoder", TiedAutoencoder, vectors, PASS, "the weight gets both gradients"),
    probed(
        "mixed-tuple-batch",
        keyed(lambda batch: (batch[0], batch[4]["classes"][0])),
        as_mixed,
        PASS,
        "only tensors are cast",
    ),
    probed("dict-batch", keyed(lambda batch: (batch["x"], batch["y"])), as_dict, PASS, "only tensors are cast"),
    probed("dataclass-batch", keyed(lambda batch: (batch.x, batch.y)), as_dataclass, PASS, "its tensors are cast too"),
    probed(
        "named-tuple-batch", keyed(lambda batch: (batch.x, batch.y)), as_named_tuple, PASS, "its tensors are cast too"
    ),
    probed("float64-module", double, as_float64, PASS, "float64 already"),
    probed("64-true", classifier(perceptron), vectors, PASS, "float64 already", trainer=precision("64-true")),
    probed("bf16-mixed-cnn", classifier(batch_norm_cnn), images, PASS, RIGHT, trainer=precision("bf16-mixed")),
    probed("bf16-mixed-relu-cnn", classifier(relu_cnn), images, PASS, RIGHT, trainer=precision("bf16-mixed")),
    probed("bf16-true", classifier(perceptron), vectors, PASS, RIGHT, trainer=precision("bf16-true")),
    probed("16-true", classifier(perceptron), vectors, PASS, RIGHT, trainer=precision("16-true")),
)
