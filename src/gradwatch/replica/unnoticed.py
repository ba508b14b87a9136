"""A step that runs again starts from what was there before it, and leaves nothing behind in the process."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradwatch.replica import randomness
from gradwatch.replica.code_generators import rewound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from gradwatch.replica.step_runner import Moment


def restore_state(module: nn.Module, moment: Moment) -> None:
    """Give a copy the buffers and attributes that the module had before the step."""
    for name, value in moment.buffers.items():
        owner, _, key = name.rpartition(".")
        module.get_submodule(owner)._buffers[key] = value.detach().clone()  # noqa: SLF001 - set as capture.buffers.BufferGuard does
    for name, attribute in moment.attributes.items():
        setattr(module, name, attribute.detach().clone() if isinstance(attribute, Tensor) else attribute)


@contextlib.contextmanager
def unnoticed(module: nn.Module) -> Iterator[None]:
    """Keep the replay's random numbers, warnings and prints to itself."""
    with (
        randomness.preserved(randomness.generators_in(module)),
        rewound(module),
        torch.enable_grad(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        _eager(),
        _nothing_unfinished(),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _nothing_unfinished() -> Iterator[None]:
    """Let go of a backward pass that an exception has ended.

    What was still to be done waits in the queue of this thread and keeps graph and weights of the copy until the next
    backward pass, which throws it away: here is one.
    """
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.enable_grad():
            torch.ones((), requires_grad=True).backward()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _eager() -> Iterator[None]:
    """Run compiled functions as they were written: inside a compiled kernel there is no operation to name."""
    from torch.compiler import set_stance  # noqa: PLC0415 - imports the compiler

    with set_stance("force_eager"):
        yield
