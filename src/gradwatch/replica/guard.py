"""What a step that runs again must not do: talk to other ranks, use up random numbers, write to shared weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradwatch.tracing.autograd_internals import storage_key
from gradwatch.tracing.operations import operation, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from torch import Tensor

    from gradwatch.tracing.operations import Operation


class CommunicationNeeded(RuntimeError):  # noqa: N818 - a reason to stop, no fault
    """The step talks to other ranks, which one rank alone must not repeat."""


def refuse(name: str) -> None:
    """What one rank alone does about a collective.

    Raises:
        CommunicationNeeded: always.
    """
    raise CommunicationNeeded(name)


class StepGuard:
    """Looks at each operation before it runs, and takes back on exit what the step has done to others.

    Random generators that the step names explicitly are the user's own objects: they are rewound.

    Args:
        before_collective: called with the name of each collective that is about to run; raises to prevent it.
        shared: weights that belong to the training run as well; one that is written to gets its values back.

    Attributes:
        refused: why the first collective was prevented, if one was; the step may have gone on without it.
    """

    def __init__(self, *, before_collective: Callable[[str], None] = refuse, shared: Iterable[Tensor] = ()) -> None:
        self.refused: Exception | None = None
        self._before_collective = before_collective
        self._shared: dict[int | None, Tensor] = {}
        self.protect(shared)
        self._saved: dict[int | None, Tensor] = {}
        self._generators: dict[int, tuple[torch.Generator, Tensor]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether the step has done nothing so far that had to be prevented or taken back, nor could have."""
        return not (self.refused or self._shared or self._generators)

    def protect(self, shared: Iterable[Tensor]) -> None:
        """Give these their values back on exit, if the step writes to them."""
        self._shared.update({storage_key(tensor): tensor.detach() for tensor in shared})

    def before(self, what: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Look at an operation that is about to run."""
        if what.collective:
            self._meet(what.name)
        generator = kwargs.get("generator")
        if isinstance(generator, torch.Generator) and id(generator) not in self._generators:
            self._generators[id(generator)] = (generator, generator.get_state())
        if self._shared and what.writes:
            for tensor in written(what, args, kwargs):
                key = storage_key(tensor)
                if key in self._shared and key not in self._saved:
                    self._saved[key] = self._shared[key].clone()

    def _meet(self, name: str) -> None:
        try:
            self._before_collective(name)
        except Exception as error:
            self.refused = self.refused or error
            raise

    def __enter__(self) -> Self:
        return self

    @torch.no_grad()
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for generator, state in self._generators.values():
            generator.set_state(state)
        for key, saved in self._saved.items():
            self._shared[key].copy_(saved)


class GuardMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, shows a guard every operation before it runs.

    What else is done about an operation stands in the ``run`` of a subclass: torch lets nothing but subclasses see it.

    Args:
        guard: may prevent an operation by raising.

    Attributes:
        operations: how many have run or are running.
    """

    def __init__(self, guard: StepGuard) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self._guard = guard

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation."""
        kwargs = kwargs or {}
        what = operation(func)
        self._guard.before(what, args, kwargs)
        self.operations += 1
        return self.run(func, what, args, kwargs)

    def run(self, func: Any, what: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Run one operation that the guard has let pass."""
        return func(*args, **kwargs)
