from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import _SingleLevelFunction

from gradwatch.tracing.custom_functions import ApplicationWatch, is_users_own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Double(Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Any:
        return 2 * grads[0]


class Quadruple(Function):
    """Applies another function in its own forward."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return 2 * double(x)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Any:
        return 4 * grads[0]


class Failing(Function):
    @staticmethod
    def forward(_ctx: Any, _x: Tensor) -> Tensor:
        raise ValueError("in the forward")

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Any:
        return grads[0]


double: Callable[[Tensor], Tensor] = Double.apply  # looked up before any watch


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert "apply" not in vars(_SingleLevelFunction)


class Recorder:
    """Writes down classes and, on the way, how deep the watch is."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.watch = ApplicationWatch(self.around)

    def around(self, cls: type, args: tuple[Any, ...], apply: Callable[..., Any]) -> Any:
        self.seen.append((cls.__name__, self.watch.depth))
        return apply(*args)


def test_an_application_is_seen_also_by_a_name_of_old() -> None:
    recorder = Recorder()
    x = torch.ones(2, requires_grad=True)
    with recorder.watch:
        Double.apply(x)  # type: ignore[no-untyped-call]
        double(x).sum().backward()  # type: ignore[no-untyped-call]
    assert recorder.seen == [("Double", 0), ("Double", 0)]
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0]


def test_an_application_inside_of_another_is_deeper() -> None:
    recorder = Recorder()
    with recorder.watch:
        result = Quadruple.apply(torch.ones(2))  # type: ignore[no-untyped-call]
    assert recorder.seen == [("Quadruple", 0), ("Double", 1)]
    assert recorder.watch.depth == 0
    assert result.tolist() == [4.0, 4.0]


def test_the_result_is_what_around_returns() -> None:
    with ApplicationWatch(lambda _cls, args, apply: apply(*args) + 1):
        assert double(torch.ones(1)).tolist() == [3.0]
    assert double(torch.ones(1)).tolist() == [2.0]


def test_by_default_the_function_is_applied_and_no_more() -> None:
    with ApplicationWatch() as watch:
        assert double(torch.ones(1)).tolist() == [2.0]
    assert watch.depth == 0


def test_two_watches_see_the_same_application() -> None:
    outer, inner = Recorder(), Recorder()
    with outer.watch:
        with inner.watch:
            assert double(torch.ones(1)).tolist() == [2.0]
        double(torch.ones(1))
    assert len(inner.seen) == 1
    assert outer.watch.depth == inner.watch.depth == 0


def test_after_an_error_all_is_as_it_was() -> None:
    recorder = Recorder()
    with pytest.raises(ValueError, match="in the forward"), recorder.watch:
        Failing.apply(torch.ones(1))  # type: ignore[no-untyped-call]
    assert recorder.watch.depth == 0
    double(torch.ones(1))
    assert recorder.seen == [("Failing", 0)]


def test_other_threads_go_their_own_way() -> None:
    recorder, results = Recorder(), []
    with recorder.watch:
        thread = threading.Thread(target=lambda: results.append(double(torch.ones(1)).tolist()))
        thread.start()
        thread.join()
    assert recorder.seen == []
    assert results == [[2.0]]


def test_whose_function_it_is() -> None:
    assert is_users_own(Double)
    assert not is_users_own(torch.utils.checkpoint.CheckpointFunction)
