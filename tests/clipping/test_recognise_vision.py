"""Edges of the recognisers of images, detection and generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from torch import nn

from gradwatch.clipping import choose_clip_rule
from tests.clipping.architectures import (
    block,
    cnn,
    conv,
    encoder,
    freeze,
    linear,
    mlp,
    stack,
    vit_attention,
    weight,
    window_attention,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def family(**members: Any) -> str | None:
    return choose_clip_rule(block("Root", **members)).family


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"patch_embed": nn.Conv2d(3, 8, 16, 16)}, "vision-transformer"),
        ({"patch_embeddings": nn.Conv2d(3, 8, 16, 10)}, "vision-transformer"),
        ({"conv_proj": nn.Conv2d(3, 8, 16, 16)}, "vision-transformer"),
        ({"tubelets": nn.Conv3d(3, 8, (2, 16, 16), (2, 16, 16))}, "vision-transformer"),
        ({"patch_embed": freeze(nn.Conv2d(3, 8, 16, 16))}, "vision-transformer"),
        ({"conv1": nn.Conv2d(3, 8, 3)}, "transformer"),
        ({"conv1": nn.Conv2d(3, 8, 3), "down": nn.Conv2d(8, 8, 2, 2)}, "transformer"),
        ({"conv1": nn.Conv2d(3, 8, 1)}, "transformer"),
        ({"patch_embedding": linear()}, "transformer"),
        ({"conv1": nn.Conv1d(3, 8, 4, 4)}, "transformer"),
    ],
)
def test_patches(members: dict[str, nn.Module], expected: str) -> None:
    assert family(blocks=encoder(), **members) == expected


def test_a_patch_embedding_deep_in_a_frozen_part() -> None:
    embeddings = freeze(block("Embeddings", patch_embeddings=nn.Conv2d(3, 8, 16, 10)))
    assert family(backbone=block("Frozen", embeddings=embeddings), layers=encoder()) == "vision-transformer"


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"patch_embed": conv(4, 4, 4)}, "windowed-vision-transformer"),
        ({"patch_embed": conv(4, 4, 4), "cls_token": weight(1, 1, 8)}, "vision-transformer"),
        ({"stem": conv(), "b": block("MBConv", c=conv())}, "transformer"),
    ],
)
def test_a_table_of_position_biases_alone(members: dict[str, Any], expected: str) -> None:
    assert family(blocks=window_attention("Attention"), **members) == expected


@pytest.mark.parametrize(
    "name", ["WindowAttention", "ShiftedWindowAttention3d", "Swinv2SelfAttention", "WindowAttentionV2"]
)
def test_window_attention_by_name(name: str) -> None:
    assert family(stem=conv(4, 4, 4), blocks=vit_attention(name)) == "windowed-vision-transformer"


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ((), "detection-transformer"),
        (("query_embed",), "transformer"),
        (("bbox_embed",), "transformer"),
        (("body",), "mlp"),
    ],
)
def test_detection_needs_queries_boxes_and_attention(missing: tuple[str, ...], expected: str) -> None:
    parts = {"query_embed": nn.Embedding(9, 8), "bbox_embed": mlp(), "body": encoder()}
    assert family(**{name: part for name, part in parts.items() if name not in missing}) == expected


@pytest.mark.parametrize(
    "name", ["query_embed", "query_pos", "query_position_embeddings", "object_queries", "refpoint_embed"]
)
@pytest.mark.parametrize("make", [lambda: nn.Embedding(9, 8), lambda: weight(9, 8)], ids=["table", "parameter"])
def test_spellings_of_object_queries(name: str, make: Callable[[], nn.Module]) -> None:
    assert family(body=encoder(), bbox_predictor=mlp(), **{name: make()}) == "detection-transformer"


@pytest.mark.parametrize(("name", "expected"), [("RTDetrDecoder", "detection-transformer"), ("Decoder", "transformer")])
def test_two_stage_detectors_have_no_learned_queries(name: str, expected: str) -> None:
    assert family(decoder=block(name, layers=encoder(), bbox_embed=mlp())) == expected


def test_queries_that_are_linear_maps_are_not_object_queries() -> None:
    assert family(body=encoder(), bbox_predictor=mlp(), query_embed=linear()) == "transformer"


@pytest.mark.parametrize(
    "names",
    [
        "generator discriminator", "gen disc", "G D", "netG netD", "net_g net_d", "generator critic", "G_A D_A",
        "netG_A netD_A", "generator multi_period_discriminator",
    ],
)  # fmt: skip
def test_spellings_of_adversaries(names: str) -> None:
    assert family(**{name: cnn() for name in names.split()}) == "gan"


@pytest.mark.parametrize(
    "names", ["generator", "generator decoder", "g1 d1", "g d", "encoder discriminator", "gate disc", "oxygen disc"]
)
def test_names_that_are_not_adversaries(names: str) -> None:
    assert family(**{name: cnn() for name in names.split()}) == "conv-net"


def test_adversaries_stand_side_by_side() -> None:
    assert family(a=block("A", generator=cnn()), b=block("B", discriminator=cnn())) == "conv-net"


def u_net(**time: nn.Module) -> nn.Module:
    return block("N", downs=stack(conv), ups=stack(conv), **time)


@pytest.mark.parametrize(
    "name", ["time_mlp", "time_embed", "time_embedding", "t_embedder", "temb", "noise_embed", "map_noise"]
)
def test_spellings_of_the_timestep_embedding(name: str) -> None:
    assert choose_clip_rule(u_net(**{name: mlp()})).family == "diffusion-unet"


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        pytest.param(u_net, "conv-net", id="no time"),
        pytest.param(lambda: u_net(time_distributed=mlp()), "conv-net", id="time distributed"),
        pytest.param(lambda: block("N", student=cnn(), t_proj=linear()), "conv-net", id="projection of a teacher"),
        pytest.param(lambda: block("N", body=cnn(), sigma_mlp=mlp()), "conv-net", id="predicted variance"),
        pytest.param(lambda: u_net(ts_embedding=mlp()), "conv-net", id="time series"),
        pytest.param(lambda: u_net(time_embed=nn.Embedding(99, 8)), "diffusion-unet", id="table, u-shape"),
        pytest.param(lambda: block("N", c=cnn(), time_embed=nn.Embedding(99, 8)), "conv-net", id="table, no u-shape"),
        pytest.param(lambda: block("N", c=cnn(), time_mlp=mlp()), "diffusion-unet", id="computed, images"),
        pytest.param(
            lambda: block("N", a=nn.Conv1d(4, 4, 3), b=nn.Conv1d(4, 4, 3), time_mlp=mlp()), "conv-net", id="1-d"
        ),
        pytest.param(lambda: block("N", c=cnn(), e=block("Timesteps")), "conv-net", id="timesteps without weights"),
        pytest.param(
            lambda: block("N", c=cnn(), e=block("TimestepEmbedding", a=linear())), "diffusion-unet", id="class"
        ),
        pytest.param(
            lambda: block("DiT", x=conv(4, 4, 4), t_embedder=mlp(), blocks=encoder()), "vision-transformer", id="dit"
        ),
    ],
)
def test_diffusion(build: Callable[[], nn.Module], expected: str) -> None:
    assert choose_clip_rule(build()).family == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, "normalizer-free-net"),
        ({"norm": nn.BatchNorm2d(4)}, "conv-net"),
        ({"norm": nn.GroupNorm(2, 4)}, "conv-net"),
        ({"norm": block("LayerNorm2d", weight=weight(4))}, "conv-net"),
    ],
)
def test_normalizer_free_means_without_any_norm(members: dict[str, nn.Module], expected: str) -> None:
    assert family(c=type("WSConv2d", (nn.Conv2d,), {})(4, 4, 3), **members) == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"head": block("Detect", m=conv()), "b": block("C2f", c=conv())}, "yolo"),
        ({"head": block("Detect", m=conv())}, "conv-net"),
        ({"b": block("C2f", c=conv())}, "conv-net"),
        ({"head": block("Detect", m=linear()), "b": block("C2f", c=conv())}, "conv-net"),
    ],
)
def test_yolo_needs_head_and_blocks(members: dict[str, nn.Module], expected: str) -> None:
    assert family(**members) == expected
