"""Generative models, most of them of digits; among them losses that may well be negative."""

from __future__ import annotations

import math
from typing import Any

import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, RMSprop

from tests.rules.healthy.case import Case, Goal, Learner, Training, below
from tests.rules.healthy.data import digits, flat, loader, standard_digits, whole
from tests.rules.healthy.schedules import warmup_cosine


class Variational(Learner):
    """A variational autoencoder; its loss is the negative evidence bound, in nats per image."""

    def __init__(self, width: int = 128, latent: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, width), nn.ReLU(), nn.Linear(width, 64))

    def loss(self, batch: Any) -> Tensor:
        (x,) = batch
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        seen = functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(-1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        return (seen + divergence).mean()

    def measure(self) -> float:
        return float(self.loss((flat(digits()).test_x,)))

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=1e-3)


def variational() -> Training:
    data = flat(digits())
    return Training(
        module=Variational(),
        train=loader(data.x),
        validation=whole(data.test_x),
        trainer={"max_steps": 2000},
        monitor={"log_every_n_steps": 20},
    )


class Autoencoder(Learner):
    """Compresses images to 12 numbers; measures the share of the variance that is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ELU(), nn.Linear(96, 12))
        self.decoder = nn.Sequential(nn.Linear(12, 96), nn.ELU(), nn.Linear(96, 64))

    def loss(self, batch: Any) -> Tensor:
        (x,) = batch
        return functional.mse_loss(self.decoder(self.encoder(x)), x)

    def measure(self) -> float:
        return float(self.loss((flat(standard_digits()).test_x,)))

    def configure_optimizers(self) -> Any:
        return RMSprop(self.parameters(), lr=1e-3)


def autoencoder() -> Training:
    data = flat(standard_digits())
    return Training(
        module=Autoencoder(),
        train=loader(data.x),
        validation=whole(data.test_x),
        trainer={"max_steps": 2000},
        monitor={"log_every_n_steps": 50},
    )


class Denoiser(Learner):
    """Guesses the noise in a noisy image, at noise levels along a cosine (Nichol and Dhariwal, 2021)."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Linear(64, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.leave = nn.Linear(width, 64)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        waves = level[:, None] * math.pi * 2.0 ** torch.linspace(-2, 6, 16)
        time = self.time(torch.cat([waves.sin(), waves.cos()], dim=-1))
        hidden = self.enter(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = hidden + layer(functional.silu(norm(hidden) + time))
        return self.leave(hidden)

    def loss(self, batch: Any) -> Tensor:
        (x,) = batch
        level, noise = torch.rand(len(x)), torch.randn_like(x)
        angle = 0.5 * math.pi * level[:, None]
        return functional.mse_loss(self(angle.cos() * x + angle.sin() * noise, level), noise)

    def measure(self) -> float:
        return float(self.loss((flat(standard_digits()).test_x.repeat(8, 1),)))

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=2e-3)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": warmup_cosine(2000)(optimizer), "interval": "step"},
        }


def denoiser() -> Training:
    data = flat(standard_digits())
    return Training(
        module=Denoiser(),
        train=loader(data.x),
        trainer={"max_steps": 2000, "gradient_clip_val": 1.0},
        monitor={"log_every_n_steps": 20},
    )


class Adversarial(Learner):
    """A GAN in manual optimization; measures how many of the ten digits it makes, by their nearest neighbours."""

    def __init__(self, latent: int = 16) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.latent = latent
        self.generator = nn.Sequential(
            *(nn.Linear(latent, 128), nn.BatchNorm1d(128), nn.ReLU()),
            *(nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64), nn.Tanh()),
        )
        self.discriminator = nn.Sequential(
            *(nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
            *(nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(128, 1)),
        )

    def verdict(self, x: Tensor, target: float) -> Tensor:
        logits = self.discriminator(x)
        return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        discriminate, generate = optimizers
        real = 2 * batch[0] - 1
        fake = self.generator(torch.randn(len(real), self.latent))
        loss = self.verdict(real, 0.9) + self.verdict(fake.detach(), 0.0)
        discriminate.zero_grad()
        self.manual_backward(loss)
        discriminate.step()
        self.log("d_loss", loss)
        loss = self.verdict(fake, 1.0)
        generate.zero_grad()
        self.manual_backward(loss)
        generate.step()
        self.log("g_loss", loss)

    def measure(self) -> float:
        data = flat(digits())
        made = (self.generator(torch.randn(1000, self.latent)) + 1) / 2
        distance, nearest = torch.cdist(made, data.x).min(1)
        good = distance < 2.0  # two images of one digit are about as far from one another
        return float((torch.bincount(data.y[nearest][good], minlength=10) >= 20).sum())

    def configure_optimizers(self) -> Any:
        return (
            Adam(self.discriminator.parameters(), lr=4e-4, betas=(0.5, 0.999)),
            Adam(self.generator.parameters(), lr=4e-4, betas=(0.5, 0.999)),
        )


def adversarial() -> Training:
    return Training(
        module=Adversarial(),
        train=loader(flat(digits()).x),
        trainer={"max_steps": 5000},
        monitor={"log_every_n_steps": 50},
    )


class Coupling(nn.Module):
    """One affine coupling layer of RealNVP: scales and shifts one coordinate by what the other says."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.net = nn.Sequential(nn.Linear(1, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x.chunk(2, dim=-1) if self.first else x.flip(-1).chunk(2, dim=-1)
        scale, shift = self.net(kept).chunk(2, dim=-1)
        scale = torch.tanh(scale)
        both = torch.cat([kept, moved * scale.exp() + shift], dim=-1)
        return both if self.first else both.flip(-1), scale.squeeze(-1)


class Flow(Learner):
    """A normalising flow: the loss is minus the logarithm of a density, and becomes negative."""

    def __init__(self, test: Tensor) -> None:
        super().__init__()
        self.test = test
        self.layers = nn.ModuleList(Coupling(first=index % 2 == 0) for index in range(6))

    def loss(self, batch: Any) -> Tensor:
        (x,) = batch
        determinant = torch.zeros(len(x))
        for layer in self.layers:
            x, scale = layer(x)
            determinant = determinant + scale
        return (0.5 * x.square().sum(-1) + math.log(2 * math.pi) - determinant).mean()

    def measure(self) -> float:
        return float(self.loss((self.test,)))

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=1e-3)


def flow() -> Training:
    points, _ = datasets.make_moons(4000, noise=0.03, random_state=0)
    x = torch.tensor(points, dtype=torch.float32)
    x = 0.5 * (x - x.mean(0)) / x.std(0)
    return Training(
        module=Flow(x[3000:]),
        train=loader(x[:3000], batch=128),
        validation=whole(x[3000:]),
        trainer={"max_steps": 2000},
        monitor={"log_every_n_steps": 50},
    )


class Quantized(Learner):
    """A VQ-VAE: nearest codes, gradients straight through, and a commitment to the codes."""

    def __init__(self, codes: int = 64, groups: int = 8, width: int = 8) -> None:
        super().__init__()
        self.groups, self.width = groups, width
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, groups * width))
        self.codes = nn.Embedding(codes, width)
        nn.init.normal_(self.codes.weight, std=0.3)
        self.decoder = nn.Sequential(nn.Linear(groups * width, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x).view(-1, self.groups, self.width)
        chosen = self.codes(torch.cdist(z.detach(), self.codes.weight.detach()).argmin(-1))
        penalty = functional.mse_loss(chosen, z.detach()) + 0.25 * functional.mse_loss(z, chosen.detach())
        return self.decoder((z + (chosen - z).detach()).flatten(1)), penalty

    def loss(self, batch: Any) -> Tensor:
        (x,) = batch
        made, penalty = self(x)
        return functional.mse_loss(made, x) + penalty

    def measure(self) -> float:
        x = flat(standard_digits()).test_x
        return float(functional.mse_loss(self(x)[0], x))

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=2e-3)


def quantized() -> Training:
    return Training(
        module=Quantized(),
        train=loader(flat(standard_digits()).x),
        trainer={"max_steps": 1800},
        monitor={"log_every_n_steps": 20},
    )


CASES = [
    Case(name="vae", about="reparametrised samples", make=variational, learned=below("nats per image", 30)),
    Case(name="autoencoder", about="12 numbers an image", make=autoencoder, learned=below("variance lost", 0.25)),
    Case(
        name="denoiser",
        about="diffusion: noise levels drawn anew at each step, the last layer begins at 0",
        make=denoiser,
        learned=below("error of the noise", 0.4),
    ),
    Case(
        name="gan",
        about="two optimizers in turn, manual optimization",
        make=adversarial,
        learned=Goal("at least 7 digits made", lambda digits: digits >= 7),
    ),
    Case(name="flow", about="a negative loss that is right", make=flow, learned=below("nats per point", 0.6)),
    Case(name="vq-vae", about="straight-through gradients", make=quantized, learned=below("variance lost", 0.35)),
]
