"""Whether a step that should run in float64 rounds to a narrower format all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gradwatch.probes.float64 import WIDE
from gradwatch.tracing.autograd_internals import current_node
from gradwatch.tracing.operations import operation, tensors_in
from gradwatch.tracing.source import user_place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class NarrowWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the first operation of a forward pass that takes wide numbers and returns narrow ones.

    It is code that ``Float64Mode`` does not reach: TorchScript, other threads. A backward may round as it likes.

    Attributes:
        found: the operation, with its line; None if there was none.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation."""
        result = func(*args, **(kwargs or {}))
        if self.found is None and isinstance(result, Tensor) and result.dtype in WIDE and current_node() is None:
            wide = set(WIDE.values())
            if any(tensor.dtype in wide and tensor.dim() for tensor in tensors_in(args)):
                place = user_place()
                where = "" if place is None else f" ({place.file}:{place.line})"
                self.found = f"{operation(func).name}{where}"
        return result
