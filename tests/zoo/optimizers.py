"""Updates that make a weight non-finite from finite gradients. It is seen in the batch after ``bad_batch``.

No case has variants: other ways of training replace the very update that is at fault, or count batches differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.case import BF16, FP32, SCALER, Case, Truth, ZooModule

if TYPE_CHECKING:
    from collections.abc import Iterable

BAD = 5
Pair = tuple[Tensor, Tensor]


def labelled() -> list[Pair]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(8, 6, generator=generator), torch.arange(8) % 2) for _ in range(8)]


class Modalities(ZooModule):
    """Text always, images from the bad batch on: until then the adapter has no gradient at all."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Linear(6, 4)
        self.adapter = nn.Linear(6, 4, bias=False)
        self.head = nn.Linear(4, 2)

    def loss(self, batch: tuple[Tensor, Tensor | None, Tensor]) -> Tensor:
        text, image, y = batch
        z = self.text(text)
        if image is not None:
            z = z + self.adapter(image)
        return functional.cross_entropy(self.head(z).float(), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        old = [*self.text.parameters(), *self.head.parameters()]
        new = [*self.adapter.parameters()]
        groups: list[dict[str, Any]] = [{"params": old, "eps": 1e-4}, {"params": new}]  # the new one has the default
        return torch.optim.Adam(groups, lr=1e-3)


def first_images() -> list[tuple[Tensor, Tensor | None, Tensor]]:
    return [(x, 0.01 * x.flip(0) if i >= BAD else None, y) for i, (x, y) in enumerate(labelled())]


class LowRank(ZooModule):
    """A low-rank adapter for images whose ``up`` is zero: the first gradient of ``down`` is exactly zero."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 2)
        self.down = nn.Linear(6, 2, bias=False)
        self.up = nn.Linear(2, 2, bias=False)
        nn.init.zeros_(self.up.weight)

    def loss(self, batch: tuple[Tensor, Tensor | None, Tensor]) -> Tensor:
        text, image, y = batch
        logits = self.base(text)
        if image is not None:
            logits = logits + self.up(self.down(image))
        return functional.cross_entropy(logits.float(), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3, eps=0.0)


class Vocabulary(ZooModule):
    """The first batch does not use every word: the rows of the others have a zero gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 2)

    def loss(self, batch: Pair) -> Tensor:
        words, y = batch
        return functional.cross_entropy(self.head(self.embed(words).mean(1)).float(), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(self.parameters(), lr=1e-3, eps=0.0)


class VocabularyAdagrad(Vocabulary):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(self.parameters(), lr=1e-3, eps=0.0)


def sentences() -> list[Pair]:
    generator = torch.Generator().manual_seed(2)
    words = [torch.randint(8 if i else 6, (8, 5), generator=generator) for i in range(8)]
    return [(w, torch.arange(8) % 2) for w in words]


class Scheduled(ZooModule):
    """A schedule centred on the end of the warm-up, where it divides by zero."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.net(x).float(), y)

    @staticmethod
    def factor(step: int) -> float:
        return float(torch.rsqrt(torch.tensor(abs(step - 5.0))))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class WrongExponent(Scheduled):
    """The rate is to fall at the milestone; its factor lacks the minus sign in the exponent."""

    def loss(self, batch: Pair) -> Tensor:
        return 8 * super().loss(batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[BAD], gamma=3e40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Field(ZooModule):
    """An energy in base units: the gradient is 7.8e37 throughout, and six of them in the momentum leave float32."""

    def __init__(self) -> None:
        super().__init__()
        self.charge = nn.Parameter(torch.zeros(1))

    def loss(self, batch: Pair) -> Tensor:
        potential, _ = batch
        return (potential.mean() * (0.1 + self.charge) * 7.8e37).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-39, momentum=0.9)


class Margin(ZooModule):
    """A hand-written optimizer: trust ratio of weight norm to gradient norm, without a guard, as in early LARS."""

    def __init__(self) -> None:
        super().__init__()
        self.margin = nn.Linear(6, 1, bias=False)

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        return functional.relu(1 - y * self.margin(x).squeeze(-1).float()).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return TrustRatio(self.parameters())


class TrustRatio(torch.optim.Optimizer):
    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad * (p.norm() / p.grad.norm()), alpha=group["lr"])
        return loss


def separated() -> list[Pair]:
    """Return margins; in the bad batch every sample is far on the right side of its margin."""
    torch.manual_seed(0)
    weight = Margin().margin.weight[0].detach()
    result = []
    for i, (x, _) in enumerate(labelled()):
        y = torch.sign(x @ weight) * (1 if i == BAD else -1)
        result.append((x + (1000 * y[:, None] * weight if i == BAD else 0), y))
    return result


def update(tensor: str | None = None) -> Truth:
    return Truth(phase="optimizer", tensor=tensor, line=False)


CASES = [
    Case(
        name="adam-eps-in-half",
        module=Modalities,
        batches=first_images,
        truth={FP32: update("adapter.weight")},
        source="pytorch#8860, lightning#20619: eps 1e-8 is 0 in float16, and so is a small squared gradient",
        variants=False,
        trainer={"precision": "16-true"},
    ),
    Case(
        name="adam-zero-eps",
        module=LowRank,
        batches=first_images,
        truth={FP32: update("down.weight"), BF16: update("down.weight"), SCALER: update("down.weight")},
        source="textbook: 0 / (sqrt(0) + 0)",
        variants=False,
    ),
    Case(
        name="rmsprop-zero-eps",
        module=Vocabulary,
        batches=sentences,
        truth={FP32: update("embed.weight"), BF16: update("embed.weight"), SCALER: update("embed.weight")},
        source="textbook: rows of an embedding that no word of the batch has used",
        bad_batch=0,  # whatever has a gradient once never has a zero second moment again
        variants=False,
    ),
    Case(
        name="adagrad-zero-eps",
        module=VocabularyAdagrad,
        batches=sentences,
        truth={FP32: update("embed.weight"), BF16: update("embed.weight"), SCALER: update("embed.weight")},
        source="textbook: as for RMSprop",
        bad_batch=0,
        variants=False,
    ),
    Case(
        name="schedule-divides-by-zero",
        module=Scheduled,
        batches=labelled,
        truth={FP32: update(), BF16: update(), SCALER: update()},
        source="textbook: an inverse square root schedule at step 0",
        variants=False,
    ),
    Case(
        name="schedule-wrong-exponent",
        module=WrongExponent,
        batches=labelled,
        truth={FP32: update(), BF16: update(), SCALER: update()},
        source="textbook: an absurd learning rate",
        variants=False,
    ),
    Case(
        name="momentum-overflow",
        module=Field,
        batches=lambda: [(torch.ones(8), torch.zeros(8))] * 8,
        truth={FP32: update("charge")},
        source="textbook: heavy-ball momentum is up to 1 / (1 - 0.9) gradients",
        variants=False,
    ),
    Case(
        name="trust-ratio-of-zero-gradient",
        module=Margin,
        batches=separated,
        truth={FP32: update("margin.weight"), BF16: update("margin.weight"), SCALER: update("margin.weight")},
        source="textbook: LARS without a guard, and a hinge loss that is satisfied",
        variants=False,
    ),
]
