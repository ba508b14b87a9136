"""Trainings in which a step does more than compute a loss: what of it would show if it were done twice."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from tests import cases, networks
from tests.cases import Case, Setup, convolution, labelled, perceptron, supervised
from tests.faults import plan as faults
from tests.networks import Classes, Features, Supervised, bind

if TYPE_CHECKING:
    from collections.abc import Callable

GLOBAL_TORCH = torch.Generator()
GLOBAL_NUMPY = np.random.default_rng(0)
GLOBAL_PYTHON = random.Random(0)


class OwnGenerators(Supervised):
    """Draws noise from generators that the module holds, one of them in a list."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.torch_generator = torch.Generator().manual_seed(1)
        self.listed = [torch.Generator().manual_seed(2)]
        self.numpy_generator = np.random.default_rng(1)
        self.python_generator = random.Random(1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        noise = torch.randn(x.shape, generator=self.torch_generator) + torch.rand(x.shape, generator=self.listed[0])
        scale = self.numpy_generator.normal() * self.python_generator.random()
        return super().training_step((x + 0.01 * scale * noise, y), batch_idx)


class GlobalGenerators(Supervised):
    """Draws noise from generators that stand in a module of Python and that nothing refers to from the model."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        noise = torch.randn(x.shape, generator=GLOBAL_TORCH) + x.clone().uniform_(generator=GLOBAL_TORCH)
        order = torch.randperm(len(x), generator=GLOBAL_TORCH)
        scale = GLOBAL_NUMPY.normal() * GLOBAL_PYTHON.random()
        return super().training_step(((x + 0.01 * scale * noise)[order], y[order]), batch_idx)


class Silent(Supervised):
    """Logs nothing: the compiler cannot follow Lightning's ``log``."""

    def training_step(self, batch: Any, _batch_idx: int) -> Any:
        x, y = batch
        return self.loss(self.network(x), y)


class InPlace(Supervised):
    """Scales the batch where it lies, and shifts labels likewise."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        x.mul_(0.9)
        y.add_(1).remainder_(Classes)
        return super().training_step(batch, batch_idx)


class Busy(Supervised):
    """Reaches for everything around it: trainer, loggers, learning rates, its own bookkeeping."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.history: list[Tensor] = []
        self.counts = {"forward": 0, "gradient": 0, "through_trainer": 0}
        first: Any = self.network.get_submodule("0")
        first.register_forward_hook(self._forward)
        first.weight.register_hook(self._gradient)

    def _forward(self, *_args: Any) -> None:
        self.counts["forward"] += 1

    def _gradient(self, gradient: Tensor) -> Tensor:
        self.counts["gradient"] += 1
        return gradient * 1.01

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.history.append(loss.detach())
        trainer: Any = self.trainer
        me: Any = self
        for holder in (trainer, trainer.strategy):
            holder.model.counts["through_trainer"] += 1
            holder.lightning_module.counts["through_trainer"] += 1
            holder.lr_scheduler_configs[0].scheduler.step()
        for logger in (me.logger, *me.loggers, trainer.logger, *trainer.loggers):
            logger.log_metrics({"own": float(batch_idx)}, step=self.global_step)
            logger.experiment.log_metrics({"deeper": 1.0}, step=self.global_step)
        for optimizer in (me.optimizers(), *trainer.optimizers, *trainer.strategy.optimizers):
            optimizer.param_groups[0]["lr"] *= 0.99
        me.lr_schedulers().step()
        me.lr_schedulers().optimizer.param_groups[0]["momentum"] *= 0.999
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 100)]


class Clamping(networks.Adversarial):
    """As WGAN does: before each step the critic's weights are cut to a box, in several ways in place."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            for parameter in self.discriminator.parameters():
                parameter.clamp_(-0.3, 0.3)
                parameter.data.mul_(0.999)
            torch._foreach_mul_(list(self.generator.parameters()), 0.999)
            self.get_parameter("generator.0.weight").view(-1)[0] += 0.01
        super().training_step(batch, batch_idx)


class Checkpointed(nn.Module):
    """A perceptron whose activations are computed again in the backward pass, dropout included."""

    def __init__(self, *, use_reentrant: bool) -> None:
        super().__init__()
        self.inner, self.use_reentrant = perceptron(), use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.inner, x.requires_grad_(), use_reentrant=self.use_reentrant)
        return out


def checkpointed(package: Any, *, use_reentrant: bool) -> Setup:
    return supervised(package, Checkpointed(use_reentrant=use_reentrant))


def compiled_network(package: Any) -> Setup:
    network: Any = torch.compile(perceptron(), backend="aot_eager")
    return supervised(package, network)


def compiled_module(package: Any) -> Setup:
    setup = supervised(package, perceptron(), cls=Silent)
    return setup._replace(module=torch.compile(setup.module, backend="aot_eager"))


def own_generators(package: Any) -> Setup:
    return supervised(package, perceptron(), cls=OwnGenerators)


def global_generators(package: Any) -> Setup:
    GLOBAL_TORCH.manual_seed(3)
    GLOBAL_NUMPY.bit_generator.state = np.random.default_rng(3).bit_generator.state
    GLOBAL_PYTHON.seed(3)
    return supervised(package, perceptron(), cls=GlobalGenerators)


def in_place(package: Any, **trainer: Any) -> Setup:
    return supervised(package, perceptron(), cls=InPlace, data=labelled(Features, samples=40), **trainer)


class Views:
    """A data set whose batches are views of its memory: what a step does to them, it does to the data."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x) // 4

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[4 * index : 4 * index + 4], self.y[4 * index : 4 * index + 4]


def in_place_views(package: Any) -> Setup:
    data: Any = Views(torch.randn(40, Features), torch.randint(Classes, (40,)))
    batches = DataLoader(data, batch_size=None)
    return supervised(package, perceptron(), cls=InPlace, data=batches, accumulate_grad_batches=4)


def busy(package: Any) -> Setup:
    return supervised(package, perceptron(), cls=Busy)


def clamping(package: Any) -> Setup:
    return Setup(bind(Clamping, package)(nn.LayerNorm), labelled(Features))


def scaled_gan(package: Any) -> Setup:
    """float16 autocast in manual optimization: the replay runs inside of the step's own autocast."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plugin = package.plugins.precision.MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    return cases.gan_layernorm(package)._replace(trainer={"plugins": [plugin]})


def bf16_gan(package: Any) -> Setup:
    return cases.gan_layernorm(package)._replace(trainer={"precision": "bf16-mixed"})


def accumulated_batchnorm(package: Any) -> Setup:
    data = labelled(1, 6, 6, samples=40)
    return supervised(package, convolution(), cases.ADAMW, data=data, accumulate_grad_batches=4)


BUILDS: dict[str, Callable[[Any], Setup]] = {
    "gan_layernorm": cases.gan_layernorm,
    "checkpointed": partial(checkpointed, use_reentrant=False),
    "checkpointed_reentrant": partial(checkpointed, use_reentrant=True),
    "compiled_network": compiled_network,
    "compiled_module": compiled_module,
    "own_generators": own_generators,
    "global_generators": global_generators,
    "in_place": in_place,
    "in_place_accumulated": partial(in_place, accumulate_grad_batches=4),
    "busy": busy,
    "clamping": clamping,
    "scaled_from_1024": faults.scaled,
    "scaled_gan": scaled_gan,
    "bf16_gan": bf16_gan,
    "accumulated_batchnorm": accumulated_batchnorm,
}
REPLAY_CASES = tuple(Case(name, build) for name, build in BUILDS.items())
