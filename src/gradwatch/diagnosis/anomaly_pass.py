"""PyTorch's own traceback of one operation: anomaly mode, switched on for that operation alone.

Anomaly mode formats the whole stack at every operation, which costs more than everything else that a replay does. The
trace knows which operation's traceback is wanted; the step runs once more, and only there the mode is on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch

from gradwatch.replica.guard import GuardMode
from gradwatch.tracing import autograd_internals as internals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradwatch.replica.guard import StepGuard
    from gradwatch.tracing.operations import Operation


class AnomalyFound(Exception):  # noqa: N818 - the end of a pass, no fault
    """The backward pass has come to the node that is looked for."""


class AnomalyPass(GuardMode):  # type: ignore[no-untyped-call]
    """While entered, waits for the backward of one operation, and then raises ``AnomalyFound``.

    Args:
        guard: is shown every operation before it runs.
        wanted: the operation's number, counted from 1.

    Attributes:
        text: what anomaly mode says of that operation, once it has been found.
    """

    def __init__(self, guard: StepGuard, wanted: int) -> None:
        super().__init__(guard)
        self.text: str | None = None
        self._wanted = wanted

    def __enter__(self) -> Self:
        self._saved = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
        _switch(on=self._wanted == 1)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch.autograd.set_detect_anomaly(*self._saved)

    def run(self, func: Any, what: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Run one operation; a node is made just before its operation comes here."""
        self._look_at(internals.current_node())
        result = func(*args, **kwargs)
        if self.operations in (self._wanted - 1, self._wanted):
            _switch(on=self.operations == self._wanted - 1)
        return result

    def _look_at(self, node: Any) -> None:
        traceback = internals.forward_traceback(node) if node is not None and self.operations > self._wanted else None
        if traceback is not None:
            name = node.name().rpartition("::")[2]
            self.text = (
                f"Function '{name}' returned nan values. Traceback of the forward call that made it:\n{traceback}"
            )
            raise AnomalyFound


def _switch(*, on: bool) -> None:
    torch.autograd.set_detect_anomaly(mode=on, check_nan=False)
