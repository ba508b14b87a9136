"""Who has called an operation: a line of the user's own code, or something that the user has not written."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.tracing.source import MAX_FRAMES, Place, kind_of

if TYPE_CHECKING:
    from types import CodeType, FrameType

_GRADWATCH = __file__.rpartition("calls.py")[0]
# Between the caller of a function and the mode that sees it.
_DISPATCH = ("torch/overrides.py", "torch/_jit_internal.py")
_MODULES = "torch/nn/modules/"
_CHECKPOINT = "torch/utils/checkpoint.py"


class Call(NamedTuple):
    """``place``: the user's innermost line. ``own``: that line itself calls the operation.

    ``by_module``: it calls a module of ``torch.nn`` that hands on to the operation.
    """

    place: Place | None
    own: bool
    by_module: bool


NOBODY = Call(None, own=False, by_module=False)


def who_calls(func: Any, frame: FrameType | None) -> Call:
    """Return who has called ``func``, from the frame at which the search starts."""
    frame = _caller(getattr(func, "__code__", None), frame)
    own, by_module, first = True, True, True
    for _ in range(MAX_FRAMES):
        if frame is None:
            return NOBODY
        code = frame.f_code
        if kind_of(code.co_filename) == "user":
            place = Place(code.co_filename, frame.f_lineno, code.co_qualname)
            return Call(place, own=own, by_module=by_module and not first)
        own, first = False, False
        by_module = by_module and _MODULES in _slashed(code.co_filename)
        frame = frame.f_back
    return NOBODY


def is_checkpointed() -> bool:
    """Whether a checkpointed forward runs: gradients are off, and will flow nevertheless."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - inspect.stack reads every source file
    for _ in range(MAX_FRAMES):
        if frame is None:
            return False
        if _slashed(frame.f_code.co_filename).endswith(_CHECKPOINT):
            return True
        frame = frame.f_back
    return False


def _caller(code: CodeType | None, frame: FrameType | None) -> FrameType | None:
    """Return the frame that called the function with this code."""
    while frame is not None and (
        frame.f_code is code
        or frame.f_code.co_filename.startswith(_GRADWATCH)
        or _slashed(frame.f_code.co_filename).endswith(_DISPATCH)
    ):
        frame = frame.f_back
    return frame


def _slashed(path: str) -> str:
    return path.replace("\\", "/")
