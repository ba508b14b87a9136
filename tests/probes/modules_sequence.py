"""Networks for sequences: words, frames, packed and padded."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.probes.probed import (
    CLASSES,
    LENGTH,
    MISMATCH,
    PASS,
    SAMPLES,
    WIDTH,
    WORDS,
    Batches,
    Probe,
    batches_of,
    classifier,
    labels,
    probed,
    sentences,
    sequences,
)


class Encoder(nn.Module):
    """A transformer encoder with dropout, averaged over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.1, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(words)).mean(1))


class LanguageModel(Probe):
    """A causal transformer; its output layer is its embedding, turned round."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight
        self.dropout = dropout

    def loss(self, batch: Any) -> Tensor:
        words, _ = batch
        x = self.embed(words[:, :-1])
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return functional.cross_entropy(self.head(x).flatten(0, 1), words[:, 1:].flatten())


class Lstm(nn.Module):
    """Two layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, 2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Bidirectional(nn.Module):
    """A plain recurrent net with ReLU that reads both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(WIDTH, WIDTH, batch_first=True, bidirectional=True, nonlinearity="relu")
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].amax(1))


class PackedGru(Probe):
    """A GRU over sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        lengths = torch.arange(SAMPLES) % LENGTH + 1
        packed, last = self.gru(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        every, _ = pad_packed_sequence(packed, batch_first=True)
        return functional.cross_entropy(self.head(last[0] + every.mean(1)), y)


class MinimalCell(nn.Module):
    """A recurrent layer as a loop over a minimal gated unit."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * WIDTH, WIDTH)
        self.candidate = nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0])
        for step in x.unbind(1):
            keep = self.gate(torch.cat([step, state], -1)).sigmoid()
            state = (1 - keep) * state + keep * self.candidate(torch.cat([step, keep * state], -1)).tanh()
        return self.head(state)


class Translator(Probe):
    """Encoder, decoder with attention, and teacher forcing decided by Python's random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.encoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.cell = nn.GRUCell(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def loss(self, batch: Any) -> Tensor:
        words, _ = batch
        memory, last = self.encoder(self.embed(words))
        state, previous, losses = last[0], torch.zeros_like(words[:, 0]), []
        for target in words.flip(1).unbind(1):
            weights = (memory @ state[..., None]).softmax(1)
            state = self.cell(torch.cat([self.embed(previous), (weights * memory).sum(1)], -1), state)
            logits = self.head(state)
            losses.append(functional.cross_entropy(logits, target))
            previous = target if random.random() < 0.5 else logits.argmax(-1)
        return torch.stack(losses).mean()


class DilatedTagger(nn.Module):
    """Causal convolutions of growing dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 2, dilation=2**i, padding=2**i) for i in range(3))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mT
        for layer in self.layers:
            x = x + layer(x)[..., : x.shape[-1]].tanh()
        return self.head(x[..., -1])


class Speech(Probe):
    """Frames to letters by CTC; ``normalised`` says whether the loss gets log-probabilities, as it must."""

    def __init__(self, *, normalised: bool) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, 5))
        self.normalised = normalised

    def loss(self, batch: Any) -> Tensor:
        frames, letters = batch
        scores = self.network(frames).transpose(0, 1)
        if self.normalised:
            scores = scores.log_softmax(-1)
        lengths = torch.full((SAMPLES,), frames.shape[1]), torch.full((SAMPLES,), letters.shape[1])
        return functional.ctc_loss(scores, letters, *lengths)


def speech() -> Batches:
    """Return ten frames with three letters."""
    return batches_of(
        lambda g: (torch.randn(SAMPLES, 10, WIDTH, generator=g), torch.randint(1, 5, (SAMPLES, 3), generator=g))
    )


class PaddedWords(Probe):
    """The mean of word vectors; word 0 is padding, whose vector is never trained."""

    def __init__(self, *, functional_call: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        with torch.no_grad():
            self.embed.weight[0] = 0.3  # so that padding has an effect, as after loading vectors from elsewhere
        self.head = nn.Linear(WIDTH, CLASSES)
        self.functional_call = functional_call

    def loss(self, batch: Any) -> Tensor:
        words, y = batch
        vectors = functional.embedding(words, self.embed.weight, 0) if self.functional_call else self.embed(words)
        return functional.cross_entropy(self.head(vectors.mean(1).tanh()), y)


def padded_sentences() -> Batches:
    """Return words, a third of them padding."""
    return batches_of(
        lambda g: (torch.randint(WORDS, (SAMPLES, LENGTH), generator=g) * (torch.arange(LENGTH) < 4), labels())
    )


class Bag(Probe):
    """An EmbeddingBag over flat words with offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(WORDS, WIDTH, mode="mean")
        self.head = nn.Linear(WIDTH, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        words, y = batch
        offsets = torch.arange(0, words.numel(), LENGTH)
        return functional.cross_entropy(self.head(self.bag(words.flatten(), offsets)), y)


class SparseWords(Probe):
    """An embedding with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH, sparse=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        words, y = batch
        return functional.cross_entropy(self.head(self.embed(words).mean(1).tanh()), y)


CASES = (
    probed("transformer-encoder", classifier(Encoder), sentences, PASS, "smooth, its dropout repeated"),
    probed(
        "causal-lm-tied", lambda: LanguageModel(0.0), sentences, PASS, "smooth; the tied weight gets both gradients"
    ),
    probed("sdpa-dropout", lambda: LanguageModel(0.2), sentences, PASS, "on the CPU its dropout is an ordinary one"),
    probed("lstm", classifier(Lstm), sequences, PASS, "smooth, the dropout between its layers repeated"),
    probed("gru-packed", PackedGru, sequences, PASS, "smooth"),
    probed("bidirectional-rnn", classifier(Bidirectional), sequences, PASS, "few kinks, no ties"),
    probed("custom-cell", classifier(MinimalCell), sequences, PASS, "smooth"),
    probed(
        "seq2seq-attention",
        Translator,
        sentences,
        PASS,
        "the words fed back do not change with a tiny change of weights, and the coin falls as before",
    ),
    probed("dilated-conv1d", classifier(DilatedTagger), sequences, PASS, "smooth"),
    probed("ctc", lambda: Speech(normalised=True), speech, PASS, "smooth in log-probabilities"),
    probed(
        "ctc-of-raw-scores",
        lambda: Speech(normalised=False),
        speech,
        MISMATCH,
        "torch's derivative of ctc_loss holds for log-probabilities alone, and these are not normalised",
    ),
    probed(
        "padding-idx",
        lambda: PaddedWords(functional_call=False),
        padded_sentences,
        PASS,
        "the row of the padding is documented to get no gradient: it is not moved",
    ),
    probed(
        "functional-padding-idx",
        lambda: PaddedWords(functional_call=True),
        padded_sentences,
        PASS | {"explained"},
        "as before, but only the operation knows of the padding; a mismatch would be a false alarm",
    ),
    probed("embedding-bag", Bag, sentences, PASS, "smooth"),
    probed("sparse-embedding", SparseWords, sentences, PASS, "a sparse gradient is a gradient"),
)
