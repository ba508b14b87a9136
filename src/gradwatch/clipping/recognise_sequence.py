"""How the families of sequences, speech, graphs, molecules and control are recognised.

Each function takes an inventory and returns what it saw ("2 LSTM modules"), or None. ``nodes`` are asked for the
evidence that decides, ``context`` for what only narrows it down.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from gradwatch.clipping.attention import attention, is_projection
from gradwatch.clipping.inventory import Inventory, Node, below, of_kind, tally, with_child

if TYPE_CHECKING:
    from collections.abc import Iterable

_RECURRENT = frozenset({"RNNBase", "RNNCellBase", "LSTM", "LSTMCell", "GRU", "GRUCell"})
_RECURRENT_NAME = (
    r"\w*(?:LSTM|GRU|RNN|SRU)(?:P|Cell|Layer|Block|Unit|Net|Stack|Encoder|Decoder|Model)?(?:\d?[dD]|[vV]?\d)?"
)
_RECURRENT_PAIRS = (("i2h", "h2h"), ("i2h", "h2o"), ("i2h", "i2o"), ("x2h", "h2h"), ("ih", "hh"), ("xh", "hh"))
_FEED_FORWARD_HALF = r"(?:ff|ffn|feed_?forward)(?:_?(?:\d|macaron|module\d?))?"
_POSITIONAL_CONV = r"pos_conv(?:_embed)?"
_WAVEFORM_FRONT = r"(?:feature_(?:extractor|encoder)|conv_layers|conv_feature_layers)"
_MESSAGE_PASSING = (
    r"MessagePassing|\w*Graph(?:Conv|Attention|SAGE|Sage|Isomorphism)\w*|"
    r"(?:GCN|GAT|GIN|GINE|SAGE|EGNN|EGCL|MPNN|RGCN|PNA|Cheb|Edge|GatedGCN)(?:v\d)?(?:Conv|Layer|Block)(?:v?\d)?"
)
_ACTOR = re.compile(r"actor(?:_(?:head|net|mean))?|action_(?:head|net)|policy(?:_(?:head|net))?|pi(?:_head)?")
_CRITIC = re.compile(r"critic(?:_(?:head|net))?|value_(?:head|net|function)|vf|v_head")
_OFF_POLICY = re.compile(r"\w*target\w*|(?:critic|qf|q|q_net)_?[12]")
_HUBERT_BASE_LAYERS = 12


def recurrent(inventory: Inventory) -> str | None:
    """Recurrent layers and cells: torch's and their subclasses, hand-written pairs of weights, or by class name."""
    found = _recurrent(inventory.nodes)
    return tally(found) if found else None


def _recurrent(nodes: Iterable[Node]) -> list[Node]:
    nodes = tuple(nodes)
    found = [node for node in nodes if _RECURRENT & node.torch_kinds or _has_recurrent_weights(node)]
    return found or [node for node in of_kind(nodes, _RECURRENT_NAME) if node.parameters or is_projection(node)]


def _has_recurrent_weights(node: Node) -> bool:
    """Input-to-hidden and hidden-to-hidden weights side by side, as linear maps or as parameters."""
    names = (*node.children, *node.parameters)
    pairs = _recurrent_pairs(names) if names else ()
    return any(all(name in node.parameters or is_projection(node.children[name]) for name in pair) for pair in pairs)


@lru_cache(maxsize=4096)
def _recurrent_pairs(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The names that look like a pair of recurrent weights. Cached: a deep model has few kinds of blocks."""
    bare = {re.sub(r"^(?:weights?|w|lin|linear|fc)_?", "", name.lower()): name for name in names}
    return tuple((bare[one], bare[other]) for one, other in _RECURRENT_PAIRS if one in bare and other in bare)


def tacotron(inventory: Inventory) -> str | None:
    """A recurrent decoder between a pre-net and a post-net."""
    found = _recurrent(inventory.nodes)
    nets = [with_child(inventory.nodes, name) for name in ("prenet", "postnet")]
    return f"prenet, postnet and {tally(found)}" if found and all(nets) else None


def transformer(inventory: Inventory) -> str | None:
    """Attention of any spelling."""
    found = inventory.attention
    return tally(found) if found else None


def state_space(inventory: Inventory) -> str | None:
    """Selective state spaces (a state matrix ``A_log``), or RWKV (a receptance beside key and value)."""
    spaces = [node for node in inventory.nodes if "A_log" in node.parameters]
    rwkv = [node for node in inventory.nodes if {"receptance", "key", "value"} <= node.children.keys()]
    return tally(spaces or rwkv) if spaces or rwkv else None


def conformer(inventory: Inventory) -> str | None:
    """Blocks of two half feed-forward parts around attention and a 1-D convolution, and no other attention."""
    if not inventory.attention:
        return None
    blocks = [node for node in inventory.nodes if _is_conformer_block(node)]
    return tally(blocks) if blocks and _claims_attention(inventory, blocks) else None


def _is_conformer_block(node: Node) -> bool:
    if len(with_child((node,), _FEED_FORWARD_HALF)) < len(("before", "after")):
        return False
    convolutions = [part for _, child in with_child((node,), r"conv\w*") for part in below(child)]
    return any("Conv1d" in part.torch_kinds for part in convolutions) and bool(attention(below(node)))


def _claims_attention(inventory: Inventory, owners: Iterable[Node]) -> bool:
    """Whether all attention lies inside the owners: attention elsewhere is a transformer of its own."""
    return {node for owner in owners for node in below(owner)}.issuperset(inventory.attention)


def raw_waveform(inventory: Inventory) -> str | None:
    """Attention over a 1-D convolutional front end with a convolutional positional embedding."""
    if not inventory.attention:
        return None
    encoders = [node for node, _ in with_child(inventory.nodes, _POSITIONAL_CONV)]
    fronts = [part for _, child in with_child(inventory.context, _WAVEFORM_FRONT) for part in below(child)]
    if not any("Conv1d" in part.torch_kinds for part in fronts) or not _claims_attention(inventory, encoders):
        return None
    return f"positional convolution and {tally(inventory.attention)}"


def hubert_base(inventory: Inventory) -> str | None:
    """A raw-waveform encoder of HuBERT's classes with at most 12 attention layers."""
    return raw_waveform(inventory) if _hubert_layers(inventory) in range(1, _HUBERT_BASE_LAYERS + 1) else None


def hubert_large(inventory: Inventory) -> str | None:
    """A raw-waveform encoder of HuBERT's classes with more than 12 attention layers."""
    return raw_waveform(inventory) if _hubert_layers(inventory) > _HUBERT_BASE_LAYERS else None


def _hubert_layers(inventory: Inventory) -> int:
    return len(inventory.attention) if of_kind(inventory.context, r"\w*Hubert\w*") else 0


def _message_passing(inventory: Inventory) -> list[Node]:
    return [node for node in of_kind(inventory.nodes, _MESSAGE_PASSING) if node.parameters or node.children]


def graph_transformer(inventory: Inventory) -> str | None:
    """Message passing together with attention."""
    layers, heads = _message_passing(inventory), inventory.attention
    return f"message passing ({tally(layers)}) and attention ({tally(heads)})" if layers and heads else None


def graph_net(inventory: Inventory) -> str | None:
    """Message passing: PyG's base class, or layers named as in the literature."""
    layers = _message_passing(inventory)
    return tally(layers) if layers else None


def structure_prediction(inventory: Inventory) -> str | None:
    """Evoformer blocks or triangle attention, as in AlphaFold."""
    found = of_kind(
        inventory.nodes, r"\w*(?:Evoformer|Pairformer|Triangle(?:Attention|Multiplic)|TriangularSelfAttention)\w*"
    )
    return tally(found) if found and inventory.attention else None


def actor_critic(inventory: Inventory) -> str | None:
    """A policy and a value function side by side, without the target or twin networks of off-policy methods."""
    for node in inventory.nodes:
        pair = _actor_and_critic(tuple(node.children)) if node.children else ()
        if pair and all(node.children[name].trained for name in pair):
            return f"{' and '.join(pair)} in one {node.name}"
    return None


@lru_cache(maxsize=4096)
def _actor_and_critic(names: tuple[str, ...]) -> tuple[str, ...]:
    pair = tuple(next(filter(role.fullmatch, names), "") for role in (_ACTOR, _CRITIC))
    return pair if all(pair) and not any(map(_OFF_POLICY.fullmatch, names)) else ()
