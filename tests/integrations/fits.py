"""Short fits of a module that breaks when told to."""

from __future__ import annotations

import json
import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gradwatch import NumericalHealthMonitor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Classifier(LightningModule):
    """A perceptron with batch normalisation.

    ``fault(module, loss, batch_idx)`` may change the loss; ``spoil(module, batch_idx)`` the gradients, in the module's
    own ``on_before_optimizer_step``.
    """

    def __init__(
        self,
        optimizer: Callable[[Any], Any] | None = None,
        *,
        fault: Callable[[Any, Tensor, int], Any] = lambda _module, loss, _batch: loss,
        spoil: Callable[[Any, int], None] = lambda _module, _batch: None,
    ) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 2)
        self.make_optimizer = optimizer or (lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1))
        self.fault, self.spoil = fault, spoil
        self.batch_idx = -1

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.batch_idx = batch_idx
        return self.fault(self, functional.cross_entropy(self.head(torch.tanh(self.norm(self.body(x)))), y), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", functional.cross_entropy(self.head(self.norm(self.body(batch[0]))), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.spoil(self, self.batch_idx)

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


class Manual(Classifier):
    """The same in manual optimization."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def data(batches: int = 5, *, bad: int | None = None) -> DataLoader[Any]:
    """Batches of eight samples, in order; one number of batch ``bad`` is NaN."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8 * batches, 4, generator=generator)
    y = torch.randint(2, (8 * batches,), generator=generator)
    if bad is not None:
        x[8 * bad + 3, 1] = float("nan")
    return DataLoader(TensorDataset(x, y), batch_size=8)


class Fitted(NamedTuple):
    trainer: Trainer
    module: Any
    error: BaseException | None


def fit(
    path: Path,
    module: Any = None,
    *callbacks: Any,
    train: Any = None,
    validation: Any = None,
    ckpt_path: Any = None,
    expect: type[BaseException] | tuple[type[BaseException], ...] = (),
    **trainer: Any,
) -> Fitted:
    """Fit from seed 0, for two epochs of five batches unless told otherwise; keep an expected exception."""
    torch.manual_seed(0)
    module = Classifier() if module is None else module() if isinstance(module, type) else module
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "default_root_dir": path,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any("Checkpoint" in type(callback).__name__ for callback in callbacks),
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        **trainer,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Lightning thinks of loaders, loggers and checkpoints of this size
        made = Trainer(callbacks=list(callbacks), **settings)
        try:
            made.fit(module, data() if train is None else train, validation, ckpt_path=ckpt_path)
        except expect as error:
            return Fitted(made, module, error)
    return Fitted(made, module, None)


def seeded(module: type[Classifier] = Classifier, **arguments: Any) -> Any:
    """A module with the weights of seed 0: ``fit`` seeds only what comes after it."""
    torch.manual_seed(0)
    return module(**arguments)


def monitor(path: Path | None = None, **arguments: Any) -> NumericalHealthMonitor:
    """A monitor that does not clip unless told to."""
    return NumericalHealthMonitor(**{"clip": None, "dirpath": path, **arguments})


def events(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Every event below ``path``, as it stands in the files."""
    lines = [line for file in sorted(path.rglob("events*.jsonl")) for line in file.read_text("utf-8").splitlines()]
    found = [json.loads(line) for line in lines]
    return [event for event in found if kind is None or event["type"] == kind]


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, copied."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states are bitwise equal."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def watched_nowhere(trainer: Trainer) -> bool:
    """Whether no hook of the monitor is left behind."""
    return "_clip_gradients" not in vars(trainer.precision_plugin) and not any(
        optimizer._optimizer_step_post_hooks for optimizer in trainer.optimizers
    )


def failures(messages: Sequence[str]) -> list[str]:
    """What the monitor says of itself when it breaks."""
    return [message for message in messages if "gradwatch itself failed" in message]


def nan_loss(*batches: int, epoch: int = 0) -> Any:
    """A fault that makes the loss NaN in these batches."""
    return lambda module, loss, batch: loss * math.nan if batch in batches and module.current_epoch == epoch else loss


class Odd(LightningModule):
    """Any network on pairs of numbers, with a loss that any output can be put into."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if not any(True for _ in self.parameters()):
            return None
        weight: Any = next(self.parameters())
        value = self.network(batch[0] if nn.parameter.is_lazy(weight) else batch[0].to(weight.dtype))
        return value.abs().square().mean().float()

    def configure_optimizers(self) -> Any:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(parameters, lr=0.1) if parameters else None


class Times(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Partly(nn.Module):
    """Of its parameters one is frozen, one unused, one used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.frozen = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 2)
        self.frozen.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) + self.frozen(x)
