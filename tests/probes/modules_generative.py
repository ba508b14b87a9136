"""Generative and contrastive models, adversaries, and gradients of gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.probes.probed import CLASSES, FEATURES, PASS, SAMPLES, Probe, probed, vectors

LATENT = 3


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Return a smooth network with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, outputs))


class Adversarial(Probe):
    """A GAN in manual optimization: the discriminator learns from detached fakes, then the generator from it."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = network(LATENT, FEATURES)
        self.discriminator = network(FEATURES, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real, _ = batch
        optimizers: Any = self.optimizers()
        to_generate, to_discriminate = optimizers
        fake = self.generator(torch.randn(SAMPLES, LATENT))
        detached = fake.detach()  # stops: gan-fake
        loss = -self.score(real) - functional.logsigmoid(-self.discriminator(detached)).mean()
        to_discriminate.zero_grad()
        self.manual_backward(loss)
        to_discriminate.step()
        to_generate.zero_grad()
        self.manual_backward(-self.score(fake))
        to_generate.step()

    def score(self, x: Tensor) -> Tensor:
        """Return how real ``x`` looks."""
        return functional.logsigmoid(self.discriminator(x)).mean()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (self.generator, self.discriminator)]


class Toggled(Probe):
    """Two networks that predict each other's output; each optimizer toggled for its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first = network(FEATURES, CLASSES)
        self.second = network(FEATURES, CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        optimizers: Any = self.optimizers()
        for optimizer, part in zip(optimizers, (self.first, self.second), strict=True):
            self.toggle_optimizer(optimizer)
            loss = functional.cross_entropy(part(x), y) + (self.first(x) - self.second(x)).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.05) for part in (self.first, self.second)]


class Variational(Probe):
    """A VAE; with ``beta`` it returns the terms of its loss too."""

    def __init__(self, beta: float | None) -> None:
        super().__init__()
        self.encoder = network(FEATURES, 2 * LATENT)
        self.decoder = network(LATENT, FEATURES)
        self.beta = beta

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, _ = batch
        mean, logvar = self.encoder(x).chunk(2, -1)
        latent = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        reconstruction = (self.decoder(latent) - x).square().sum(-1).mean()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(-1).mean()
        if self.beta is None:
            return reconstruction + divergence
        self.log_dict({"reconstruction": reconstruction, "divergence": divergence}, on_epoch=True)
        loss = reconstruction + self.beta * divergence
        return {
            "loss": loss,
            "reconstruction": reconstruction.detach(),
            "divergence": divergence.detach(),
            "latent": latent,
        }


class Contrastive(Probe):
    """Two noisy views, InfoNCE with a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, 8)
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        first, second = (functional.normalize(self.network(x + 0.1 * torch.randn_like(x)), dim=-1) for _ in range(2))
        logits = first @ second.mT * self.temperature.exp()
        target = torch.arange(SAMPLES)
        return functional.cross_entropy(logits, target) + functional.cross_entropy(logits.mT, target)


class Decorrelated(Probe):
    """VICReg: variance and covariance of the batch itself."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, 4)

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        first, second = (self.network(x + 0.1 * torch.randn_like(x)) for _ in range(2))
        centred = first - first.mean(0)
        covariance = centred.mT @ centred / (SAMPLES - 1)
        spread = functional.relu(1 - first.std(0)).mean()
        return (first - second).square().mean() + spread + (covariance - covariance.diag().diag()).square().sum()


class Critic(Probe):
    """A Wasserstein critic with a gradient penalty: its loss contains a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(FEATURES, 16), nn.Softplus(), nn.Linear(16, 1))

    def loss(self, batch: Any) -> Tensor:
        real, _ = batch
        fake = torch.randn_like(real)
        mixed = torch.lerp(real, fake, torch.rand(SAMPLES, 1)).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(mixed).sum(), mixed, create_graph=True)
        return self.critic(fake).mean() - self.critic(real).mean() + 10 * (slope.norm(dim=-1) - 1).square().mean()


class Denoiser(Probe):
    """A diffusion model: random times and random noise in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES + 2, FEATURES)

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        angle = torch.randint(1, 100, (SAMPLES, 1)) * (math.pi / 200)
        noise = torch.randn_like(x)
        seen = angle.cos() * x + angle.sin() * noise
        return functional.huber_loss(self.network(torch.cat([seen, angle.cos(), angle.sin()], -1)), noise)


class Flow(Probe):
    """A normalizing flow of two affine couplings."""

    def __init__(self) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(network(FEATURES // 2, FEATURES) for _ in range(2))

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        volume = torch.zeros(SAMPLES)
        for coupling in self.couplings:
            kept, moved = x.chunk(2, -1)
            scale, shift = coupling(kept).chunk(2, -1)
            x = torch.cat([moved * scale.tanh().exp() + shift, kept], -1)
            volume = volume + scale.tanh().sum(-1)
        return (0.5 * x.square().sum(-1) - volume).mean()


class MetaLearner(Probe):
    """MAML: one inner step by a gradient that stays in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(FEATURES, CLASSES)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        weights: dict[str, Tensor] = dict(self.network.named_parameters())
        inner = functional.cross_entropy(torch.func.functional_call(self.network, weights, (x[:4],)), y[:4])
        slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
        adapted = {name: weight - 0.5 * slope for (name, weight), slope in zip(weights.items(), slopes, strict=True)}
        return functional.cross_entropy(torch.func.functional_call(self.network, adapted, (x[4:],)), y[4:])


class Experts(Probe):
    """The best two of four experts for each sample, and a loss that spreads the load."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(FEATURES, 4)
        self.experts = nn.ModuleList(network(FEATURES, CLASSES) for _ in range(4))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        gates = self.router(x).softmax(-1)
        best, chosen = gates.topk(2)
        every = torch.stack([expert(x) for expert in self.experts], 1)
        mixed = (best[..., None] * every.gather(1, chosen[..., None].expand(-1, -1, CLASSES))).sum(1)
        share = functional.one_hot(chosen, 4).to(x.dtype).mean((0, 1))
        return functional.cross_entropy(mixed, y) + 0.1 * (share * gates.mean(0)).sum()


CASES = (
    probed(
        "gan-manual",
        Adversarial,
        vectors,
        PASS | {"explained"},
        "the fakes are detached from the discriminator's loss; a check of each loss by its own optimizer's weights "
        "alone never moves the generator there",
        stops=("gan-fake",),
    ),
    probed("two-optimizers-toggled", Toggled, vectors, PASS, "toggled-off weights ask for no gradient of that loss"),
    probed("vae", lambda: Variational(None), vectors, PASS, "the noise is drawn again as before"),
    probed("beta-vae-dict", lambda: Variational(4.0), vectors, PASS, "detached terms are for the log alone"),
    probed("info-nce", Contrastive, vectors, PASS, "smooth"),
    probed("own-statistics", Decorrelated, vectors, PASS, "statistics of the batch have derivatives, and get them"),
    probed("wgan-gradient-penalty", Critic, vectors, PASS, "the gradient in the loss stays in the graph"),
    probed("diffusion", Denoiser, vectors, PASS, "smooth, or nearly: the second derivative jumps"),
    probed("normalizing-flow", Flow, vectors, PASS, "smooth"),
    probed("maml", MetaLearner, vectors, PASS, "the inner gradient stays in the graph"),
    probed("top-k-experts", Experts, vectors, PASS, "no sample lies within a millionth of another choice of experts"),
)
