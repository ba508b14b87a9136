"""Gradients that are stopped or changed on purpose: by detach, no_grad, Python numbers, hooks, custom Functions."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from tests.probes.modules_generative import network
from tests.probes.probed import (
    CLASSES,
    EXPLAINED,
    FEATURES,
    MISMATCH,
    PASS,
    Probe,
    Verdict,
    probed,
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


class Byol(Probe):
    """BYOL: a target network follows slowly; ``frozen`` says whether its weights ask for gradients."""

    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        self.online = network(FEATURES, 4)
        self.predictor = network(4, 4)
        self.target = copy.deepcopy(self.online).requires_grad_(not frozen)

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        predicted = self.predictor(self.online(x + 0.1 * torch.randn_like(x)))
        with torch.no_grad():
            goal = self.target(x + 0.1 * torch.randn_like(x))  # stops: byol-target
        return 2 - 2 * functional.cosine_similarity(predicted, goal).mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
                slow.lerp_(fast, 0.01)


class SimSiam(Probe):
    """SimSiam: the same network on both sides, one of them detached."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, 4)
        self.predictor = network(4, 4)

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        first, second = (self.network(x + 0.1 * torch.randn_like(x)) for _ in range(2))
        goal = second.detach()  # stops: simsiam
        return -functional.cosine_similarity(self.predictor(first), goal).mean()


class Distilled(Probe):
    """A student that imitates a frozen teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.student = network(FEATURES, CLASSES)
        self.teacher = network(FEATURES, CLASSES).requires_grad_(False)

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        with torch.no_grad():
            goal = self.teacher(x).softmax(-1)
        return functional.kl_div(self.student(x).log_softmax(-1), goal, reduction="batchmean")


class ActorCritic(Probe):
    """A policy gradient whose advantage is detached."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = network(FEATURES, CLASSES)
        self.critic = network(FEATURES, 1)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        policy: Any = torch.distributions.Categorical(logits=self.actor(x))
        action = policy.sample()
        gain = (action == y).to(x.dtype) - self.critic(x)[:, 0]
        advantage = gain.detach()  # stops: advantage
        return (gain.square() - policy.log_prob(action) * advantage).mean()


class QLearning(Probe):
    """Q-learning without a target network: the goal comes from the same weights under no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        x, action = batch
        with torch.no_grad():
            goal = x[:, 0] + 0.9 * self.network(x.roll(1, 0)).amax(-1)  # stops: bootstrap
        return functional.smooth_l1_loss(self.network(x).gather(1, action[:, None])[:, 0], goal)


class Equilibrium(Probe):
    """A fixed point found under no_grad, and one step from there with gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, 8)
        self.step = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        start = self.enter(x)
        state = torch.zeros_like(start)
        with torch.no_grad():
            for _ in range(15):
                state = torch.tanh(0.5 * self.step(state) + start)  # stops: fixed-point
        return functional.cross_entropy(self.head(torch.tanh(0.5 * self.step(state) + start)), y)


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


class Centred(Probe):
    """DINO's centring: a running mean of the network's own outputs, kept in a buffer, enters the loss."""

    center: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, 4)
        self.register_buffer("center", torch.zeros(4))

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        output = self.network(x)
        with torch.no_grad():
            self.center.lerp_(output.mean(0), 0.5)  # stops: center
        goal = (output - self.center).softmax(-1)
        return -(goal * self.network(x.roll(1, -1)).log_softmax(-1)).sum(-1).mean()


class FirstOrderMeta(Probe):
    """First-order MAML: the inner gradient is a constant because no graph of it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        weights = dict(self.network.named_parameters())
        inner = functional.cross_entropy(self.network(x[:4]), y[:4])
        slopes = torch.autograd.grad(inner, list(weights.values()))  # stops: first-order
        adapted = {name: weight - 0.5 * slope for (name, weight), slope in zip(weights.items(), slopes, strict=True)}
        return functional.cross_entropy(torch.func.functional_call(self.network, adapted, (x[4:],)), y[4:])


class ScaledByItem(Probe):
    """Two losses balanced by a Python number computed from one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        logits = self.network(x)
        main, extra = functional.cross_entropy(logits, y), logits.square().mean()
        balance = main.item() / (extra.item() + 1)  # stops: item
        return main + balance * extra


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


def stopped(name: str, module: Any, why: str, *stops: str) -> Any:
    """Describe a module whose gradients are stopped on purpose."""
    return probed(name, module, vectors, EXPLAINED, why, stops=stops)


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
    probed(
        "byol-frozen-target", lambda: Byol(frozen=True), vectors, PASS, "weights that ask for no gradient need none"
    ),
    stopped(
        "byol-no-grad-target",
        lambda: Byol(frozen=False),
        "the target's weights ask for gradients that no_grad stops",
        "byol-target",
    ),
    stopped("simsiam", SimSiam, "one branch of the same network is detached", "simsiam"),
    probed("distillation", Distilled, vectors, PASS, "the teacher asks for no gradient"),
    stopped("actor-critic", ActorCritic, "the advantage depends on the critic and is detached", "advantage"),
    stopped("bootstrapped-q-learning", QLearning, "the goal depends on the weights under no_grad", "bootstrap"),
    stopped("implicit-layer", Equilibrium, "the fixed point depends on the weights under no_grad", "fixed-point"),
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
    stopped("running-center", Centred, "the centre depends on the weights, in place and under no_grad", "center"),
    stopped(
        "first-order-maml", FirstOrderMeta, "the inner gradient depends on the weights, and has no graph", "first-order"
    ),
    stopped("balanced-by-item", ScaledByItem, "a Python number carries no gradient", "item"),
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
)
