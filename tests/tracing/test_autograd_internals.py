"""PyTorch's private API: that it is there and says what it is believed to, and what happens when it is gone."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from gradwatch.tracing import autograd_internals as internals
from gradwatch.tracing.source import MACHINERY
from tests.diagnosis.tracing import birth, line_of


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x * 2.0

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * 2.0


def in_backward(function: Any) -> list[Any]:
    """What ``function`` returns for the node that the engine is at."""
    found: list[Any] = []

    def hook(gradient: Tensor) -> None:
        found.append(function(internals.current_node()))

    x = torch.ones(2, requires_grad=True)
    y = Doubling.apply(x)  # type: ignore[no-untyped-call]
    y.register_hook(hook)
    y.sum().backward()
    return found


def test_outside_of_a_backward_pass_there_is_no_node() -> None:
    assert internals.current_node() is None


def test_the_running_node_is_known() -> None:
    [node] = in_backward(lambda node: node)
    assert node is not None


def test_a_node_has_the_number_that_was_the_newest_when_it_was_made() -> None:
    x = torch.ones(2, requires_grad=True)
    y = x.exp()
    newest = internals.newest_node_number()
    assert newest is not None
    assert internals.node_number(y.grad_fn) == newest
    z = y.log()
    assert internals.node_number(z.grad_fn) == newest + 1
    z.detach().exp()
    assert internals.newest_node_number() == newest + 1


def test_a_custom_function_is_known_and_pytorchs_own_nodes_are_none() -> None:
    x = torch.ones(2, requires_grad=True)
    assert internals.custom_function(Doubling.apply(x).grad_fn) is Doubling  # type: ignore[no-untyped-call]
    assert internals.custom_function(x.exp().grad_fn) is None
    assert internals.custom_function(None) is None


def test_the_traceback_of_a_node_ends_at_its_line_and_leaves_the_replay_out() -> None:
    x = torch.ones(2, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        y = x.exp()  # its line
    text = internals.forward_traceback(y.grad_fn)
    assert text is not None
    assert "# its line" in text
    assert internals.forward_traceback(x.log().grad_fn) is None
    node: Any = y.grad_fn
    node.metadata["traceback_"] = ["File a\n", f"File {MACHINERY[0]}x.py\n", "File b\n"]
    assert internals.forward_traceback(y.grad_fn) == "File b\n"


def test_views_share_a_key_and_copies_do_not() -> None:
    x = torch.ones(4)
    assert internals.storage_key(x) == internals.storage_key(x.view(2, 2)[1])
    assert internals.storage_key(x) != internals.storage_key(x.clone())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_a_sparse_tensor_has_the_key_of_its_values() -> None:
    values = torch.ones(2)
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), values, (4,), check_invariants=False)
    assert internals.storage_key(sparse) == internals.storage_key(sparse._values())
    csr = torch.sparse_csr_tensor(
        torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1), check_invariants=False
    )
    assert internals.dense(csr).tolist() == [1.0]


def test_a_tensor_without_a_storage_has_no_key() -> None:
    class Opaque:
        layout = torch.strided

        def untyped_storage(self) -> None:
            raise NotImplementedError

    assert internals.storage_key(Opaque()) is None  # type: ignore[arg-type]


def test_a_storage_is_one_object_as_long_as_it_lives() -> None:
    x = torch.ones(3)
    view = x[1:]
    reference = weakref.ref(internals.storage_of(x))
    del x
    assert reference() is internals.storage_of(view)
    del view
    assert reference() is None


def test_a_storage_that_only_a_graph_holds_is_still_the_same_object() -> None:
    x = torch.ones(3, requires_grad=True)
    made = x * 2.0
    told: list[object] = []
    reference = weakref.ref(internals.storage_of(made), told.append)
    key, loss = internals.storage_key(made), made.square().sum()
    node: Any = loss.grad_fn.next_functions[0][0]  # type: ignore[union-attr]
    del made
    assert not told
    assert reference() is internals.storage_of(node._saved_self)
    assert internals.storage_key(node._saved_self) == key
    del node
    loss.backward()  # type: ignore[no-untyped-call]
    assert told


# -- a PyTorch that has changed --------------------------------------------------------------------------------------


def test_without_the_running_node_a_derivative_is_named_by_what_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_current_autograd_node")
    assert internals.current_node() is None
    found = birth(root_of_zero)
    assert (found.identity.op, found.identity.derivative) == ("div", False)


def test_without_numbers_of_nodes_a_derivative_is_named_by_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C._autograd, "_get_sequence_nr")
    assert internals.newest_node_number() is None
    found = birth(root_of_zero)
    assert (found.identity.op, found.identity.place, found.identity.derivative) == ("sqrt", None, True)


def test_a_node_without_a_number_has_none() -> None:
    assert internals.node_number(object()) is None


def test_with_all_of_it_the_line_is_named() -> None:
    found = birth(root_of_zero)
    assert (found.identity.op, line_of(found)) == ("sqrt", "the forward line")


def root_of_zero() -> Tensor:
    x = torch.zeros(2, requires_grad=True)
    loss: Any = (x.sqrt() * 0.0).sum()  # the forward line
    loss.backward()
    assert x.grad is not None
    return x.grad
