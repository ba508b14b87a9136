"""Random numbers of one run of a step, played back in another: the same seed gives other numbers in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gradwatch.tracing.operations import operation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Their result depends on the values of their input, not on random numbers alone; their masks agree in every format.
_DEPENDS_ON_INPUT = ("dropout", "rrelu", "gamma", "dirichlet", "attention")
_NORMAL = frozenset({"Tensor_float", "float_Tensor", "Tensor_Tensor"})  # its overloads with a mean or std to depend on


class OtherSequenceError(RuntimeError):
    """The step draws other random numbers than when it was recorded."""


_BITS = ("float8_e5m2", "float8_e4m3fn", "bfloat16", "float16", "float32", "float64")


class RandomTape:
    """What the random operations of a step returned, in their order."""

    def __init__(self) -> None:
        self._taken: list[tuple[str, Tensor]] = []
        self._player: _Player | None = None
        self._recorder: _Recorder | None = None

    @property
    def narrowest(self) -> str | None:
        """The narrowest format in which the recorded step has computed: ``"bfloat16"``, ``"float32"``."""
        formats = self._recorder.formats if self._recorder else ()
        return min((str(f).removeprefix("torch.") for f in formats), key=_rank, default=None)

    @property
    def drawn(self) -> frozenset[str]:
        """The names of the random operations of the recorded step."""
        return frozenset(self._recorder.names) if self._recorder else frozenset()

    @property
    def matters(self) -> bool:
        """Whether the step drew anything, and anything else in its last run in float64 than what was recorded."""
        return bool(self._taken) and (self._player is None or self._player.differs)

    def recorder(self) -> TorchDispatchMode:
        """Return a mode that records what a step draws."""
        self._taken.clear()
        self._player = None
        self._recorder = _Recorder(self._taken)
        return self._recorder

    def player(self) -> TorchDispatchMode:
        """Return a mode that lets a step draw the same again, cast to the format that it asks for."""
        self._player = _Player(self._taken)
        return self._player


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, taken: list[tuple[str, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._taken = taken
        self.formats: set[torch.dtype] = set()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation, and keep what it has drawn."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and not operation(func).view:
            self.formats.add(result.dtype)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.names.add(operation(func).name)
        if _draws(func) and isinstance(result, Tensor):
            self._taken.append((operation(func).name, result.detach().clone()))
        return result


class _Player(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, taken: list[tuple[str, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._taken, self._next = taken, 0
        self.differs = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation; what it has drawn gives way to what was recorded.

        Raises:
            OtherSequenceError: it draws something else, or more.
        """
        result = func(*args, **(kwargs or {}))
        if _draws(func) and isinstance(result, Tensor):
            name = operation(func).name
            if self._next >= len(self._taken):
                raise OtherSequenceError(f"{name} draws more random numbers than at the first time")
            recorded_name, recorded = self._taken[self._next]
            if recorded_name != name or recorded.shape != result.shape:
                raise OtherSequenceError(f"{name} draws where {recorded_name} did at the first time")
            self._next += 1
            self.differs = self.differs or not torch.equal(result, recorded.to(result.dtype))
            result.copy_(recorded)
        return result


def _draws(func: Any) -> bool:
    if func._schema.name == "aten::normal" and func._overloadname in _NORMAL:  # noqa: SLF001 - as in tracing.operations
        return False
    return torch.Tag.nondeterministic_seeded in func.tags and not any(
        part in func._schema.name  # noqa: SLF001 - as in tracing.operations
        for part in _DEPENDS_ON_INPUT
    )


def _rank(name: str) -> int:
    return _BITS.index(name) if name in _BITS else -1
