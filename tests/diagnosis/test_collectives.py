"""Collectives in a trace: what they overwrite is not what they read, and their results are waited for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed import _functional_collectives as functional_collectives

from gradwatch.diagnosis.collectives import wait_for
from gradwatch.diagnosis.memory import Memory
from gradwatch.diagnosis.slicing import first_birth
from gradwatch.diagnosis.trace import Record, Tracer
from gradwatch.replica.guard import StepGuard
from gradwatch.tracing.module_stack import ModuleStack
from gradwatch.tracing.operations import inputs_in, operation, written

if TYPE_CHECKING:
    from collections.abc import Iterator

OPS = torch.ops.c10d


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one rank: collectives run, and there is nobody to wait for."""
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def tracer() -> Tracer:
    return Tracer(ModuleStack(nn.Identity()), Memory({}), StepGuard(before_collective=lambda _: None))


@pytest.mark.usefixtures("alone")
def test_what_lay_in_the_memory_of_a_result_is_not_blamed() -> None:
    with tracer() as watching:
        everywhere = [torch.zeros(2).reciprocal()]  # infinite, and overwritten
        distributed.all_gather(everywhere, torch.ones(2) / torch.zeros(2))
    root = first_birth(watching.record_of(everywhere[0]))
    assert isinstance(root, Record)
    assert (root.identity.op, root.collective) == ("div", False)


@pytest.mark.usefixtures("alone")
def test_a_collective_passes_on_what_was_born_before_it() -> None:
    everyone: Any = distributed.group.WORLD
    with tracer() as watching:
        x = torch.ones(2) / torch.zeros(2)
        distributed.all_reduce(x)
        y = functional_collectives.all_reduce(x, "sum", everyone) * 2.0
    root = first_birth(watching.record_of(y))
    assert isinstance(root, Record)
    assert (root.identity.op, root.collective) == ("div", False)


@pytest.mark.parametrize(
    ("op", "args", "read", "changed"),
    [
        (OPS.allgather_.default, ([["a", "b"]], ["c"]), "c", "ab"),
        (OPS._allgather_base_.default, ("a", "b"), "b", "a"),
        (OPS.reduce_scatter_.default, (["a"], [["b", "c"]]), "bc", "a"),
        (OPS.alltoall_base_.default, ("a", "b"), "b", "a"),
        (OPS.allreduce_.default, (["a"],), "a", "a"),
        (OPS.broadcast_.default, (["a"],), "a", "a"),
        (OPS.send.default, (["a"],), "a", ""),
    ],
)
def test_what_collectives_read_and_write(op: Any, args: tuple[Any, ...], read: str, changed: str) -> None:
    tensors = {name: torch.full((1,), math.nan) for name in "abc"}
    names = {id(tensor): name for name, tensor in tensors.items()}

    def filled(value: Any) -> Any:
        return tensors[value] if isinstance(value, str) else [filled(item) for item in value]

    def spelled(found: list[Tensor]) -> str:
        return "".join(names[id(tensor)] for tensor in found)

    given, what = [filled(value) for value in args], operation(op)
    assert what.collective
    assert (spelled(inputs_in(what, given, {})), spelled(written(what, given, {}))) == (read, changed)


@pytest.mark.usefixtures("alone")
def test_a_result_that_nothing_is_under_way_for_is_not_waited_for() -> None:
    x = torch.ones(2)
    wait_for([x, None])
    assert x.tolist() == [1.0, 1.0]
