from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from gradwatch.engine.watched import Watched


def two_layers() -> Any:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def test_groups_and_histories_belong_together() -> None:
    module = two_layers()
    optimizers = [sgd(module[1]), sgd(module[0])]
    watched = Watched(module, optimizers, "layer")
    assert [group.layers for group in watched.groups] == [("1",), ("0",)]
    assert len(watched.histories) == 2
    assert watched.group_of(optimizers[1]) is watched.groups[1]


def test_new_parameters_and_new_optimizers_join_and_nothing_is_forgotten() -> None:
    module = two_layers()
    optimizer = sgd(module[1])
    watched = Watched(module, [optimizer], "layer")
    history = watched.histories[0]
    with torch.no_grad():
        module[1].weight[0, 0] = math.nan
    watched.scanner.baseline()
    optimizer.add_param_group({"params": [module[0].weight]})
    assert watched.group_of(optimizer).names == ["0.weight", "1.weight", "1.bias"]
    assert watched.histories == [history]
    assert watched.scanner.scan() == []  # the new scanner knows what the old one has seen
    late = torch.optim.SGD([module[0].bias], lr=0.1)
    assert watched.group_of(late).index == 1
    assert len(watched.histories) == 2
    assert watched.group_of(late) is watched.group_of(late)


def test_the_state_of_new_parameters_is_scanned() -> None:
    module = two_layers()
    optimizer = torch.optim.Adam(module[1].parameters())
    watched = Watched(module, [optimizer], "layer")
    watched.scanner.baseline()
    optimizer.add_param_group({"params": [module[0].weight]})
    watched.group_of(optimizer)
    state: dict[str, Any] = optimizer.state[module[0].weight]
    state["exp_avg"] = torch.tensor([math.nan])
    assert [birth.name for birth in watched.scanner.scan()] == ["0.weight.exp_avg"]


def test_layers_with_a_gradient_and_without_an_optimizer_are_orphans() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    module.register_parameter("scale", nn.Parameter(torch.ones(2)))
    watched = Watched(module, [sgd(module[1])], "layer")
    assert watched.orphans_with_gradient() == ()  # no gradient yet
    parameters: list[Any] = [*module[0].parameters(), *module[1].parameters(), module.scale, module[3].weight]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    assert watched.orphans_with_gradient() == ("(root)", "0", "3")
    module[3].requires_grad_(requires_grad=False)  # frozen since, with a gradient that is left over
    assert watched.orphans_with_gradient() == ("(root)", "0")
    watched.group_of(sgd(module[0]))  # has found its optimizer
    assert watched.orphans_with_gradient() == ("(root)",)


def test_orphans_are_named_as_the_records_name_layers() -> None:
    module = two_layers()
    watched = Watched(module, [sgd(module[1])], "parameter")
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert watched.orphans_with_gradient() == ("0.weight", "0.bias")


def test_a_tied_weight_is_no_orphan() -> None:
    module = two_layers()
    module[0].weight = module[1].weight
    watched = Watched(module, [sgd(module[1])], "layer")
    module[0].weight.grad = torch.ones(2, 2)
    assert watched.orphans_with_gradient() == ()
