"""What the two usual tools say of a case: anomaly mode, and "the first operation whose output is not finite"."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.zoo.case import FP32
from tests.zoo.plain import fit

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import FrameType

    from tests.zoo.case import Case

TESTS = Path(__file__).parents[1]
HARNESS = str(TESTS / "zoo" / "plain.py")  # frames outside of its own are of those who ask, not of the user
SHELL = str(TESTS / "zoo" / "case.py")  # training_step, which only calls the user's loss
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
RETURNED = re.compile(r"Function '(?P<node>.+)' returned nan values")


class Verdict(NamedTuple):
    """What a tool says; ``op`` is named as in a case's truth, file and line are those of the innermost user frame."""

    op: str | None = None
    file: str | None = None
    line: int | None = None
    alarm: bool = False


def anomaly_mode(case: Case) -> Verdict:
    """Return what PyTorch's anomaly mode says around the bad batch, in fp32."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit(case, FP32, _Around(case.bad_batch, lambda: torch.autograd.set_detect_anomaly(True, check_nan=True)))
        except RuntimeError as error:
            returned = RETURNED.search(str(error))
            if not returned:
                raise
            # The first warning is about the node itself, later ones are about those that made it.
            tracebacks = [str(entry.message) for entry in caught if "Error detected in" in str(entry.message)]
            return Verdict(node_name(returned["node"]), *_last_frame(tracebacks[0] if tracebacks else ""), alarm=True)
    return Verdict()


def first_nonfinite(case: Case) -> Verdict:
    """Return the first operation around the bad batch, masks included, whose output has a NaN or an infinity."""
    mode = _FirstNonFinite()
    try:
        fit(case, FP32, _Around(case.bad_batch, lambda: mode))
    except RuntimeError:  # a decomposition refuses what the alarm was about
        if not mode.verdict.alarm:
            raise
    return mode.verdict


def node_name(node: str) -> str:
    """Return the base name of an autograd node: LogSoftmaxBackward0 -> log_softmax, Log1PBackward0 -> log1p."""
    name = re.sub(r"Backward\d*$", "", node)
    if name == node or not node[-1].isdigit():  # of a custom Function, whose nodes have no number
        return name
    name = re.sub(r"(?<=\d)[A-Z]", lambda found: found[0].lower(), name)  # the generator capitalises behind digits
    return base_name(re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower())


def base_name(name: str) -> str:
    """Return the name of an ATen operation without what the truth leaves out."""
    return name.strip("_").removesuffix("_forward").removeprefix("native_")


class _Around(Callback):
    """Has a tool on while the bad batch and the one behind it are trained on: a bad update shows in the latter."""

    def __init__(self, batch_idx: int, tool: Callable[[], AbstractContextManager[Any]]) -> None:
        self._batches = (batch_idx, batch_idx + 1)
        self._make = tool
        self._tool: AbstractContextManager[Any] | None = None

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx in self._batches:
            self._tool = self._make()
            self._tool.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self._close()

    def on_exception(self, *_: Any) -> None:
        self._close()

    def _close(self) -> None:
        tool, self._tool = self._tool, None
        if tool is not None:
            tool.__exit__(None, None, None)


class _FirstNonFinite(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.verdict = Verdict()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        # What empty() returns is not a value yet.
        if not self.verdict.alarm and "empty" not in name and any(map(_is_bad, tree_leaves(out))):
            self.verdict = Verdict(base_name(name), *_user_frame(sys._getframe(1)), alarm=True)
        return out


def _is_bad(leaf: Any) -> bool:
    if not isinstance(leaf, torch.Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
        return False
    values = leaf._values() if leaf.layout == torch.sparse_coo else leaf
    return not bool(torch.isfinite(values).all())


def _user_frame(frame: FrameType | None) -> tuple[str | None, int | None]:
    frames = []
    while frame is not None:
        frames.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return _innermost(frames)


def _last_frame(traceback: str) -> tuple[str | None, int | None]:
    """Return the innermost frame of user code in a printed traceback, which ends with the innermost of all."""
    return _innermost([(found["file"], int(found["line"])) for found in FRAME.finditer(traceback)][::-1])


def _innermost(frames: list[tuple[str, int]]) -> tuple[str | None, int | None]:
    """Return the first frame of user code; ``frames`` begin with the innermost."""
    for file, line in frames:
        if file == HARNESS:
            break
        if Path(file).is_relative_to(TESTS) and file not in (SHELL, __file__):
            return file, line
    return None, None
