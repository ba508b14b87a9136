"""Gradients that are wrong, stopped, imprecise or not the same twice, and samples of a batch that see one another."""

# ruff: noqa: FBT001 - a builder is called as build(seed, faulty)

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.rules.planted.case import ANY, Case, Training, lasting
from tests.rules.planted.models import Autoencoder, Convolutional, Learner, Perceptron, Recurrent, adam, adamw, sgd
from tests.rules.planted.sets import blobs, curve, digits, generator, loader, trend, waves, words

CHECKED = {"gradient_check_every_n_steps": 20, "graph_lint": True}


def checked(steps: int = 60, every: int = 10, **trainer: Any) -> dict[str, Any]:
    return lasting(steps, every, monitor=CHECKED, **trainer)


# -- gradient-mismatch -------------------------------------------------------------------------------------------------


class SwishFunction(torch.autograd.Function):
    """x * sigmoid(x), with a derivative of one's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, right: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.right = right
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        # The second term of the product rule is what one forgets.
        return grads[0] * (gate + x * gate * (1 - gate) if ctx.right else gate), None


class Swish(nn.Module):
    def __init__(self, *, right: bool) -> None:
        super().__init__()
        self.right = right

    def forward(self, x: Tensor) -> Tensor:
        return SwishFunction.apply(x, self.right)  # type: ignore[no-untyped-call]


def mismatch_perceptron(seed: int, faulty: bool) -> Training:
    """A custom activation with half of its derivative."""
    module = Perceptron(16, 24, 4, activation=lambda: Swish(right=not faulty), optimizer=sgd(0.05))
    return Training(module=module, train=loader(blobs(seed), seed), **checked())


class ScaleFunction(torch.autograd.Function):
    """A weight for each channel; the derivative by the weight is a sum over samples and places."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, right: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.right = right
        return x * weight[:, None, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        by_weight = grads[0] * x
        # A mean where a sum belongs.
        by_weight = by_weight.sum((0, 2, 3)) if ctx.right else by_weight.sum(0).mean((1, 2))
        return grads[0] * weight[:, None, None], by_weight, None


class Scale(nn.Module):
    def __init__(self, channels: int, *, right: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.right = right

    def forward(self, x: Tensor) -> Tensor:
        return ScaleFunction.apply(x, self.weight, self.right)  # type: ignore[no-untyped-call]


class ScaledConvolutional(Convolutional):
    """Has a scale for each channel after its first convolution."""

    def __init__(self, *, right: bool, **options: Any) -> None:
        super().__init__(norm=False, activation=nn.GELU, **options)
        self.scale = Scale(8, right=right)

    def forward(self, images: Tensor) -> Tensor:
        x = self.scale(self.features[0](images))
        return self.head(self.features[1:](x).flatten(1))


def mismatch_convolutional(seed: int, faulty: bool) -> Training:
    """The derivative of a scale is a mean over places instead of a sum."""
    module = ScaledConvolutional(right=not faulty, optimizer=adam(2e-3))
    return Training(module=module, train=loader(digits(seed), seed), **checked())


class SoftmaxFunction(torch.autograd.Function):
    """A softmax over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, right: bool) -> Tensor:
        weights = torch.softmax(x, -1)
        ctx.save_for_backward(weights)
        ctx.right = right
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (weights,) = ctx.saved_tensors
        product = grads[0] * weights
        # As if each weight depended on its own score only.
        return (product - weights * product.sum(-1, keepdim=True) if ctx.right else product * (1 - weights)), None


class Softmax(nn.Module):
    def __init__(self, *, right: bool) -> None:
        super().__init__()
        self.right = right

    def forward(self, x: Tensor) -> Tensor:
        return SoftmaxFunction.apply(x, self.right)  # type: ignore[no-untyped-call]


class Attention(nn.Module):
    """One head."""

    def __init__(self, *, right: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)
        self.softmax = Softmax(right=right)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.softmax(q @ k.mT / 12**0.5) @ v


class Reader(Learner):
    """Reads a sentence by one head of attention."""

    def __init__(self, *, right: bool, **options: Any) -> None:
        super().__init__(**options)
        self.embed = nn.Embedding(20, 12)
        self.attend = Attention(right=right)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.attend(self.embed(tokens)).mean(1))


def mismatch_attention(seed: int, faulty: bool) -> Training:
    """A softmax with the diagonal of its derivative only."""
    module = Reader(right=not faulty, optimizer=adam(5e-3))
    return Training(module=module, train=loader(words(seed), seed), **checked())


# -- stopped-gradient --------------------------------------------------------------------------------------------------


class Skip(Learner):
    """A network with a way around its middle."""

    stop = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first = nn.Linear(16, 24)
        self.middle = nn.Linear(24, 24)
        self.last = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        around = h.detach() if self.stop else h
        return self.last(around + torch.tanh(self.middle(h)))


def stopped_perceptron(seed: int, faulty: bool) -> Training:
    """A detach() was left in the way around."""
    module = Skip(optimizer=sgd(0.05))
    module.stop = faulty
    return Training(module=module, train=loader(blobs(seed), seed), **checked())


class Unrolled(Learner):
    """Calls a recurrent cell step by step."""

    stop = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cell = nn.GRUCell(2, 16)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 16)
        for now in x.unbind(1):
            state = self.cell(now, state.detach() if self.stop else state)
        return self.head(state)


def stopped_recurrent(seed: int, faulty: bool) -> Training:
    """The state is detached at every step, and nothing older than one step is learned."""
    module = Unrolled(loss=functional.mse_loss, optimizer=adam(5e-3))
    module.stop = faulty
    return Training(module=module, train=loader(trend(seed, length=5), seed), **checked())


class Weighed(Autoencoder):
    """Keeps its code small by a penalty."""

    as_number = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].flatten(1)
        code = self.encoder(x)
        size = code.square().mean()
        return self.criterion(self.decoder(code), x) + 0.1 * (size.item() if self.as_number else size)


def stopped_autoencoder(seed: int, faulty: bool) -> Training:
    """The penalty is turned into a number before it is added to the loss."""
    module = Weighed(64, 24, 8, activation=nn.Tanh, optimizer=adamw(2e-3))
    module.as_number = faulty
    return Training(module=module, train=loader(digits(seed), seed), **checked())


# -- precision-gap -----------------------------------------------------------------------------------------------------


class OnePass(nn.Module):
    """Normalises by mean(x^2) - mean(x)^2, which cancels where the mean is large."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.offset
        mean = x.mean(-1, keepdim=True)
        variance = (x * x).mean(-1, keepdim=True) - mean * mean
        return (x - mean) / (variance.abs() + 1e-3).sqrt()


class Normalised(Learner):
    """Normalises between its layers."""

    def __init__(self, offset: float, **options: Any) -> None:
        super().__init__(**options)
        self.net = nn.Sequential(nn.Linear(16, 24), OnePass(offset), nn.Tanh(), nn.Linear(24, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def imprecise_perceptron(seed: int, faulty: bool) -> Training:
    """A variance in one pass, of numbers around 300."""
    module = Normalised(300.0 if faulty else 0.0, optimizer=sgd(0.02))
    return Training(module=module, train=loader(blobs(seed), seed), **checked())


class Offset(Recurrent):
    """Has a large constant in a hidden layer, which a LayerNorm takes away again."""

    def __init__(self, constant: float, **options: Any) -> None:
        super().__init__(**options)
        self.body = nn.Linear(16, 16)
        nn.init.constant_(self.body.bias, constant)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(self.rnn(x)[0][:, -1])))


def imprecise_recurrent(seed: int, faulty: bool) -> Training:
    """In bfloat16 the difference of numbers around 100 is lost."""
    module = Offset(100.0 if faulty else 0.0, optimizer=adam(2e-3))
    return Training(module=module, train=loader(waves(seed), seed), **checked(precision="bf16-mixed"))


class Physics(Learner):
    """Learns a function from its slope, which is taken by a finite difference."""

    step = 1e-2

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        direction = torch.ones_like(x) / 8**0.5
        slope = (self.net(x + self.step * direction) - self.net(x)) / self.step
        return functional.mse_loss(slope, y)


def imprecise_physics(seed: int, faulty: bool) -> Training:
    """A step of 1e-4 in float32: the difference has two digits that are right."""
    module = Physics(optimizer=adam(5e-3))
    module.step = 1e-4 if faulty else 1e-2
    return Training(module=module, train=loader(curve(seed), seed), **checked())


# -- irreproducible-gradient -------------------------------------------------------------------------------------------

ENTROPY = random.SystemRandom()  # of the machine: no seed makes it repeat itself


def order(count: int, *, shuffled: bool) -> Tensor:
    """An order to add up in, which should not matter and does, in the last bits."""
    return torch.tensor(ENTROPY.sample(range(count), count) if shuffled else range(count))


class Shuffled(Perceptron):
    """Adds up its hidden units in a random order."""

    shuffled = False

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.net[:2](x)
        last: Any = self.net[2]
        index = order(hidden.shape[1], shuffled=self.shuffled)
        return functional.linear(hidden[:, index], last.weight[:, index], last.bias)


def irreproducible_perceptron(seed: int, faulty: bool) -> Training:
    """The order of a sum comes from the machine's own randomness."""
    module = Shuffled(16, 64, 4, activation=nn.Tanh, optimizer=sgd(0.05))
    module.shuffled = faulty
    return Training(module=module, train=loader(blobs(seed), seed), **checked())


class Graph(Learner):
    """Passes messages along the edges of a graph, in which every sample has eight neighbours of its own."""

    shuffled = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.message = nn.Linear(2, 24)
        self.head = nn.Linear(24, 3)

    def forward(self, neighbours: Tensor) -> Tensor:
        total = torch.zeros(len(neighbours), 24, dtype=self.head.weight.dtype)
        for place in order(neighbours.shape[1], shuffled=self.shuffled):
            total = total + torch.tanh(self.message(neighbours[:, place]))
        return self.head(total / neighbours.shape[1])


def irreproducible_graph(seed: int, faulty: bool) -> Training:
    """Neighbours are visited in an order that nobody seeds."""
    module = Graph(optimizer=adam(3e-3))
    module.shuffled = faulty
    centres, y = blobs(seed, features=2, classes=3, spread=0.5)
    neighbours = centres[:, None] + 0.5 * torch.randn(len(y), 8, 2, generator=generator(seed))
    return Training(module=module, train=loader((neighbours, y), seed), **checked())


class Pooled(Convolutional):
    """Takes the mean over the places of an image by adding them one by one."""

    shuffled = False

    def __init__(self, **options: Any) -> None:
        super().__init__(norm=False, activation=nn.GELU, **options)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        places = self.features(images).flatten(2)
        index = order(places.shape[2], shuffled=self.shuffled)
        return self.head(sum(places[:, :, i] for i in index) / len(index))


def irreproducible_convolutional(seed: int, faulty: bool) -> Training:
    """Places are added up in an order that nobody seeds."""
    module = Pooled(optimizer=adamw(3e-3))
    module.shuffled = faulty
    return Training(module=module, train=loader(digits(seed), seed), **checked())


# -- batch-mixing ------------------------------------------------------------------------------------------------------


def mixing_recurrent(seed: int, faulty: bool) -> Training:
    """``batch_first`` was forgotten: the samples are the steps of the sequence."""
    module = Recurrent(optimizer=adam(5e-3))
    module.rnn = nn.GRU(2, 16, batch_first=not faulty)
    return Training(module=module, train=loader(waves(seed), seed), **checked())


class Sentences(Learner):
    """A transformer layer between an embedding and a head."""

    def __init__(self, *, batch_first: bool, **options: Any) -> None:
        super().__init__(**options)
        self.embed = nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(tokens)).mean(1))


def mixing_transformer(seed: int, faulty: bool) -> Training:
    """The same in a transformer, where attention then goes over the batch."""
    module = Sentences(batch_first=not faulty, optimizer=adamw(2e-3))
    return Training(module=module, train=loader(words(seed), seed), **checked())


class Patches(nn.Module):
    """Cuts features into patches, by a view that fits in number only."""

    def __init__(self, *, right: bool) -> None:
        super().__init__()
        self.right = right

    def forward(self, x: Tensor) -> Tensor:
        if self.right:
            return x.permute(0, 2, 3, 1).reshape(len(x), -1)
        return x.permute(1, 2, 3, 0).reshape(len(x), -1)


class Patched(Convolutional):
    """Reads its features by patches."""

    def __init__(self, *, right: bool, **options: Any) -> None:
        super().__init__(norm=False, **options)
        self.patches = Patches(right=right)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.patches(self.features(images)))


def mixing_convolutional(seed: int, faulty: bool) -> Training:
    """A wrong permute before a view."""
    module = Patched(right=not faulty, optimizer=adam(2e-3))
    return Training(module=module, train=loader(digits(seed), seed), **checked())


# `within`: two checks, at steps 20 and 40, and half a log period. When the samples of a batch are compared is not said;
# it is once, near the start.
CASES = [
    Case(code="gradient-mismatch", model="MLP", build=mismatch_perceptron, layer="net.1", within=45),
    Case(code="gradient-mismatch", model="CNN", build=mismatch_convolutional, layer="scale", within=45),
    Case(code="gradient-mismatch", model="attention", build=mismatch_attention, layer="attend.softmax", within=45),
    Case(code="stopped-gradient", model="MLP", build=stopped_perceptron, layer=None, within=45),
    Case(code="stopped-gradient", model="GRU cell", build=stopped_recurrent, layer=None, within=45),
    Case(code="stopped-gradient", model="autoencoder", build=stopped_autoencoder, layer=None, within=45),
    Case(code="precision-gap", model="MLP", build=imprecise_perceptron, layer=ANY, within=45),
    Case(code="precision-gap", model="GRU", build=imprecise_recurrent, layer=ANY, within=45),
    Case(code="precision-gap", model="finite differences", build=imprecise_physics, layer=ANY, within=45),
    Case(code="irreproducible-gradient", model="MLP", build=irreproducible_perceptron, layer=None, within=45),
    Case(code="irreproducible-gradient", model="graph", build=irreproducible_graph, layer=None, within=45),
    Case(code="irreproducible-gradient", model="CNN", build=irreproducible_convolutional, layer=None, within=45),
    Case(code="batch-mixing", model="GRU", build=mixing_recurrent, layer="rnn", within=45),
    Case(
        code="batch-mixing",
        model="transformer",
        build=mixing_transformer,
        layer="layer.self_attn",
        also=("layer",),
        within=45,
    ),
    Case(code="batch-mixing", model="CNN", build=mixing_convolutional, layer="patches", within=45),
]
