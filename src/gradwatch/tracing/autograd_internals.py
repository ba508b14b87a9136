"""PyTorch's private API, all of it that diagnosis needs, each with what happens when it is gone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from gradwatch.tracing.source import MACHINERY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor


def current_node() -> Any:
    """Return the autograd node that the engine is running in this thread, or None outside a backward pass.

    Without it every operation looks like one of the forward pass.
    """
    try:
        return torch._C._current_autograd_node()  # noqa: SLF001
    except AttributeError:
        return None


def newest_node_number() -> int | None:
    """Return the sequence number of the node that was made last in this thread.

    Autograd makes a node before it dispatches the operation, so inside a dispatch mode this is the node of the
    operation at hand, provided that the operation has one. Without it a derivative is not led back to its line.
    """
    try:
        return int(torch._C._autograd._get_sequence_nr()) - 1  # noqa: SLF001
    except AttributeError:
        return None


def node_number(node: Any) -> int | None:
    """Return the sequence number of a node: the same as when its operation ran forward."""
    try:
        return int(node._sequence_nr())  # noqa: SLF001
    except AttributeError:
        return None


def leaves_of(tensor: Tensor) -> list[Tensor]:
    """Return the tensors into whose ``grad`` a backward pass from ``tensor`` accumulates."""
    seen: set[Any] = set()
    waiting, leaves = [tensor.grad_fn], []
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            if isinstance(leaf := getattr(node, "variable", None), torch.Tensor):
                leaves.append(leaf)
    return leaves


@contextmanager
def around_engine(context: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Let the next backward passes run inside of ``context()``. Without the private name they run as they are."""
    original = getattr(torch.autograd, "_engine_run_backward", None)
    if original is None:
        yield
        return

    def run(*args: Any, **kwargs: Any) -> Any:
        torch.autograd._engine_run_backward = original  # type: ignore[attr-defined]  # noqa: SLF001 - see above
        with context():
            return original(*args, **kwargs)

    torch.autograd._engine_run_backward = run  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    try:
        yield
    finally:
        torch.autograd._engine_run_backward = original  # type: ignore[attr-defined]  # noqa: SLF001 - see above


def custom_function(node: Any) -> type | None:
    """Return the user's ``autograd.Function`` whose backward a node runs, None for every other node."""
    cls = getattr(type(node), "_forward_cls", None)
    return cls if isinstance(cls, type) and not cls.__module__.startswith("torch.") else None


def forward_traceback(node: Any) -> str | None:
    """Return PyTorch's own traceback of the forward call that made the node; recorded under anomaly mode only.

    The frames that lead to the replay are left out: they are not those of the step that failed.
    """
    lines = getattr(node, "metadata", {}).get("traceback_") or []
    own = [position for position, line in enumerate(lines) if any(part in line for part in MACHINERY)]
    return "".join(lines[own[-1] + 1 :] if own else lines) or None


def storage_key(tensor: Tensor) -> int | None:
    """Return what tells one storage from another while both live; None for tensors without one (opaque ones).

    The key may be given to a new storage once the old one is gone: ``storage_of`` can be watched.
    """
    storage = storage_of(tensor)
    return None if storage is None else id(storage)


def storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    """Return the storage, None for tensors without one.

    While a storage lives, if only inside of a graph, Python has one and the same object for it: a weak reference tells
    when its memory is given back, and the identity is its key.
    """
    try:
        return dense(tensor).untyped_storage()
    except (AttributeError, NotImplementedError, RuntimeError):
        return None


def dense(tensor: Tensor) -> Tensor:
    """Return the tensor, or of a sparse one its stored values."""
    if tensor.layout is torch.sparse_coo:
        return tensor._values()  # noqa: SLF001 - values() refuses an uncoalesced tensor, as gradients are
    return tensor if tensor.layout is torch.strided else tensor.values()
