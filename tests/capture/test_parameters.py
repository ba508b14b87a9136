from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from gradwatch.capture.parameters import (
    ROOT_LAYER,
    ParameterGroup,
    group_parameters,
    has_lazy_parameters,
    layer_of,
    orphans,
    parameter_table,
)


class Tied(nn.Module):
    """Two names for one weight, and a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(1))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def group_of(module: nn.Module, granularity: str = "layer") -> ParameterGroup:
    return group_parameters(module, [sgd(module.parameters())], granularity)[0]


def norms_by_layer(group: ParameterGroup, norms: list[float]) -> dict[str, float]:
    return dict(zip(group.layers, group.layer_norms(np.array(norms)).tolist(), strict=True))


# -- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("weight", ROOT_LAYER),
        ("encoder.weight", "encoder"),
        ("encoder.layers.0.self_attn.in_proj_weight", "encoder.layers.0.self_attn"),
        ("encoder.0.parametrizations.weight.original", "encoder.0"),
        ("encoder.0.parametrizations.weight.original1", "encoder.0"),
        ("encoder.0.parametrizations.weight.0._u", "encoder.0"),
        ("parametrizations.weight.original", ROOT_LAYER),
        ("my_parametrizations.weight", "my_parametrizations"),
        ("parametrizations_of.mine.weight", "parametrizations_of.mine"),
    ],
)
def test_layer_of(name: str, layer: str) -> None:
    assert layer_of(name, "layer") == layer
    assert layer_of(name, "parameter") == name


@pytest.mark.parametrize(
    "norm",
    [parametrizations.spectral_norm, parametrizations.weight_norm, weight_norm],
    ids=["spectral", "weight", "old-weight"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_parametrized_module_is_one_layer(norm: Any) -> None:
    module = nn.Sequential(norm(nn.Linear(3, 3)), nn.Linear(3, 2))
    assert group_of(module).layers == ("0", "1")
    assert group_of(norm(nn.Linear(3, 3))).layers == (ROOT_LAYER,)


def test_tied_weights_stand_once_under_their_first_name() -> None:
    module = Tied()
    group = group_of(module)
    assert group.names == ["scale", "embed.weight", "head.bias"]
    assert group.layers == (ROOT_LAYER, "embed", "head")
    assert [row.name for row in parameter_table(module, [group], "layer")] == group.names


def test_granularity_parameter_makes_each_its_own_layer() -> None:
    group = group_of(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), "parameter")
    assert list(group.layers) == group.names == ["0.weight", "0.bias", "1.weight", "1.bias"]


# -- groups ----------------------------------------------------------------------------------------------------------


def test_parameters_come_in_the_modules_order_whatever_the_optimizers() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    weights = [module[1].weight, module[0].weight]
    biases = [module[1].bias, module[0].bias]
    group = group_parameters(module, [sgd([{"params": biases}, {"params": weights}])])[0]
    assert group.names == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert [id(p) for p in group.parameters] == [id(p) for p in module.parameters()]
    assert group.layer_index.tolist() == [0, 0, 1, 1]


def test_every_optimizer_has_a_group_of_its_own() -> None:
    module = nn.ModuleDict({"d": nn.Linear(2, 2), "g": nn.Linear(2, 2)})
    groups = group_parameters(module, [sgd(module["g"].parameters()), sgd(module["d"].parameters())])
    assert [(group.index, group.layers) for group in groups] == [(0, ("g",)), (1, ("d",))]


def test_parameters_that_the_module_does_not_know_still_have_a_name() -> None:
    module = nn.Linear(2, 2)
    group = group_parameters(module, [sgd([nn.Parameter(torch.ones(1)), module.weight])])[0]
    assert group.names == ["weight", "optimizer0.param1"]
    assert group.layers == (ROOT_LAYER, "optimizer0")


def test_a_group_is_outdated_once_its_optimizer_has_other_parameters() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = sgd(module[1].parameters())
    group = group_parameters(module, [optimizer])[0]
    assert not group.outdated()
    optimizer.add_param_group({"params": list(module[0].parameters())})
    assert group.outdated()


def test_an_optimizer_may_have_no_parameters_left() -> None:
    optimizer = sgd([nn.Parameter(torch.ones(1))])
    optimizer.param_groups.clear()
    group = group_parameters(nn.Module(), [optimizer])[0]
    assert (group.names, group.layers) == ([], ())
    assert group.layer_norms(np.zeros(0)).tolist() == []


# -- norms of layers -------------------------------------------------------------------------------------------------


def test_layer_norms_are_the_roots_of_sums_of_squares() -> None:
    group = group_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert norms_by_layer(group, [3.0, 4.0, 0.0, 2.0]) == pytest.approx({"0": 5.0, "1": 2.0}, rel=1e-15, abs=0)


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1.0, 5e-324])
def test_layer_norms_neither_overflow_nor_vanish(scale: float) -> None:
    group = group_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    found = norms_by_layer(group, [3 * scale, 4 * scale, 0.0, scale])
    assert found == pytest.approx({"0": 5 * scale, "1": scale}, rel=1e-12, abs=0)


def test_layer_norms_keep_nan_and_infinity_in_their_layer() -> None:
    group = group_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)))
    found = norms_by_layer(group, [math.nan, 1.0, math.inf, 1.0, 3.0, 4.0])
    assert math.isnan(found["0"])
    assert math.isinf(found["1"])
    assert found["2"] == pytest.approx(5.0)


def test_layer_norms_of_zeros_are_zeros() -> None:
    assert group_of(nn.Linear(2, 2)).layer_norms(np.zeros(2)).tolist() == [0.0]


# -- the table -------------------------------------------------------------------------------------------------------


def test_the_table_has_every_parameter() -> None:
    module = nn.Sequential(nn.Linear(3, 2).bfloat16(), nn.LazyLinear(4), nn.Linear(2, 2))
    module[2].requires_grad_(requires_grad=False)
    module[2].bias.requires_grad_(True)
    table = parameter_table(module, group_parameters(module, [sgd(module[0].parameters())]), "layer")
    rows = {row.name: row for row in table}
    assert list(rows) == [name for name, _ in module.named_parameters()]
    first = rows["0.weight"]
    assert (first.layer, first.shape, first.dtype, first.device) == ("0", (2, 3), "bfloat16", "cpu")
    assert (first.optimizer, first.requires_grad) == (0, True)
    assert rows["1.weight"].shape == ()
    assert not rows["2.weight"].requires_grad
    assert orphans(table) == ["1.weight", "1.bias", "2.bias"]


def test_lazy_parameters_are_known_until_their_first_forward() -> None:
    module = nn.Sequential(nn.LazyLinear(2))
    assert has_lazy_parameters(module)
    module(torch.ones(1, 3))
    assert not has_lazy_parameters(module)


# -- the size and kind of a layer --------------------------------------------------------------------------------------


def kinds(group: ParameterGroup) -> dict[str, tuple[int, bool]]:
    """Elements of each layer, and whether it holds a matrix."""
    told = zip(group.elements.tolist(), group.is_weight.tolist(), strict=True)
    return dict(zip(group.layers, told, strict=True))


def test_elements_are_counted_by_layer_and_weights_have_two_dimensions() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(5), nn.Conv2d(2, 4, 3, bias=False), nn.Embedding(7, 2))
    module.register_parameter("temperature", nn.Parameter(torch.ones(())))
    assert kinds(group_of(module)) == {
        ROOT_LAYER: (1, False),
        "0": (8, True),
        "1": (10, False),
        "2": (72, True),
        "3": (14, True),
    }


def test_of_single_parameters_only_the_matrix_is_a_weight() -> None:
    assert kinds(group_of(nn.Linear(3, 2), "parameter")) == {"weight": (6, True), "bias": (2, False)}


def test_an_empty_parameter_has_no_elements() -> None:
    module = nn.Module()
    module.register_parameter("none", nn.Parameter(torch.ones(0, 3)))
    assert kinds(group_of(module)) == {ROOT_LAYER: (0, True)}


def test_lazy_parameters_have_no_shape_until_the_group_is_read_anew() -> None:
    module = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2))
    optimizer = sgd(module.parameters())
    assert kinds(group_parameters(module, [optimizer])[0])["1"] == (6, True)
    module(torch.ones(1, 3))
    assert kinds(group_parameters(module, [optimizer])[0]) == {"0": (8, True), "1": (6, True)}


def test_an_optimizer_without_parameters_has_no_layers() -> None:
    optimizer = sgd([nn.Parameter(torch.ones(1))])
    optimizer.param_groups.clear()
    group = group_parameters(nn.Module(), [optimizer])[0]
    assert (group.elements.tolist(), group.is_weight.tolist(), group.positions.tolist()) == ([], [], [])
