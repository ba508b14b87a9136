"""Losses without a value: no target, an impossible target, a NaN label, boxes without area."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from tests.zoo.batches import SIZE, eight
from tests.zoo.case import BF16, FP32, SCALER, Case, Truth, ZooModule

ALL = (FP32, BF16, SCALER)
GUILTY = 2  # the sample of the bad batch that breaks its loss


def every(truth: Truth) -> dict[str, Truth]:
    """Return the same truth for every precision."""
    return dict.fromkeys(ALL, truth)


class LanguageModel(ZooModule):
    """Next words of an answer; the words of the prompt carry the label -100."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 11))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        words, labels = batch
        logits = self.net(self.embed(words)).flatten(0, 1).float()
        return functional.cross_entropy(logits, labels.flatten())  # born: every-target-ignored


def prompts(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return words and labels; the prompts of the bad batch have been truncated before their answers."""
    words = torch.randint(11, (SIZE, 6), generator=generator)
    labels = words.roll(-1, 1).masked_fill(torch.arange(6) < (6 if bad else 3), -100)
    return words, labels


class Speech(ZooModule):
    """Connectionist temporal classification of spectrogram frames."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 6, 1))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        log_probs = self.net(batch["frames"]).float().permute(2, 0, 1).log_softmax(-1)
        lengths = batch["frame_count"], batch["letter_count"]
        return functional.ctc_loss(log_probs, batch["letters"], *lengths)  # born: ctc-shorter-than-target


def speech(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    """Return frames, letters and their numbers; one clip of the bad batch has fewer frames than letters."""
    frame_count = torch.randint(9, 13, (SIZE,), generator=generator)
    if bad:
        frame_count[GUILTY] = 2
    frames = torch.randn(SIZE, 4, 12, generator=generator)
    letters = torch.randint(1, 6, (SIZE, 4), generator=generator)
    return {"frames": frames, "frame_count": frame_count, "letters": letters, "letter_count": torch.full((SIZE,), 4)}


class Sales(ZooModule):
    """A forecast whose missing targets are weighted with zero."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        error = (self.net(batch["history"]).float() - batch["target"]).square()
        return (error * batch["known"]).sum() / batch["known"].sum()


def sales(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    """Return histories, targets and which of these are known; an unknown target is 0, and NaN in the bad batch."""
    history, target = (torch.randn(SIZE, n, generator=generator) for n in (6, 3))
    known = torch.ones(SIZE, 3)
    known[GUILTY, 1] = 0.0
    target[GUILTY, 1] = math.nan if bad else 0.0
    return {"history": history, "target": target, "known": known}


class Radar(ZooModule):
    """A convolutional classifier of radar images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, label = batch
        return functional.cross_entropy(self.net(image).float(), label)


def radar(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return images and labels; a pixel without echo is NaN in the bad batch."""
    image = torch.rand(SIZE, 1, 6, 6, generator=generator)
    if bad:
        image[GUILTY, 0, 3, 4] = math.nan
    return image, torch.randint(2, (SIZE,), generator=generator)


class Survival(ZooModule):
    """Survival over an interval as ``1 - rate * interval``, which holds for short intervals only."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Linear(5, 1)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        patient, interval, died = batch
        hazard = self.rate(patient)[:, 0].float().sigmoid() * interval
        log_survival = torch.log(1 - hazard)  # born: survival-below-zero
        return -(died * torch.log(hazard) + (1 - died) * log_survival).mean()


def patients(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, intervals (years; one of the bad batch in months) and outcomes."""
    interval = 0.1 + 0.5 * torch.rand(SIZE, generator=generator)
    died = (torch.rand(SIZE, generator=generator) < 0.3).float()
    if bad:
        interval[GUILTY], died[GUILTY] = 90.0, 0.0
    return torch.randn(SIZE, 5, generator=generator), interval, died


class Moves(ZooModule):
    """Imitation of an expert player among the legal moves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["board"]).float().masked_fill(~batch["legal"], -math.inf)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(self.logits(batch), batch["move"])  # born: target-is-illegal


class SmoothedMoves(Moves):
    """The same with label smoothing, which gives a share of the target to every move."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self.logits(batch)
        return functional.cross_entropy(logits, batch["move"], label_smoothing=0.1)  # born: smoothing-over-illegal


def illegal_move(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    """Return positions, legal moves and the move played; one of the bad batch was recorded against the rules."""
    move = torch.randint(5, (SIZE,), generator=generator)
    legal = torch.rand(SIZE, 5, generator=generator) < 0.5
    legal[range(SIZE), move] = True
    legal[GUILTY, move[GUILTY]] = not bad
    legal[GUILTY, move[GUILTY] - 1] = True
    return {"board": torch.randn(SIZE, 6, generator=generator), "legal": legal, "move": move}


def restricted(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    """Return positions in which every move is legal, but for one position of the bad batch."""
    move = torch.randint(5, (SIZE,), generator=generator)
    legal = torch.ones(SIZE, 5, dtype=torch.bool)
    legal[GUILTY, move[GUILTY] - 1] = not bad
    return {"board": torch.randn(SIZE, 6, generator=generator), "legal": legal, "move": move}


class BoxRegression(ZooModule):
    """Regression of boxes as offsets from an anchor, sizes as logarithms of ratios."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        anchor, box = batch["anchor"], batch["box"]
        offset = (box[:, :2] - anchor[:, :2]) / anchor[:, 2:]
        ratio = torch.log(box[:, 2:] / anchor[:, 2:])  # born: box-without-width
        return functional.smooth_l1_loss(self.net(batch["x"]).float(), torch.cat([offset, ratio], -1))


class BoxOverlap(BoxRegression):
    """Boxes with a common centre, trained by the ratio of their intersection to their union."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        size = batch["anchor"][:, 2:] * self.net(batch["x"]).float()[:, 2:].clamp(-4, 4).exp()
        target = batch["box"][:, 2:]
        overlap = torch.minimum(size, target).prod(-1)
        union = size.prod(-1) + target.prod(-1) - overlap
        return 1 - (overlap / union).mean()  # born: overlap-of-points


def boxes(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    """Return features, anchors and boxes (centre, size); a crop has left one box of the bad batch no width."""
    anchor, box = (0.2 + torch.rand(2, SIZE, 4, generator=generator)).unbind(0)
    if bad:
        box[GUILTY, 2] = 0.0
    return {"x": torch.randn(SIZE, 6, generator=generator), "anchor": anchor, "box": box}


def points(generator: Generator, *, bad: bool) -> dict[str, Tensor]:
    """Return the same with an anchor and a box of no size at all in the bad batch."""
    batch = boxes(generator, bad=False)
    if bad:
        batch["anchor"][GUILTY, 2:] = batch["box"][GUILTY, 2:] = 0.0
    return batch


class Perplexity(ZooModule):
    """A model of event sequences trained on perplexity itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 4)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, event = batch
        entropy = functional.cross_entropy(self.net(x).float().mT, event, reduction="none").mean(-1)
        return entropy.exp().mean()  # born: perplexity-overflow


def events(generator: Generator, *, bad: bool) -> tuple[Tensor, Tensor]:
    """Return features and events; one sequence of the bad batch has not been scaled."""
    x, event = torch.randn(SIZE, 5, 6, generator=generator), torch.randint(4, (SIZE, 5), generator=generator)
    if bad:
        x[GUILTY] *= 3000
    return x, event


CASES = [
    Case(
        name="every-target-ignored",
        module=LanguageModel,
        batches=eight(prompts),
        truth=every(Truth(phase="forward", op="nll_loss", module="", transition="finite->nan")),
        source="github.com/pytorch/pytorch/issues/70348; loss NaN, gradients finite",
    ),
    Case(
        name="ctc-shorter-than-target",
        module=Speech,
        batches=eight(speech),
        truth=every(Truth(phase="forward", op="ctc_loss", module="", sample=GUILTY, transition="finite->inf")),
        source="github.com/ypwhs/captcha_break/issues/29",
    ),
    Case(
        name="missing-target-times-zero",
        module=Sales,
        batches=eight(sales),
        truth=every(Truth(phase="input", tensor="batch['target']", sample=GUILTY, line=False)),
        source="github.com/pytorch/pytorch/issues/89543",
    ),
    Case(
        name="pixel-without-echo",
        module=Radar,
        batches=eight(radar),
        truth=every(Truth(phase="input", tensor="batch[0]", sample=GUILTY, line=False)),
        source="textbook: missing pixels stored as NaN",
    ),
    Case(
        name="survival-below-zero",
        module=Survival,
        batches=eight(patients),
        truth=every(Truth(phase="forward", op="log", module="", sample=GUILTY, transition="finite->nan")),
        source="textbook: linearised probabilities outside 0..1",
    ),
    Case(
        name="target-is-illegal",
        module=Moves,
        batches=eight(illegal_move),
        # From -inf to +inf without a birth in the strict sense: the loss is inf because of the target that it picks.
        truth=every(Truth(phase="forward", op="nll_loss", module="", sample=GUILTY)),
        source="textbook: a masked class as target; loss inf, gradients finite",
    ),
    Case(
        name="smoothing-over-illegal",
        module=SmoothedMoves,
        batches=eight(restricted),
        # The line is certain; which of the operations inside cross_entropy is named is not judged.
        truth=every(Truth(phase="forward", module="", sample=GUILTY)),
        source="github.com/facebookresearch/pytext/pull/1698; loss inf, gradients finite",
    ),
    Case(
        name="box-without-width",
        module=BoxRegression,
        batches=eight(boxes),
        truth=every(Truth(phase="forward", op="log", module="", sample=GUILTY, transition="finite->inf")),
        source="github.com/amdegroot/ssd.pytorch/pull/116",
    ),
    Case(
        name="overlap-of-points",
        module=BoxOverlap,
        batches=eight(points),
        truth=every(Truth(phase="forward", op="div", module="", sample=GUILTY, transition="finite->nan")),
        source="textbook: intersection over union of boxes without area",
    ),
    Case(
        name="perplexity-overflow",
        module=Perplexity,
        batches=eight(events),
        truth=every(Truth(phase="forward", op="exp", module="", sample=GUILTY, transition="finite->inf")),
        source="textbook: exp of a cross-entropy above 88",
    ),
]
