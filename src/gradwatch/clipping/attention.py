"""Which modules are attention: by the projections that they hold, whatever they are called.

Public code spells the query, key and value projections in dozens of ways (``q_proj``, ``to_q``, ``w_qs``, ``query``,
``Wqkv``, ``c_attn``, ``query_key_value``, ``q`` and ``kv``). A name alone proves nothing: it has to be the name of a
linear map or of a parameter.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from gradwatch.clipping.inventory import Node, below, of_kind

if TYPE_CHECKING:
    from collections.abc import Iterable

_Q, _K, _V = "q|qs|query|queries", "k|ks|key|keys", "v|vs|value|values"
_PREFIX = r"(?:(?:to|w|lin|linear|fc|proj|project|projection|conv|convolution|dense|in_proj|attn|self_attn)_?)*"
_SUFFIX = r"(?:_?(?:proj|projection|lin|linear|layer|fc|map|conv|dense|weights?|w|mat|matrix|attn|[ab]_proj)|_[ab])?"
_ROLES = {
    role: re.compile(f"{_PREFIX}(?:{body}){_SUFFIX}", re.IGNORECASE)
    for role, body in {
        "qkv": f"(?:{_Q})_?(?:{_K})_?(?:{_V})",
        "qk": f"(?:{_Q})_?(?:{_K})",
        "kv": f"(?:{_K})_?(?:{_V})",
        "q": _Q,
        "k": _K,
        "v": _V,
    }.items()
}
_FUSED = frozenset({"c_attn", "att_proj", "w_pack", "qkv_net", "qkvw", "in_proj_qkv"})
_COMPLETE = ({"qkv"}, {"q", "k", "v"}, {"q", "kv"}, {"qk", "v"})
_LETTERS = frozenset({"q", "k", "v"})
_WORDS = frozenset({"query", "key", "value"})
LINEAR = r"\w*(?<!Non)Linear(?!ity|Unit)\w*|\w*Conv(?:\d[dD]|Nd)\w*|Dense|MatMul\w*"
_OUTPUT = re.compile(r"(?:to_?|c_|w_?|proj_)?(?:o|out|output|proj|dense|unify_?heads)(?:_proj|_lin)?")
_HEADS = frozenset(
    {"heads", "n_heads", "num_heads", "n_head", "num_head", "nhead", "head_dim", "dim_head", "head_size"}
)
_ATTENTION_NAME = r"\w*(?:Multi_?[Hh]ead(?:ed)?|Self|Cross|Causal)\w*Att(?:entio)?n\w*"
_FEED_FORWARD = re.compile(r"(?:\w*_)?(?:mlp|ffn|ff|feed_?forward)\d?(?:_\w*)?")
_SPATIAL = frozenset({"Conv2d", "Conv3d"})
_WRAPPER_SIZE = 16  # a wrapped projection (LoRA, compiled, convolution with norm) is small; a tower is not


def attention(nodes: Iterable[Node]) -> list[Node]:
    """The attention modules: those that hold projections or, if there is none, those that at least are named so."""
    nodes = [node for node in nodes if node.children or node.parameters]
    held = [node for node in nodes if _holds_projections(node)]
    spatial = {node for node in held if _is_spatial(node)}
    # Attention by 2-D convolutions makes a transformer only in a transformer block, with a feed-forward part beside
    # it (CoAtNet, MobileViT); alone among convolutions (SAGAN, VQGAN) it does not.
    parents = [node for node in nodes if spatial and _has_feed_forward(node)]
    in_blocks = {child for parent in parents for child in parent.children.values()}
    return [node for node in held if node not in spatial or node in in_blocks] or ([] if held else _named(nodes))


def is_projection(node: Node) -> bool:
    """Whether the module is a linear map, or a small wrapper around one."""
    return node.size <= _WRAPPER_SIZE and bool(of_kind(below(node), LINEAR))


def _holds_projections(node: Node) -> bool:
    if "MultiheadAttention" in node.torch_kinds:
        return True
    roles = _roles((*node.children, *node.parameters))
    held = {name: role for name, role in roles if _is_linear(node, name)}
    if any(needed.issubset(held.values()) for needed in _COMPLETE):
        return not all(_is_bare(node, name) for name in held) or _is_corroborated(node)
    return _is_threefold(node, "in_proj") or _is_threefold(node, "in_proj_weight")


@lru_cache(maxsize=4096)
def _roles(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Names with the part that they seem to play. Cached: a deep model has few kinds of blocks."""
    return tuple((name, role) for name in names for role in (_role(name),) if role)


def _role(name: str) -> str | None:
    if name.lower() in _FUSED:
        return "qkv"
    return next((role for role, pattern in _ROLES.items() if pattern.fullmatch(name)), None)


def _is_linear(node: Node, name: str) -> bool:
    return name in node.parameters or is_projection(node.children[name])


def _is_bare(node: Node, name: str) -> bool:
    """Whether a name says too little: the letters q, k, v are physics too, and a parameter may be a learned query."""
    return name.lower() in _LETTERS or (name in node.parameters and name.lower() in _WORDS)


def _is_corroborated(node: Node) -> bool:
    """Whether an output projection, a number of heads or the class name speaks for attention as well."""
    output = any(_OUTPUT.fullmatch(name) for name in (*node.children, *node.parameters))
    return output or _says_attention(node) or not _HEADS.isdisjoint(vars(node.module))


def _is_threefold(node: Node, name: str) -> bool:
    """Whether an input projection makes query, key and value at once, as its class or its width says."""
    if name in node.parameters:
        return _says_attention(node)
    if name not in node.children or not is_projection(node.children[name]):
        return False
    module = node.children[name].module
    width, depth = getattr(module, "out_features", None), getattr(module, "in_features", None)
    return _says_attention(node) or (isinstance(width, int) and isinstance(depth, int) and width == 3 * depth > 0)


def _says_attention(node: Node) -> bool:
    return bool(of_kind((node,), r"\w*(?:Att(?:entio)?n|attention)\w*|\w*Att"))


def _is_spatial(node: Node) -> bool:
    parts = [part for name, child in node.children.items() if _role(name) for part in below(child)]
    return any(_SPATIAL & part.torch_kinds for part in parts) and not any("Linear" in part.kinds for part in parts)


def _has_feed_forward(node: Node) -> bool:
    return any(_FEED_FORWARD.fullmatch(name) for name in node.children)


def _named(nodes: Iterable[Node]) -> list[Node]:
    """Modules called multi-head, self- or cross-attention with at least three linear maps, innermost only."""
    # RWKV calls its time mixing attention; it has a receptance in place of a query.
    named = [node for node in of_kind(nodes, _ATTENTION_NAME) if "receptance" not in node.children]
    named = [node for node in named if len(_linear_maps(node)) >= len(_LETTERS)]
    return [node for node in named if not any(other in named for other in below(node) if other is not node)]


def _linear_maps(node: Node) -> list[Node]:
    return [part for part in of_kind(below(node), LINEAR) if not _SPATIAL & part.torch_kinds]
