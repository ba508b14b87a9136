"""The user's own ``torch.autograd.Function``s while a step runs: PyTorch has no hook for their application."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from torch.autograd.function import _SingleLevelFunction

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Applied = Callable[[type, tuple[Any, ...], Callable[..., Any]], Any]


class ApplicationWatch:
    """While entered, every ``Function.apply`` of this thread goes through ``around``.

    Args:
        around: called with class, arguments and what applies the class to arguments; returns the result. By default
            the function is applied, and no more.

    Attributes:
        depth: how many applications of the user's own are under way; their forward runs with gradients switched off.
    """

    def __init__(self, around: Applied | None = None) -> None:
        self.depth = 0
        self._around = around or (lambda _cls, args, apply: apply(*args))
        self._thread = threading.get_ident()
        self._inherited: Any = None

    def __enter__(self) -> Self:
        # Below ``Function.apply``, since ``my_function = MyFunction.apply`` may have been looked up long ago.
        base: Any = _SingleLevelFunction
        inherited = self._inherited = vars(base).get("apply")

        def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
            def run(*again: Any) -> Any:
                self.depth += own
                try:
                    if inherited is not None:  # another watch
                        return inherited.__func__(cls, *again, **kwargs)
                    return super(base, cls).apply(*again, **kwargs)  # type: ignore[misc]
                finally:
                    self.depth -= own

            own = is_users_own(cls)
            if threading.get_ident() != self._thread:
                return super(base, cls).apply(*args, **kwargs)  # type: ignore[misc]
            return self._around(cls, args, run)

        base.apply = classmethod(apply)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        base: Any = _SingleLevelFunction
        if self._inherited is None:
            del base.apply
        else:
            base.apply = self._inherited


def is_users_own(cls: type) -> bool:
    """Whether an ``autograd.Function`` is none of PyTorch's."""
    return cls.__module__.partition(".")[0] != "torch"
