"""What enters and leaves each module in one run of a step, kept as a few numbers a tensor."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradwatch.probes.row_changes import Print, print_of, shape_of
from gradwatch.replica import randomness
from gradwatch.tracing.function_mode import FunctionMode, unseen
from gradwatch.tracing.source import Place, user_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

BATCH_STATISTICS = "statistics"
_SORTS = frozenset({"sort", "argsort", "topk", "msort"})
_NORMS = frozenset({"batch_norm", "native_batch_norm"})
_TRAINING = 5  # the place of the argument in both
_DEPTH = 6


class Key(NamedTuple):
    """Which call of which module; ("", -1) is what runs outside of any."""

    path: str
    call: int


OUTSIDE = Key("", -1)


class Passage(NamedTuple):
    """Tensors on their way: ``what`` is in or out of a module, or what an operation takes or gives."""

    key: Key
    what: str
    operation: int
    prints: tuple[Print, ...]
    kind: type = nn.Module
    has_weights: bool = False
    outermost: bool = False
    sorts: bool = False
    place: Place | None = None


class Forwards(FunctionMode):
    """Watches one run of a step; a mode, to be entered around it.

    Args:
        doubled: the run with every sample twice, which tells what grows with the batch; None for this run itself.
        samples: how many there are in this one.
        traced: a call of a module, of which each operation is watched as well.

    Attributes:
        passages: in the order of execution.
        calls: of each module, by path.
        root: the class of the watched module.
        weights: the sum of each, at the end of the run.
    """

    def __init__(self, doubled: Forwards | None, samples: int, traced: Key | None) -> None:
        super().__init__()
        self.passages: list[Passage] = []
        self.calls: Counter[str] = Counter()
        self._shapes = None if doubled is None else {(p.key, p.what, p.operation): p for p in doubled.passages}
        self._samples, self._traced = samples, traced
        self._running: list[Key] = []
        self._sorts = False
        self._operations = 0
        self.root: type[nn.Module] = nn.Module
        self._module: nn.Module | None = None
        self._drawn: randomness.RandomState | None = None
        self.weights: list[float] = []

    def attach(self, module: nn.Module) -> None:
        """Put a copy in eval mode and follow its modules."""
        self._module = module.eval()
        self.root = type(module)
        for path, part in module.named_modules():
            part.register_forward_pre_hook(self._entering(path), with_kwargs=True)
            part.register_forward_hook(self._leaving(path), with_kwargs=True)

    def drew_like(self, other: Forwards) -> bool:
        """Whether both runs have drawn as many random numbers."""
        one, two = self._drawn, other._drawn
        if one is None or two is None:
            return one is two
        same = torch.equal(one.cpu, two.cpu) and one.python == two.python and str(one.numpy) == str(two.numpy)
        return same and all(torch.equal(state, two.devices[name]) for name, state in one.devices.items())

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one function."""
        name = getattr(func, "__name__", "")
        if name in _SORTS and args and isinstance(args[0], Tensor) and args[0].dim() == 1:
            self._sorts = True
        if name in _NORMS and (kwargs.get("training") or (len(args) > _TRAINING and args[_TRAINING])):
            self._note(BATCH_STATISTICS, self._key, 0, ())
        if self._traced is None or self._key != self._traced or not isinstance(name, str) or name.startswith("__get"):
            return func(*args, **kwargs)
        self._operations += 1
        index, key = self._operations, self._key
        self._note("takes", key, index, (args, kwargs))
        result = func(*args, **kwargs)
        self._note("gives", key, index, result, place=user_place())
        return result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._drawn = randomness.capture()
        with unseen(), torch.no_grad():
            weights = [] if self._module is None else self._module.parameters()
            self.weights = [float(weight.sum()) for weight in weights if shape_of(weight) is not None]
        self._module = None

    @property
    def _key(self) -> Key:
        return self._running[-1] if self._running else OUTSIDE

    def _entering(self, path: str) -> Any:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            key, outermost = Key(path, self.calls[path]), not self._running
            self.calls[path] += 1
            self._running.append(key)
            self._note("in", key, 0, (args, kwargs), module=module, outermost=outermost, place=user_place())

        return enter

    def _leaving(self, path: str) -> Any:
        def leave(module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
            while self._running:
                key = self._running.pop()
                if key.path == path:
                    self._note("out", key, 0, output, module=module)
                    break

        return leave

    def _note(
        self,
        what: str,
        key: Key,
        index: int,
        value: Any,
        *,
        module: nn.Module | None = None,
        outermost: bool = False,
        place: Place | None = None,
    ) -> None:
        with unseen():
            doubled = None if self._shapes is None else self._shapes.get((key, what, index))
            passage = Passage(
                key,
                what,
                index,
                tuple(self._prints(value, doubled)),
                kind=nn.Module if module is None else type(module),
                has_weights=module is not None and next(module.parameters(), None) is not None,
                outermost=outermost,
                sorts=self._sorts,
                place=place,
            )
        self.passages.append(passage)

    def _prints(self, value: Any, doubled: Passage | None) -> Iterator[Print]:
        for i, tensor in enumerate(_tensors(value)):
            if tensor is None or self._shapes is None:
                yield Print(() if tensor is None else shape_of(tensor) or ())
            else:
                known = doubled is not None and i < len(doubled.prints)
                yield print_of(
                    tensor, doubled.prints[i].shape if doubled is not None and known else None, self._samples
                )


def _tensors(value: Any, depth: int = 0) -> Iterator[Tensor | None]:
    """Yield tensors in containers, None for what holds rows in an order of its own."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield None
    elif depth < _DEPTH:
        for item in _items(value):
            yield from _tensors(item, depth + 1)


def _items(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (list, tuple)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return ()
