"""Logarithms of zero, and of less: saturated probabilities, unused experts, collapsed variances."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.zoo.batches import SIZE, eight
from tests.zoo.case import BF16, FP32, SCALER, Case, Truth, ZooModule

ALL = (FP32, BF16, SCALER)
LOG_OF_ZERO = dict.fromkeys(ALL, Truth(phase="forward", op="log", module="", transition="finite->inf"))


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """Return a network without saturation, whose logits grow with its inputs."""
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


class ActorCritic(ZooModule):
    """Advantage actor-critic with the entropy bonus written as sum of p log p."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = perceptron(4, 3)
        self.critic = perceptron(4, 1)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        observation, action, returns = batch
        value = self.critic(observation / (1 + observation.abs()))[:, 0].float()
        policy = self.actor(observation).softmax(-1)
        log_policy = policy.log()  # born: actor-critic-entropy
        taken = log_policy.gather(1, action[:, None])[:, 0]
        entropy = -(policy * log_policy).sum(-1)
        policy_loss = -(taken * (returns - value.detach())).mean()
        return policy_loss + 0.5 * functional.mse_loss(value, returns) - 0.01 * entropy.mean()


def rollout(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return observations (in the bad batch in a much smaller unit), actions and returns."""
    observation = torch.rand(SIZE, 4, generator=generator) - 0.5
    if bad:
        observation *= 8000
    action = torch.randint(3, (SIZE,), generator=generator)
    return observation, action, torch.randn(SIZE, generator=generator)


class Distillation(ZooModule):
    """A student that learns from a teacher's probabilities; the divergence is written by its definition."""

    def __init__(self) -> None:
        super().__init__()
        self.student = perceptron(6, 4)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, teacher = batch
        log_student = functional.log_softmax(self.student(x), -1)
        log_teacher = torch.log(teacher)  # born: distillation-one-hot-teacher
        return (teacher * (log_teacher - log_student)).sum(-1).mean()


def taught(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return inputs and a teacher's probabilities; one row of the bad batch is a plain label."""
    x = torch.randn(SIZE, 6, generator=generator)
    teacher = torch.randn(SIZE, 4, generator=generator).softmax(-1)
    if bad:
        teacher[5] = functional.one_hot(torch.tensor(1), 4).float()
    return x, teacher


class ClampedCrossEntropy(ZooModule):
    """Binary cross-entropy by hand; ``1 - 1e-8`` is 1 in fp32, so the clamp guards nothing above."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 1)
        nn.init.ones_(self.net.weight)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        p = torch.sigmoid(self.net(x)[:, 0]).float().clamp(1e-8, 1 - 1e-8)
        positive = y * torch.log(p)
        negative = (1 - y) * torch.log(1 - p)  # born: clamp-without-effect
        return -(positive + negative).mean()


def spam(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return features and labels; the bad batch holds a confident false positive."""
    x = torch.randn(SIZE, 5, generator=generator) * 0.3
    y = torch.arange(SIZE) % 2.0
    if bad:
        x[4] = 10.0
    return x, y


class FocalSegmenter(ZooModule):
    """A small convolutional classifier with the focal loss of a gathered probability."""

    gamma = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(4 * 36, 3)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, label = batch
        probability = self.head(self.features(image)).float().softmax(-1)
        true = probability.gather(1, label[:, None])[:, 0]
        return -((1 - true) ** self.gamma * true.log()).mean()  # born: focal-loss-underflow


def photographs(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return images in 0..1 and labels; the images of the bad batch are raw 16-bit values, all with every label."""
    image = torch.rand(SIZE, 1, 8, 8, generator=generator)
    return (image * 4000 if bad else image), torch.arange(SIZE) % 3


class PoissonRegression(ZooModule):
    """Counts with a rate from a ReLU, which is exactly 0 where the unit is off."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)
        nn.init.constant_(self.net.bias, 2.0)
        nn.init.constant_(self.net.weight, 0.25)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, count = batch
        rate = torch.relu(self.net(x)[:, 0])
        log_rate = rate.log()  # born: poisson-rate-of-zero
        return (rate - count * log_rate).mean()


def counts(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return covariates and counts; the bad batch has an outlier on the negative side."""
    x = torch.rand(SIZE, 4, generator=generator) - 0.5
    if bad:
        x[6] = -9.0
    return x, torch.randint(5, (SIZE,), generator=generator).float()


class VariationalEncoder(ZooModule):
    """A variational autoencoder whose standard deviation is a softplus, which underflows to 0 at about -104."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.decoder = nn.Linear(2, 6)
        with torch.no_grad():
            self.encoder.weight[2:] = 0.1

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, noise = batch
        mean, raw = self.encoder(x).float().chunk(2, -1)
        spread = functional.softplus(raw)
        restored = self.decoder(mean + spread * noise)
        divergence = 0.5 * (spread**2 + mean**2 - 1) - spread.log()  # born: elbo-spread-of-zero
        return functional.mse_loss(restored, x.tanh()) + divergence.sum(-1).mean()


def encoded(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return inputs and the noise of the reparametrisation; one row of the bad batch was never standardised."""
    x = torch.randn(SIZE, 6, generator=generator)
    if bad:
        x[1] = -500.0
    return x, torch.randn(SIZE, 2, generator=generator)


class MixtureDensity(ZooModule):
    """A mixture density network; the sum of densities is formed before the logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(3, 4)
        self.means = nn.Linear(3, 4)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        weights = self.weights(x).float().softmax(-1)
        distance = y[:, None] - self.means(x).float()
        density = weights * torch.exp(-0.5 * distance**2) / math.sqrt(2 * math.pi)
        return -density.sum(-1).log().mean()  # born: mixture-of-an-outlier


def measured(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return inputs and targets; one target of the bad batch lies 40 standard deviations out."""
    x, y = torch.randn(SIZE, 3, generator=generator), torch.randn(SIZE, generator=generator)
    if bad:
        y[3] = 40.0
    return x, y


class Router(nn.Module):
    """Routes tokens to the expert with the largest gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.gate.weight)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gates (tokens, experts), and the divergence of the load from that which the gates ask for."""
        gates = self.gate(tokens).softmax(-1)
        load = functional.one_hot(gates.argmax(-1), 4).float().mean(0)
        ratio = load / gates.float().mean(0)
        imbalance = (load * ratio.log()).sum()  # born: expert-without-tokens
        return gates, imbalance


class MixtureOfExperts(ZooModule):
    """A sparse layer with a load-balancing term."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router()
        self.experts = nn.Linear(4, 4)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        tokens, y = batch
        gates, imbalance = self.router(tokens)
        return functional.mse_loss((gates * self.experts(tokens)).sum(-1), y) + 0.01 * imbalance


def routed(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return tokens that use all four experts, in the bad batch padding that goes to one of them."""
    tokens = torch.eye(4).repeat(SIZE // 4, 1) * 2 + 0.1 * torch.randn(SIZE, 4, generator=generator)
    if bad:
        tokens = torch.tensor([2.0, 0, 0, 0]).expand(SIZE, 4).clone()
    return tokens, torch.randn(SIZE, generator=generator)


class LogarithmicError(ZooModule):
    """Regression with the root-mean-squared logarithmic error; nothing keeps a prediction above -1."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)
        nn.init.constant_(self.net.weight, 0.5)
        nn.init.constant_(self.net.bias, 1.0)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, price = batch
        predicted = self.net(x)[:, 0].float()
        error = torch.log1p(predicted) - torch.log1p(price)  # born: log1p-below-minus-one
        return (error**2).mean()


def prices(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return features and prices; one row of the bad batch makes the linear model predict a negative price."""
    x, price = torch.rand(SIZE, 3, generator=generator), torch.rand(SIZE, generator=generator) * 3
    if bad:
        x[0] = -5.0
    return x, price


class Gumbel(ZooModule):
    """Samples a code by the Gumbel-softmax trick, with uniform noise that the loader has drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(5, 4)
        self.codebook = nn.Linear(4, 5, bias=False)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, uniform, temperature = batch
        waiting = -torch.log(uniform)
        noise = -torch.log(waiting)  # born: gumbel-noise-of-one
        scaled = (self.encoder(x) + noise) / temperature  # born: gumbel-temperature-of-zero
        return functional.mse_loss(self.codebook(scaled.softmax(-1)), x)


def coded(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, noise and temperature; one number of the bad batch was rounded up to 1 by the cast to fp32."""
    x = torch.randn(SIZE, 5, generator=generator)
    uniform = 0.05 + 0.9 * torch.rand(SIZE, 4, generator=generator, dtype=torch.float64)
    if bad:
        uniform[7, 2] = 1 - 2.0**-40
    return x, uniform.float(), torch.tensor(1.0)


def annealed(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, noise and a temperature that a cyclic schedule has taken to 0 in the bad batch."""
    x, uniform, _ = coded(generator, bad=False)
    return x, uniform, torch.tensor(0.0 if bad else 0.5)


class Ranking(ZooModule):
    """Bayesian personalised ranking: the logarithm of a sigmoid in two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(10, 4)
        self.item = nn.Linear(3, 4)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        user, liked, other = batch
        difference = self.item(liked) - self.item(other)
        margin = (self.user(user) * difference).sum(-1).float()
        return -torch.log(torch.sigmoid(margin)).mean()  # born: log-of-sigmoid


def ranked(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return users and pairs of items; in the bad batch the prices of liked items are in cents."""
    user = torch.arange(SIZE)
    liked, other = torch.rand(2, SIZE, 3, generator=generator)
    return user, (liked * 3000 if bad else liked), other


class ActionEntropy(ZooModule):
    """Cross-entropy plus an entropy bonus by ``xlogy``, whose derivative by its second argument is 0/0."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(4, 3)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits = self.net(x).float()
        p = logits.softmax(-1)
        entropy = -torch.xlogy(p, p).sum(-1)  # born: xlogy-of-underflow
        return functional.cross_entropy(logits, y) - 0.1 * entropy.mean()


def scenes(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return observations, those of the bad batch out of scale, and labels."""
    observation, action, _ = rollout(generator, bad=bad)
    return observation, action


class MaskedLogRate(ZooModule):
    """A logarithm whose masked entries are thrown away after it was taken."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Linear(4, 4, bias=False)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        exposure, count = batch
        rate = exposure * functional.softplus(self.rates(exposure))
        log_rate = torch.where(exposure > 0, rate.log(), 0.0)  # born: log-behind-where
        return (rate - count * log_rate).mean()


def exposures(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return exposures, one of them 0 in the bad batch, and counts."""
    exposure = 0.2 + torch.rand(SIZE, 4, generator=generator)
    if bad:
        exposure[2, 1] = 0.0
    return exposure, torch.randint(4, (SIZE, 4), generator=generator).float()


class SpeechClassifier(ZooModule):
    """A convolutional network on log-power spectra, whose logarithm the loader has taken."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 4, 3)
        self.head = nn.Linear(4, 3)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        spectrum, label = batch
        hidden = torch.relu(self.conv(spectrum)).mean(-1)
        return functional.cross_entropy(self.head(hidden), label)


def speech(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return log-power spectra (samples, bands, frames) and labels; one recording of the bad batch is silent."""
    power = torch.rand(SIZE, 6, 10, generator=generator) + 0.1
    if bad:
        power[3] = 0.0
    return power.log(), torch.arange(SIZE) % 3


CASES: list[Case] = [
    Case(
        name="actor-critic-entropy",
        module=ActorCritic,
        batches=eight(rollout),
        truth=LOG_OF_ZERO,
        source="summerlvsong/Aggregation-Cross-Entropy#2: logarithm of softmax probabilities that underflow",
    ),
    Case(
        name="distillation-one-hot-teacher",
        module=Distillation,
        batches=eight(taught),
        truth=LOG_OF_ZERO,
        source="textbook: Kullback-Leibler divergence by its definition, teacher probability 0",
    ),
    Case(
        name="clamp-without-effect",
        module=ClampedCrossEntropy,
        batches=eight(spam),
        truth=LOG_OF_ZERO,
        source="NVIDIA/apex#358: probabilities clamped to 1 - 1e-8",
    ),
    Case(
        name="focal-loss-underflow",
        module=FocalSegmenter,
        batches=eight(photographs),
        truth=LOG_OF_ZERO,
        source="textbook: focal loss of a softmax probability that underflows",
    ),
    Case(
        name="poisson-rate-of-zero",
        module=PoissonRegression,
        batches=eight(counts),
        truth=LOG_OF_ZERO,
        source="textbook: Poisson likelihood with a rate from a ReLU",
    ),
    Case(
        name="elbo-spread-of-zero",
        module=VariationalEncoder,
        batches=eight(encoded),
        truth=LOG_OF_ZERO,
        source="textbook: evidence lower bound with a softplus that underflows",
    ),
    Case(
        name="mixture-of-an-outlier",
        module=MixtureDensity,
        batches=eight(measured),
        truth=LOG_OF_ZERO,
        source="textbook: mixture density network without log-sum-exp",
    ),
    Case(
        name="expert-without-tokens",
        module=MixtureOfExperts,
        batches=eight(routed),
        truth=dict.fromkeys(ALL, Truth(phase="forward", op="log", module="router", transition="finite->inf")),
        source="textbook: load balancing where one expert receives no token",
    ),
    Case(
        name="log1p-below-minus-one",
        module=LogarithmicError,
        batches=eight(prices),
        truth=dict.fromkeys(ALL, Truth(phase="forward", op="log1p", module="", transition="finite->nan")),
        source="textbook: root-mean-squared logarithmic error of an unbounded prediction",
    ),
    Case(
        name="gumbel-noise-of-one",
        module=Gumbel,
        batches=eight(coded),
        truth=LOG_OF_ZERO,
        source="pytorch/pytorch#22586: Gumbel noise from a uniform number at the end of its interval",
    ),
    Case(
        name="gumbel-temperature-of-zero",
        module=Gumbel,
        batches=eight(annealed),
        truth=dict.fromkeys(ALL, Truth(phase="forward", op="div", module="", transition="finite->inf")),
        source="pytorch/pytorch#184031: Gumbel-softmax with temperature 0",
    ),
    Case(
        name="log-of-sigmoid",
        module=Ranking,
        batches=eight(ranked),
        truth=LOG_OF_ZERO,
        source="textbook: pairwise ranking loss without logsigmoid",
    ),
    Case(
        name="xlogy-of-underflow",
        module=ActionEntropy,
        batches=eight(scenes),
        # The loss is finite: xlogy(0, 0) is 0. Its derivative by the second argument is 0 / 0.
        truth=dict.fromkeys(ALL, Truth(phase="backward", op="xlogy", module="", transition="finite->nan")),
        source="textbook: entropy by xlogy, differentiated",
    ),
    Case(
        name="log-behind-where",
        module=MaskedLogRate,
        batches=eight(exposures),
        # The -inf of the forward pass is masked away; then 0 / 0 in the derivative. Either transition is true.
        truth=dict.fromkeys(ALL, Truth(phase="backward", op="log", module="")),
        source="pytorch/pytorch#68425: a mask behind the logarithm instead of before it",
    ),
    Case(
        name="log-power-of-silence",
        module=SpeechClassifier,
        batches=eight(speech),
        truth=dict.fromkeys(ALL, Truth(phase="input", line=False, tensor="batch[0]", sample=3)),
        source="textbook: log-spectrogram of digital silence, made by the loader",
    ),
]
