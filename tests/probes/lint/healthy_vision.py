"""Healthy networks on images: on none of them may the lint say a word."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

IMAGES = (8, 3, 16, 16)


def images() -> Tensor:
    return torch.rand(IMAGES)


def labels() -> Tensor:
    return torch.randint(0, 10, (IMAGES[0],))


class Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])
        self.short = nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norms[0](self.first(x)), inplace=True)
        h = self.norms[1](self.second(h))
        h += self.short(x)
        return functional.relu(h)


class ResNet(nn.Module):
    """With label smoothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.body = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 10))

    def loss(self) -> Tensor:
        logits = self.head(self.body(self.stem(images())))
        return functional.cross_entropy(logits, labels(), label_smoothing=0.1)


class UNet(nn.Module):
    """With group normalisation and a dice loss that is guarded."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.GroupNorm(4, 8), nn.SiLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.SiLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Conv2d(16, 1, 1)

    def loss(self) -> Tensor:
        x = images()
        skip = self.down(x)
        logits = self.out(torch.cat([self.up(self.middle(skip)), skip], 1))
        target = (x.mean(1, keepdim=True) > 0.5).float()
        p = logits.sigmoid()
        overlap = (p * target).sum((1, 2, 3))
        dice = 1 - (2 * overlap + 1) / (p.sum((1, 2, 3)) + target.sum((1, 2, 3)) + 1)
        return functional.binary_cross_entropy_with_logits(logits, target) + dice.mean()


class Autoencoder(nn.Module):
    """A variational autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 768))

    def loss(self) -> Tensor:
        x = images()
        mean, logvar = self.encoder(x).chunk(2, dim=-1)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
        divergence = -0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp(), dim=1).mean()
        error = functional.binary_cross_entropy_with_logits(self.decoder(z), x.flatten(1), reduction="none").sum(1)
        return error.mean() + divergence


class Adversaries(nn.Module):
    """A generator and a discriminator with spectral normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 768), nn.Tanh())
        self.critic = nn.Sequential(spectral_norm(nn.Linear(768, 16)), nn.LeakyReLU(0.2), weight_norm(nn.Linear(16, 1)))

    def loss(self) -> Tensor:
        real = images().flatten(1) * 2 - 1
        fake = self.generator(torch.randn(8, 4))
        of_real, of_fake = self.critic(real), self.critic(fake.detach())
        critic = functional.binary_cross_entropy_with_logits(of_real, torch.ones_like(of_real))
        critic = critic + functional.binary_cross_entropy_with_logits(of_fake, torch.zeros_like(of_fake))
        generator = functional.softplus(-self.critic(fake)).mean()
        return critic + generator


class Wasserstein(nn.Module):
    """A critic with a gradient penalty by the norm, whose derivative at 0 is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 1))

    def loss(self) -> Tensor:
        real, fake = torch.randn(8, 12), torch.randn(8, 12)
        mix = torch.rand(8, 1)
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        slope = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)[0]
        penalty = ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
        return self.critic(fake).mean() - self.critic(real).mean() + 10 * penalty


class Contrastive(nn.Module):
    """InfoNCE with a learnt temperature, as in CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(768, 16), nn.Linear(768, 16)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def loss(self) -> Tensor:
        x = images().flatten(1)
        a = functional.normalize(self.first(x), dim=-1)
        b = functional.normalize(self.second(x + 0.1 * torch.randn_like(x)), dim=-1)
        logits = self.scale.exp().clamp(max=100) * a @ b.T
        target = torch.arange(len(x))
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


class Redundancy(nn.Module):
    """VICReg: variance, invariance and covariance, with its eps inside of the root."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(768, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))

    def loss(self) -> Tensor:
        x = images().flatten(1)
        a, b = self.net(x), self.net(x + 0.1 * torch.randn_like(x))
        total = functional.mse_loss(a, b)
        for z in (a, b):
            centred = z - z.mean(dim=0)
            spread = torch.sqrt(centred.var(dim=0) + 1e-4)
            covariance = centred.T @ centred / (len(z) - 1)
            off = covariance.flatten()[:-1].view(7, 9)[:, 1:].flatten()
            total = total + torch.mean(functional.relu(1 - spread)) + off.pow(2).sum() / 8
        return total


class Patches(nn.Module):
    """A vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16) * 0.02)
        layer = nn.TransformerEncoderLayer(16, 4, 32, 0.1, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def loss(self) -> Tensor:
        x = self.patch(images()).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        return functional.cross_entropy(self.head(self.encoder(x)[:, 0]), labels())


class FocalDetector(nn.Module):
    """The focal loss of logits with a guarded number of positives, and a smooth L1 loss of boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.classes, self.boxes = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def loss(self) -> Tensor:
        h = self.body(images())
        logits = self.classes(h)
        target = (torch.rand_like(logits.float()) > 0.95).float()
        p = torch.sigmoid(logits)
        entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        true = p * target + (1 - p) * (1 - target)
        weight = (0.25 * target + 0.75 * (1 - target)) * (1 - true) ** 2
        count = target.sum().clamp(min=1.0)
        boxes = functional.smooth_l1_loss(self.boxes(h).float(), torch.randn(8, 4, 8, 8), reduction="none")
        return (weight * entropy).sum() / count + (boxes * target).sum() / count


class Radiance(nn.Module):
    """Volume rendering with expm1 and a guarded logarithm; the metric is only logged."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 4))
        self.logged = torch.zeros(())

    def loss(self) -> Tensor:
        colour, density = self.net(torch.rand(8, 12, 3)).float().split([3, 1], dim=-1)
        depth = functional.softplus(density.squeeze(-1) - 1) * 0.1
        alpha = -torch.expm1(-depth)
        through = torch.exp(-torch.cumsum(depth, -1) + depth)
        rendered = ((alpha * through)[..., None] * colour.sigmoid()).sum(1)
        loss = functional.mse_loss(rendered, torch.rand(8, 3))
        self.logged = -10 * torch.log10(loss.detach())
        return loss


VISION = (
    ResNet,
    UNet,
    Autoencoder,
    Adversaries,
    Wasserstein,
    Contrastive,
    Redundancy,
    Patches,
    FocalDetector,
    Radiance,
)
