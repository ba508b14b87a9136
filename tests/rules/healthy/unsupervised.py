"""Without labels, with few, or with rewards: contrasts, teachers that follow, and a policy."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW

from tests.rules.healthy.case import Case, Learner, Training, above
from tests.rules.healthy.data import loader, standard_digits
from tests.rules.healthy.supervised import accuracy
from tests.rules.healthy.vision import normed_cnn


def changed(x: Tensor) -> Tensor:
    """Turn, move and stretch every image a little, and add noise."""
    angle, size = 0.2 * torch.randn(len(x)), 1 + 0.1 * torch.randn(len(x))
    move = 0.12 * torch.randn(2, len(x))
    cosine, sine = size * angle.cos(), size * angle.sin()
    matrix = torch.stack([cosine, -sine, move[0], sine, cosine, move[1]], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(matrix, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False) + 0.1 * torch.randn_like(x)


def neighbours(encoder: nn.Module) -> float:
    """Return how often the nearest training image, as the encoder sees it, has the right label."""
    data = standard_digits()
    known = functional.normalize(encoder(data.x), dim=-1)
    asked = functional.normalize(encoder(data.test_x), dim=-1)
    return float((data.y[(asked @ known.T).argmax(1)] == data.test_y).float().mean())


def encoder(width: int = 12) -> nn.Sequential:
    return nn.Sequential(*list(normed_cnn(width).children())[:-1])


class Contrast(Learner):
    """Two views of one image belong together, and apart from all others (InfoNCE)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder()
        self.projector = nn.Sequential(nn.Linear(384, 128), nn.ReLU(), nn.Linear(128, 32))
        self.sharpness = nn.Parameter(torch.tensor(5.0).log())

    def loss(self, batch: Any) -> Tensor:
        (x,) = batch
        first, second = (functional.normalize(self.projector(self.encoder(changed(x))), dim=-1) for _ in range(2))
        similar = first @ second.T * self.sharpness.exp()
        own = torch.arange(len(x))
        return (functional.cross_entropy(similar, own) + functional.cross_entropy(similar.T, own)) / 2

    def measure(self) -> float:
        return neighbours(nn.Sequential(self.encoder, self.projector))

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=1e-3)


class Bootstrap(Learner):
    """Foretells what a slow copy of itself makes of another view (BYOL)."""

    def __init__(self) -> None:
        super().__init__()
        projector = (nn.Linear(384, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 48))
        self.online = nn.Sequential(encoder(), *projector)
        self.predictor = nn.Sequential(nn.Linear(48, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 48))
        self.target = copy.deepcopy(self.online).requires_grad_(requires_grad=False)

    def loss(self, batch: Any) -> Tensor:
        first, second = changed(batch[0]), changed(batch[0])
        distance = torch.zeros(())
        for one, other in ((first, second), (second, first)):
            with torch.no_grad():
                wanted = self.target(other)
            distance = distance + 2 - 2 * functional.cosine_similarity(self.predictor(self.online(one)), wanted).mean()
        return distance

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for average, weight in zip(self.target.parameters(), self.online.parameters(), strict=True):
                average.lerp_(weight, 0.01)

    def measure(self) -> float:
        return neighbours(self.online)

    def configure_optimizers(self) -> Any:
        return AdamW([*self.online.parameters(), *self.predictor.parameters()], lr=1e-3)


class MeanTeacher(Learner):
    """A hundred labels, and agreement with the moving average of oneself on everything else."""

    def __init__(self) -> None:
        super().__init__()
        data = standard_digits()
        self.known = data.x[:100], data.y[:100]
        self.student = normed_cnn(8)
        self.teacher = copy.deepcopy(self.student).requires_grad_(requires_grad=False)

    def loss(self, batch: Any) -> Tensor:
        (x,) = batch
        chosen = torch.randint(100, (32,))
        learned = functional.cross_entropy(self.student(changed(self.known[0][chosen])), self.known[1][chosen])
        with torch.no_grad():
            wanted = self.teacher(changed(x)).softmax(-1)
        agreed = (self.student(changed(x)).softmax(-1) - wanted).square().sum(-1).mean()
        return learned + min(1.0, self.global_step / 300) * agreed

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for average, weight in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                average.lerp_(weight, 0.02)

    def measure(self) -> float:
        data = standard_digits()
        return float(accuracy(self.teacher(data.test_x), data.test_y))

    def configure_optimizers(self) -> Any:
        return Adam(self.student.parameters(), lr=2e-3)


class Triplets(Learner):
    """Puts images of one digit nearer to one another than those of two, by a margin (loss 0 once it is kept)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(encoder(8), nn.Linear(256, 16))
        data = standard_digits()
        self.images, self.of = data.x, [torch.nonzero(data.y == digit)[:, 0] for digit in range(10)]

    def another(self, digit: int) -> Tensor:
        return self.of[digit][torch.randint(len(self.of[digit]), ())]

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        strange = (y + torch.randint(1, 10, y.shape)) % 10
        same = self.images[torch.stack([self.another(digit) for digit in y.tolist()])]
        other = self.images[torch.stack([self.another(digit) for digit in strange.tolist()])]
        anchors, positives, negatives = self.net(torch.cat([x, same, other])).chunk(3)
        return functional.triplet_margin_loss(anchors, positives, negatives, margin=1.0)

    def measure(self) -> float:
        return neighbours(self.net)

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=5e-4)


class Policy(Learner):
    """Reads digits by trial and reward: REINFORCE with a learned baseline; the loss has no lower bound."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU())
        self.actor, self.critic = nn.Linear(128, 10), nn.Linear(128, 1)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        hidden = self.body(x)
        choice: Any = torch.distributions.Categorical(logits=self.actor(hidden))
        action, value = choice.sample(), self.critic(hidden).squeeze(-1)
        reward = (action == y).float()
        gain = -((reward - value.detach()) * choice.log_prob(action)).mean()
        self.log("reward", reward.mean())
        return gain + 0.5 * functional.mse_loss(value, reward) - 0.01 * choice.entropy().mean()

    def measure(self) -> float:
        data = standard_digits()
        return float(accuracy(self.actor(self.body(data.test_x)), data.test_y))

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=1e-3)


def on_images(module: Learner, steps: int, *, batch: int = 64, log: int = 20, labels: bool = False) -> Training:
    data = standard_digits()
    return Training(
        module=module,
        train=loader(data.x, data.y, batch=batch) if labels else loader(data.x, batch=batch),
        trainer={"max_steps": steps},
        monitor={"log_every_n_steps": log},
    )


CASES = [
    Case(
        name="contrast",
        about="InfoNCE of two views, with a learned temperature",
        make=lambda: on_images(Contrast(), 1000, batch=96),
        learned=above("neighbours", 0.93),
    ),
    Case(
        name="bootstrap",
        about="BYOL: a predictor and a slow copy",
        make=lambda: on_images(Bootstrap(), 1000),
        learned=above("neighbours", 0.9),
    ),
    Case(
        name="mean-teacher",
        about="a hundred labels and a moving average",
        make=lambda: on_images(MeanTeacher(), 1200),
        learned=above("accuracy", 0.88),
    ),
    Case(
        name="triplets",
        about="a margin that more and more batches keep",
        make=lambda: on_images(Triplets(), 1000, batch=32, labels=True),
        learned=above("neighbours", 0.95),
    ),
    Case(
        name="policy",
        about="REINFORCE with a baseline and an entropy bonus",
        make=lambda: on_images(Policy(), 2500, log=50, labels=True),
        learned=above("accuracy", 0.9),
    ),
]
