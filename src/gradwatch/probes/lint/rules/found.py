"""What a check returns, and what several of them ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.probes.lint.bounds import rounded
from gradwatch.probes.lint.node import Node, origin, plus_constant

if TYPE_CHECKING:
    import torch


class Found(NamedTuple):
    """An unsafe composition.

    Args:
        code: of the rule in the catalogue.
        cause: a clause for the rule's message.
        about: the operand whose range is the evidence.
        derivative: only the derivative is unsafe.
        instead_of: a node whose own finding this one replaces.
        twice: only the second derivative is unsafe.
    """

    code: str
    cause: str
    about: Node | None = None
    derivative: bool = False
    instead_of: Node | None = None
    twice: bool = False


Check = Callable[[Node], Found | None]


def lost_eps(value: Any) -> Found | None:
    """Return the finding that an eps added to ``value`` is 0 in its dtype."""
    node, guarded = origin(value), plus_constant(value)
    if not isinstance(node, Node) or guarded is None:
        return None
    c = guarded[1]
    if c > 0.0 and rounded(c, node.dtype) == 0.0:
        return Found("eps-without-effect", f"{c:g} is 0 in {dtype_name(node.dtype)}", node)
    return None


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``float16`` for ``torch.float16``."""
    return str(dtype).removeprefix("torch.")


def is_whole_number(value: Any) -> bool:
    """Whether the numbers were integers or conditions before a cast."""
    node = origin(value)
    return isinstance(node, Node) and not (node.dtype.is_floating_point or node.dtype.is_complex)


def is_examined(value: Any) -> bool:
    """Whether Python has looked at the numbers, or at those that they were summed from, as by ``if n > 0``."""
    node = origin(value)
    for _ in range(4):
        if not isinstance(node, Node):
            return False
        if node.examined:
            return True
        if not node.inputs:
            return False
        node = origin(node.inputs[0])
    return False
