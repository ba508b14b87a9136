"""The family and limit that a person would give each model, written down before the recogniser was run on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from tests.clipping.architectures import (
    CustomLSTM,
    annotated_attention,
    beit,
    bert_attention,
    big_transfer,
    block,
    buffered_qkv,
    cnn,
    conformer,
    conv,
    conv_lstm,
    deberta_attention,
    detr,
    detr_demo,
    diffusion_unet,
    diffusion_unet_lookup,
    electra,
    elman_cell,
    encoder,
    evoformer,
    freeze,
    gcn,
    gps,
    gpt2_attention,
    graph_transformer_conv,
    handwritten_gcn,
    language_model,
    latent_attention,
    lens_attention,
    linear,
    linear_patch_vit,
    llama_attention,
    lstm,
    lstm_language_model,
    lucid_attention,
    mamba,
    message_passing,
    mingpt_head,
    mlp,
    nnunet,
    parametrized_lstm,
    raw_cell,
    raw_waveform_model,
    rwkv,
    scaled_conv_net,
    sliding_window_attention,
    soft_actor_critic,
    stack,
    swin,
    t5_attention,
    tacotron,
    vit,
    vit_attention,
    vqgan,
    weight,
    window_attention,
    window_attention_v2,
    yolo,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Architecture(NamedTuple):
    """A model with its family and limit; family None stands for "not recognised"."""

    name: str
    build: Callable[[], nn.Module]
    family: str | None
    max_norm: float | None


FAMILIES = (
    Architecture("torch encoder", lambda: block("Net", body=encoder(), head=linear()), "transformer", 1.0),
    Architecture("torch encoder-decoder", lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True), "transformer", 1.0),
    Architecture("multihead attention", lambda: block("N", a=nn.MultiheadAttention(8, 2)), "transformer", 1.0),
    Architecture("llama", lambda: language_model(llama_attention), "transformer", 1.0),
    Architecture("bert", lambda: language_model(bert_attention), "transformer", 1.0),
    Architecture("gpt-2", lambda: language_model(gpt2_attention), "transformer", 1.0),
    Architecture("one head", lambda: language_model(mingpt_head), "transformer", 1.0),
    Architecture("t5", lambda: language_model(t5_attention), "transformer", 1.0),
    Architecture("four linears", lambda: language_model(annotated_attention), "transformer", 1.0),
    Architecture("deberta in_proj", lambda: language_model(deberta_attention), "transformer", 1.0),
    Architecture("raw parameters", lambda: language_model(lens_attention), "transformer", 1.0),
    Architecture("q and kv", lambda: language_model(lucid_attention), "transformer", 1.0),
    Architecture("latent attention", lambda: language_model(latent_attention), "transformer", 1.0),
    Architecture("lstm language model", lstm_language_model, "recurrent", 0.25),
    Architecture("gru", lambda: block("Net", gru=nn.GRU(8, 8), out=linear()), "recurrent", 0.25),
    Architecture("plain rnn", lambda: block("Net", rnn=nn.RNN(8, 8)), "recurrent", 0.25),
    Architecture("lstm itself", lstm, "recurrent", 0.25),
    Architecture("lstm cell", lambda: block("Net", cell=nn.LSTMCell(8, 8)), "recurrent", 0.25),
    Architecture("gru cell", lambda: block("Net", cell=nn.GRUCell(8, 8)), "recurrent", 0.25),
    Architecture("parametrized lstm", parametrized_lstm, "recurrent", 0.25),
    Architecture("lstm subclass", lambda: block("Net", body=CustomLSTM(8, 8)), "recurrent", 0.25),
    Architecture("elman cell by hand", elman_cell, "recurrent", 0.25),
    Architecture("cell of raw parameters", lambda: block("Net", cell=raw_cell()), "recurrent", 0.25),
    Architecture("cell of weight matrices", lambda: block("Net", W_xh=weight(), W_hh=weight()), "recurrent", 0.25),
    Architecture("convolutional lstm", conv_lstm, "recurrent", 0.25),
    Architecture("vit", vit, "vision-transformer", 1.0),
    Architecture("vit with linear patches", linear_patch_vit, "vision-transformer", 1.0),
    Architecture("swin", swin, "windowed-vision-transformer", 5.0),
    Architecture("swin v2", lambda: swin(window_attention_v2), "windowed-vision-transformer", 5.0),
    Architecture("unnamed swin", lambda: swin(lambda: window_attention("A")), "windowed-vision-transformer", 5.0),
    Architecture("detr", detr, "detection-transformer", 0.1),
    Architecture("detr demo", detr_demo, "detection-transformer", 0.1),
    Architecture("cnn", cnn, "conv-net", None),
    Architecture("temporal cnn", lambda: block("TCN", net=stack(lambda: nn.Conv1d(4, 4, 3))), "conv-net", None),
    Architecture("normalizer-free", scaled_conv_net, "normalizer-free-net", None),
    Architecture("diffusion u-net", diffusion_unet, "diffusion-unet", 1.0),
    Architecture("diffusion u-net, looked-up time", diffusion_unet_lookup, "diffusion-unet", 1.0),
    Architecture("gan", lambda: block("GAN", generator=cnn(), discriminator=cnn()), "gan", None),
    Architecture("pix2pix", lambda: block("Pix2Pix", netG=cnn(), netD=cnn()), "gan", None),
    Architecture("wasserstein gan", lambda: block("WGAN", generator=mlp(), critic=mlp()), "gan", None),
    Architecture("yolo", yolo, "yolo", 10.0),
    Architecture("nnu-net", nnunet, "nnunet", 12.0),
    Architecture("wav2vec 2.0", lambda: raw_waveform_model("Wav2Vec2"), "wav2vec", None),
    Architecture("hubert base", lambda: raw_waveform_model("Hubert", 12), "hubert-base", 10.0),
    Architecture("hubert large", lambda: raw_waveform_model("Hubert", 24), "hubert-large", 1.0),
    Architecture("conformer", conformer, "conformer", None),
    Architecture("graph transformer", gps, "graph-transformer", 1.0),
    Architecture("graph transformer convolution", graph_transformer_conv, "graph-transformer", 1.0),
    Architecture("gcn", gcn, "graph-net", None),
    Architecture("gcn by hand", handwritten_gcn, "graph-net", None),
    Architecture("tacotron", tacotron, "tacotron", 1.0),
    Architecture("evoformer", evoformer, "structure-prediction", 0.1),
    Architecture("mamba", mamba, "state-space", 1.0),
    Architecture("rwkv", rwkv, "state-space", 1.0),
    Architecture("ppo", lambda: block("Agent", actor=mlp(), critic=mlp()), "actor-critic", 0.5),
    Architecture(
        "a2c heads", lambda: block("P", fc=linear(), action_head=linear(), value_head=linear()), "actor-critic", 0.5
    ),
    Architecture("mlp", mlp, "mlp", None),
    Architecture("linear regression", linear, "mlp", None),
    Architecture("embedding only", lambda: block("W2V", u=nn.Embedding(9, 4), v=nn.Embedding(9, 4)), None, None),
    Architecture("bare parameters", lambda: block("Fit", a=weight(3), b=weight(3)), None, None),
    Architecture("nothing", lambda: block("Nothing"), None, None),
)

PRECEDENCE = (
    Architecture("cnn, lstm head", lambda: block("CRNN", cnn=cnn(), rnn=lstm(), head=linear()), "recurrent", 0.25),
    Architecture("cnn, transformer encoder", lambda: block("N", f=cnn(), body=encoder()), "transformer", 1.0),
    Architecture("transformer, lstm", lambda: block("N", body=encoder(), rnn=lstm()), "recurrent", 0.25),
    Architecture("swin, lstm", lambda: block("Captioner", image=swin(), text=lstm()), "recurrent", 0.25),
    Architecture("swin, text decoder", lambda: block("Donut", image=swin(), text=encoder()), "transformer", 1.0),
    Architecture("gan of lstms", lambda: block("TimeGAN", generator=lstm(), discriminator=lstm()), "recurrent", 0.25),
    Architecture(
        "gan with attention",
        lambda: block("SAGAN", generator=block("G", c=cnn(), attn=vit_attention()), discriminator=cnn()),
        "gan",
        None,
    ),
    Architecture(
        "ppo with lstm", lambda: block("Agent", lstm=lstm(), actor=linear(), critic=linear()), "actor-critic", 0.5
    ),
    Architecture(
        "wav2vec with text decoder",
        lambda: block("S2T", a=raw_waveform_model("Wav2Vec2"), b=encoder()),
        "transformer",
        1.0,
    ),
    Architecture(
        "diffusion u-net with trained text encoder",
        lambda: block("SD", unet=diffusion_unet(), text=language_model(llama_attention)),
        "diffusion-unet",
        1.0,
    ),
    Architecture(
        "graph net, gru update", lambda: block("MPNN", c=message_passing(), gru=nn.GRU(8, 8)), "recurrent", 0.25
    ),
    Architecture("conformer transducer", lambda: block("RNNT", encoder=conformer(), pred=lstm()), "recurrent", 0.25),
    Architecture("detr with lstm", lambda: block("N", d=detr(), rnn=lstm()), "detection-transformer", 0.1),
    Architecture("mamba and attention", lambda: block("Jamba", m=mamba(), a=encoder()), "transformer", 1.0),
)

LOOK_ALIKES = (
    Architecture(
        "a count named query", lambda: block("N", query_count=3, key="a", value=1.0, fc=linear()), "mlp", None
    ),
    Architecture(
        "embeddings named query, key, value",
        lambda: block(
            "Memory", query=nn.Embedding(4, 8), key=nn.Embedding(4, 8), value=nn.Embedding(4, 8), fc=linear()
        ),
        "mlp",
        None,
    ),
    Architecture("a buffer named qkv", buffered_qkv, "mlp", None),
    Architecture("q and v heads", lambda: block("Dueling", body=linear(), q=linear(), v=linear()), "mlp", None),
    Architecture(
        "charge, stiffness, velocity heads",
        lambda: block("Physics", body=mlp(), q=linear(8, 1), k=linear(8, 1), v=linear(8, 1)),
        "mlp",
        None,
    ),
    Architecture("a transformer by name only", lambda: block("TransformerLSTM", fc=mlp()), "mlp", None),
    Architecture(
        "an attention class without projections",
        lambda: block("N", a=block("MultiheadAttention", gate=linear(8, 1)), fc=linear()),
        "mlp",
        None,
    ),
    Architecture(
        "channel attention",
        lambda: block(
            "CBAM",
            body=cnn(),
            ca=block("ChannelAttention", fc1=conv(4, 1), fc2=conv(4, 1)),
            sa=block("SpatialAttention", conv1=conv(4, 7)),
        ),
        "conv-net",
        None,
    ),
    Architecture(
        "response normalization named GRN",
        lambda: block("ConvNeXtV2", c=cnn(), grn=block("GRN", gamma=weight(4), beta=weight(4))),
        "conv-net",
        None,
    ),
    Architecture("region cnn", lambda: block("Lit", net=block("MaskRCNN", body=cnn(), box=linear())), "conv-net", None),
    Architecture(
        "a generator that is an output layer",
        lambda: block("EncoderDecoder", encoder=encoder(), generator=block("Generator", proj=linear())),
        "transformer",
        1.0,
    ),
    Architecture(
        "layers named d1, g1", lambda: block("N", d1=conv(), d2=conv(), g1=conv(), g2=conv()), "conv-net", None
    ),
    Architecture(
        "hour-of-day embedding in a forecaster",
        lambda: block("TCN", time_embedding=nn.Embedding(24, 8), c1=nn.Conv1d(8, 8, 3), c2=nn.Conv1d(8, 8, 3)),
        "conv-net",
        None,
    ),
    Architecture(
        "gated mlp with in_proj",
        lambda: block("N", b=block("GatedMLP", in_proj=linear(8, 16), out_proj=linear())),
        "mlp",
        None,
    ),
    Architecture("1x1-convolution attention in an autoencoder", vqgan, "conv-net", None),
    Architecture("pooling over windows", lambda: block("N", p=block("SlidingWindowPool", fc=linear())), "mlp", None),
    Architecture("beit", beit, "vision-transformer", 1.0),
    Architecture(
        "momentum contrast", lambda: block("MoCo", encoder_q=cnn(), encoder_k=freeze(cnn())), "conv-net", None
    ),
    Architecture("soft actor-critic", soft_actor_critic, "mlp", None),
    Architecture("electra", electra, "transformer", 1.0),
    Architecture(
        "bounding boxes by convolution",
        lambda: block("RetinaNet", backbone=cnn(), bbox_head=conv(), cls_head=conv(), query_embed=10),
        "conv-net",
        None,
    ),
    Architecture("a class named Detect", lambda: block("N", d=block("Detect", m=linear()), fc=linear()), "mlp", None),
    Architecture("image sizes named ih, hh", lambda: block("N", ih=32, hh=32, i2h=linear(), fc=linear()), "mlp", None),
    Architecture("molecular conformers", lambda: block("N", e=block("ConformerEncoder", fc=mlp())), "mlp", None),
    Architecture(
        "prenet and postnet without recurrence",
        lambda: block("SpeechT5", prenet=mlp(), body=encoder(), postnet=mlp()),
        "transformer",
        1.0,
    ),
    Architecture("standardized convolutions with norms", big_transfer, "conv-net", None),
    Architecture("a traced cnn is a GraphModule", lambda: torch.fx.symbolic_trace(cnn()), "conv-net", None),
    Architecture("sliding windows over text", lambda: language_model(sliding_window_attention), "transformer", 1.0),
    Architecture(
        "cross-channel attention",
        lambda: block("N", body=cnn(), a=block("CrossChannelAttention", a=conv(), b=conv(), c=conv())),
        "conv-net",
        None,
    ),
    Architecture(
        "learned query, key and value vectors",
        lambda: block("Pool", query=weight(8), key=weight(4, 8), value=weight(4, 8), fc=linear()),
        "mlp",
        None,
    ),
    Architecture(
        "query, key and value towers",
        lambda: block("N", query_encoder=cnn(), key_encoder=cnn(), value_encoder=cnn()),
        "conv-net",
        None,
    ),
    Architecture(
        "key-value memory with towers named query, key, value",
        lambda: block("STM", query=cnn(9), key=cnn(9), value=cnn(9)),
        "conv-net",
        None,
    ),
)
