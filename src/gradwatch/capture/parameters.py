"""The parameter table: which parameter belongs to which layer and to which optimizer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch.nn.parameter import UninitializedParameter, is_lazy

from gradwatch.records import ParameterRow
from gradwatch.replica.tensors import parameters_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from torch.optim import Optimizer

ROOT_LAYER = "(root)"
MATRIX = 2  # dimensions
# The largest of some norms between these: neither its square nor a sum of such squares overflows or vanishes.
SQUARES = 1e-130, 1e130


def layer_of(parameter_name: str, granularity: str) -> str:
    """Return the module that owns a parameter (``encoder.0.weight`` → ``encoder.0``), or the name itself.

    A parameter held by the root module itself belongs to the layer ``(root)``. The two tensors that a
    parametrization (spectral or weight norm) keeps for one weight belong to the module that it parametrizes.
    """
    if granularity == "parameter":
        return parameter_name
    owner, *parametrized = re.split(r"(?:^|\.)parametrizations\.", parameter_name, maxsplit=1)
    if not parametrized:
        owner = parameter_name.rpartition(".")[0]
    return owner or ROOT_LAYER


@dataclass(slots=True)
class ParameterGroup:
    """The parameters that one optimizer steps, in the module's order, with their layers.

    ``positions`` are 0 to n - 1; ``layer_index`` maps them, the parameters (axis 0), to positions in ``layers``. Of
    each layer, ``elements`` counts its parameters' numbers, and ``is_weight`` tells whether one of them is a matrix or
    more.
    """

    index: int
    optimizer: Optimizer
    names: list[str]
    parameters: list[nn.Parameter]
    layers: tuple[str, ...]
    layer_index: np.ndarray
    positions: np.ndarray = field(init=False)
    elements: np.ndarray = field(init=False)
    is_weight: np.ndarray = field(init=False)
    _order: np.ndarray | None = field(init=False)
    _starts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.positions = np.arange(len(self.parameters))
        order = np.argsort(self.layer_index, kind="stable")
        self._order = None if (order == self.positions).all() else order
        self._starts = np.searchsorted(self.layer_index[order], np.arange(len(self.layers)))
        shapes = [_shape_of(parameter) for parameter in self.parameters]
        self.elements = self.layer_sums(np.array([math.prod(shape) for shape in shapes]))
        self.is_weight = self.layer_sums(np.array([len(shape) >= MATRIX for shape in shapes])) > 0

    def outdated(self) -> bool:
        """Whether the optimizer has since been given other parameters (fine-tuning callbacks add groups)."""
        count = 0
        for group in self.optimizer.param_groups:  # at every step, where a generator expression costs more
            count += len(group["params"])
        return count != len(self.parameters)

    def layer_rates(self) -> np.ndarray:
        """Return the learning rate of each layer, the largest of its parameters; NaN where none is a number."""
        parts = self.optimizer.param_groups
        if len(parts) == 1:
            return np.full(len(self.layers), _number(parts[0].get("lr")))
        rate_of = {id(p): _number(part.get("lr")) for part in parts for p in part["params"]}
        rates = np.array([rate_of.get(id(parameter), np.nan) for parameter in self.parameters])
        largest = np.full(len(self.layers), np.nan)
        np.fmax.at(largest, self.layer_index, rates)
        return largest

    def layer_sums(self, values: np.ndarray) -> np.ndarray:
        """Add per-parameter values (shape [n]) up by layer, shape [layers]."""
        sums: np.ndarray = np.bincount(self.layer_index, weights=values, minlength=len(self.layers))
        return sums

    def layer_norms(self, norms: np.ndarray) -> np.ndarray:
        """Join the L2 norms of parameters, shape [..., n], into those of layers, shape [..., layers].

        Where squares might overflow (float64 gradients may be 1e300) or vanish, each row goes by its own largest.
        """
        rows = norms if self._order is None else norms[..., self._order]
        if norms.size and SQUARES[0] < norms.max() < SQUARES[1]:
            return self._root_of_sums(rows)
        scale = largest_finite(rows, axis=-1)[..., None]
        scale[scale == 0] = 1.0
        with np.errstate(over="ignore"):  # two norms of 1.7e308 have no norm in float64
            joined: np.ndarray = self._root_of_sums(rows / scale) * scale
        return joined

    def _root_of_sums(self, rows: np.ndarray) -> np.ndarray:
        joined: np.ndarray = np.sqrt(np.add.reduceat(np.square(rows), self._starts, axis=-1))
        return joined


def largest_finite(table: np.ndarray, axis: int) -> np.ndarray:
    """Return the largest finite number along an axis, 0 where there is none; no number may be negative."""
    if table.size and table.max() < np.inf:  # nearly always; NaN compares as false
        quickly: np.ndarray = table.max(axis=axis)
        return quickly
    largest: np.ndarray = np.max(table, axis=axis, where=np.isfinite(table), initial=0.0)
    return largest


def group_parameters(
    module: nn.Module, optimizers: Sequence[Optimizer], granularity: str = "layer"
) -> list[ParameterGroup]:
    """Return one group an optimizer. Tied parameters carry the first of their names, as ``named_parameters`` has it."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    order = {key: position for position, key in enumerate(names)}
    return [_group(index, optimizer, names, order, granularity) for index, optimizer in enumerate(optimizers)]


def _group(
    index: int, optimizer: Optimizer, names: dict[int, str], order: dict[int, int], granularity: str
) -> ParameterGroup:
    parameters = parameters_of(optimizer)
    parameters.sort(key=lambda parameter: order.get(id(parameter), len(order)))
    labels = [names.get(id(parameter), f"optimizer{index}.param{i}") for i, parameter in enumerate(parameters)]
    owners = [layer_of(label, granularity) for label in labels]
    layers = tuple(dict.fromkeys(owners))
    position = {layer: i for i, layer in enumerate(layers)}
    return ParameterGroup(
        index=index,
        optimizer=optimizer,
        names=labels,
        parameters=parameters,
        layers=layers,
        layer_index=np.array([position[owner] for owner in owners], dtype=np.intp),
    )


def has_lazy_parameters(module: nn.Module) -> bool:
    """Whether a lazy module still waits for its first forward before its parameters have a shape."""
    return any(is_lazy(parameter) for parameter in module.parameters())


def parameter_table(module: nn.Module, groups: Sequence[ParameterGroup], granularity: str) -> list[ParameterRow]:
    """Return a row a parameter for ``run_start``, in the module's order."""
    owner = {id(parameter): group.index for group in groups for parameter in group.parameters}
    return [
        ParameterRow(
            name=name,
            layer=layer_of(name, granularity),
            shape=_shape_of(parameter),
            dtype=str(parameter.dtype).removeprefix("torch."),
            device=str(parameter.device),
            requires_grad=parameter.requires_grad,
            optimizer=owner.get(id(parameter)),
        )
        for name, parameter in module.named_parameters()
    ]


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _shape_of(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return the shape; () while a lazy module has not given one."""
    return () if isinstance(parameter, UninitializedParameter) else tuple(parameter.shape)


def orphans(table: Sequence[ParameterRow]) -> list[str]:
    """Return the trainable parameters that no optimizer steps."""
    return [row.name for row in table if row.requires_grad and row.optimizer is None]
