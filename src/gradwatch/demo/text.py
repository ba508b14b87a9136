"""The language models of the demo and their data: the reference text that ships with CPython.

``examples/char_transformer.py`` and ``examples/char_lstm.py`` hold the same definitions as scripts to copy; a test
compares.
"""

from __future__ import annotations

from pydoc_data.topics import topics

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

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


class CharTransformer(LightningModule):
    """Two pre-norm encoder layers with a causal mask: each position predicts the next character."""

    def __init__(self, alphabet: int, length: int = 64, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, alphabet)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the logits of the character that follows each position."""
        length = characters.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=characters.device)
        hidden = self.embedding(characters) + self.position[:length]
        logits: Tensor = self.head(self.encoder(hidden, mask=mask, is_causal=True))
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


def unigram_cross_entropy(train: Tensor, test: Tensor, alphabet: int) -> float:
    """Return what a model that knows nothing but how frequent each character is reaches on ``test``.

    H = -mean(log p(c)) over the characters c of ``test``, in nats, with p counted on ``train`` and one added to every
    count so that no character is impossible.
    """
    counts = torch.bincount(train, minlength=alphabet).double() + 1
    return -(counts / counts.sum()).log()[test].mean().item()
