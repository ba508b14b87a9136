from __future__ import annotations

import copy
import gc
import logging
import queue
import threading
import types
import warnings
import weakref
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.compile import from_compiled
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradwatch.replica.copying import SideCopy, side_copy
from gradwatch.replica.once import CannotRepeatError, ReadOnce
from gradwatch.replica.randomness import capture, generators_in, restore
from tests.replica.odd_modules import ODD, Body, Closures, ModuleHooks, Noise, Odd, Parent, Tied, Uncopyable, Views

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated"),  # torch's older weight_norm, TorchScript
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature"),
]


odd_cases = pytest.mark.parametrize("odd", ODD, ids=[odd.name for odd in ODD])


def built(odd: Odd) -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return odd.build()


def batch() -> Tensor:
    return torch.linspace(-2, 2, 24).reshape(4, 6)


def run(module: nn.Module, odd: Odd) -> tuple[Tensor, list[Tensor | None]]:
    torch.manual_seed(1)
    loss = odd.loss(module, batch())
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), [parameter.grad for parameter in module.parameters()]


def same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if is_lazy(a) or is_lazy(b):
        return is_lazy(a) and is_lazy(b)
    return a.dtype == b.dtype and torch.equal(a.to_dense(), b.to_dense())


class Snapshot:
    """All that can be seen of a module: tensors by identity, value, version and gradient, hooks, flags, attributes."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.tensors = [*module.parameters(), *module.buffers()]
        self.values = [None if is_lazy(tensor) else tensor.detach().clone() for tensor in self.tensors]
        self.versions = [self.version(tensor) for tensor in self.tensors]
        self.gradients = [self.gradient(tensor) for tensor in self.tensors]
        self.attributes = self.seen()
        self.random = capture(generators_in(module))

    @staticmethod
    def version(tensor: Tensor) -> int:
        return 0 if is_lazy(tensor) or tensor.is_inference() else tensor._version

    @staticmethod
    def gradient(tensor: Tensor) -> Tensor | None:
        return None if is_lazy(tensor) or tensor.is_inference() else tensor.grad

    def seen(self) -> list[Any]:
        return [
            (
                id(owner),
                owner.training,
                [(name, id(value)) for name, value in vars(owner).items() if name != "training"],
            )
            for owner in self.module.modules()
        ]

    def assert_unchanged(self) -> None:
        assert self.seen() == self.attributes
        now = [*self.module.parameters(), *self.module.buffers()]
        assert all(a is b for a, b in zip(now, self.tensors, strict=True))
        assert [self.version(tensor) for tensor in now] == self.versions
        for tensor, value, gradient in zip(now, self.values, self.gradients, strict=True):
            assert value is None or same(tensor.detach(), value)
            assert self.gradient(tensor) is gradient
        again = capture(generators_in(self.module))
        assert torch.equal(again.cpu, self.random.cpu)
        assert again.python == self.random.python
        for name, state in again.generators.items():
            assert torch.equal(state, self.random.generators[name])


# -- the table: every odd module ---------------------------------------------------------------------------------------


@odd_cases
@pytest.mark.parametrize("share_weights", [False, True], ids=["copied", "shared"])
def test_copy_and_original_give_the_same_loss_and_gradients(odd: Odd, *, share_weights: bool) -> None:
    module = built(odd)
    copied = side_copy(module, share_weights=share_weights).module
    seen = Snapshot(module)
    loss, gradients = run(copied, odd)
    if not odd.name.startswith("lazy"):
        restore(seen.random)
        seen.assert_unchanged()
    expected, expected_gradients = run(module, odd)
    assert torch.equal(loss, expected)
    assert any(gradient is not None for gradient in gradients)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert same(gradient, other)


@odd_cases
def test_making_a_copy_changes_nothing(odd: Odd) -> None:
    module = built(odd)
    if odd.name != "lazy":
        run(module, odd)
    before = Snapshot(module)
    side_copy(module, [torch.optim.SGD(module.parameters(), lr=0.1)])
    before.assert_unchanged()


@odd_cases
def test_the_copy_shares_no_tensor_and_brings_no_gradient(odd: Odd) -> None:
    module = built(odd)
    if odd.name != "lazy":
        run(module, odd)
    copied = side_copy(module).module
    theirs = {tensor.data_ptr() for tensor in [*module.parameters(), *module.buffers()] if not is_lazy(tensor)}
    for name, tensor in [*copied.named_parameters(), *copied.named_buffers()]:
        assert is_lazy(tensor) or tensor.data_ptr() not in theirs, name
        assert tensor.grad is None, name
        assert tensor.is_leaf, name


@odd_cases
def test_a_second_step_of_the_copy_is_the_second_step_of_the_original(odd: Odd) -> None:
    """What a step leaves in the module (buffers, counters, states of generators) is copied as well."""
    module = built(odd)
    copied = side_copy(module).module
    for _ in range(2):
        loss, _ = run(copied, odd)
        expected, _ = run(module, odd)
        assert torch.equal(loss, expected)


@odd_cases
def test_names_flags_and_dtypes_are_kept(odd: Odd) -> None:
    module = built(odd)
    copied = side_copy(module).module
    if odd.name == "compiled":
        return  # its names change, on purpose: see below
    for (name, a), (other, b) in zip(module.named_parameters(), copied.named_parameters(), strict=True):
        assert (name, a.requires_grad, a.dtype) == (other, b.requires_grad, b.dtype)
        assert type(a) is type(b) or odd.name == "script"
    buffers = zip(module.named_buffers(), copied.named_buffers(), strict=True)
    assert all((name, one.dtype) == (other, two.dtype) for (name, one), (other, two) in buffers)
    assert [owner.training for owner in module.modules()] == [owner.training for owner in copied.modules()]
    assert module.state_dict().keys() == copied.state_dict().keys()


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_gradients_stay_the_same_objects() -> None:
    module = Body()
    module(batch()).sum().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    copied = side_copy(module).module
    assert all(parameter.grad is gradient for parameter, gradient in zip(module.parameters(), gradients, strict=True))
    assert all(parameter.grad is None for parameter in copied.parameters())


def test_shared_weights_have_gradients_of_their_own() -> None:
    module = Body()
    copied: Any = side_copy(module, share_weights=True).module
    assert copied.linear.weight.data_ptr() == module.linear.weight.data_ptr()
    assert copied.linear.weight is not module.linear.weight
    copied(batch()).sum().backward()
    assert copied.linear.weight.grad is not None
    assert module.linear.weight.grad is None


def test_shared_weights_do_not_share_buffers() -> None:
    module: Any = nn.BatchNorm1d(6)
    copied = side_copy(module, share_weights=True).module
    copied(batch())
    assert int(module.num_batches_tracked) == 0
    assert torch.equal(module.running_mean, torch.zeros(6))


def test_a_copy_made_in_inference_mode_can_be_trained() -> None:
    module = Body()
    with torch.inference_mode():
        copied = side_copy(module).module
    copied(batch()).sum().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())


def test_memory_format_and_strides_are_kept() -> None:
    module: Any = nn.Conv2d(3, 4, 3)
    module = module.to(memory_format=torch.channels_last)
    module.register_buffer("expanded", torch.ones(1).expand(1000, 1000))
    copied: Any = side_copy(module).module
    assert copied.weight.stride() == module.weight.stride()
    assert copied.expanded.stride() == (0, 0)
    assert copied.expanded.untyped_storage().nbytes() <= 64


# -- identity inside of the copy ---------------------------------------------------------------------------------------


def test_tied_weights_stay_tied() -> None:
    copied: Any = side_copy(Tied()).module
    assert copied.other.weight is copied.linear.weight


def test_views_of_a_buffer_stay_views() -> None:
    module = Views()
    copied: Any = side_copy(module).module
    copied.running.fill_(5)
    assert copied.last.tolist() == [5.0] * 6
    assert module.last.tolist() == [0.0] * 6
    pointers = [tensor.untyped_storage().data_ptr() for tensor in (copied.first, copied.second)]
    assert pointers[0] == pointers[1]


def test_flat_weights_of_an_rnn_are_its_parameters() -> None:
    copied: Any = side_copy(nn.LSTM(3, 4, num_layers=2)).module
    assert all(flat is parameter for flat, parameter in zip(copied._flat_weights, copied.parameters(), strict=True))


def test_closures_methods_and_weak_references_lead_to_the_copy() -> None:
    module = Closures()
    copied: Any = side_copy(module).module
    copied(batch())
    assert (copied.calls, module.calls) == (1, 0)
    assert copied.closure.__closure__[0].cell_contents is copied
    assert copied.by_default.__defaults__[0] is copied
    assert copied.steps[1].__self__ is copied
    parent: Any = side_copy(Parent()).module
    assert parent.child.parent() is parent


def test_a_counter_in_a_closure_is_copied() -> None:
    module: Any = Body()
    calls = [0]

    def count(_module: nn.Module, _inputs: Any) -> None:
        calls[0] += 1

    module.register_forward_pre_hook(count)
    module.record = calls.append
    copied: Any = side_copy(module).module
    copied(batch())
    copied.record(1)
    assert calls == [0]


def test_a_function_that_holds_nothing_of_the_module_stays_itself() -> None:
    module: Any = Body()
    factor = torch.float32
    module.scaled = lambda x: x.to(factor)
    module.activation = torch.nn.functional.relu
    copied: Any = side_copy(module).module
    assert copied.scaled is module.scaled
    assert copied.activation is module.activation


def test_handles_remove_the_hooks_of_the_copy() -> None:
    module = ModuleHooks()
    copied: Any = side_copy(module).module
    copied.handle.remove()
    assert not copied.linear._forward_hooks
    assert len(module.linear._forward_hooks) == 1


def test_generators_are_copied_with_their_state_and_the_global_one_is_not() -> None:
    module: Any = Noise()
    torch.randn(3, generator=module.noise)
    module.default = torch.default_generator
    copied: Any = side_copy(module).module
    assert copied.noise is not module.noise
    assert torch.equal(copied.noise.get_state(), module.noise.get_state())
    assert copied.default is torch.default_generator


def test_numpy_generators_are_copied_and_the_global_one_is_not() -> None:
    module: Any = Body()
    module.rng, module.default = np.random.default_rng(3), np.random.mtrand._rand
    copied: Any = side_copy(module).module
    assert copied.default is module.default
    drawn = copied.rng.random(4)
    assert (module.rng.random(4) == drawn).all()


# -- what is shared, replaced and left out -----------------------------------------------------------------------------


def test_what_cannot_be_copied_is_shared_object_by_object() -> None:
    module = Uncopyable()
    copied: Any = side_copy(module).module
    assert copied.lock is module.lock
    assert copied.thread is module.thread
    assert isinstance(copied.generator, ReadOnce)
    assert copied.data is module.data
    assert copied.holder is not module.holder
    assert copied.holder.lock is module.lock
    assert copied.holder.scale is not module.holder.scale


def test_a_number_that_a_function_counts_up_is_its_own_in_the_copy() -> None:
    module: Any = Body()
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    module.count = count
    copied: Any = side_copy(module).module
    assert (copied.count(), copied.count(), module.count()) == (1, 2, 1)


def test_an_iterator_over_data_is_not_read_by_the_copy() -> None:
    module: Any = Body()
    numbers: Any = [1.0, 2.0, 3.0]
    module.unlabelled = iter(torch.utils.data.DataLoader(numbers))
    copied: Any = side_copy(module).module
    with pytest.raises(CannotRepeatError, match="cannot be rewound"):
        next(copied.unlabelled)
    assert next(module.unlabelled).item() == 1.0


def test_queues_and_loggers_are_shared_and_files_are_not_written_to(tmp_path: Any) -> None:
    module: Any = Body()
    module.logger_ = logging.getLogger("gradwatch.test")
    module.queue = queue.Queue(maxsize=1)
    with (tmp_path / "log").open("w") as file:
        module.file = file
        copied: Any = side_copy(module).module
        copied.file.write("twice")
        with pytest.raises(CannotRepeatError, match="reads from a TextIOWrapper"):
            copied.file.read()
    assert (tmp_path / "log").read_text() == ""
    assert copied.logger_ is module.logger_
    assert copied.queue is module.queue


RELEASED: list[int] = []


class Releasing:
    """Its finaliser gives up what a copy of it would share."""

    def __del__(self) -> None:
        RELEASED.append(1)


def test_an_object_with_a_finaliser_is_shared() -> None:
    module: Any = Body()
    module.resource = Releasing()
    copied: Any = side_copy(module).module
    del copied
    gc.collect()
    assert RELEASED == []


class Strict:
    """Copies itself by the standard library, which fails in the middle of the list."""

    def __init__(self) -> None:
        self.items = [1, threading.Lock(), 2]

    def __deepcopy__(self, memo: dict[int, Any]) -> Strict:
        copied = Strict.__new__(Strict)
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied


def test_a_failure_leaves_no_half_made_copies_behind() -> None:
    module: Any = Body()
    module.strict = Strict()
    copied: Any = side_copy(module).module
    assert copied.strict is not module.strict
    assert copied.strict.items is not module.strict.items
    assert copied.strict.items == module.strict.items


def test_too_deep_a_nesting_is_an_error_and_no_silent_sharing() -> None:
    module: Any = Body()
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    module.nested = nested
    with pytest.raises(RecursionError):
        side_copy(module)


class Trainer:
    """Stands for something that must not be copied."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __deepcopy__(self, memo: Any) -> Any:
        raise AssertionError("copied")


@pytest.mark.parametrize("proxy", [False, True])
def test_a_replaced_object_is_not_copied(*, proxy: bool) -> None:
    module: Any = Body()
    trainer, stand_in = Trainer(module), types.SimpleNamespace(name="stand-in")
    module.owner = weakref.proxy(trainer) if proxy else trainer
    module.ask = lambda: trainer
    copied: Any = side_copy(module, replaced={id(trainer): stand_in}).module
    assert copied.owner is stand_in
    assert copied.ask() is stand_in


@pytest.mark.parametrize("compiled", [False, True])
def test_the_trainer_of_a_lightning_module_is_replaced(*, compiled: bool) -> None:
    module: Any = BoringModel()
    if compiled:
        module = from_compiled(torch.compile(module, backend="eager"))  # type: ignore[arg-type]
    trainer = lightning.pytorch.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    module.trainer = trainer
    stand_in = types.SimpleNamespace()
    copied: Any = side_copy(module, replaced={id(trainer): stand_in}).module
    assert copied._trainer is stand_in
    assert module._trainer is not None
    assert not {"forward", "training_step"} & vars(copied).keys()
    assert not copied._compiler_ctx
    assert type(copied) is type(module)
    assert bool(module._compiler_ctx) is compiled


def test_compiled_wrappers_are_left_out() -> None:
    inner = Body()
    wrapped: Any = torch.compile(inner, backend="eager")
    copied = side_copy(wrapped)
    assert type(copied.module) is Body
    assert copied.parameter_of(inner.linear.weight) is copied.module.linear.weight
    sequence = nn.Sequential(wrapped, nn.Linear(6, 2))
    sequence.compile(backend="eager")
    nested: Any = side_copy(sequence).module
    assert type(nested[0]) is Body
    assert nested._compiled_call_impl is None
    assert sequence._compiled_call_impl is not None


def test_a_compiled_function_becomes_the_function() -> None:
    module: Any = Body()
    module.run = torch.compile(module.forward, backend="eager")
    copied: Any = side_copy(module).module
    assert copied.run.__self__ is copied
    assert not hasattr(copied.run, "_torchdynamo_orig_callable")


def test_hooks_that_follow_the_accumulation_are_left_out() -> None:
    module: Any = Body()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module.linear.weight.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    before = module.linear.weight.detach().clone()
    copied: Any = side_copy(module, [optimizer]).module
    copied(batch()).sum().backward()
    assert torch.equal(module.linear.weight, before)
    assert torch.equal(copied.linear.weight, before)


# -- optimizers --------------------------------------------------------------------------------------------------------


def stepped() -> tuple[Body, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = Body()
    groups: list[dict[str, Any]] = [{"params": [module.linear.weight], "lr": 0.5}, {"params": [module.linear.bias]}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, betas=(0.5, 0.6))
    module(batch()).square().mean().backward()
    optimizer.step()
    return module, optimizer


def values(copied: SideCopy) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in copied.module.parameters()]


def test_optimizers_step_the_copy_and_not_the_original() -> None:
    module, optimizer = stepped()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    copied = side_copy(module, [optimizer], with_optimizer_state=True)
    for target, its in ((copied.module, copied.optimizers[0]), (module, optimizer)):
        target.zero_grad()
        target(batch()).square().mean().backward()
        assert target is not copied.module or all(map(torch.equal, module.parameters(), before))
        its.step()
    assert all(map(torch.equal, module.parameters(), values(copied)))
    assert not all(map(torch.equal, module.parameters(), before))


@pytest.mark.parametrize("with_state", [False, True])
def test_hyperparameters_and_state_of_optimizers(*, with_state: bool) -> None:
    module, optimizer = stepped()
    copied = side_copy(module, [optimizer], with_optimizer_state=with_state)
    its = copied.optimizers[0]
    assert type(its) is torch.optim.AdamW
    assert its.defaults == optimizer.defaults
    assert [group["lr"] for group in its.param_groups] == [0.5, 0.1]
    assert its.param_groups[1]["params"][0] is copied.parameter_of(module.linear.bias)
    assert len(its.state) == (2 if with_state else 0)
    its.param_groups[0]["lr"] = 7.0
    assert optimizer.param_groups[0]["lr"] == 0.5
    if with_state:
        mine, theirs = its.state[copied.parameter_of(module.linear.bias)], optimizer.state[module.linear.bias]
        assert torch.equal(mine["exp_avg"], theirs["exp_avg"])
        assert mine["exp_avg"].data_ptr() != theirs["exp_avg"].data_ptr()


def test_hooks_and_schedulers_of_optimizers_stay_with_the_original() -> None:
    module, optimizer = stepped()
    steps: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: steps.append(0))
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    counted = optimizer._opt_called if hasattr(optimizer, "_opt_called") else None
    its = side_copy(module, [optimizer]).optimizers[0]
    its.step()
    assert steps == []
    assert getattr(optimizer, "_opt_called", None) == counted
    its.register_step_pre_hook(lambda *_: None)


@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.LBFGS(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1), momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
    ],
    ids=["lbfgs", "tensor-lr", "fused", "adagrad"],
)
def test_every_optimizer_steps_its_copy_as_it_steps_the_original(build: Any) -> None:
    torch.manual_seed(0)
    module = Body()
    optimizer = build(module.parameters())
    copied = side_copy(module, [optimizer], with_optimizer_state=True)

    def step(target: nn.Module, its: Any) -> None:
        def closure() -> Tensor:
            its.zero_grad()
            loss = target(batch()).square().mean()
            loss.backward()
            return loss

        its.step(closure)

    before = [parameter.detach().clone() for parameter in module.parameters()]
    step(copied.module, copied.optimizers[0])
    assert all(map(torch.equal, module.parameters(), before))
    step(module, optimizer)
    assert all(map(torch.equal, module.parameters(), values(copied)))
    assert not all(map(torch.equal, module.parameters(), before))


def test_an_optimizer_that_the_module_holds_is_the_same_as_the_one_passed() -> None:
    module: Any = Body()
    module.optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    copied: Any = side_copy(module, [module.optimizer])
    assert copied.module.optimizer is copied.optimizers[0]


def test_parameters_that_only_an_optimizer_knows_are_copied() -> None:
    outside = nn.Parameter(torch.ones(3))
    copied = side_copy(Body(), [torch.optim.SGD([outside], lr=0.1)])
    assert copied.parameter_of(outside) is copied.optimizers[0].param_groups[0]["params"][0]
    assert copied.parameter_of(outside) is not outside
    with pytest.raises(KeyError):
        copied.parameter_of(nn.Parameter(torch.ones(3)))


@odd_cases
def test_nothing_random_is_drawn(odd: Odd) -> None:
    module = built(odd)
    before = capture()
    side_copy(module)
    after = capture()
    assert torch.equal(after.cpu, before.cpu)
    assert after.python == before.python
    assert (after.numpy["state"]["key"] == before.numpy["state"]["key"]).all()  # type: ignore[index]
