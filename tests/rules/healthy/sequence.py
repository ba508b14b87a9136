"""Sequences: language models on the reference text of CPython, and digits read row by row."""

from __future__ import annotations

import math
import re
from functools import cache, partial
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW
from torch.utils.checkpoint import checkpoint

from gradwatch.demo.text import CharLSTM, CharTransformer, english_characters
from tests.rules.healthy.case import Case, Learner, Training, above, below
from tests.rules.healthy.data import loader, rows, standard_digits
from tests.rules.healthy.schedules import warmup_cosine
from tests.rules.healthy.supervised import Supervised, supervised

if TYPE_CHECKING:
    from collections.abc import Callable

LENGTH = 32  # characters in a window
WORDS = 24  # words in a sentence, with padding


@cache
def text() -> tuple[Tensor, Tensor, int]:
    """Return windows of characters to train on, windows to test, and the size of the alphabet."""
    train, test, alphabet = english_characters()
    return train.unfold(0, LENGTH + 1, LENGTH // 2), test.unfold(0, LENGTH + 1, LENGTH)[:256], alphabet


class Language(Learner):
    """Predicts the next character; measures nats per character on unseen text."""

    def __init__(self, network: Callable[[int], nn.Module], optimizer: Any, schedule: Any = None) -> None:
        super().__init__()
        _, self.test, alphabet = text()
        self.network = network(alphabet)
        self.make_optimizer, self.make_schedule = optimizer, schedule

    def loss(self, batch: Any) -> Tensor:
        (window,) = batch
        return functional.cross_entropy(self.network(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())

    def measure(self) -> float:
        return float(self.loss((self.test,)))

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if self.make_schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_schedule(optimizer), "interval": "step"},
        }


class TiedLSTM(nn.Module):
    """A language model whose output layer is the embedding."""

    def __init__(self, alphabet: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, alphabet)
        self.head.weight = self.embedding.weight

    def forward(self, characters: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(characters))[0])


class TiedTransformer(nn.Module):
    """A causal post-norm transformer; every layer is computed again in the backward pass; tied embeddings."""

    def __init__(self, alphabet: int, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.position = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layers = (nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, batch_first=True) for _ in range(2))
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, characters: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(characters.shape[1])
        hidden = self.embedding(characters) + self.position
        for layer in self.layers:
            hidden = checkpoint(layer, hidden, mask, use_reentrant=False)
        return functional.linear(self.norm(hidden), self.embedding.weight)


def language(module: Language, steps: int, *, batch: int = 16, log: int = 50, **trainer: Any) -> Training:
    train, test, _ = text()
    return Training(
        module=module,
        train=loader(train, batch=batch),
        validation=loader(test, batch=128, shuffle=False),
        trainer={"max_steps": steps, "val_check_interval": 250, "check_val_every_n_epoch": None, **trainer},
        monitor={"log_every_n_steps": log},
    )


def transformer_language() -> Training:
    steps = 1200
    network = partial(CharTransformer, length=LENGTH, width=48)
    module = Language(network, partial(AdamW, lr=3e-3, weight_decay=0.1), warmup_cosine(steps))
    return language(module, steps, gradient_clip_val=1.0)


def lstm_language() -> Training:
    return language(Language(CharLSTM, partial(AdamW, lr=3e-3)), 1000, log=20)


def tied_language() -> Training:
    return language(Language(TiedLSTM, partial(Adam, lr=5e-3)), 1200, log=20)


def checkpointed_language() -> Training:
    steps = 1000
    return language(Language(TiedTransformer, partial(AdamW, lr=3e-3), warmup_cosine(steps)), steps, log=10)


class Reader(nn.Module):
    """Reads an image row by row and classifies the last state."""

    def __init__(self, recurrent: nn.Module, width: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


def gru() -> Training:
    data = rows(standard_digits())
    network = Reader(nn.GRU(8, 48, num_layers=2, dropout=0.1, batch_first=True), 48)
    return supervised(Supervised(network, data.test, partial(Adam, lr=2e-3)), data, 1200, log=20, validate=True)


def tanh_rnn() -> Training:
    data = rows(standard_digits())
    recurrent = nn.RNN(8, 64, batch_first=True)
    nn.init.orthogonal_(recurrent.get_parameter("weight_hh_l0"))
    module = Supervised(Reader(recurrent, 64), data.test, partial(Adam, lr=1e-3))
    return supervised(module, data, 2200, log=20)


@cache
def sentences() -> tuple[Tensor, int]:
    """Return sentences of the text as word numbers, padded with 0; 1 is an unknown word and 2 a hidden one."""
    found = re.split(r"[.:;]\s", " ".join(topics.values()))
    words = [re.findall(r"[a-z]+", sentence.lower()) for sentence in found]
    words = [sentence[:WORDS] for sentence in words if len(sentence) > 3]
    counts: dict[str, int] = {}
    for sentence in words:
        for word in sentence:
            counts[word] = counts.get(word, 0) + 1
    known = sorted(counts, key=lambda word: -counts[word])[:400]
    number = {word: index + 3 for index, word in enumerate(known)}
    padded = torch.zeros(len(words), WORDS, dtype=torch.long)
    for row, sentence in zip(padded, words, strict=True):
        row[: len(sentence)] = torch.tensor([number.get(word, 1) for word in sentence])
    return padded[torch.randperm(len(words), generator=torch.Generator().manual_seed(0))], len(number) + 3


class MaskedLanguage(Learner):
    """A bidirectional transformer that guesses hidden words of padded sentences."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.sentences, self.words = sentences()
        self.embedding = nn.Embedding(self.words, width, padding_idx=0)
        self.position = nn.Embedding(WORDS, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, self.words)

    def loss(self, batch: Any) -> Tensor:
        (tokens,) = batch
        hidden = (torch.rand(tokens.shape) < 0.15) & (tokens > 1)
        hidden[:, 0] = tokens[:, 0] > 1
        seen = torch.where(hidden, 2, tokens)
        states = self.embedding(seen) + self.position(torch.arange(WORDS))
        logits = self.head(self.encoder(states, src_key_padding_mask=tokens == 0))
        return functional.cross_entropy(logits.transpose(1, 2), torch.where(hidden, tokens, -100), ignore_index=-100)

    def measure(self) -> float:
        return float(self.loss((self.sentences[-512:],)))

    def configure_optimizers(self) -> Any:
        return AdamW(self.parameters(), lr=2e-3)


def masked_language() -> Training:
    module = MaskedLanguage()
    return Training(
        module=module,
        train=loader(module.sentences[:-512], batch=32),
        trainer={"max_steps": 1200},
        monitor={"log_every_n_steps": 20},
    )


class Translator(Learner):
    """An encoder and a decoder with attention turn sequences around, by teacher forcing."""

    def __init__(self, symbols: int = 12, width: int = 48, length: int = 8) -> None:
        super().__init__()
        self.symbols = symbols
        self.source = nn.Embedding(symbols, width)
        self.target = nn.Embedding(symbols, width)
        self.position = nn.Parameter(torch.randn(length, width) / math.sqrt(width))
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.head = nn.Linear(2 * width, symbols)

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        target = source.flip(1)
        before = functional.pad(target[:, :-1], (1, 0))
        memory, state = self.encoder(self.source(source) + self.position)
        query, _ = self.decoder(self.target(before) + self.position, state)
        read, _ = self.attention(query, memory, memory)
        return self.head(torch.cat([query, read], dim=-1)), target

    def loss(self, batch: Any) -> Tensor:
        logits, target = self(batch[0])
        return functional.cross_entropy(logits.flatten(0, 1), target.flatten())

    def measure(self) -> float:
        logits, target = self(torch.randint(1, self.symbols, (256, 8)))
        return float((logits.argmax(-1) == target).float().mean())

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=2e-3)


def translation() -> Training:
    module = Translator()
    return Training(
        module=module,
        train=loader(torch.randint(1, module.symbols, (20000, 8)), batch=32),
        trainer={"max_steps": 1500, "gradient_clip_val": 1.0},
        monitor={"log_every_n_steps": 20},
    )


CASES = [
    Case(
        name="transformer-language",
        about="pre-norm, decay 0.1, warm-up and cosine, clipped at 1",
        make=transformer_language,
        learned=below("nats per character", 2.2),
    ),
    Case(name="lstm-language", about="two layers", make=lstm_language, learned=below("nats per character", 2.2)),
    Case(
        name="tied-language",
        about="an LSTM whose output layer is its embedding",
        make=tied_language,
        learned=below("nats per character", 2.2),
    ),
    Case(
        name="checkpointed-language",
        about="post-norm, gradient checkpointing, tied embeddings",
        make=checkpointed_language,
        learned=below("nats per character", 2.4),
    ),
    Case(name="gru", about="digits row by row", make=gru, learned=above("accuracy", 0.93)),
    Case(name="tanh-rnn", about="digits row by row", make=tanh_rnn, learned=above("accuracy", 0.9)),
    Case(
        name="masked-language",
        about="padded sentences, hidden words, ignored positions",
        make=masked_language,
        learned=below("nats per hidden word", 4.5),
    ),
    Case(
        name="translation",
        about="encoder, decoder and attention; teacher forcing",
        make=translation,
        learned=above("accuracy", 0.95),
    ),
]
