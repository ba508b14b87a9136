"""The innermost line of the user's own code on the Python stack."""

from __future__ import annotations

import inspect
import linecache
import os
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.records import SourceLine

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

MAX_FRAMES = 400

# What runs between the user's line and an operation. The demo's models are user code that happens to live here.
_OWN = Path(__file__).resolve().parent.parent
# Where a step is run again: what called it has nothing to do with the step.
_FOLDERS = ("capture", "diagnosis", "engine", "integrations", "probes", "replica", "tracing")
MACHINERY = tuple(str(_OWN / part) + os.sep for part in _FOLDERS)
_STARTING_FOLDERS = tuple(str(_OWN / part) + os.sep for part in ("engine", "integrations"))
STARTERS = (*_STARTING_FOLDERS, *(str(_OWN / "probes" / name) for name in ("evaluation.py", "localise.py")))
_FRAMEWORKS = ("torch", "lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities", "torchmetrics")


class Place(NamedTuple):
    """A line that was being executed."""

    file: str
    line: int
    function: str

    def source_line(self) -> SourceLine:
        """Return the place with its code, as an incident stores it."""
        code = linecache.getline(self.file, self.line).strip()
        return SourceLine(file=self.file, line=self.line, function=self.function, code=code)


def user_place(*, in_backward: bool = False) -> Place | None:
    """Return the innermost frame of the user's own code, else of an installed package that is no framework.

    The search ends where the replay was started.

    Args:
        in_backward: the autograd engine is running. The search then ends where it was called: what lies outside of
            that has started the pass, and is not what computes. There is no place unless a hook, a custom Function
            or a recomputed forward is at work.
    """
    fallback: Place | None = None
    left = False  # what asks may itself stand in a file that starts a step
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - inspect.stack reads every source file
    for _ in range(MAX_FRAMES):
        if frame is None:
            break
        code = frame.f_code
        kind = _kind(code.co_filename)
        if kind == "user":
            return Place(code.co_filename, frame.f_lineno, code.co_qualname)
        if (kind == "starter" and left) or (in_backward and code.co_name == "_engine_run_backward"):
            break
        left = left or kind != "starter"
        if kind == "installed" and fallback is None:
            fallback = Place(code.co_filename, frame.f_lineno, code.co_qualname)
        frame = frame.f_back
    return fallback


def definition_of(function: Callable[..., Any]) -> SourceLine | None:
    """Return the line on which a function is defined; None for what is not written in Python."""
    function = inspect.unwrap(getattr(function, "func", function))
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None:
        return None
    try:
        text = inspect.getsourcelines(code)[0][0].strip()
    except (OSError, TypeError, IndexError):
        text = ""
    return SourceLine(file=code.co_filename, line=code.co_firstlineno, function=code.co_qualname, code=text)


def kind_of(filename: str) -> str:
    """Return "user", "installed" or "machinery": whose code a file holds."""
    return _kind(filename)


@cache
def _kind(filename: str) -> str:
    """Tell the user's files (also notebook cells) from installed packages, the machinery, and what started it."""
    if filename.startswith(STARTERS):
        return "starter"
    path = os.path.realpath(filename) if os.path.isabs(filename) else filename  # noqa: PTH117 - most are no paths
    if filename.startswith("<frozen") or path.startswith((*_framework_folders(), *MACHINERY)):
        return "machinery"
    if filename.startswith("<") and not filename.startswith("<ipython"):
        return "machinery"  # generated code, as of a dataclass
    installed = any(f"{os.sep}{name}{os.sep}" in path for name in ("site-packages", "dist-packages"))
    if installed:
        return "installed"
    return "machinery" if path.startswith(_standard_library()) else "user"


@cache
def _framework_folders() -> tuple[str, ...]:
    folders = []
    for name in _FRAMEWORKS:
        module = sys.modules.get(name)
        if module is not None and getattr(module, "__file__", None):
            folders.append(str(Path(str(module.__file__)).resolve().parent) + os.sep)
    return tuple(folders)


@cache
def _standard_library() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({os.path.realpath(paths[key]) + os.sep for key in ("stdlib", "platstdlib")})
