"""Gradients that are stopped on purpose: by detach, no_grad, frozen weights, Python numbers, missing graphs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.probes.modules_generative import network
from tests.probes.probed import (
    CLASSES,
    FEATURES,
    PASS,
    Probe,
    probed,
    stopped,
    vectors,
)


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


class FrozenForATerm(Probe):
    """A head that classifies, and is frozen while it judges how the features vary."""

    def __init__(self) -> None:
        super().__init__()
        self.features = network(FEATURES, 8)
        self.head = nn.Linear(8, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        main = functional.cross_entropy(self.head(self.features(x)), y)
        self.head.requires_grad_(False)  # stops: frozen-for-a-term
        confidence = self.head(self.features(x.roll(1, 1))).softmax(-1).square().mean()
        self.head.requires_grad_()
        return main - confidence


CASES = (
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
    stopped("running-center", Centred, "the centre depends on the weights, in place and under no_grad", "center"),
    stopped(
        "first-order-maml", FirstOrderMeta, "the inner gradient depends on the weights, and has no graph", "first-order"
    ),
    stopped(
        "frozen-for-a-term",
        FrozenForATerm,
        "the term depends on weights frozen while it is computed",
        "frozen-for-a-term",
    ),
    stopped("balanced-by-item", ScaledByItem, "a Python number carries no gradient", "item"),
)
