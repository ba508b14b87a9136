"""The architecture families: how each is recognised, the limit that its reference implementations ship, and where.

``_FAMILIES`` is the rule of precedence: the first family that recognises a model decides. Two principles made the
order. A family that is built out of others (DETR out of attention, Tacotron out of LSTMs) stands before them. Between
families that are only found side by side, the one with the smaller limit comes first, and "none" last: a limit that
is too low slows a part of the model, one that is too high does not protect the most fragile part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradwatch.clipping import recognise_sequence as sequence
from gradwatch.clipping import recognise_vision as vision
from gradwatch.clipping.inventory import Inventory

Recognise = Callable[[Inventory], str | None]


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture family. ``recognise`` returns what it saw, for people to read, or None.

    ``max_norm`` limits the L2 norm of all gradients together; None stands for "not clipped". Lines in ``source`` hold
    at the commit after the ``@``.
    """

    name: str
    max_norm: float | None
    evidence: str
    source: str
    recognise: Recognise


_FAMILIES = (
    Family(
        name="structure-prediction",
        max_norm=0.1,
        evidence="Evoformer blocks or triangle attention",
        source="aqlaboratory/openfold@ce0029e deepspeed_config.json:25",
        recognise=sequence.structure_prediction,
    ),
    Family(
        name="detection-transformer",
        max_norm=0.1,
        evidence="object queries (or classes named DETR), a box head and attention",
        source="facebookresearch/detr@29901c5 main.py:28; fundamentalvision/Deformable-DETR@11169a6 main.py:41; "
        "hustvl/YOLOS@5717fc2 main.py:32",
        recognise=vision.detection,
    ),
    Family(
        name="tacotron",
        max_norm=1.0,
        evidence="a recurrent network between a `prenet` and a `postnet`",
        source="NVIDIA/tacotron2@185cd24 hparams.py:83; NVIDIA/NeMo@8cfedd7 examples/tts/conf/tacotron2.yaml:183",
        recognise=sequence.tacotron,
    ),
    Family(
        name="actor-critic",
        max_norm=0.5,
        evidence="a policy and a value function side by side, without target or twin networks (SAC, TD3: not clipped); "
        "with or without an LSTM",
        source="DLR-RM/stable-baselines3@e05d2db ppo/ppo.py:95, a2c/a2c.py:76; "
        "Stable-Baselines-Team/stable-baselines3-contrib@0ca7fdd ppo_recurrent/ppo_recurrent.py:89; "
        "vwxyzjn/cleanrl@fe8d8a0 cleanrl/ppo.py:67, cleanrl/ppo_atari_lstm.py:75",
        recognise=sequence.actor_critic,
    ),
    Family(
        name="recurrent",
        max_norm=0.25,
        evidence="RNN, LSTM and GRU layers and cells, subclasses, hand-written cells",
        source="salesforce/awd-lstm-lm@1d466ec main.py:26; pytorch/examples@77f55b9 word_language_model/main.py:26",
        recognise=sequence.recurrent,
    ),
    Family(
        name="gan",
        max_norm=None,
        evidence="a generator and a discriminator or critic side by side, both trained",
        source="NVlabs/stylegan2-ada-pytorch@d72cc7d training/training_loop.py:291 (only nan_to_num); "
        "pytorch/examples@77f55b9 dcgan/main.py:245-259 (steps without clipping)",
        recognise=vision.gan,
    ),
    Family(
        name="diffusion-unet",
        max_norm=1.0,
        evidence="a timestep embedding and more convolutions than attention",
        source="hojonathanho/diffusion@1e0dceb scripts/run_cifar.py:134; huggingface/diffusers@58eb52c "
        "examples/text_to_image/train_text_to_image.py:414, "
        "examples/unconditional_image_generation/train_unconditional.py:629",
        recognise=vision.diffusion,
    ),
    Family(
        name="yolo",
        max_norm=10.0,
        evidence="a `Detect` head on C3, C2f or SPPF blocks",
        source="ultralytics/yolov5@5081342 train.py:415",
        recognise=vision.yolo,
    ),
    Family(
        name="conformer",
        max_norm=None,
        evidence="two half feed-forward parts around attention and a 1-D convolution, no other attention",
        source="NVIDIA/NeMo@8cfedd7 examples/asr/conf/conformer/conformer_ctc_bpe.yaml:203 (0.0); the cache-aware "
        "streaming recipes have 1.0 (conformer_ctc_bpe_streaming.yaml:180)",
        recognise=sequence.conformer,
    ),
    Family(
        name="hubert-base",
        max_norm=10.0,
        evidence="a raw-waveform encoder of HuBERT's classes, at most 12 attention layers",
        source="facebookresearch/fairseq@3d262bb examples/hubert/config/pretrain/hubert_base_librispeech.yaml:53",
        recognise=sequence.hubert_base,
    ),
    Family(
        name="hubert-large",
        max_norm=1.0,
        evidence="the same with more than 12 attention layers",
        source="facebookresearch/fairseq@3d262bb examples/hubert/config/pretrain/hubert_large_librivox.yaml:53, "
        "hubert_xlarge_librivox.yaml:53",
        recognise=sequence.hubert_large,
    ),
    Family(
        name="wav2vec",
        max_norm=None,
        evidence="attention over a 1-D convolutional front end with a convolutional positional embedding",
        source="facebookresearch/fairseq@3d262bb fairseq/dataclass/configs.py:601 (0.0, not set by "
        "examples/wav2vec/config/pretraining); NVIDIA/NeMo@8cfedd7 "
        "examples/asr/conf/ssl/wav2vec/wav2vec_pretrain.yaml:134",
        recognise=sequence.raw_waveform,
    ),
    Family(
        name="graph-transformer",
        max_norm=1.0,
        evidence="message passing and attention",
        source="rampasek/GraphGPS@2801570 graphgps/config/optimizers_config.py:28, configs/GPS/cifar10-GPS.yaml:58",
        recognise=sequence.graph_transformer,
    ),
    Family(
        name="windowed-vision-transformer",
        max_norm=5.0,
        evidence="attention in shifted windows (`WindowAttention`, `relative_position_bias_table`), no other attention",
        source="microsoft/Swin-Transformer@f82860b config.py:160",
        recognise=vision.windowed_vision,
    ),
    Family(
        name="vision-transformer",
        max_norm=1.0,
        evidence="a patch embedding and attention",
        source="google-research/vision_transformer@c6de1e5 vit_jax/configs/common.py:41",
        recognise=vision.vision,
    ),
    Family(
        name="transformer",
        max_norm=1.0,
        evidence="attention: torch's own, or modules that hold query, key and value projections",
        source="karpathy/nanoGPT@3adf61e train.py:63; google-research/bert@eedf571 optimization.py:74; "
        "huggingface/transformers 5.23.0 training_args.py:866",
        recognise=sequence.transformer,
    ),
    Family(
        name="state-space",
        max_norm=1.0,
        evidence="Mamba's state matrix `A_log`, or RWKV's `receptance`",
        source="BlinkDL/RWKV-LM@524481d RWKV-v7/train_temp/train.py:47",
        recognise=sequence.state_space,
    ),
    Family(
        name="nnunet",
        max_norm=12.0,
        evidence="the encoder and decoder classes of nnU-Net",
        source="MIC-DKFZ/nnUNet@0e49508 nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py:1042",
        recognise=vision.nnunet,
    ),
    Family(
        name="normalizer-free-net",
        max_norm=None,
        evidence="scaled weight-standardized convolutions and no normalization layer",
        source="google-deepmind/deepmind-research@68a1754 nfnets/experiment_nfnets.py:65-68: they ship adaptive "
        "gradient clipping (AGC, 0.01 of each unit's weight norm); gradwatch has no AGC, and a limit on the total norm "
        "is no substitute",
        recognise=vision.normalizer_free,
    ),
    Family(
        name="graph-net",
        max_norm=None,
        evidence="message passing without attention",
        source="pyg-team/pytorch_geometric@5c6461b examples/gcn.py:83, examples/gat.py:65 (steps without clipping)",
        recognise=sequence.graph_net,
    ),
    Family(
        name="conv-net",
        max_norm=None,
        evidence="convolutions and none of the above",
        source="pytorch/vision@017e9b9 references/classification/train.py (--clip-grad-norm, default None); "
        "huggingface/pytorch-image-models@aa4b585 train.py:201 (--clip-grad, default None)",
        recognise=vision.conv_net,
    ),
    Family(
        name="mlp",
        max_norm=None,
        evidence="linear layers and none of the above",
        source="pytorch/examples@77f55b9 vae/main.py:100-102 (steps without clipping)",
        recognise=vision.mlp,
    ),
)


def families() -> tuple[Family, ...]:
    """Every family, in the order of precedence: the first that recognises a model decides."""
    return _FAMILIES


def families_markdown() -> str:
    """The families as the table of ``docs/clipping.md``, in the order of precedence."""
    header = "| | family | max norm | recognised by | source |\n|---|---|---|---|---|\n"
    rows = (
        f"| {rank} | `{family.name}` | {_limit(family)} | {family.evidence} | {family.source} |\n"
        for rank, family in enumerate(_FAMILIES, start=1)
    )
    return header + "".join(rows)


def _limit(family: Family) -> str:
    return "none" if family.max_norm is None else f"{family.max_norm:g}"
