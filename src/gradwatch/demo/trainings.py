"""The four trainings: what is trained on what, for how long, and what counts as learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.demo.digits import ClassBalancedCNN, DigitsCNN, digit_loaders
from gradwatch.demo.text import CharLSTM, CharTransformer, english_characters, text_loaders, unigram_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule
    from torch.utils.data import DataLoader

# A language model has to reach this share of what letter frequencies alone reach.
WELL_UNDER = 0.75


class Goal(NamedTuple):
    """A metric that the model logs, how to say it, and whether the value shows that something was learned."""

    metric: str
    describe: Callable[[float], str]
    reached: Callable[[float], bool]


class Setup(NamedTuple):
    """A model with its data, built after the seed is set."""

    model: LightningModule
    train: DataLoader[Any]
    test: DataLoader[Any]
    goal: Goal


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One run of the demo. ``name`` is its folder; ``bug`` is what is wrong with it, None for a healthy one."""

    name: str
    title: str
    seed: int
    steps: int
    quick_steps: int
    build: Callable[[], Setup]
    bug: str | None = None


DIGITS_GOAL = Goal(
    "accuracy",
    lambda value: f"accuracy {value:.1%} on 360 unseen digits (guessing: 10%)",
    lambda value: value > 0.9,  # noqa: PLR2004 - the demo's own bar; the healthy run reaches 0.99
)


def _digits(model: Callable[[], LightningModule]) -> Callable[[], Setup]:
    return lambda: Setup(model(), *digit_loaders(), DIGITS_GOAL)


def _text(model: Callable[[int], LightningModule]) -> Callable[[], Setup]:
    def build() -> Setup:
        train, test, alphabet = english_characters()
        return Setup(
            model(alphabet), *text_loaders(train, test), _text_goal(unigram_cross_entropy(train, test, alphabet))
        )

    return build


def _text_goal(unigram: float) -> Goal:
    return Goal(
        "test_loss",
        lambda value: f"{value:.2f} nats per character on unseen text (letter frequencies: {unigram:.2f})",
        lambda value: value < WELL_UNDER * unigram,
    )


TRAININGS = (
    Training(name="digits_cnn", title="digits CNN", seed=0, steps=400, quick_steps=44, build=_digits(DigitsCNN)),
    Training(
        name="char_transformer",
        title="char transformer",
        seed=0,
        steps=600,
        quick_steps=15,
        build=_text(CharTransformer),
    ),
    Training(name="char_lstm", title="char LSTM", seed=0, steps=1000, quick_steps=30, build=_text(CharLSTM)),
    Training(
        name="nan_bug",
        title="digits CNN + bug",
        seed=19,  # the first batch that lacks a digit comes in the middle of the training
        steps=300,
        quick_steps=300,
        build=_digits(ClassBalancedCNN),
        bug="its loss averages over the images of each class; a batch that lacks one of the ten digits makes it 0/0",
    ),
)
