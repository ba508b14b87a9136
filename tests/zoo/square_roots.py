"""Square roots at zero and below: distances of equal points, spreads of constants, and the where-trap."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.zoo.batches import SIZE, eight
from tests.zoo.case import BF16, FP32, HEALTHY, SCALER, Case, Truth, ZooModule

ALL = (FP32, BF16, SCALER)


def derivative(op: str, transition: str, module: str = "") -> dict[str, Truth]:
    """Return the truth of a bad derivative, the same in every precision."""
    truth = Truth(phase="backward", op=op, module=module, transition=transition)  # type: ignore[arg-type]
    return dict.fromkeys(ALL, truth)


class RaySphere(ZooModule):
    """Differentiable rendering of a sphere: the depth at which each ray meets it, 0 where it misses."""

    def __init__(self) -> None:
        super().__init__()
        self.radius = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Softplus())

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        latent, offset, depth = batch
        radius = 0.5 + self.radius(latent)[:, 0].float()
        discriminant = radius**2 - offset**2
        half_chord = torch.where(discriminant > 0, torch.sqrt(discriminant), 0.0)  # born: ray-that-misses
        return functional.mse_loss(2 - half_chord, depth)


def rays(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, distances of the rays from the centre (one of the bad batch passes by) and depths."""
    latent = torch.randn(SIZE, 3, generator=generator)
    offset = 0.3 * torch.rand(SIZE, generator=generator)
    if bad:
        offset[2] = 30.0
    return latent, offset, 1 + torch.rand(SIZE, generator=generator)


class InteratomicPotential(ZooModule):
    """Pair energies over an edge list; the distance is the root of a sum of squares."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Linear(3, 3)
        self.energy = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 1))

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        position, edges, target = batch
        moved = position + 0.1 * self.shift(position).float()
        difference = moved[edges[0]] - moved[edges[1]]
        distance = difference.pow(2).sum(-1, keepdim=True).sqrt()  # born: edge-to-itself
        return (self.energy(distance).float().mean() - target) ** 2


def molecule(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return positions, edges (one of the bad batch joins an atom to itself) and an energy."""
    position = torch.randn(SIZE, 3, generator=generator) * 2
    edges = torch.stack([torch.arange(SIZE), torch.arange(SIZE).roll(1)])
    if bad:
        edges[1, 4] = 4
    return position, edges, torch.randn((), generator=generator)


class Siamese(ZooModule):
    """Contrastive loss (Hadsell, Chopra and LeCun, 2006) on Euclidean distances written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        left, right, same = batch
        gap = self.encoder(left) - self.encoder(right)
        distance = torch.sqrt((gap.float() ** 2).sum(-1))  # born: equal-pair
        apart = functional.relu(1 - distance) ** 2
        return (same * distance**2 + (1 - same) * apart).mean()


def pairs(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return both sides of pairs and whether they match; the bad batch holds one picture twice."""
    left, right = torch.randn(2, SIZE, 5, generator=generator)
    if bad:
        right[6] = left[6]
    return left, right, torch.arange(1, SIZE + 1) % 2.0


class InstanceNorm(nn.Module):
    """Instance normalisation with its epsilon outside of the root."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True)
        return (x - mean) / (variance.sqrt() + 1e-5)  # born: black-frame


class VideoClassifier(ZooModule):
    """A convolution without bias, as is usual before a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = InstanceNorm()
        self.head = nn.Linear(4, 3)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        frame, label = batch
        hidden = torch.relu(self.norm(self.conv(frame))).mean((2, 3))
        return functional.cross_entropy(self.head(hidden), label)


def frames(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return frames, one of them black in the bad batch, and labels."""
    frame = torch.rand(SIZE, 1, 6, 6, generator=generator)
    if bad:
        frame[5] = 0.0
    return frame, torch.arange(SIZE) % 3


class Critic(ZooModule):
    """The critic of a Wasserstein GAN with gradient penalty, on sequences of different length."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        sequence, mask = batch
        sequence = sequence.detach().requires_grad_()
        score = (self.net(sequence)[..., 0] * mask).sum(-1)
        slope = torch.autograd.grad(score.sum(), sequence, create_graph=True)[0]
        norm = slope.pow(2).sum((1, 2)).sqrt()  # born: gradient-penalty-of-empty-sequence
        return score.mean() + 10 * ((norm - 1) ** 2).mean()


def sequences(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return sequences and their masks; one sequence of the bad batch is all padding."""
    sequence = torch.randn(SIZE, 6, 3, generator=generator)
    length = torch.randint(2, 7, (SIZE,), generator=generator)
    if bad:
        length[1] = 0
    return sequence, (torch.arange(6) < length[:, None]).float()


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over time; the variance is the mean of squares minus the square of the mean."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1)
        variance = (x * x).mean(-1) - mean * mean
        return torch.cat([mean, variance.sqrt()], -1)  # born: cancelled-variance


class SpeakerEmbedding(ZooModule):
    """A speaker classifier with statistics pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Conv1d(4, 16, 1)
        self.pool = StatisticsPooling()
        self.head = nn.Linear(32, 3)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        features, speaker = batch
        return functional.cross_entropy(self.head(self.pool(self.frames(features).float())), speaker)


def recordings(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return features (samples, bands, frames), on a large offset in the bad batch, and speakers."""
    features = torch.randn(SIZE, 4, 7, generator=generator)
    if bad:
        features = 1000 + 1e-3 * features
    return features, torch.arange(SIZE) % 3


class DocumentMatcher(ZooModule):
    """Cosine similarity of summed word vectors, divided by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)

    def embed(self, document: Tensor, mask: Tensor) -> Tensor:
        return (self.words(document) * mask[..., None]).sum(1)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        query, document, mask, match = batch
        a, b = self.embed(query, torch.ones_like(mask)), self.embed(document, mask)
        cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))  # born: cosine-of-empty-document
        return functional.mse_loss(cosine.float(), match)


def documents(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return words of queries and documents, the documents' mask (one of the bad batch is empty) and matches."""
    query, document = torch.randint(20, (2, SIZE, 5), generator=generator)
    mask = torch.ones(SIZE, 5)
    if bad:
        mask[7] = 0.0
    return query, document, mask, torch.arange(SIZE) % 2.0


class RMSNorm(nn.Module):
    """Root-mean-square normalisation without epsilon."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True))  # born: rms-norm-of-padding


class RMSNormTinyEpsilon(nn.Module):
    """The same with an epsilon that is 0 in fp16, where the least positive number is 6e-8."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-8)  # born: epsilon-lost-in-fp16


class Tagger(ZooModule):
    """Tags tokens; padding has the zero vector and a projection without bias leaves it there."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.tokens = nn.Embedding(12, 6, padding_idx=0)
        self.project = nn.Linear(6, 6, bias=False)
        self.norm = norm
        self.head = nn.Linear(6, 4)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        token, tag = batch
        logits = self.head(self.norm(self.project(self.tokens(token))))
        return functional.cross_entropy(logits.flatten(0, 1), tag.flatten(), ignore_index=-1)


def sentences(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return tokens and tags; one sentence of the bad batch is shorter than the others, and padded."""
    token = torch.randint(1, 12, (SIZE, 5), generator=generator)
    tag = torch.randint(4, (SIZE, 5), generator=generator)
    if bad:
        token[3, 4], tag[3, 4] = 0, -1
    return token, tag


class MaskedMean(ZooModule):
    """Mean over the valid steps of a sequence, with a mask behind the division."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(3, 4)
        self.head = nn.Linear(4, 1)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        sequence, mask = batch
        total = (torch.tanh(self.step(sequence)) * mask[..., None]).sum(1)
        count = mask.sum(1, keepdim=True)
        mean = torch.where(count > 0, total / count, 0.0)  # born: division-behind-where
        return (self.head(mean)[:, 0] - sequence.mean((1, 2))).square().mean()


class Autoencoder(ZooModule):
    """The root-mean-square error of each sample; 0 where an empty input is restored without error."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 3, bias=False), nn.Tanh(), nn.Linear(3, 6, bias=False))

    def loss(self, batch: Tensor) -> Tensor:
        error = functional.mse_loss(self.net(batch), batch, reduction="none")
        return torch.sqrt(error.mean(-1)).mean()  # born: perfect-reconstruction


def signals(generator: Generator, *, bad: bool) -> Tensor:
    """Return signals; one of the bad batch is empty."""
    signal = torch.randn(SIZE, 6, generator=generator)
    if bad:
        signal[0] = 0.0
    return signal


class SpeechEnhancer(ZooModule):
    """A filter without bias, with the magnitude loss of a spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv1d(1, 1, 5, padding=2, bias=False)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        noisy, clean = batch
        spectrum = torch.view_as_real(torch.fft.rfft(self.filter(noisy).float()))
        magnitude = torch.sqrt((spectrum**2).sum(-1))  # born: magnitude-of-silence
        return functional.l1_loss(magnitude, torch.fft.rfft(clean).abs())


def waves(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return noisy and clean waves (samples, 1, time); one of the bad batch is silent, and so is its target."""
    clean = torch.sin(torch.arange(16) * (0.2 + torch.rand(SIZE, 1, 1, generator=generator)))
    noisy = clean + 0.1 * torch.randn(SIZE, 1, 16, generator=generator)
    if bad:
        clean[4], noisy[4] = 0.0, 0.0
    return noisy, clean


CASES: list[Case] = [
    Case(
        name="ray-that-misses",
        module=RaySphere,
        batches=eight(rays),
        truth=derivative("sqrt", "finite->nan"),
        source="pytorch/pytorch#68425: where() does not stop the NaN of the branch that it throws away",
    ),
    Case(
        name="edge-to-itself",
        module=InteratomicPotential,
        batches=eight(molecule),
        truth=derivative("sqrt", "finite->inf"),
        source="pytorch/pytorch#2421: root of a sum of squares at 0; here a self-loop in an edge list",
    ),
    Case(
        name="equal-pair",
        module=Siamese,
        batches=eight(pairs),
        # The incoming gradient is 2 * distance = 0: the derivative is 0 / 0.
        truth=derivative("sqrt", "finite->nan"),
        source="textbook: contrastive loss on a duplicate",
    ),
    Case(
        name="black-frame",
        module=VideoClassifier,
        batches=eight(frames),
        truth=derivative("sqrt", "finite->nan", "norm"),
        source="textbook: epsilon outside of the root, on a constant channel",
    ),
    Case(
        name="gradient-penalty-of-empty-sequence",
        module=Critic,
        batches=eight(sequences),
        truth=derivative("sqrt", "finite->inf"),
        source="pytorch/pytorch#2534: gradient penalty where the gradient is 0",
        variants=False,  # neither a compiled graph nor a reentrant checkpoint can be differentiated twice
    ),
    Case(
        name="cancelled-variance",
        module=SpeakerEmbedding,
        batches=eight(recordings),
        # In bf16 and fp16 the convolution's output is constant: the difference is 0 exactly, or rounds differently.
        truth={FP32: Truth(phase="forward", op="sqrt", module="pool", transition="finite->nan")},
        source="textbook: variance as a difference of large numbers",
    ),
    Case(
        name="cosine-of-empty-document",
        module=DocumentMatcher,
        batches=eight(documents),
        truth=dict.fromkeys(ALL, Truth(phase="forward", op="div", module="", transition="finite->nan")),
        source="textbook: cosine similarity of a zero vector, by hand",
    ),
    Case(
        name="rms-norm-of-padding",
        module=lambda: Tagger(RMSNorm()),
        batches=eight(sentences),
        # The loss leaves the padded token out and is finite.
        truth=derivative("rsqrt", "finite->inf", "norm"),
        source="textbook: root-mean-square normalisation of a padding vector",
    ),
    Case(
        name="epsilon-lost-in-fp16",
        module=lambda: Tagger(RMSNormTinyEpsilon()),
        batches=eight(sentences),
        truth={FP32: HEALTHY, BF16: HEALTHY, SCALER: derivative("rsqrt", "finite->inf", "norm")[SCALER]},
        source="pyg-team/pytorch_geometric#2106: an epsilon that rounds to 0 in half precision",
    ),
    Case(
        name="division-behind-where",
        module=MaskedMean,
        batches=eight(sequences),
        truth=derivative("div", "finite->nan"),
        source="pytorch/pytorch#108618: a mask behind the division instead of before it",
    ),
    Case(
        name="perfect-reconstruction",
        module=Autoencoder,
        batches=eight(signals),
        truth=derivative("sqrt", "finite->inf"),
        source="textbook: root-mean-square error of 0",
    ),
    Case(
        name="magnitude-of-silence",
        module=SpeechEnhancer,
        batches=eight(waves),
        truth=derivative("sqrt", "finite->nan"),
        source="textbook: magnitude of a spectrum by hand, on silence",
    ),
]
