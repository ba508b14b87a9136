"""Small models of every family, and models that only look like one. Nothing here is ever run forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable


def block(class_name: str, /, **members: Any) -> nn.Module:
    """A module of a new class, holding the given submodules, parameters and plain attributes."""
    made: nn.Module = type(class_name, (nn.Module,), {})()
    for name, member in members.items():
        setattr(made, name, member)
    return made


def linear(features: int = 8, out: int | None = None) -> nn.Linear:
    return nn.Linear(features, out or features)


def conv(channels: int = 4, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape or (8, 8)))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))


def cnn(depth: int = 3) -> nn.Sequential:
    layers = [nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(4))


def freeze(module: nn.Module) -> nn.Module:
    return module.requires_grad_(requires_grad=False)


def stack(build: Callable[[], nn.Module], depth: int = 2) -> nn.ModuleList:
    return nn.ModuleList(build() for _ in range(depth))


# ---- attention, in the spellings of public code --------------------------------------------------------------------


def encoder(layers: int = 2) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), layers, enable_nested_tensor=False)


def buffered_qkv() -> nn.Module:
    made = block("Cache", fc=linear())
    made.register_buffer("qkv", torch.zeros(8, 24))
    return made


def llama_attention() -> nn.Module:
    return block(
        "LlamaAttention", q_proj=linear(), k_proj=linear(8, 4), v_proj=linear(8, 4), o_proj=linear(), head_dim=4
    )


def bert_attention() -> nn.Module:
    return block("BertSelfAttention", query=linear(), key=linear(), value=linear(), num_attention_heads=2)


def gpt2_attention() -> nn.Module:
    conv1d = block("Conv1D", weight=weight(8, 24), bias=weight(24), nf=24)
    return block("GPT2Attention", c_attn=conv1d, c_proj=block("Conv1D", weight=weight(8, 8)))


def mingpt_head() -> nn.Module:
    return block("Head", key=linear(), query=linear(), value=linear(), dropout=nn.Dropout())


def t5_attention() -> nn.Module:
    return block("T5Attention", q=linear(), k=linear(), v=linear(), o=linear(), n_heads=2)


def annotated_attention() -> nn.Module:
    return block("MultiHeadedAttention", linears=stack(linear, 4), dropout=nn.Dropout(), h=2)


def deberta_attention() -> nn.Module:
    return block("DisentangledSelfAttention", in_proj=linear(8, 24), q_bias=weight(8), v_bias=weight(8))


def lens_attention() -> nn.Module:
    return block("Attention", W_Q=weight(2, 8, 4), W_K=weight(2, 8, 4), W_V=weight(2, 8, 4), W_O=weight(2, 4, 8))


def lucid_attention() -> nn.Module:
    return block("Attention", to_q=linear(), to_kv=linear(8, 16), to_out=linear(), heads=2)


def latent_attention() -> nn.Module:
    return block(
        "MLA", q_a_proj=linear(), q_b_proj=linear(), kv_a_proj_with_mqa=linear(), kv_b_proj=linear(), o_proj=linear()
    )


def sliding_window_attention() -> nn.Module:
    return block("SlidingWindowAttention", q_proj=linear(), k_proj=linear(), v_proj=linear(), o_proj=linear())


def vit_attention(name: str = "Attention") -> nn.Module:
    return block(name, qkv=linear(8, 24), proj=linear(), num_heads=2)


def conv_attention(name: str = "AttnBlock") -> nn.Module:
    return block(name, norm=nn.GroupNorm(2, 4), q=conv(4, 1), k=conv(4, 1), v=conv(4, 1), proj_out=conv(4, 1))


def transformer_block(attention: Callable[[], nn.Module]) -> nn.Module:
    return block("Block", ln_1=nn.LayerNorm(8), attn=attention(), ln_2=nn.LayerNorm(8), mlp=mlp())


def language_model(attention: Callable[[], nn.Module], layers: int = 2) -> nn.Module:
    blocks = stack(lambda: transformer_block(attention), layers)
    return block("Model", wte=nn.Embedding(16, 8), h=blocks, lm_head=linear(8, 16))


def lora(base: nn.Linear) -> nn.Module:
    """The layout of a PEFT layer: the frozen projection inside, two trained factors beside it."""
    factors = {"lora_A": nn.ModuleDict({"default": linear(8, 2)}), "lora_B": nn.ModuleDict({"default": linear(2, 8)})}
    return block("Linear", base_layer=freeze(base), lora_dropout=nn.ModuleDict({"default": nn.Identity()}), **factors)


def lora_attention() -> nn.Module:
    return block(
        "LlamaAttention", q_proj=lora(linear()), k_proj=freeze(linear()), v_proj=lora(linear()), o_proj=freeze(linear())
    )


# ---- recurrent cells -----------------------------------------------------------------------------------------------


class CustomLSTM(nn.LSTM):
    """A user's own subclass."""


def lstm() -> nn.LSTM:
    return nn.LSTM(8, 8)


def lstm_language_model() -> nn.Module:
    return block("RNNModel", encoder=nn.Embedding(16, 8), rnn=nn.LSTM(8, 8, 2), decoder=linear(8, 16))


def parametrized_lstm() -> nn.Module:
    cell = nn.utils.parametrizations.weight_norm(nn.LSTM(8, 8), "weight_hh_l0")
    return block("Tagger", cell=cell, head=linear())


def elman_cell() -> nn.Module:
    return block("Net", i2h=linear(), h2h=linear(), h2o=linear())


def raw_cell() -> nn.Module:
    return block("Cell", weight_ih=weight(32, 8), weight_hh=weight(32, 8), bias=weight(32))


def conv_lstm() -> nn.Module:
    return block("Forecaster", cell=block("ConvLSTMCell", conv=conv(8), hidden_dim=4), head=conv())


# ---- vision --------------------------------------------------------------------------------------------------------


def vit(attention: Callable[[], nn.Module] = vit_attention, **extra: Any) -> nn.Module:
    patches = block("PatchEmbed", proj=nn.Conv2d(3, 8, 16, 16))
    blocks = stack(lambda: transformer_block(attention))
    return block("VisionTransformer", patch_embed=patches, cls_token=weight(1, 1, 8), blocks=blocks, **extra)


def linear_patch_vit() -> nn.Module:
    patches = nn.Sequential(nn.Flatten(2), nn.LayerNorm(48), nn.Linear(48, 8))
    return block("ViT", to_patch_embedding=patches, pos=weight(1, 4, 8), transformer=encoder())


def window_attention(name: str = "WindowAttention") -> nn.Module:
    return block(
        name,
        qkv=linear(8, 24),
        proj=linear(),
        relative_position_bias_table=weight(9, 2),
        num_heads=2,
        window_size=(2, 2),
    )


def window_attention_v2() -> nn.Module:
    return block("WindowAttention", qkv=linear(8, 24), proj=linear(), cpb_mlp=mlp(), logit_scale=weight(2, 1, 1))


def swin(attention: Callable[[], nn.Module] = window_attention) -> nn.Module:
    stages = stack(lambda: nn.Sequential(transformer_block(attention), transformer_block(attention)))
    merging = block("PatchMerging", reduction=nn.Linear(32, 16, bias=False), norm=nn.LayerNorm(32))
    patches = block("PatchEmbed", proj=nn.Conv2d(3, 8, 4, 4))
    return block("SwinTransformer", patch_embed=patches, layers=stages, downsample=merging, head=linear())


def beit() -> nn.Module:
    return vit(lambda: window_attention("Attention"))


def detr_demo() -> nn.Module:
    return block(
        "DETRdemo",
        backbone=cnn(),
        conv=nn.Conv2d(4, 8, 1),
        transformer=nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
        linear_class=linear(8, 5),
        linear_bbox=linear(8, 4),
        query_pos=weight(10, 8),
    )


def detr() -> nn.Module:
    inner = block(
        "DETR", transformer=nn.Transformer(8, 2, 1, 1, 16, batch_first=True), class_embed=linear(), bbox_embed=mlp()
    )
    inner.query_embed = nn.Embedding(10, 8)
    inner.backbone = freeze(cnn())
    return block("LitDetector", model=inner)


class ScaledStdConv2d(nn.Conv2d):
    """A weight-standardized convolution with a gain, named as in timm."""


class StdConv2d(nn.Conv2d):
    """A weight-standardized convolution that is followed by group normalization."""


def scaled_conv_net() -> nn.Module:
    stages = stack(lambda: ScaledStdConv2d(4, 4, 3), 3)
    return block("NormFreeNet", stem=ScaledStdConv2d(4, 4, 3), stages=stages, head=linear(4))


def big_transfer() -> nn.Module:
    stages = stack(lambda: nn.Sequential(StdConv2d(4, 4, 3), nn.GroupNorm(2, 4)), 3)
    return block("ResNetV2", stages=stages, head=linear(4))


def diffusion_unet() -> nn.Module:
    return block(
        "UNet",
        time_mlp=nn.Sequential(linear(), nn.SiLU(), linear()),
        downs=stack(conv),
        mid_attn=vit_attention("LinearAttention"),
        ups=stack(conv),
        final_conv=conv(),
    )


def diffusion_unet_lookup() -> nn.Module:
    return block("Denoiser", time_embed=nn.Embedding(1000, 8), down1=conv(), down2=conv(), up1=conv(), up2=conv())


def residual_block() -> nn.Module:
    return block("ResnetBlock", conv1=conv(), conv2=conv())


def vqgan() -> nn.Module:
    middle = block("Module", block_1=residual_block(), attn_1=conv_attention(), block_2=residual_block())
    encoder = block("Encoder", down=stack(residual_block, 3), mid=middle)
    return block("VQModel", encoder=encoder, decoder=stack(residual_block, 3))


def yolo() -> nn.Module:
    detect = block("Detect", m=stack(lambda: conv(4, 1), 3), nl=3)
    layers = (block("Conv", conv=conv(), bn=nn.BatchNorm2d(4)), block("C3", cv1=conv(), cv2=conv()), block("SPPF"))
    return block("DetectionModel", model=nn.Sequential(*layers, detect))


def nnunet() -> nn.Module:
    parts = {"encoder": block("PlainConvEncoder", stages=stack(conv)), "decoder": block("UNetDecoder", stages=cnn())}
    return block("Lit", network=block("PlainConvUNet", **parts))


# ---- speech, graphs, molecules, control ----------------------------------------------------------------------------


def raw_waveform_model(prefix: str, layers: int = 2) -> nn.Module:
    name = f"{prefix}Attention"
    attention = lambda: block(name, k_proj=linear(), v_proj=linear(), q_proj=linear(), out_proj=linear())  # noqa: E731
    features = block(f"{prefix}FeatureEncoder", conv_layers=stack(lambda: nn.Conv1d(4, 4, 3, 2), 3))
    body = block(
        f"{prefix}Encoder",
        pos_conv_embed=block(f"{prefix}PositionalConvEmbedding", conv=nn.Conv1d(8, 8, 3)),
        layers=stack(lambda: transformer_block(attention), layers),
    )
    return block(f"{prefix}Model", feature_extractor=features, encoder=body)


def conformer() -> nn.Module:
    layer = lambda: block(  # noqa: E731
        "ConformerLayer",
        ffn1=mlp(),
        self_attn=nn.MultiheadAttention(8, 2),
        conv_module=nn.Sequential(nn.Conv1d(8, 16, 1), nn.GLU(1), nn.Conv1d(8, 8, 3)),
        ffn2=mlp(),
    )
    return block("Recogniser", encoder=stack(layer), ctc=linear())


def message_passing(name: str = "GCNConv", **members: Any) -> nn.Module:
    base = type("MessagePassing", (nn.Module,), {})
    made: nn.Module = type(name, (base,), {})()
    for key, member in (members or {"lin": linear()}).items():
        setattr(made, key, member)
    return made


def gps() -> nn.Module:
    layer = lambda: block("GPSLayer", local_model=message_passing(), self_attn=nn.MultiheadAttention(8, 2))  # noqa: E731
    return block("GPSModel", layers=stack(layer), head=linear())


def graph_transformer_conv() -> nn.Module:
    layer = lambda: message_passing("TransformerConv", lin_key=linear(), lin_query=linear(), lin_value=linear())  # noqa: E731
    return block("Net", convs=stack(layer))


def gcn() -> nn.Module:
    return block("GCN", conv1=message_passing(), conv2=message_passing(), head=linear())


def handwritten_gcn() -> nn.Module:
    return block("Net", gc1=block("GraphConvolution", weight=weight()), gc2=block("GraphConvolution", weight=weight()))


def tacotron() -> nn.Module:
    attention = block("Attention", query_layer=linear(), memory_layer=linear(), v=linear(8, 1))
    decoder = block("Decoder", prenet=mlp(), attention_rnn=nn.LSTMCell(8, 8), attention_layer=attention)
    return block("Tacotron2", encoder=block("Encoder", lstm=lstm()), decoder=decoder, postnet=nn.Conv1d(8, 8, 5))


def evoformer() -> nn.Module:
    row = block("MSARowAttentionWithPairBias", mha=lucid_attention())
    triangle = block("TriangleAttentionStartingNode", mha=lucid_attention())
    return block("AlphaFold", evoformer=block("EvoformerBlock", msa_att_row=row, tri_att_start=triangle))


def mamba() -> nn.Module:
    mixer = lambda: block(  # noqa: E731
        "Mixer",
        in_proj=linear(8, 32),
        conv1d=nn.Conv1d(16, 16, 4),
        x_proj=linear(16),
        out_proj=linear(16, 8),
        A_log=weight(16, 4),
        D=weight(16),
    )
    return block("MambaLM", embedding=nn.Embedding(16, 8), layers=stack(mixer), lm_head=linear())


def rwkv() -> nn.Module:
    mixer = lambda: block("TimeMix", receptance=linear(), key=linear(), value=linear(), output=linear())  # noqa: E731
    return block("RWKV", emb=nn.Embedding(16, 8), blocks=stack(mixer), head=linear())


def electra() -> nn.Module:
    return block("Electra", generator=language_model(bert_attention), discriminator=language_model(bert_attention))


def soft_actor_critic() -> nn.Module:
    return block("SAC", actor=mlp(), critic=mlp(), critic_target=freeze(mlp()))
