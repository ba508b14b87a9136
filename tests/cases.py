"""Small trainings of every kind, as a table: ``CASES``.

A case builds a LightningModule with its data and the settings of its Trainer; :func:`train` runs it. A case takes a
few hundredths of a second to train: 2 epochs of 5 batches (10 where a window of accumulation must end early).
"""

from __future__ import annotations

import logging
import random
import re
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.data import DataLoader, TensorDataset

from tests import networks
from tests.networks import Classes, Features, Supervised, bind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=1e-2)
ADAMW = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)


class Setup(NamedTuple):
    """What a fit needs; ``trainer`` holds arguments of the Trainer."""

    module: Any
    train: DataLoader[Any]
    validation: DataLoader[Any] | None = None
    trainer: Mapping[str, Any] = {}


class Case(NamedTuple):
    """A training by name. ``build`` takes the Lightning package that is to run it."""

    name: str
    build: Callable[[Any], Setup]


class Trained(NamedTuple):
    """What a fit leaves behind.

    ``error`` is the exception that ended it, ``failures`` what the monitor logged about failures of its own, which
    never end a run and would otherwise go unnoticed here.
    """

    trainer: Any
    module: Any
    error: BaseException | None
    failures: list[str]


class Failures(logging.Handler):
    """Collects what the monitor says about itself: "failed", "could not", "cannot"."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if re.search(r"\b(failed|could not|cannot)\b", message):
            self.messages.append(message)


def seed(value: int) -> None:
    """Seed the three global generators, without Lightning's message."""
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002 - the global state is what is compared
    random.seed(value)


def train(
    case: Case,
    root: Path,
    callbacks: Callable[[], Sequence[Any]] = tuple,
    *,
    package: Any = lightning.pytorch,
    seed_value: int = 0,
    ckpt_path: Path | None = None,
    **overrides: Any,
) -> Trained:
    """Train ``case`` from a seed. Callbacks are made after seeding, so that what they draw is seen.

    Args:
        case: What to train.
        root: Folder for everything the run writes.
        callbacks: Makes the callbacks to add to those of the case, in this order, after them.
        package: ``lightning.pytorch`` or ``pytorch_lightning``.
        seed_value: Seed of torch, numpy and python.
        ckpt_path: Checkpoint to resume from.
        **overrides: Arguments of the Trainer that replace those of the case.
    """
    seed(value=seed_value)
    setup = case.build(package)
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": root,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        **setup.trainer,
        **overrides,
    }
    settings["callbacks"] = [*settings.get("callbacks", ()), *callbacks()]
    failures, log = Failures(), logging.getLogger("gradwatch")
    log.addHandler(failures)
    error: BaseException | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a case is about numbers, not about what Lightning says of tiny loaders
            trainer = package.Trainer(**settings)
            trainer.fit(setup.module, setup.train, setup.validation, ckpt_path=ckpt_path)
    except Exception as raised:  # noqa: BLE001 - a monitor may raise anything; the caller looks at it
        error = raised
    finally:
        log.removeHandler(failures)
    return Trained(trainer, setup.module, error, failures.messages)


def loader(x: Tensor, y: Tensor, *, shuffle: bool = True) -> DataLoader[Any]:
    """Batches of 4 samples."""
    return DataLoader(TensorDataset(x, y), batch_size=4, shuffle=shuffle)


def labelled(*shape: int, samples: int = 20, shuffle: bool = True) -> DataLoader[Any]:
    """Normal features of ``shape`` with random classes."""
    return loader(torch.randn(samples, *shape), torch.randint(Classes, (samples,)), shuffle=shuffle)


def perceptron() -> nn.Sequential:
    """Return a perceptron with one hidden layer and dropout."""
    return nn.Sequential(nn.Linear(Features, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, Classes))


def convolution() -> nn.Sequential:
    """Return a convolutional network with two BatchNorms."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, Classes),
    )  # fmt: skip


def supervised(
    package: Any,
    network: nn.Module,
    optimizer: Callable[[Any], Any] = SGD,
    *,
    cls: type[Any] = Supervised,
    data: DataLoader[Any] | None = None,
    validation: DataLoader[Any] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    **trainer: Any,
) -> Setup:
    """Build a supervised case: a network on normal features and three classes unless told otherwise."""
    return Setup(bind(cls, package)(network, optimizer, loss), data or labelled(Features), validation, trainer)


def mlp(package: Any) -> Setup:
    return supervised(package, perceptron(), ADAM)


def cnn_batchnorm(package: Any) -> Setup:
    return supervised(package, convolution(), data=labelled(1, 6, 6), validation=labelled(1, 6, 6, samples=8))


def transformer(package: Any) -> Setup:
    return supervised(package, networks.Attentive(), ADAMW, data=labelled(4, Features))


def lstm(package: Any) -> Setup:
    return supervised(package, networks.Recurrent(), ADAM, data=labelled(4, Features))


def gan(package: Any) -> Setup:
    return Setup(bind(networks.Adversarial, package)(), labelled(Features))


def gan_layernorm(package: Any) -> Setup:
    return Setup(bind(networks.Adversarial, package)(nn.LayerNorm), labelled(Features))


def tied(package: Any) -> Setup:
    tokens = torch.randint(7, (20, 5))
    return supervised(package, networks.Tied(), ADAMW, data=loader(tokens, tokens.roll(-1, 1)))


def frozen(package: Any) -> Setup:
    network = perceptron()
    network[0].requires_grad_(requires_grad=False)
    return supervised(package, network)


def sparse(package: Any) -> Setup:
    network = nn.Sequential(nn.EmbeddingBag(9, Classes, sparse=True, mode="sum"))
    data = loader(torch.randint(9, (20, 2)), torch.randint(Classes, (20,)))
    return supervised(package, network, partial(torch.optim.SparseAdam, lr=1e-2), data=data)


def lbfgs(package: Any) -> Setup:
    return supervised(package, nn.Linear(Features, Classes), partial(torch.optim.LBFGS, lr=0.1, max_iter=3))


def accumulation(package: Any) -> Setup:
    """Ten batches in windows of four: the last window of an epoch has two."""
    network = nn.Sequential(nn.Linear(Features, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, Classes))
    return supervised(package, network, ADAM, data=labelled(Features, samples=40), accumulate_grad_batches=4)


def bf16(package: Any) -> Setup:
    return supervised(package, perceptron(), ADAMW, precision="bf16-mixed")


def scaled(package: Any, optimizer: Callable[[Any], Any] = ADAM) -> Setup:
    """float16 autocast; the scaler begins far too high and grows every third step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
    plugin = package.plugins.precision.MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    return supervised(package, perceptron(), optimizer, plugins=[plugin], max_epochs=8)


def scaled_fused(package: Any) -> Setup:
    return scaled(package, partial(torch.optim.Adam, lr=1e-2, fused=True))


def returns_none(package: Any) -> Setup:
    return supervised(package, perceptron(), ADAM, cls=networks.Sometimes)


def metrics(package: Any) -> Setup:
    return supervised(package, perceptron(), cls=networks.Measured)


def schedule_and_clip(package: Any) -> Setup:
    return supervised(package, perceptron(), cls=networks.Scheduled, gradient_clip_val=0.05)


def own_clipping(package: Any) -> Setup:
    return supervised(package, perceptron(), cls=networks.OwnClipping)


def own_gradient_edit(package: Any) -> Setup:
    return supervised(package, perceptron(), cls=networks.OwnGradientEdit, gradient_clip_val=0.05)


def parametrized(package: Any) -> Setup:
    network = nn.Sequential(spectral_norm(nn.Linear(Features, 8)), nn.ReLU(), weight_norm(nn.Linear(8, Classes)))
    return supervised(package, network)


def float64(package: Any) -> Setup:
    return supervised(package, perceptron(), ADAM, precision="64-true")


def complex_weights(package: Any) -> Setup:
    return supervised(package, networks.Rotation(), ADAM)


def lazy(package: Any) -> Setup:
    """Parameters and buffers get their shape in the first forward pass, when the optimizer already holds them."""
    network = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(Classes))
    return supervised(package, network)


def unused(package: Any) -> Setup:
    return supervised(package, networks.Unused(), ADAM)


def teacher(package: Any) -> Setup:
    return supervised(package, perceptron(), ADAM, cls=networks.Teacher)


def validation(package: Any) -> Setup:
    return supervised(
        package, perceptron(), validation=labelled(Features, samples=8), val_check_interval=2, num_sanity_val_steps=2
    )  # fmt: skip


def checkpointing(package: Any) -> Setup:
    keep = package.callbacks.ModelCheckpoint(monitor="val_loss", save_top_k=2, save_last=True)
    each = package.callbacks.ModelCheckpoint(every_n_train_steps=2, filename="every-{step}")
    return supervised(
        package, perceptron(), ADAM, validation=labelled(Features, samples=8), callbacks=[keep, each],
        enable_checkpointing=True,
    )  # fmt: skip


def early_stopping(package: Any) -> Setup:
    stop = package.callbacks.EarlyStopping("val_loss", patience=0, min_delta=10.0)
    return supervised(package, perceptron(), validation=labelled(Features, samples=8), callbacks=[stop], max_epochs=6)


def compiled(package: Any) -> Setup:
    compiled_network: Any = torch.compile(perceptron(), backend="eager")
    return supervised(package, compiled_network, ADAM)


CASES = (
    Case("mlp", mlp),
    Case("cnn_batchnorm", cnn_batchnorm),
    Case("transformer", transformer),
    Case("lstm", lstm),
    Case("gan", gan),
    Case("tied", tied),
    Case("frozen", frozen),
    Case("sparse", sparse),
    Case("lbfgs", lbfgs),
    Case("accumulation", accumulation),
    Case("bf16", bf16),
    Case("scaled", scaled),
    Case("scaled_fused", scaled_fused),
    Case("returns_none", returns_none),
    Case("metrics", metrics),
    Case("schedule_and_clip", schedule_and_clip),
    Case("own_clipping", own_clipping),
    Case("own_gradient_edit", own_gradient_edit),
    Case("parametrized", parametrized),
    Case("float64", float64),
    Case("complex_weights", complex_weights),
    Case("lazy", lazy),
    Case("unused", unused),
    Case("teacher", teacher),
    Case("validation", validation),
    Case("checkpointing", checkpointing),
    Case("early_stopping", early_stopping),
    Case("compiled", compiled),
)


def named(name: str) -> Case:
    """Return the case called ``name``."""
    return next(case for case in CASES if case.name == name)
