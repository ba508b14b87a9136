"""Derivatives replaced on purpose: straight through, by custom Functions, by hooks; and look-alikes that are right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from tests.probes.modules_generative import network
from tests.probes.probed import (
    CLASSES,
    FEATURES,
    MISMATCH,
    PASS,
    Probe,
    Verdict,
    classifier,
    probed,
    stopped,
    vectors,
)

CODES, LATENT = 5, 3
HOOKED: frozenset[Verdict] = frozenset({"explained", "mismatch"})


class VectorQuantized(Probe):
    """A VQ-VAE: straight through the nearest code, codebook loss and commitment."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = network(FEATURES, LATENT)
        self.codes = nn.Parameter(torch.randn(CODES, LATENT))
        self.decoder = network(LATENT, FEATURES)

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        latent = self.encoder(x)
        code = self.codes[torch.cdist(latent, self.codes).argmin(-1)]
        codebook = (code - latent.detach()).square().mean()  # stops: vq-codebook
        commitment = (latent - code.detach()).square().mean()  # stops: vq-commitment
        passed = latent + (code - latent).detach()  # stops: vq-straight-through
        return (self.decoder(passed) - x).square().mean() + codebook + 0.25 * commitment


class HardGumbel(Probe):
    """A hard choice by Gumbel softmax, whose straight-through detach stands in torch."""

    def __init__(self, *, hard: bool) -> None:
        super().__init__()
        self.chooser = network(FEATURES, 4)
        self.values = nn.Linear(4, CLASSES)
        self.hard = hard

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        choice = functional.gumbel_softmax(self.chooser(x), tau=0.7, hard=self.hard)  # stops: gumbel
        return functional.cross_entropy(self.values(choice), y)


class Rounded(Function):
    """Rounds to quarters; the gradient goes straight through."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return (4 * x).round() / 4

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Reversed(Function):
    """Passes its input on, and the gradient back with its sign turned."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return -grad


# torch has not annotated `apply`.
through: Any = Rounded.apply
turn: Any = Reversed.apply


class Quantized(Probe):
    """A network whose weight is rounded, straight through by detach, by ``.data``, or by a custom Function."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, 16)
        self.head = nn.Linear(16, CLASSES)
        self.way = way

    def rounded(self, weight: Tensor) -> Tensor:
        """Return the weight on a grid of quarters."""
        if self.way == "detach":
            return weight + ((4 * weight).round() / 4 - weight).detach()  # stops: ste-detach
        if self.way == "data":
            return weight + ((4 * weight).round() / 4 - weight).data  # stops: ste-data
        return through(weight)  # stops: ste-function

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        hidden = functional.linear(x, self.rounded(self.enter.weight), self.enter.bias).tanh()
        return functional.cross_entropy(self.head(hidden), y)


class DomainAdversarial(Probe):
    """Features that are to fool a domain classifier, by gradient reversal."""

    def __init__(self) -> None:
        super().__init__()
        self.features = network(FEATURES, 8)
        self.label = nn.Linear(8, CLASSES)
        self.domain = nn.Linear(8, 2)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        features = self.features(x).tanh()
        turned = turn(features)  # stops: gradient-reversal
        return functional.cross_entropy(self.label(features), y) + functional.cross_entropy(self.domain(turned), y % 2)


class Hooked(Probe):
    """A hook that scales a gradient: of a parameter from the start, or of an activation in every step."""

    def __init__(self, *, parameter: bool) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, 8)
        self.head = nn.Linear(8, CLASSES)
        self.parameter = parameter
        if parameter:
            weight: Any = self.enter.weight
            weight.register_hook(lambda grad: 0.1 * grad)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        hidden: Any = self.enter(x).tanh()
        if not self.parameter:
            hidden.register_hook(lambda grad: 0.5 * grad)  # stops: activation-hook
        return functional.cross_entropy(self.head(hidden), y)


class Swish(Function):
    """``x sigmoid(x)`` that keeps its input alone: detached and computed again backwards, and right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        kept = x.detach().clone()
        return kept.mul_(torch.sigmoid(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            again = x.detach().requires_grad_()
            y = again * again.sigmoid()
        return torch.autograd.grad(y, again, grad)[0]


swish: Any = Swish.apply


class Lean(nn.Module):
    """A network with a memory-saving activation whose derivative is right."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(swish(self.enter(x)))


class Observed(Probe):
    """Hooks of all kinds that look and change nothing; what they see is kept on the module."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, 16)
        self.head = nn.Linear(16, CLASSES)
        self.seen: dict[str, float] = {}
        self.head.register_forward_hook(self.note_output)
        self.head.register_full_backward_hook(self.note_gradient)

    def note_output(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        """Note the size of an output."""
        self.seen["output"] = output.norm().item()

    def note_gradient(self, _module: nn.Module, by_input: Any, _by_output: Any) -> None:
        """Note the size of a gradient."""
        self.seen["gradient"] = by_input[0].norm().item()

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        hidden: Any = self.enter(x).tanh()
        hidden.register_hook(lambda grad: self.seen.update(hidden=grad.norm().item()))
        return functional.cross_entropy(self.head(hidden), y)


STEPS = "a staircase has no slope, and a custom Function gives it one: no stop-gradient explains that"
CASES = (
    stopped(
        "vq-vae",
        VectorQuantized,
        "three detaches, each of which changes the derivative",
        "vq-codebook",
        "vq-commitment",
        "vq-straight-through",
    ),
    stopped(
        "gumbel-hard", lambda: HardGumbel(hard=True), "straight through, inside of torch: the call is named", "gumbel"
    ),
    probed("gumbel-soft", lambda: HardGumbel(hard=False), vectors, PASS, "smooth, the noise repeated"),
    stopped("ste-by-detach", lambda: Quantized("detach"), "straight through by detach", "ste-detach"),
    stopped("ste-by-data", lambda: Quantized("data"), "straight through by .data", "ste-data"),
    probed("ste-by-function", lambda: Quantized("function"), vectors, MISMATCH, STEPS, stops=("ste-function",)),
    probed(
        "gradient-reversal",
        DomainAdversarial,
        vectors,
        MISMATCH,
        "a custom Function turns the sign: on purpose or not, it is not the derivative",
        stops=("gradient-reversal",),
    ),
    probed(
        "parameter-hook",
        lambda: Hooked(parameter=True),
        vectors,
        PASS | {"explained"},
        "the derivative is right; what a hook makes of a finished gradient is the user's own",
    ),
    probed(
        "activation-hook",
        lambda: Hooked(parameter=False),
        vectors,
        HOOKED,
        "half of the derivative arrives, and the hook is to blame: not a pass",
        stops=("activation-hook",),
    ),
    probed("right-function", classifier(Lean), vectors, PASS, "a custom Function may be right"),
    probed("observing-hooks", Observed, vectors, PASS, "hooks that return nothing change nothing"),
)
