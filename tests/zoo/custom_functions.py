"""Hand-written derivatives, hooks on gradients, and derivatives of derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.case import BF16, FP32, SCALER, Case, Truth, ZooModule

BAD = 5
Pair = tuple[Tensor, Tensor]


def labelled(*, silent: int = 0) -> list[Pair]:
    """Return features with two classes; the bad batch starts with ``silent`` rows of zeros."""
    generator = torch.Generator().manual_seed(4)
    inputs = [torch.randn(8, 6, generator=generator) for _ in range(8)]
    inputs[BAD][:silent] = 0
    return [(x, torch.arange(8) % 2) for x in inputs]


class Length(torch.autograd.Function):
    """The length of each row. The derivative forgets that a length may be zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = x.square().sum(-1, keepdim=True).sqrt()
        ctx.save_for_backward(x, length)
        return length

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, length = ctx.saved_tensors
        direction = x / length  # born: function-divides-by-zero
        return grad * direction


class Surprise(torch.autograd.Function):
    """``p log p`` with the right value at zero, and a derivative that has none."""

    @staticmethod
    def forward(ctx: Any, p: Tensor) -> Tensor:
        ctx.save_for_backward(p)
        return torch.special.entr(p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        slope = torch.log(p)  # born: function-log-of-zero
        return -grad * (slope + 1)


class Spike(torch.autograd.Function):
    """A spiking neuron: a step forwards, a surrogate derivative backwards, which is infinite at the threshold."""

    @staticmethod
    def forward(ctx: Any, potential: Tensor) -> Tensor:
        ctx.save_for_backward(potential)
        return (potential > 0).to(potential.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (potential,) = ctx.saved_tensors
        surrogate = 0.1 * potential.abs().rsqrt()  # born: surrogate-infinite-at-threshold
        return grad * surrogate


class LeanSoftplus(torch.autograd.Function):
    """Saves memory, and overflows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        e = x.exp()  # born: function-forward-overflows
        ctx.save_for_backward(x)
        return torch.log(1 + e)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * torch.sigmoid(x)


class Smooth(torch.autograd.Function):
    """``2/3 |x| ** 1.5``: once differentiable. The derivative of its derivative at zero is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.abs() ** 1.5 / 1.5

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.sign() * x.abs().sqrt()  # born: double-backward


class Reverse(torch.autograd.Function):
    """Reverses the gradient on its way from the domain classifier to the features."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return -factor * grad, None


def applied(function: Any, *inputs: Tensor) -> Tensor:
    """Call a Function, whose ``apply`` torch has not annotated."""
    return function.apply(*inputs)


class Elementwise(nn.Module):
    """A Function as a layer."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return applied(self.function, x)


class Layered(ZooModule):
    """Features, a custom Function in layer ``activation``, a classifier."""

    function: Any = None
    width = 4

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(6, 4, bias=False)
        self.activation = Elementwise(self.function)
        self.head = nn.Linear(self.width, 2)

    def hidden(self, x: Tensor) -> Tensor:
        return self.features(x).float()

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.head(self.activation(self.hidden(x))).float(), y)


class LengthHead(Layered):
    function = Length
    width = 1


class EntropyHead(Layered):
    """Entropy of a softmax: a confident sample has a probability of exactly zero."""

    function = Surprise

    def hidden(self, x: Tensor) -> Tensor:
        return self.features(x).float().softmax(-1)


class Spiking(Layered):
    function = Spike


class Lean(Layered):
    function = LeanSoftplus


class Penalised(ZooModule):
    """A critic with a gradient penalty through ``Smooth``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(6, 8, bias=False)
        self.head = nn.Linear(8, 1)

    def loss(self, batch: Pair) -> Tensor:
        x = batch[0].detach().requires_grad_()
        score = self.head(applied(Smooth, self.features(x).float())).float().sum()
        (slope,) = torch.autograd.grad(score, x, create_graph=True)
        return (slope.float().square().sum(-1) - 1).square().mean()


class Adversarial(ZooModule):
    """Weighs the reversed gradient by the ratio of the domains, one of which the bad batch does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(6, 4)
        self.domain = nn.Linear(4, 2)

    def loss(self, batch: Pair) -> Tensor:
        x, domain = batch
        target = domain.float().sum()
        factor = (len(domain) - target) / target  # born: reversal-of-missing-domain
        logits = self.domain(applied(Reverse, self.features(x).float(), factor))
        return functional.cross_entropy(logits.float(), domain)


def domains() -> list[Pair]:
    return [(x, torch.zeros_like(y) if i == BAD else y) for i, (x, y) in enumerate(labelled())]


class Hinge(ZooModule):
    """A margin loss: when every margin is kept, all gradients are exactly zero."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 1, bias=False)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(6))
            self.head.weight.fill_(0.5)

    def loss(self, batch: Pair) -> Tensor:
        x, y = batch
        return functional.relu(1 - y * self.head(self.watched(self.features(x))).squeeze(-1).float()).mean()

    def watched(self, z: Any) -> Any:
        return z


def unit(gradient: Tensor) -> Tensor:
    return gradient / gradient.norm()  # born: hook-divides-by-zero-norm


class HookedHinge(Hinge):
    """Normalises the gradient of its features in a tensor hook."""

    def watched(self, z: Any) -> Any:
        if z.requires_grad:
            z.register_hook(unit)
        return z


class NormalisedHinge(Hinge):
    """Normalises its gradients before the optimizer step."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for p in self.parameters():
            if p.grad is not None:
                p.grad = p.grad / p.grad.norm()  # born: normalised-zero-gradient


class BackwardHinge(Hinge):
    """Normalises its gradients right after the backward pass, in its own ``backward``."""

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(loss, *args, **kwargs)
        for p in self.parameters():
            if p.grad is not None:
                p.grad /= p.grad.norm()  # born: normalised-in-own-backward


def margins() -> list[Pair]:
    return [(x + 50 * (i == BAD), torch.ones(8)) for i, (x, _) in enumerate(labelled())]


def backward(op: str, module: str | None = "activation", **details: Any) -> dict[str, Truth]:
    """Return the truth by precision: the gradient is bad without a loss scale too, so that a scaler changes nothing."""
    truth = Truth(phase="backward", op=op, module=module, **details)
    return {FP32: truth, BF16: truth, SCALER: truth}


OVERFLOW = Truth(phase="forward", op="exp", module="activation", transition="finite->inf")

CASES = [
    Case(
        name="function-divides-by-zero",
        module=LengthHead,
        batches=lambda: labelled(silent=1),
        truth=backward("Length", transition="finite->nan"),
        source="pytorch#2421, in a hand-written derivative",
    ),
    Case(
        name="function-log-of-zero",
        module=EntropyHead,
        batches=lambda: [(x * 1000 if i == BAD else x, y) for i, (x, y) in enumerate(labelled())],
        truth=backward("Surprise", transition="finite->inf"),
        source="ACE#2: entropy of a saturated softmax, in a hand-written derivative",
    ),
    Case(
        name="surrogate-infinite-at-threshold",
        module=Spiking,
        batches=lambda: labelled(silent=2),
        truth=backward("Spike", transition="finite->inf"),
        source="textbook: surrogate gradients of spiking networks",
    ),
    Case(
        name="function-forward-overflows",
        module=Lean,
        batches=lambda: [(x * 1000 if i == BAD else x, y) for i, (x, y) in enumerate(labelled())],
        truth={FP32: OVERFLOW, BF16: OVERFLOW, SCALER: OVERFLOW},
        source="textbook: softplus and mish in a memory-saving Function",
    ),
    Case(
        name="double-backward",
        module=Penalised,
        batches=lambda: labelled(silent=1),
        # The value is born in the derivative of the square root, which ran inside backward() of the first derivative.
        truth=backward("sqrt", module=None),
        source="pytorch#2534, keras-io#910: gradient penalties",
        variants=False,  # torch.compile cannot differentiate twice
    ),
    Case(
        name="reversal-of-missing-domain",
        module=Adversarial,
        batches=domains,
        truth=backward("div", module="", transition="finite->inf"),
        source="textbook: domain-adversarial training with class weights from the batch",
    ),
    Case(
        name="hook-divides-by-zero-norm",
        module=HookedHinge,
        batches=margins,
        truth=backward("div", module=None, transition="finite->nan"),
        source="textbook: a gradient normalised in a hook",
    ),
    Case(
        name="normalised-zero-gradient",
        module=NormalisedHinge,
        batches=margins,
        # With a scaler too: it has looked for inf before the hook runs, and lets the update through. The phase is not
        # judged: loss and backward pass are finite, the gradient is spoilt between them and the update.
        truth=dict.fromkeys((FP32, BF16, SCALER), Truth(op="div", transition="finite->nan")),
        source="textbook: a gradient normalised before the step",
        variants=False,  # the bug is in a hook of the training loop: loss() alone has none
    ),
    Case(
        name="normalised-in-own-backward",
        module=BackwardHinge,
        batches=margins,
        truth=backward("div", module=None, transition="finite->nan"),
        source="textbook: a gradient normalised in LightningModule.backward",
        variants=False,  # as above
    ),
]
