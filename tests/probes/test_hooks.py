from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from gradwatch.probes.hooks import HooksSilenced
from gradwatch.records import Explanation
from gradwatch.replica.copying import side_copy
from gradwatch.tracing.source import definition_of


def double(gradient: Tensor) -> Tensor:
    return 2 * gradient


def of_a_module(_module: nn.Module, grads: Any, _outputs: Any) -> Any:
    return tuple(None if grad is None else 2 * grad for grad in grads)


def before_a_module(_module: nn.Module, grads: Any) -> Any:
    return tuple(2 * grad for grad in grads)


class Hooked(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 1, bias=False)

    def on_after_backward(self) -> None:
        raise AssertionError("a hook of the module that was to be left out")


def named(silenced: HooksSilenced) -> list[str]:
    return [line.function for line in silenced.found if line is not None]


@pytest.mark.parametrize("kind", ["tensor", "backward", "backward pre"])
def test_a_hook_of_the_copy_is_left_out_and_named_and_the_original_keeps_it(kind: str) -> None:
    module = nn.Sequential(nn.Linear(2, 1, bias=False))
    if kind == "tensor":
        module.get_parameter("0.weight").register_hook(double)  # type: ignore[no-untyped-call]
    elif kind == "backward":
        module[0].register_full_backward_hook(of_a_module)
        module[0].register_full_backward_hook(of_a_module)
    else:
        module[0].register_full_backward_pre_hook(before_a_module)
    copy, silenced = side_copy(module, [], replaced={}, share_weights=False), HooksSilenced()
    silenced.strip(copy)
    copy.module(torch.ones(1, 2, requires_grad=True)).sum().backward()
    (weight,) = copy.module.parameters()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 1.0]]
    expected = {"tensor": "double", "backward": "of_a_module", "backward pre": "before_a_module"}[kind]
    assert named(silenced) == [expected]
    hooked = module[0]
    left = [hooked.weight._backward_hooks, hooked._backward_hooks, hooked._backward_pre_hooks]
    assert any(left)


def test_a_hook_that_the_step_registers_is_not_registered() -> None:
    silenced = HooksSilenced()
    x = torch.ones(2, requires_grad=True)
    with silenced:
        handle = (x * 1).register_hook(double)  # type: ignore[no-untyped-call]
        x.square().sum().backward()  # type: ignore[no-untyped-call]
    handle.remove()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0]
    (explanation,) = silenced.explanations()
    assert explanation.source is not None
    assert explanation.source.code.startswith("handle = (x * 1).register_hook(double)")
    assert explanation == Explanation(
        kind="hook", source=explanation.source, message="a hook changes the gradient on its way"
    )


def test_a_modules_own_lightning_hooks_are_left_out_and_named() -> None:
    copy, silenced = side_copy(Hooked(), [], replaced={}, share_weights=False), HooksSilenced()
    silenced.strip(copy)
    copied: Any = copy.module
    copied.on_after_backward()
    assert named(silenced) == ["Hooked.on_after_backward"]


def test_where_nothing_is_hooked_nothing_is_named() -> None:
    class Plain(LightningModule):
        pass

    copy, silenced = side_copy(Plain(), [], replaced={}, share_weights=False), HooksSilenced()
    silenced.strip(copy)
    assert silenced.explanations() == []


def test_where_a_function_is_defined() -> None:
    for function in (double, functools.partial(double)):
        line = definition_of(function)
        assert line is not None
        assert (line.file, line.function) == (__file__, "double")
        assert line.code == "def double(gradient: Tensor) -> Tensor:"
    method = definition_of(Hooked().on_after_backward)
    assert method is not None
    assert method.code == "def on_after_backward(self) -> None:"
    assert definition_of(len) is None
