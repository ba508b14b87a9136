"""What the survey of a model says about its modules."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from gradwatch.clipping.inventory import Node, below, of_kind, survey, tally, with_child
from tests.clipping.architectures import block, freeze, linear, weight


def node_of(model: nn.Module, part: nn.Module) -> Node:
    (found,) = (node for node in survey(model) if node.module is part)
    return found


def test_children_come_before_parents_and_each_module_once() -> None:
    shared = linear()
    model = block("N", a=nn.Sequential(shared), b=nn.Sequential(shared, nn.ReLU()))
    modules = [node.module for node in survey(model)]
    assert modules == [shared, model.a, model.b[1], model.b, model]  # type: ignore[index]


def test_a_thousand_modules_deep() -> None:
    model: nn.Module = linear()
    for _ in range(2000):
        model = nn.Sequential(model)
    assert survey(model)[-1].size == 2001


def test_a_module_below_itself_is_left_out_of_its_own_children() -> None:
    model = block("N", fc=linear())
    model.add_module("me", model)
    (fc, root) = survey(model)
    assert dict(root.children) == {"fc": fc}


def test_class_names_along_the_mro() -> None:
    part = type("MyLSTM", (nn.LSTM,), {})(4, 4)
    node = node_of(block("N", part=part), part)
    assert node.kinds == {"MyLSTM", "LSTM", "RNNBase"}
    assert node.torch_kinds == {"LSTM", "RNNBase"}
    assert node.name == "MyLSTM"


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_class_of_the_root_is_no_evidence(layers: int) -> None:
    model = wrapped = type("MyLSTM", (nn.LSTM,), {})(4, 4)
    for _ in range(layers):
        wrapped = nn.DataParallel(wrapped)
    assert node_of(wrapped, model).kinds == {"LSTM", "RNNBase"}


def test_a_parametrized_module_keeps_its_name_and_its_parameters() -> None:
    part = nn.utils.parametrizations.weight_norm(linear())
    node = node_of(block("N", part=part), part)
    assert node.name == "Linear"
    assert set(node.parameters) == {"weight", "bias"}
    assert node.trained


def test_a_scripted_module_keeps_its_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still in use
        part = torch.jit.script(nn.Sequential(nn.GRU(4, 4)))
    assert {node.name for node in survey(part)} == {"Sequential", "GRU"}


def test_trained_means_a_gradient_is_required_somewhere_below() -> None:
    model = block("N", frozen=freeze(linear()), mixed=nn.Sequential(freeze(linear()), linear()), none=nn.ReLU())
    trained = {name: child.trained for name, child in survey(model)[-1].children.items()}
    assert trained == {"frozen": False, "mixed": True, "none": False}
    assert survey(model)[-1].trained


def test_buffers_and_plain_attributes_are_neither_children_nor_parameters() -> None:
    model = block("N", query_count=3, w=weight())
    model.register_buffer("qkv", torch.zeros(3))
    (root,) = survey(model)
    assert (dict(root.children), root.parameters) == ({}, ("w",))


def test_below_visits_each_node_once() -> None:
    shared = linear()
    nodes = survey(block("N", a=nn.Sequential(shared), b=nn.Sequential(shared)))
    assert sorted(node.name for node in below(nodes[-1])) == ["Linear", "N", "Sequential", "Sequential"]


def test_patterns_match_whole_names() -> None:
    nodes = survey(block("N", query=linear(), query_count=nn.Bilinear(2, 2, 2)))
    assert [child.name for _, child in with_child(nodes, "query")] == ["Linear"]
    assert [node.name for node in of_kind(nodes, "Linear")] == ["Linear"]
    assert not of_kind(nodes, "near")


@pytest.mark.parametrize(
    ("modules", "text"),
    [
        ([], "no modules"),
        ([nn.ReLU()], "1 ReLU module"),
        ([nn.GELU(), nn.ReLU(), nn.ReLU()], "2 ReLU and 1 GELU modules"),
        ([nn.GELU(), nn.ReLU(), nn.ReLU(), nn.Tanh(), nn.SiLU()], "2 ReLU and 1 GELU and 2 other modules"),
    ],
)
def test_tally(modules: list[nn.Module], text: str) -> None:
    assert tally(survey(nn.ModuleList(modules))[:-1]) == text
