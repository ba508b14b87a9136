"""A character-level LSTM on the reference text that ships with Python, watched by gradwatch.

Run it with ``python examples/char_lstm.py``, then look at ``tensorboard --logdir lightning_logs``.
"""

from __future__ import annotations

import argparse
from pydoc_data.topics import topics

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gradwatch import NumericalHealthMonitor

Batch = tuple[Tensor, ...]


def english_characters() -> tuple[Tensor, Tensor, int]:
    """Number the characters of the text: nine tenths to train on, the rest to test, and the size of the alphabet."""
    text = "\n".join(topics.values())
    number = {character: index for index, character in enumerate(sorted(set(text)))}
    characters = torch.tensor([number[character] for character in text])
    cut = len(characters) * 9 // 10
    return characters[:cut], characters[cut:], len(number)


def text_loaders(train: Tensor, test: Tensor, length: int = 64) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Cut the text into windows of ``length`` inputs and, one character further, ``length`` targets."""
    train_windows = TensorDataset(train.unfold(0, length + 1, length // 2))
    test_windows = TensorDataset(test.unfold(0, length + 1, length))
    return DataLoader(train_windows, batch_size=32, shuffle=True), DataLoader(test_windows, batch_size=128)


class CharLSTM(LightningModule):
    """An embedding, two LSTM layers and a linear head: each position predicts the next character."""

    def __init__(self, alphabet: int, width: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, 64)
        self.lstm = nn.LSTM(64, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, alphabet)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the logits of the character that follows each position."""
        hidden, _ = self.lstm(self.embedding(characters))
        logits: Tensor = self.head(hidden)
        return logits

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross entropy in nats per character."""
        (window,) = batch
        return functional.cross_entropy(self(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())

    def training_step(self, batch: Batch, _batch_idx: int) -> Tensor:
        """Return and log the loss."""
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Batch, _batch_idx: int) -> None:
        """Log the loss on text that was not trained on."""
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Use AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main() -> None:
    """Train, then test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-steps", type=int, default=1000)
    arguments = parser.parse_args()

    seed_everything(0)
    train, test, alphabet = english_characters()
    trainer = Trainer(max_epochs=-1, max_steps=arguments.max_steps, callbacks=[NumericalHealthMonitor()])
    model = CharLSTM(alphabet)
    train_loader, test_loader = text_loaders(train, test)
    trainer.fit(model, train_loader, test_loader)
    trainer.validate(model, test_loader)


if __name__ == "__main__":
    main()
