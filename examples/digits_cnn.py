"""A small CNN on scikit-learn's handwritten digits, watched by gradwatch.

Run it with ``python examples/digits_cnn.py``, then look at ``tensorboard --logdir lightning_logs``.
"""

from __future__ import annotations

import argparse

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

from gradwatch import NumericalHealthMonitor

Batch = tuple[Tensor, ...]


def digit_loaders(batch_size: int = 64) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Load 1797 images of 8 x 8 pixels: four fifths to train on, the rest to test."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    split = torch.Generator().manual_seed(0)
    train, test = random_split(TensorDataset(pixels, torch.tensor(labels)), [1437, 360], generator=split)
    return DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(test, batch_size=360)


class DigitsCNN(LightningModule):
    """Three convolutions with batch norm and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.head = nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return one logit per digit."""
        logits: Tensor = self.head(self.features(images).flatten(1))
        return logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy."""
        return functional.cross_entropy(logits, labels)

    def training_step(self, batch: Batch, _batch_idx: int) -> Tensor:
        """Return and log the loss."""
        images, labels = batch
        loss = self.loss(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Batch, _batch_idx: int) -> None:
        """Log the share of digits that are read correctly."""
        images, labels = batch
        self.log("accuracy", (self(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Use AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    """Train, then test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-steps", type=int, default=400)
    arguments = parser.parse_args()

    seed_everything(0)
    train, test = digit_loaders()
    trainer = Trainer(max_epochs=-1, max_steps=arguments.max_steps, callbacks=[NumericalHealthMonitor()])
    model = DigitsCNN()
    trainer.fit(model, train, test)
    trainer.validate(model, test)


if __name__ == "__main__":
    main()
