"""Small data sets, made from a seed, that a network can learn in some hundred steps. Inputs are of order one."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Pair = tuple["Tensor", "Tensor"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(seed: int, features: int = 16, classes: int = 4, samples: int = 512, *, spread: float = 1.0) -> Pair:
    """Normal clouds around one random centre for each class, that overlap a little."""
    rng = generator(seed)
    y = torch.arange(samples) % classes
    centres = torch.randn(classes, features, generator=rng)
    x = centres[y] + spread * torch.randn(samples, features, generator=rng)
    return (x - x.mean(0)) / x.std(0), y


def curve(seed: int, features: int = 8, samples: int = 512, *, noise: float = 0.2) -> Pair:
    """A smooth function of the features, of zero mean and unit variance, with noise: a regression."""
    rng = generator(seed)
    x = torch.randn(samples, features, generator=rng)
    y = torch.tanh(x @ torch.randn(features, 4, generator=rng) / 2) @ torch.randn(4, 1, generator=rng)
    y = (y - y.mean()) / y.std() + noise * torch.randn(samples, 1, generator=rng)
    return x, (y - y.mean()) / y.std()


@cache
def _digits() -> Pair:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)


def digits(seed: int, samples: int = 1024) -> Pair:
    """Handwritten digits with pixels of zero mean and unit variance; the seed chooses which."""
    images, labels = _digits()
    chosen = torch.randperm(len(images), generator=generator(seed))[:samples]
    return (images[chosen] - images.mean()) / images.std(), labels[chosen]


def raw_digits(seed: int, samples: int = 1024) -> Pair:
    """The same with pixels from 0 to 1."""
    images, labels = _digits()
    chosen = torch.randperm(len(images), generator=generator(seed))[:samples]
    return images[chosen], labels[chosen]


def waves(seed: int, length: int = 10, samples: int = 512) -> Pair:
    """Sequences with two channels of one of three frequencies, with noise."""
    rng = generator(seed)
    y = torch.arange(samples) % 3
    time = torch.linspace(0, 1, length)[None, :, None]
    phase = 6.28 * torch.rand(samples, 1, 2, generator=rng)
    x = torch.sin(6.28 * (y[:, None, None] + 0.5) * time + phase) * 1.4
    return x + 0.2 * torch.randn(x.shape, generator=rng), y


def trend(seed: int, length: int = 10, samples: int = 512) -> Pair:
    """Noisy sequences with two channels; the target is the standardised sum of the first one's last half."""
    rng = generator(seed)
    x = torch.randn(samples, length, 2, generator=rng)
    y = x[:, length // 2 :, :1].sum(1) / (length - length // 2) ** 0.5
    return x, y + 0.1 * torch.randn(y.shape, generator=rng)


def words(seed: int, length: int = 8, vocabulary: int = 20, samples: int = 512) -> Pair:
    """Sentences of word numbers; the class says which of three parts of the vocabulary is the most frequent."""
    rng = generator(seed)
    y = torch.arange(samples) % 3
    part = vocabulary // 3
    own = y[:, None] * part + torch.randint(part, (samples, length), generator=rng)
    other = torch.randint(vocabulary, (samples, length), generator=rng)
    return torch.where(torch.rand(samples, length, generator=rng) < 0.6, own, other), y


def ratings(seed: int, users: int = 30, items: int = 20, samples: int = 512) -> Pair:
    """Pairs of a user and an item, and what one thinks of the other, standardised."""
    rng = generator(seed)
    pairs = torch.stack([torch.randint(n, (samples,), generator=rng) for n in (users, items)], 1)
    taste, kind = (torch.randn(n, 3, generator=rng) for n in (users, items))
    y = (taste[pairs[:, 0]] * kind[pairs[:, 1]]).sum(1)
    return pairs, y / y.std()


def loader(data: Sequence[Tensor], seed: int, batch: int = 32, *, drop_last: bool = True) -> DataLoader[Any]:
    """Shuffled batches."""
    return DataLoader(TensorDataset(*data), batch, shuffle=True, drop_last=drop_last, generator=generator(seed))


def cut(data: Sequence[Tensor], count: int, seed: int, batch: int = 32) -> list[tuple[Tensor, ...]]:
    """Draw ``count`` random batches, as a list whose entries a case can spoil."""
    rng = generator(seed + 1)
    chosen = [torch.randint(len(data[0]), (batch,), generator=rng) for _ in range(count)]
    return [tuple(part[index] for part in data) for index in chosen]


def in_order(batches: Sequence[Any]) -> DataLoader[Any]:
    """Ready batches, one after the other."""
    return DataLoader(cast("Any", list(batches)), batch_size=None)
