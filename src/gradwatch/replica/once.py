"""What can be read only once: a copy that read on would take the next item from the training run."""

from __future__ import annotations

import io
import types
from typing import Any, NoReturn


class CannotRepeatError(RuntimeError):
    """A step reads from an iterator or a file, which nobody can rewind."""


def is_read_once(cls: type) -> bool:
    """Whether instances are generators, files, or iterators over a data loader."""
    return issubclass(cls, (types.GeneratorType, io.IOBase)) or hasattr(cls, "__next__")


class ReadOnce:
    """Stands for such an object in a copy. Writing to it does nothing; reading raises ``CannotRepeatError``."""

    def __init__(self, original: Any) -> None:
        self._kind = type(original).__name__

    def __iter__(self) -> ReadOnce:
        return self

    def __next__(self) -> NoReturn:
        self._refuse()

    def __getattr__(self, name: str) -> Any:
        """Let writes pass without effect."""
        if name.startswith("_"):  # copy and pickle ask for what is not there
            raise AttributeError(name)
        if name in {"write", "writelines", "flush", "close"}:
            return do_nothing
        return self._refuse()

    def _refuse(self) -> NoReturn:
        raise CannotRepeatError(f"the step reads from a {self._kind} that the module holds, which cannot be rewound")


def do_nothing(*_args: Any, **_kwargs: Any) -> None:
    """Stand in for a function whose effects belong to the training run."""
