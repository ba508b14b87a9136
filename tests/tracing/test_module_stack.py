from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils.checkpoint import checkpoint

from gradwatch.tracing.module_stack import Location, ModuleStack

if TYPE_CHECKING:
    from collections.abc import Callable


class Probe(nn.Module):
    """Notes where it is seen to run."""

    def __init__(self, seen: list[Location]) -> None:
        super().__init__()
        self.seen, self.stack = seen, None

    def forward(self, x: Tensor) -> Tensor:
        stack: Any = self.stack
        self.seen.append(stack.top)
        return x


class Pair(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Recursive(nn.Module):
    """Calls itself, and what it holds, in every round."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        x = self.inner(x)
        return self(x, depth - 1) if depth else x


def run(root: nn.Module, call: Callable[[], Any]) -> ModuleStack:
    """Call under a stack that all probes know."""
    with ModuleStack(root) as stack:
        for module in root.modules():
            if isinstance(module, Probe):
                module.stack = stack  # type: ignore[assignment]
        call()
    return stack


def test_outside_of_every_forward_the_watched_module_is_named() -> None:
    stack = ModuleStack(nn.Sequential(nn.Linear(1, 1)))
    assert (stack.top, stack.running) == (Location("", "Sequential"), False)


def test_the_innermost_running_module_is_named_by_its_path() -> None:
    seen: list[Location] = []
    root = nn.ModuleDict({"encoder": nn.Sequential(nn.Identity(), Pair(Probe(seen), nn.Identity()))})
    run(root, lambda: root["encoder"](torch.ones(1)))
    assert seen == [("encoder.1.first", "Probe")]


def test_after_an_inner_forward_the_outer_one_is_running_again() -> None:
    tops: list[Location] = []

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            self.inner(x)
            tops.append(stack.top)
            return x

    root = nn.Sequential(Outer())
    with ModuleStack(root) as stack:
        root(torch.ones(1))
        assert not stack.running
    assert tops == [("0", "Outer")]


def test_a_shared_module_goes_by_the_first_of_its_names() -> None:
    seen: list[Location] = []
    shared = Probe(seen)
    root = Pair(shared, shared)
    run(root, lambda: root(torch.ones(1)))
    assert seen == [("first", "Probe")] * 2


def test_a_recursive_module_is_left_as_often_as_it_is_entered() -> None:
    seen: list[Location] = []
    root = nn.Sequential(Recursive(Probe(seen)))
    stack = run(root, lambda: root(torch.ones(1)))
    assert seen == [("0.inner", "Probe")] * 3
    assert not stack.running


def test_a_forward_that_raises_is_left() -> None:
    class Raising(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("as it likes")

    root = Pair(Raising(), nn.Identity())
    with ModuleStack(root) as stack:
        with pytest.raises(ValueError, match="as it likes"):
            root(torch.ones(1))
        assert not stack.running
        assert stack.top.path == ""


def test_what_a_failed_hook_has_left_behind_is_left_with_the_module_around_it() -> None:
    """A forward hook that raises keeps PyTorch from calling the one that leaves."""

    def failing(*_: Any) -> None:
        raise ValueError("as it likes")

    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            with pytest.raises(ValueError, match="as it likes"):
                self.inner(x)
            return x

    seen: list[Location] = []
    root = Pair(Catching(), Probe(seen))
    root.first.inner.register_forward_hook(failing)  # type: ignore[union-attr]
    stack = run(root, lambda: root(torch.ones(1)))
    assert seen == [("second", "Probe")]
    assert not stack.running


def test_a_module_made_during_the_step_runs_in_the_name_of_the_one_around_it() -> None:
    seen: list[Location] = []

    class Making(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            stranger = Probe(seen)
            stranger.stack = stack  # type: ignore[assignment]
            return stranger(x)

    root = nn.Sequential(Making())
    with ModuleStack(root) as stack:
        root(torch.ones(1))
    assert seen == [("0", "Making")]


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputed_forward_is_followed(*, reentrant: bool) -> None:
    seen: list[Location] = []
    root = nn.Sequential(Probe(seen), nn.Linear(1, 1))
    x = torch.ones(1, 1, requires_grad=True)
    run(root, lambda: checkpoint(root, x, use_reentrant=reentrant).sum().backward())
    assert seen == [("0", "Probe")] * 2


def test_wrappers_of_compilation_and_checkpointing_are_left_out_of_the_path() -> None:
    seen: list[Location] = []
    inner = Pair(Probe(seen), nn.Identity())
    wrapped = nn.Module()
    wrapped.add_module("_checkpoint_wrapped_module", inner)
    root = nn.Module()
    root.add_module("block", wrapped)
    run(root, lambda: inner(torch.ones(1)))
    assert seen == [("block.first", "Probe")]


def test_on_exit_no_hook_stays_behind() -> None:
    before = (len(module_hooks._global_forward_pre_hooks), len(module_hooks._global_forward_hooks))
    with ModuleStack(nn.Identity()):
        assert len(module_hooks._global_forward_hooks) == before[1] + 1
    assert (len(module_hooks._global_forward_pre_hooks), len(module_hooks._global_forward_hooks)) == before
