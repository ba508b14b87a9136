"""The clip rule of a model: ``clip="auto"``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.clipping.attention import attention
from gradwatch.clipping.families import Family, families
from gradwatch.clipping.inventory import Inventory, Node, survey, tally
from gradwatch.records import ClipRule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

_UNRECOGNISED_SOURCE = "Lightning 2.6.6 pytorch/trainer/trainer.py:120 (gradient_clip_val, default None)"


def choose_clip_rule(module: nn.Module) -> ClipRule:
    """The limit on the total gradient norm that suits a model's architecture, with the reason and its source.

    What is trained decides. If that is only linear layers or nothing known (a head, prompts, adapters, a projector),
    a frozen part whose family has a limit decides instead: gradients may flow through it, and it may be unfrozen.
    """
    nodes = survey(module)
    trained = tuple(node for node in nodes if node.trained)
    family, reason = _recognise(trained, nodes)
    if len(trained) < len(nodes) and (family is None or family.name == "mlp"):
        frozen, seen = _recognise(nodes, nodes)
        if not trained:
            return _rule(frozen, f"{seen}, none trained" if frozen else seen)
        if frozen is not None and frozen.max_norm is not None:
            return _rule(frozen, f"{seen}, frozen; what is trained has no family of its own ({_holders(trained)})")
    return _rule(family, reason)


def _recognise(nodes: tuple[Node, ...], context: tuple[Node, ...]) -> tuple[Family | None, str]:
    """The first family that sees its evidence among the nodes, and what it saw."""
    inventory = Inventory(nodes=nodes, attention=tuple(attention(nodes)), context=context)
    for family in families():
        reason = family.recognise(inventory)
        if reason is not None:
            return family, reason
    return None, f"no family recognised: {_holders(nodes)}"


def _rule(family: Family | None, reason: str) -> ClipRule:
    if family is None:
        return ClipRule(max_norm=None, family=None, reason=reason, source=_UNRECOGNISED_SOURCE)
    return ClipRule(max_norm=family.max_norm, family=family.name, reason=reason, source=family.source)


def _holders(nodes: Iterable[Node]) -> str:
    """The modules that own parameters."""
    return tally(node for node in nodes if node.parameters)
