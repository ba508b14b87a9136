"""Edges of the recognisers of sequences, speech, graphs and control."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from torch import nn

from gradwatch.clipping import choose_clip_rule
from tests.clipping.architectures import block, conv, encoder, freeze, linear, lstm, message_passing, mlp, weight

if TYPE_CHECKING:
    from collections.abc import Callable


def family(**members: nn.Module) -> str | None:
    return choose_clip_rule(block("Root", **members)).family


@pytest.mark.parametrize(
    "names", ["i2h h2h", "i2h h2o", "x2h h2h", "ih hh", "W_ih W_hh", "weight_ih weight_hh", "W_xh W_hh"]
)
@pytest.mark.parametrize("make", [linear, weight])
def test_pairs_of_recurrent_weights(names: str, make: Callable[[], nn.Module]) -> None:
    assert family(cell=block("Cell", **{name: make() for name in names.split()})) == "recurrent"


@pytest.mark.parametrize("names", ["i2h", "hh", "i2h o2h", "width height", "oh hh"])
def test_half_a_pair_is_not_recurrent(names: str) -> None:
    assert family(cell=block("Cell", **{name: linear() for name in names.split()})) == "mlp"


def test_a_pair_of_names_on_other_things_is_not_recurrent() -> None:
    assert family(cell=block("Cell", i2h=nn.ReLU(), h2h=nn.Identity(), fc=linear())) == "mlp"


@pytest.mark.parametrize("name", ["ConvLSTMCell", "SepConvGRU", "IndRNN", "MinGRU", "mLSTMLayer", "ConvLSTM2D", "SRU"])
def test_recurrent_by_class_name(name: str) -> None:
    assert family(cell=block(name, gates=conv())) == "recurrent"


@pytest.mark.parametrize("name", ["MaskRCNN", "RNNTJoint", "GRN", "RNNTLoss", "LstmNot", "GRUB"])
def test_class_names_that_only_contain_the_letters(name: str) -> None:
    assert family(cell=block(name, gates=conv())) == "conv-net"


def test_a_class_named_rnn_without_weights_is_nothing() -> None:
    assert family(cell=block("RNN"), fc=linear()) == "mlp"


@pytest.mark.parametrize("name", ["TimeMix", "RwkvSelfAttention"])
def test_rwkv_whatever_its_class_is_called(name: str) -> None:
    mixer = block(name, receptance=linear(), key=linear(), value=linear(), output=linear())
    assert family(mixer=mixer) == "state-space"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("actor critic", "actor-critic"),
        ("actor_mean critic", "actor-critic"),
        ("policy_net value_net", "actor-critic"),
        ("action_net value_net", "actor-critic"),
        ("pi vf", "actor-critic"),
        ("actor critic critic_target", "mlp"),
        ("actor critic target_actor", "mlp"),
        ("actor critic_1 critic_2", "mlp"),
        ("actor qf1 qf2", "mlp"),
        ("q_net q_net_target", "mlp"),
        ("factor critic", "mlp"),
        ("actor", "mlp"),
        ("value_head lm_head", "mlp"),
    ],
)
def test_actor_and_critic(names: str, expected: str) -> None:
    assert family(**{name: mlp() for name in names.split()}) == expected


def test_a_frozen_critic_makes_no_actor_critic() -> None:
    assert family(actor=mlp(), critic=freeze(mlp())) == "mlp"


@pytest.mark.parametrize(
    "name", ["GCNConv", "GATLayer", "GraphAttentionLayer", "GraphConvolution", "GATv2Conv", "SAGEConv"]
)
def test_graph_layers_by_name(name: str) -> None:
    assert family(layer=block(name, fc=linear())) == "graph-net"


@pytest.mark.parametrize("name", ["GraphModule", "ParagraphConv", "GINormalization", "Edge", "SAGEMaker"])
def test_names_that_are_not_graph_layers(name: str) -> None:
    assert family(layer=block(name, fc=linear())) == "mlp"


def test_graph_attention_is_no_transformer() -> None:
    assert family(layer=message_passing("GATConv", lin_src=linear(), att_src=weight())) == "graph-net"


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: block("N", prenet=mlp(), postnet=mlp(), rnn=lstm()), "tacotron"),
        (lambda: block("N", prenet=mlp(), rnn=lstm()), "recurrent"),
        (lambda: block("N", prenet=mlp(), postnet=mlp()), "mlp"),
    ],
)
def test_tacotron_needs_all_three(build: Callable[[], nn.Module], expected: str) -> None:
    assert choose_clip_rule(build()).family == expected


@pytest.mark.parametrize(
    ("missing", "expected"),
    [((), "conformer"), (("ffn2",), "transformer"), (("conv_module",), "transformer"), (("self_attn",), "conv-net")],
)
def test_a_conformer_block_has_four_parts(missing: tuple[str, ...], expected: str) -> None:
    parts = {"ffn1": mlp(), "self_attn": nn.MultiheadAttention(8, 2), "conv_module": nn.Conv1d(8, 8, 3), "ffn2": mlp()}
    layer = block("Layer", **{name: part for name, part in parts.items() if name not in missing})
    assert family(layer=layer) == expected


def test_attention_outside_the_conformer_blocks_is_a_transformer() -> None:
    parts = {"ffn1": mlp(), "self_attn": nn.MultiheadAttention(8, 2), "conv_module": nn.Conv1d(8, 8, 3), "ffn2": mlp()}
    assert family(layer=block("Layer", **parts), decoder=encoder()) == "transformer"


@pytest.mark.parametrize("name", ["HubertEncoder", "Wav2Vec2Encoder"])
def test_a_frozen_front_end_still_tells_a_raw_waveform_encoder(name: str) -> None:
    front = freeze(block("FeatureEncoder", conv=nn.Conv1d(1, 4, 10, 5)))
    body = block(name, pos_conv=nn.Conv1d(8, 8, 3), layers=encoder())
    assert family(feature_extractor=front, encoder=body) == {"H": "hubert-base", "W": "wav2vec"}[name[0]]


def test_a_front_end_deep_in_a_frozen_part() -> None:
    front = freeze(block("Frozen", feature_extractor=block("FeatureEncoder", conv=nn.Conv1d(1, 4, 10, 5))))
    assert family(front=front, encoder=block("Encoder", pos_conv=nn.Conv1d(8, 8, 3), layers=encoder())) == "wav2vec"


def test_no_raw_waveform_without_a_convolutional_front_end() -> None:
    body = block("Encoder", pos_conv=nn.Conv1d(8, 8, 3), layers=encoder())
    assert family(feature_extractor=mlp(), encoder=body) == "transformer"
