"""What a health rule reads: one log step in plain numbers and numpy arrays, no tensor in it.

NaN stands for "not known" wherever a float is expected: not measured, not finite, or no such thing at this step. Rules
pass over what is not known, so that one bad step neither alarms them nor blinds them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from gradwatch.records import SourceLine

Format = Literal["fp16", "bf16", "fp32", "fp64"]
Fate = Literal["clipped", "kept", "zeroed", "left alone"]


class Setting(NamedTuple):
    """What stays as it is for the length of a run.

    ``optimizers`` counts those of the run, ``optimizer`` is the class of the observed one, ``compute`` the narrowest
    format that the step computes in; ``has_bf16``: the device computes in bfloat16 as well.
    """

    optimizers: int = 1
    optimizer: str = ""
    compute: Format = "fp32"
    has_bf16: bool = True
    has_scaler: bool = False
    world_size: int = 1
    max_norm: float | None = None


class Rows(NamedTuple):
    """Every optimizer step since the observation before, oldest first; arrays of shape [rows].

    ``lr`` has a column for each parameter group, shape [rows, groups]. ``grad_norm`` is the total before clipping,
    ``coefficient`` what clipping multiplied by. ``skipped`` tells the steps whose update did not happen.
    """

    step: np.ndarray
    epoch: np.ndarray
    batch_idx: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray
    coefficient: np.ndarray
    loss_scale: np.ndarray
    batch_size: np.ndarray
    skipped: np.ndarray
    lr: np.ndarray


class Layers(NamedTuple):
    """The layers of one optimizer in the model's order; arrays of shape [layers].

    ``elements`` counts parameters; ``is_weight``: one of them has two dimensions or more, so that depth means
    something. ``lr`` is the learning rate. ``grad_norm`` is NaN where there is no gradient, ``grad_norm_max`` the
    largest at any step since the observation before, 0 where there was none. Shares, 0 to 1: ``unchanged`` of the
    elements with a gradient in narrow weights that the step left as they were; ``below_epsilon`` of Adam's nonzero
    sqrt(v) under its eps; ``subnormal`` of the nonzero gradient that fp16 holds as subnormal numbers only.
    """

    names: tuple[str, ...]
    elements: np.ndarray
    is_weight: np.ndarray
    grad_norm: np.ndarray
    grad_norm_max: np.ndarray
    weight_norm: np.ndarray
    update_ratio: np.ndarray
    lr: np.ndarray
    unchanged: np.ndarray
    below_epsilon: np.ndarray
    subnormal: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInput:
    """What entered a weight layer (linear, convolution, recurrent) in one forward pass.

    ``activation`` is the operation that made it (``relu``, ``tanh``, ``sigmoid``), ``source`` the layer whose output
    that operation took; both None if it is not one of those. ``is_data``: no gradient flows into it. ``dead`` is the
    share of its ``units`` that were zero in every sample of the last batches looked at, ``saturated`` that of the
    values where the derivative of sigmoid or tanh is under 1 % of its largest.
    """

    layer: str
    mean: float
    std: float
    largest: float
    is_data: bool
    activation: str | None = None
    source: str | None = None
    dead: float = np.nan
    saturated: float = np.nan
    units: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleOutput:
    """The largest magnitude that a module returned, and the largest number of its format."""

    module: str
    largest: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNormState:
    """A batch normalisation in training mode: samples a device (all devices, where it synchronises), and its buffers.

    ``at_start``: the running mean is all 0 and the running variance all 1; ``finite``: both are finite.
    """

    module: str
    samples: int
    at_start: bool
    finite: bool
    training: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What a sampled forward pass showed, in the order of execution."""

    inputs: tuple[LayerInput, ...] = ()
    outputs: tuple[ModuleOutput, ...] = ()
    batch_norms: tuple[BatchNormState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFacts:
    """What the graph of the loss says of it.

    ``function`` is the operation that made it where that cannot be negative (``mse_loss``); ``outside`` describes
    targets or inputs outside its domain, with ``low`` and ``high`` their range.
    """

    function: str | None = None
    outside: str | None = None
    low: float = np.nan
    high: float = np.nan


class Ranks(NamedTuple):
    """Norms of every rank under data parallelism, shape [ranks, layers]."""

    weight_norm: np.ndarray
    grad_norm: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One optimizer step on a log step. The first five fields are those of an event."""

    time: float
    step: int
    epoch: int
    batch_idx: int | None
    rank: int
    optimizer: int
    setting: Setting
    rows: Rows
    layers: Layers
    without_gradient: tuple[tuple[str, str], ...] = ()
    """Trainable parameters that had no gradient at any of the rows: name, layer."""
    orphans: tuple[str, ...] = ()
    """Layers of trainable parameters that have a gradient and no optimizer."""
    bad_batch: tuple[tuple[str, int], ...] | None = None
    """Tensors of the batch with NaN or +inf: name, number of such elements; None where it was not looked at."""
    forward: Forward | None = None
    loss: LossFacts = field(default_factory=LossFacts)
    ranks: Ranks | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstForward:
    """The very first forward pass of a run: weights are as they were initialised."""

    time: float
    step: int
    epoch: int
    batch_idx: int | None
    rank: int
    forward: Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class HugeGradient:
    """A finite gradient whose square overflows float32: the layer with most of it, the total norm, and its fate."""

    time: float
    step: int
    epoch: int
    batch_idx: int | None
    rank: int
    layer: str
    norm: float
    fate: Fate


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The losses of one validation by name, and where in the run it stood."""

    time: float
    step: int
    epoch: int
    batch_idx: int | None
    rank: int
    losses: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchMixing:
    """Whether samples of a batch influence one another. The first five fields are those of an event.

    ``module`` is the first that mixes ("" for the watched one itself), None if there is none, or if that is not known:
    then ``reason`` says why. Of ``samples``, one was replaced; ``rows`` counts the rows of others that change at the
    output of the module, and ``change`` is the largest of these changes by the largest of all, 0 to 1.
    """

    time: float
    step: int
    epoch: int
    batch_idx: int | None
    rank: int
    module: str | None = None
    module_type: str | None = None
    source: SourceLine | None = None
    change: float = 0.0
    rows: int = 0
    samples: int = 0
    reason: str | None = None
