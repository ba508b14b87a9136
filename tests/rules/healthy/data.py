"""Data of the healthy trainings: real, small, and normalised. The split into training and test never changes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from sklearn import datasets
from torch.utils.data import DataLoader, TensorDataset

if TYPE_CHECKING:
    from torch import Tensor


class Split(NamedTuple):
    """Inputs and targets, to train on and to test."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        return self.test_x, self.test_y


@cache
def digits() -> Split:
    """Load 1797 images of 8 x 8 pixels between 0 and 1: 1437 to train on."""
    images, labels = datasets.load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    return split(x, torch.tensor(labels), train=1437)


@cache
def standard_digits() -> Split:
    """Load the digits with mean 0 and standard deviation 1."""
    x, y, test_x, test_y = digits()
    mean, deviation = x.mean(), x.std()
    return Split((x - mean) / deviation, y, (test_x - mean) / deviation, test_y)


def flat(data: Split) -> Split:
    """Return images as vectors."""
    return Split(data.x.flatten(1), data.y, data.test_x.flatten(1), data.test_y)


def rows(data: Split) -> Split:
    """Return images as sequences of their rows."""
    return Split(data.x.squeeze(1), data.y, data.test_x.squeeze(1), data.test_y)


@cache
def table(name: str) -> Split:
    """Load a table of scikit-learn; every column, and a real target, has mean 0 and standard deviation 1."""
    features, target = getattr(datasets, f"load_{name}")(return_X_y=True)
    x, y = torch.tensor(features, dtype=torch.float32), torch.tensor(target)
    x = (x - x.mean(0)) / x.std(0)
    if y.is_floating_point():
        y = ((y - y.mean()) / y.std()).float()[:, None]
    return split(x, y, train=len(x) * 4 // 5)


def split(x: Tensor, y: Tensor, *, train: int) -> Split:
    """Split in a random order that is always the same."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return Split(x[:train], y[:train], x[train:], y[train:])


def loader(*tensors: Tensor, batch: int = 64, **options: Any) -> DataLoader[Any]:
    """Return shuffled batches; what is left over at the end of an epoch is dropped unless ``drop_last=False``."""
    return DataLoader(TensorDataset(*tensors), batch, **{"shuffle": True, "drop_last": True, **options})


def whole(*tensors: Tensor) -> DataLoader[Any]:
    """Return one batch with everything, for validation."""
    return DataLoader(TensorDataset(*tensors), len(tensors[0]))
