"""Which modules are attention, in the spellings of public code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gradwatch.clipping.attention import attention, is_projection
from gradwatch.clipping.inventory import survey
from tests.clipping.architectures import block, cnn, conv, conv_attention, linear, lora, mlp, stack, weight


def found(class_name: str, /, **members: Any) -> list[str]:
    return [node.name for node in attention(survey(block("Root", part=block(class_name, **members))))]


@pytest.mark.parametrize(
    "names",
    [
        "query key value",
        "q_proj k_proj v_proj",
        "to_q to_k to_v",
        "toqueries tokeys tovalues",
        "w_qs w_ks w_vs",
        "W_q W_k W_v",
        "Wq Wk Wv",
        "wq wk wv",
        "q_lin k_lin v_lin",
        "linear_q linear_k linear_v",
        "lin_query lin_key lin_value",
        "fc_q fc_k fc_v",
        "proj_q proj_k proj_v",
        "query_proj key_proj value_proj",
        "projection_query projection_key projection_value",
        "query_layer key_layer value_layer",
        "queries keys values",
        "q_proj kv_proj",
        "to_q to_kv",
        "q_a_proj kv_b_proj",
        "to_qk to_v",
        "query_key value",
        "qkv",
        "to_qkv",
        "qkv_proj",
        "Wqkv",
        "wqkv",
        "linear_qkv",
        "query_key_value",
        "queries_keys_values",
        "c_attn",
        "att_proj",
        "W_pack",
        "qkv_net",
    ],
)
def test_spellings_of_the_projections(names: str) -> None:
    assert found("Block", **{name: linear() for name in names.split()}) == ["Block"]


@pytest.mark.parametrize(
    "names",
    [
        "query key",
        "key value",
        "query value",
        "query memory v",
        "query_head key_head value_head",
        "q_net v_net k_net",
        "query_count key_count value_count",
        "receptance key value",
        "quality kind velocity",
        "in_proj out_proj",
        "fc1 fc2",
    ],
)
def test_names_that_are_not_projections(names: str) -> None:
    assert found("Block", **{name: linear() for name in names.split()}) == []


@pytest.mark.parametrize("member", [nn.Embedding(4, 8), nn.ReLU(), nn.Identity(), cnn(9), 3, "query", None])
def test_the_right_names_on_the_wrong_things(member: Any) -> None:
    assert found("Block", query=member, key=member, value=member) == []


@pytest.mark.parametrize("member", [linear(), lora(linear()), nn.LazyLinear(4), nn.Conv1d(4, 4, 1), mlp()])
def test_linear_maps_of_many_kinds(member: nn.Module) -> None:
    with_copies = {name: type("Copy", (nn.Sequential,), {})(member) for name in ("query", "key", "value")}
    assert found("Block", **with_copies) == ["Block"]


@pytest.mark.parametrize(
    ("class_name", "extra", "expected"),
    [
        ("Physics", {}, []),
        ("SelfAttention", {}, ["SelfAttention"]),
        ("Attn", {}, ["Attn"]),
        ("Block", {"o": linear()}, ["Block"]),
        ("Block", {"to_out": linear()}, ["Block"]),
        ("Block", {"n_heads": 2}, ["Block"]),
        ("Block", {"fc": linear()}, []),
    ],
)
def test_single_letters_need_a_second_sign(class_name: str, extra: dict[str, Any], expected: list[str]) -> None:
    assert found(class_name, q=linear(), k=linear(), v=linear(), **extra) == expected


@pytest.mark.parametrize(
    ("class_name", "members", "expected"),
    [
        ("DisentangledSelfAttention", {"in_proj": linear()}, ["DisentangledSelfAttention"]),
        ("Block", {"in_proj": linear(8, 24)}, ["Block"]),
        ("Block", {"in_proj": linear(8, 16)}, []),
        ("Block", {"in_proj": nn.Embedding(8, 24)}, []),
        ("MyAttention", {"in_proj_weight": weight(24, 8)}, ["MyAttention"]),
        ("Block", {"in_proj_weight": weight(24, 8)}, []),
    ],
)
def test_one_input_projection(class_name: str, members: dict[str, Any], expected: list[str]) -> None:
    assert found(class_name, **members) == expected


@pytest.mark.parametrize(
    ("class_name", "names", "expected"),
    [
        ("Block", "W_Q W_K W_V", ["Block"]),
        ("Block", "query key value", []),
        ("PoolingAttention", "query key value", ["PoolingAttention"]),
    ],
)
def test_raw_parameters(class_name: str, names: str, expected: list[str]) -> None:
    assert found(class_name, **{name: weight() for name in names.split()}) == expected


@pytest.mark.parametrize(
    ("class_name", "count", "expected"),
    [
        ("MultiHeadedAttention", 4, ["MultiHeadedAttention"]),
        ("RelMultiheadAttn", 3, ["RelMultiheadAttn"]),
        ("CrossAttention", 2, []),
        ("GatedAttention", 4, []),
        ("ChannelAttention", 4, []),
    ],
)
def test_by_name_only_with_three_linear_maps(class_name: str, count: int, expected: list[str]) -> None:
    assert found(class_name, linears=stack(linear, count)) == expected


def test_by_name_only_the_innermost() -> None:
    inner = block("MultiHeadedSelfAttention", linears=stack(linear, 4))
    assert found("SelfAttentionLayer", inner=inner, norm=nn.LayerNorm(8)) == ["MultiHeadedSelfAttention"]


def test_by_name_only_where_nothing_holds_projections() -> None:
    real, named = nn.MultiheadAttention(8, 2), block("SelfAttentionPool", linears=stack(linear, 4))
    assert found("Block", real=real, named=named) == ["MultiheadAttention"]


def test_torch_multihead_attention_and_its_subclasses() -> None:
    assert found("Block", a=nn.MultiheadAttention(8, 2)) == ["MultiheadAttention"]
    assert found("Block", a=nn.MultiheadAttention(8, 2, kdim=4, vdim=4)) == ["MultiheadAttention"]
    assert found("Block", a=type("Mine", (nn.MultiheadAttention,), {})(8, 2)) == ["Mine"]


def test_a_user_class_of_that_name_without_projections_is_not_attention() -> None:
    assert found("MultiheadAttention", gate=linear()) == []


def test_convolutional_attention_counts_beside_a_feed_forward_part() -> None:
    assert found("Block", attn=conv_attention(), norm=nn.GroupNorm(2, 4)) == []
    assert found("Block", attn=conv_attention(), mlp=nn.Sequential(conv(4, 1), conv(4, 1))) == ["AttnBlock"]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (linear(), True),
        (nn.LazyLinear(4), True),
        (conv(), True),
        (lora(linear()), True),
        (nn.Sequential(conv(), nn.BatchNorm2d(4)), True),
        (block("ColumnParallelLinear", weight=weight()), True),
        (nn.Bilinear(2, 2, 2), False),
        (block("NonLinear", w=weight()), False),
        (nn.Embedding(4, 4), False),
        (cnn(9), False),
    ],
)
def test_projections(module: nn.Module, expected: bool) -> None:  # noqa: FBT001 - a table of answers
    node = next(node for node in survey(block("Root", part=module)) if node.module is module)
    assert is_projection(node) is expected


def test_shapes_are_never_asked_for() -> None:
    lazy = block("Block", in_proj=nn.LazyLinear(24), w=nn.UninitializedParameter())
    assert attention(survey(block("Root", part=lazy))) == []
    assert isinstance(lazy.w, nn.UninitializedParameter)
    assert torch.nn.parameter.is_lazy(lazy.w)
