"""How the families of images, detection and generation are recognised, and what is left over: convolutions and MLPs.

Each function takes an inventory and returns what it saw ("16 Conv2d modules"), or None. ``nodes`` are asked for the
evidence that decides, ``context`` for what only narrows it down.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from gradwatch.clipping.attention import LINEAR, attention
from gradwatch.clipping.inventory import Inventory, Node, below, of_kind, tally, with_child

if TYPE_CHECKING:
    from collections.abc import Iterable

_BIAS_TABLE = "relative_position_bias_table"
_PATCHES = r"\w*patch_?embed\w*|to_patch\w*"
_QUERIES = re.compile(
    r"(?:object_|obj_)?quer(?:y|ies)(?:_(?:embed\w*|pos\w*|feat\w*|tokens?))?|refpoint_embed\w*|det(?:ection)?_tokens?"
)
_BOXES = r"\w*(?:bbox|box_embed|box_head|box_predictor)\w*"
_GENERATOR = re.compile(r"\w*generator\w*|gen(?:_\w{1,3})?|net_?[gG](?:_?\w{1,3})?|G(?:_\w{1,3})?")
_DISCRIMINATOR = re.compile(
    r"\w*discriminator\w*|\w*critic\w*|disc(?:_\w{1,3})?|net_?[dD](?:_?\w{1,3})?|D(?:_\w{1,3})?"
)
# "t", "noise" and "sigma" also name teachers, targets and predicted variances: only their embeddings count.
_TIME = (
    r"(?:time|timestep|diffusion|temb|noise_level)_?(?:step_?)?(?:emb\w*|mlp|proj|projection)|"
    r"(?:t|noise|sigma)_?emb(?:ed(?:d(?:ing|er))?)?(?:_(?:mlp|proj|layer))?|temb|map_noise"
)
_TIME_KINDS = r"Timesteps?|Timestep(?:Embed|Block)\w*|Sinusoidal\w*|GaussianFourier\w*|(?:Time|Diffusion|Noise)Embed\w*"
_DOWN, _UP = r"(?:down|enc|input_block|contract)\w*", r"(?:up|dec|output_block|expan)\w*"
_UPSAMPLING = r"ConvTranspose\dd|Upsample\w*|Upsampling\w*|PixelShuffle"
_YOLO_BLOCKS = r"C[23]\w{0,4}|SPP\w*|RepNCSPELAN\d|ELAN\w*"
_STANDARDIZED = r"Scaled(?:Std|WS)\w*|WSConv\w*|NormFree\w*|NFNet\w*|NFBlock\w*"
_NORMS = r"\w*(?:Batch|Group|Layer|Instance|RMS)Norm\w*"
_IMAGE_CONVOLUTIONS = frozenset({"Conv2d", "Conv3d"})


def _convolutions(nodes: Iterable[Node]) -> list[Node]:
    return [node for node in nodes if "_ConvNd" in node.torch_kinds] or of_kind(nodes, r"\w*Conv\dd")


def conv_net(inventory: Inventory) -> str | None:
    """Convolutions, and none of the families above."""
    found = _convolutions(inventory.nodes)
    return tally(found) if found else None


def normalizer_free(inventory: Inventory) -> str | None:
    """Scaled, weight-standardized convolutions in a model without a normalization layer."""
    found = of_kind(inventory.nodes, _STANDARDIZED)
    return f"{tally(found)} and no normalization layer" if found and not of_kind(inventory.context, _NORMS) else None


def mlp(inventory: Inventory) -> str | None:
    """Linear layers, and none of the families above."""
    found = of_kind((node for node in inventory.nodes if not node.children), LINEAR)
    return tally(found) if found else None


def windowed_vision(inventory: Inventory) -> str | None:
    """Attention in shifted windows, and no other attention: a text decoder beside it is a transformer of its own."""
    windowed = _windowed(inventory)
    return tally(windowed) if windowed and len(windowed) == len(inventory.attention) else None


def _windowed(inventory: Inventory) -> list[Node]:
    """Window attention by its name or its table of position biases, in a model of images."""
    # BEiT has the bias table and a class token, MaxViT the table and inverted bottlenecks; neither ships Swin's value.
    # Text models have windows as well, but no convolution that could cut an image into patches.
    token = any("cls_token" in node.parameters for node in inventory.context)
    other_table = token or of_kind(inventory.context, "MBConv")
    images = any(_IMAGE_CONVOLUTIONS & node.torch_kinds for node in inventory.context)
    named = set(of_kind(inventory.attention, r"\w*(?:Window|Swin)\w*")) if images else set()
    return [
        node for node in inventory.attention if node in named or (_BIAS_TABLE in node.parameters and not other_table)
    ]


def vision(inventory: Inventory) -> str | None:
    """Attention over image patches: a patch embedding by name, or no other convolution than those that cut patches."""
    if not inventory.attention or _windowed(inventory):
        return None
    named = any(_is_patch_embedding(child) for _, child in with_child(inventory.context, _PATCHES))
    convolutions = [node for node in inventory.context if _IMAGE_CONVOLUTIONS & node.torch_kinds]
    cutting = bool(convolutions) and all(map(_cuts_patches, convolutions))
    return f"patch embedding and {tally(inventory.attention)}" if named or cutting else None


def _is_patch_embedding(node: Node) -> bool:
    """Patches are cut by a 2-D or 3-D convolution, or flattened before a linear map."""
    parts = tuple(below(node))
    return any(_IMAGE_CONVOLUTIONS & part.torch_kinds or "Sequential" in part.torch_kinds for part in parts)


def _cuts_patches(node: Node) -> bool:
    kernel, stride = (getattr(node.module, name, None) for name in ("kernel_size", "stride"))
    return isinstance(kernel, tuple) and kernel == stride and kernel[-1] > 1


def detection(inventory: Inventory) -> str | None:
    """Learned object queries (or a class named DETR), a box head and attention."""
    if not inventory.attention:
        return None
    boxes = any(of_kind(below(child), r"\w*Linear\w*") for _, child in with_child(inventory.context, _BOXES))
    if not boxes:
        return None
    queries = any(_holds_queries(node) for node in inventory.context)
    named = of_kind(inventory.context, r"\w*D(?:ETR|etr)\w*")
    return f"object queries, a box head and {tally(inventory.attention)}" if queries or named else None


def _holds_queries(node: Node) -> bool:
    tables = [name for name, child in node.children.items() if "Embedding" in child.kinds]
    return any(map(_QUERIES.fullmatch, (*tables, *node.parameters)))


def gan(inventory: Inventory) -> str | None:
    """A generator and a discriminator (or critic) side by side, both trained."""
    for node in inventory.nodes:
        pair = _generator_and_discriminator(tuple(node.children)) if node.children else ()
        parts = [node.children[name] for name in pair]
        # ELECTRA's generator and discriminator are two text transformers, trained by maximum likelihood.
        if pair and all(part.trained for part in parts) and not all(map(_reads_text, parts)):
            return f"{' and '.join(pair)} in one {node.name}"
    return None


@lru_cache(maxsize=4096)
def _generator_and_discriminator(names: tuple[str, ...]) -> tuple[str, ...]:
    pair = tuple(next(filter(role.fullmatch, names), "") for role in (_GENERATOR, _DISCRIMINATOR))
    return pair if all(pair) else ()


def _reads_text(node: Node) -> bool:
    parts = tuple(below(node))
    return bool(attention(parts)) and any("Embedding" in part.torch_kinds for part in parts)


def diffusion(inventory: Inventory) -> str | None:
    """An embedding of the diffusion time and a convolutional net, U-shaped unless the embedding is unmistakable."""
    found = _convolutions(inventory.nodes)
    if len(found) <= max(1, len(inventory.attention)):
        return None
    times = [child for _, child in with_child(inventory.nodes, _TIME)] + of_kind(inventory.nodes, _TIME_KINDS)
    images = any(_IMAGE_CONVOLUTIONS & node.torch_kinds for node in found)
    computed = any("Embedding" not in node.torch_kinds for node in times)
    unmistakable = images and computed
    return f"timestep embedding and {tally(found)}" if times and (unmistakable or _is_u_shaped(inventory)) else None


def _is_u_shaped(inventory: Inventory) -> bool:
    paths = all(with_child(inventory.nodes, path) for path in (_DOWN, _UP))
    return paths or bool(of_kind(inventory.context, _UPSAMPLING))


def yolo(inventory: Inventory) -> str | None:
    """The Detect head of YOLOv5 and its successors, on their backbone blocks."""
    heads = [node for node in of_kind(inventory.nodes, r"\w*Detect") if _convolutions(tuple(below(node)))]
    blocks = of_kind(inventory.context, _YOLO_BLOCKS)
    return f"{tally(heads)} on {tally(blocks)}" if heads and blocks else None


def nnunet(inventory: Inventory) -> str | None:
    """The encoder and decoder classes of nnU-Net's networks."""
    encoders = of_kind(inventory.nodes, "PlainConvEncoder|ResidualEncoder")
    decoders = of_kind(inventory.nodes, "UNetDecoder")
    return tally([*encoders, *decoders]) if encoders and decoders else None
