"""Right, though it looks odd from outside: graphs, time first, missing values, heavy tails, a critic, packed words."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CyclicLR, LambdaLR
from torch.utils.data import DataLoader, IterableDataset

from tests.rules.healthy.case import Case, Learner, Training, above, below
from tests.rules.healthy.data import Split, digits, flat, loader, rows, split, standard_digits, table
from tests.rules.healthy.optimization import mlp
from tests.rules.healthy.regression import relu_mlp
from tests.rules.healthy.sequence import sentences
from tests.rules.healthy.supervised import Supervised, accuracy, supervised

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class GraphNetwork(Learner):
    """Two graph convolutions over the nearest neighbours of 800 digits, of which 100 have labels; one batch is all.

    Whatever is known of one image changes the answers for its neighbours: that is what a graph network is for.
    """

    def __init__(self, adjacency: Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 10)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("adjacency", adjacency)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(functional.relu(self.adjacency @ self.first(x)))
        return self.adjacency @ self.second(hidden)

    def loss(self, batch: Any) -> Tensor:
        x, y, known = batch
        return functional.cross_entropy(self(x)[known], y[known])

    def measure(self) -> float:
        data = flat(standard_digits())
        return float(accuracy(self(data.x[:800])[100:], data.y[100:800]))

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=5e-3, weight_decay=5e-4)


def graph() -> Training:
    data = flat(standard_digits())
    x, y = data.x[:800], data.y[:800]
    nearest = torch.cdist(x, x).topk(6, largest=False).indices
    links = torch.zeros(800, 800).scatter_(1, nearest, 1.0)
    links = torch.maximum(links, links.T)
    degree = links.sum(1).rsqrt()
    batch = (x, y, torch.arange(800) < 100)
    return Training(
        module=GraphNetwork(degree[:, None] * links * degree),
        train=DataLoader([batch] * 50, batch_size=None),  # type: ignore[arg-type]
        trainer={"max_steps": 1000},
        monitor={"log_every_n_steps": 20},
    )


class TimeFirst(nn.Module):
    """A transformer that keeps time in front of the batch, as torch's own do by default."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(8, 1, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.position).mean(0))


def beside(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Put samples side by side along dimension 1."""
    images, labels = zip(*samples, strict=True)
    return torch.stack(images, dim=1), torch.stack(labels)


def linear_warmup(optimizer: Any, steps: int = 1200, warmup: int = 100) -> LambdaLR:
    """Rise from exactly 0 in a line, and fall to 0 in a line."""
    return LambdaLR(optimizer, lambda step: min(step / warmup, max(0.0, (steps - step) / (steps - warmup))))


def time_first() -> Training:
    data = rows(standard_digits())
    test = (data.test_x.transpose(0, 1), data.test_y)
    module = Supervised(TimeFirst(), test, partial(AdamW, lr=3e-3), schedule=linear_warmup)
    return Training(
        module=module,
        train=loader(data.x, data.y, batch=48, collate_fn=beside),
        trainer={"max_steps": 1200},
        monitor={"log_every_n_steps": 20},
    )


class Cells(nn.Module):
    """A GRU cell called once a row, from a state of zeros."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.cell = nn.GRUCell(8, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), self.width)
        for row in x.unbind(1):
            state = self.cell(row, state)
        return self.head(state)


def cells() -> Training:
    data = rows(standard_digits())
    return supervised(Supervised(Cells(), data.test, partial(Adam, lr=2e-3)), data, 1500, log=20)


class Incomplete(Supervised):
    """A tenth of the values is missing (NaN); each is replaced by the mean, and marked."""

    def forward(self, x: Tensor) -> Tensor:
        missing = x.isnan()
        return self.network(torch.cat([torch.where(missing, 0.0, x), missing.float()], dim=-1))


def missing_values() -> Training:
    x, y, test_x, test_y = table("breast_cancer")
    x, test_x = (torch.where(torch.rand(part.shape) < 0.1, torch.nan, part) for part in (x, test_x))
    module = Incomplete(relu_mlp(60, 2, 32), (test_x, test_y), partial(AdamW, lr=5e-4, weight_decay=0.1))
    return supervised(module, Split(x, y, test_x, test_y), 1500, batch=32, log=20, validate=True)


def heavy_tails() -> Training:
    """Learn the middle of a target whose noise has no variance, with a loss that bears it."""
    x = torch.randn(4000, 8)
    truth = (x[:, :1] * x[:, 1:2]).sin() + x[:, 2:3].abs() - x[:, 3:4]
    noise = torch.distributions.StudentT(torch.tensor(2.0)).sample((4000, 1))
    data = split(x, torch.cat([truth + 0.3 * noise, truth], dim=1), train=3200)

    def robust(prediction: Tensor, target: Tensor) -> Tensor:
        return functional.smooth_l1_loss(prediction, target[:, :1])

    def error(prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target[:, 1:]).abs().mean()

    module = Supervised(relu_mlp(8), data.test, partial(Adam, lr=1e-3), loss=robust, score=error)
    return supervised(module, data, 2000, batch=32, log=20, validate=True)


class Critic(Learner):
    """A Wasserstein GAN with gradient penalty on a ring of eight points: losses of either sign, second derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = relu_mlp(4, 2, 96), relu_mlp(2, 1, 96)

    @staticmethod
    def ring(count: int) -> Tensor:
        angle = torch.randint(8, (count,)) * math.pi / 4
        return 1.5 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.05 * torch.randn(count, 2)

    def penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        between = torch.lerp(real, fake, torch.rand(len(real), 1)).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        criticise, generate = optimizers
        real, noise = batch[0], torch.randn(len(batch[0]), 4)
        if batch_idx % 4 < 3:
            with torch.no_grad():
                fake = self.generator(noise)
            loss = self.critic(fake).mean() - self.critic(real).mean() + self.penalty(real, fake)
            self.step(criticise, loss)
        else:
            self.step(generate, -self.critic(self.generator(noise)).mean())

    def step(self, optimizer: Any, loss: Tensor) -> None:
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)

    def measure(self) -> float:
        made, real = self.generator(torch.randn(2000, 4)), self.ring(2000)
        apart = torch.cdist(made, real).mean()
        return float(2 * apart - torch.cdist(made, made).mean() - torch.cdist(real, real).mean())

    def configure_optimizers(self) -> Any:
        return (
            Adam(self.critic.parameters(), lr=1e-3, betas=(0.0, 0.9)),
            Adam(self.generator.parameters(), lr=1e-3, betas=(0.0, 0.9)),
        )


def critic() -> Training:
    return Training(
        module=Critic(),
        train=loader(Critic.ring(4096), batch=128),
        trainer={"max_steps": 4000},
        monitor={"log_every_n_steps": 20},
    )


class Packed(Learner):
    """Foretells each word of a sentence; batches are as long as their longest sentence, and packed."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        padded, words = sentences()
        self.known, self.test = padded[:-256], padded[-256:]
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, words)

    def loss(self, batch: Any) -> Tensor:
        tokens, lengths = batch
        packed = pack_padded_sequence(
            self.embedding(tokens[:, :-1]), lengths - 1, batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return functional.cross_entropy(self.head(states).flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=0)

    def measure(self) -> float:
        return float(self.loss(together([row[row > 0] for row in self.test])))

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=3e-3)


def together(found: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad to the longest sentence of the batch."""
    return pad_sequence(found, batch_first=True), torch.tensor([len(sentence) for sentence in found])


def packed() -> Training:
    module = Packed()
    known: Any = [row[row > 0] for row in module.known]
    return Training(
        module=module,
        train=DataLoader(known, 24, shuffle=True, drop_last=True, collate_fn=together),
        trainer={"max_steps": 1200},
        monitor={"log_every_n_steps": 20},
    )


class Endless(IterableDataset[tuple[Tensor, Tensor]]):
    """Draws images for ever."""

    def __init__(self, data: Split) -> None:
        self.data = data

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            index = int(torch.randint(len(self.data.x), ()))
            yield self.data.x[index], self.data.y[index]


def endless() -> Training:
    """Train on a stream without an end, at a rate that goes up and down in triangles."""
    data = standard_digits()
    optimizer = partial(SGD, lr=0.01, momentum=0.9)
    schedule = partial(CyclicLR, base_lr=0.005, max_lr=0.05, step_size_up=150)
    module = Supervised(mlp(activation=nn.SiLU), data.test, optimizer, schedule=schedule)
    return Training(
        module=module,
        train=DataLoader(Endless(data), 64),
        trainer={"max_steps": 2000},
        monitor={"log_every_n_steps": 20},
    )


def without_noise() -> Training:
    """Learn what has no noise: loss and gradients shrink by orders of magnitude, all the way."""
    x = torch.rand(2000, 2) * 2 - 1
    data = split(x, x @ torch.tensor([[0.7], [-0.3]]) + 0.1, train=1600)

    def worst(prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs().max()

    module = Supervised(nn.Linear(2, 1), data.test, partial(SGD, lr=4e-3), loss=functional.mse_loss, score=worst)
    return supervised(module, data, 2000, batch=32, log=50)


def soft_labels() -> Training:
    """Smooth the labels: the loss ends far from 0."""
    data = flat(digits())
    loss = partial(functional.cross_entropy, label_smoothing=0.1)
    module = Supervised(mlp(), data.test, partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4), loss=loss)
    return supervised(module, data, 2000, batch=128, log=20, validate=True)


CASES = [
    Case(name="graph", about="a graph is one batch: samples mix", make=graph, learned=above("accuracy", 0.85)),
    Case(
        name="time-first",
        about="time before batch; warm-up from exactly 0, linear decay to 0",
        make=time_first,
        learned=above("accuracy", 0.93),
    ),
    Case(name="cells", about="a GRU cell in a loop", make=cells, learned=above("accuracy", 0.93)),
    Case(name="missing-values", about="NaN, replaced", make=missing_values, learned=above("accuracy", 0.9)),
    Case(name="heavy-tails", about="outliers in the target", make=heavy_tails, learned=below("error", 0.27)),
    Case(name="critic", about="WGAN with gradient penalty", make=critic, learned=below("energy distance", 0.1)),
    Case(name="packed", about="sentences of any length", make=packed, learned=below("nats per word", 4.2)),
    Case(name="endless", about="an endless stream, cyclic rate", make=endless, learned=above("accuracy", 0.95)),
    Case(
        name="exact",
        about="no noise: the loss falls by orders of magnitude, all the way",
        make=without_noise,
        learned=below("largest error", 2e-2),
    ),
    Case(name="soft-labels", about="label smoothing", make=soft_labels, learned=above("accuracy", 0.93)),
]
