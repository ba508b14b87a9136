"""The module under watch: its optimizers, their parameter groups, their histories, its buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.capture.buffers import BufferGuard
from gradwatch.capture.history import History
from gradwatch.capture.parameters import group_parameters, layer_of
from gradwatch.capture.state_scan import StateScanner
from gradwatch.replica.batches import BatchKeeper
from gradwatch.replica.randomness import RandomTracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from torch.optim import Optimizer

    from gradwatch.capture.parameters import ParameterGroup


class Watched:
    """What the engine keeps of one module for the length of a run.

    Attributes:
        optimizers: all that step its parameters.
        groups: the parameters of each optimizer, in the optimizers' order.
        histories: the last steps of each optimizer, likewise.
        scanner: knows which weights, buffers and optimizer state were non-finite when last looked at.
        scanned_at: the step of the last look.
        buffers: keeps the buffers' values from before each micro-batch.
        batches: keeps the batches themselves, as copies where a step writes into them.
        random: keeps the random states from before each micro-batch.
    """

    def __init__(self, module: nn.Module, optimizers: Sequence[Optimizer], granularity: str) -> None:
        self.module = module
        self.histories: list[History] = []
        self.buffers = BufferGuard(module)
        self.batches = BatchKeeper()
        self.random = RandomTracker(module)
        self.optimizers = list(optimizers)
        self._granularity = granularity
        self.scanned_at: int | None = None
        self.regroup()

    def regroup(self) -> None:
        """Read the optimizers' parameters anew."""
        self.groups = group_parameters(self.module, self.optimizers, self._granularity)
        self.histories += [History() for _ in self.groups[len(self.histories) :]]
        stepped = {id(parameter) for group in self.groups for parameter in group.parameters}
        self._orphans = [entry for entry in self.module.named_parameters() if id(entry[1]) not in stepped]
        self.scanner = StateScanner(self.module, self.groups)

    def orphans_with_gradient(self) -> tuple[str, ...]:
        """Return the layers of trainable parameters that have a gradient and that no optimizer steps."""
        found = [name for name, parameter in self._orphans if parameter.grad is not None and parameter.requires_grad]
        return tuple(dict.fromkeys(layer_of(name, self._granularity) for name in found))

    def group_of(self, optimizer: Optimizer) -> ParameterGroup:
        """Return the optimizer's group; a new optimizer, or new parameters in a known one, join the table."""
        for group in self.groups:
            if group.optimizer is optimizer:
                if not group.outdated():
                    return group
                break
        else:
            self.optimizers.append(optimizer)
        known = self.scanner
        self.regroup()
        self.scanner.remember(known)
        return next(group for group in self.groups if group.optimizer is optimizer)
