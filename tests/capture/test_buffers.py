from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch.capture.buffers import SMALL_BYTES, SMALL_TOTAL_BYTES, BufferGuard, buffer_slots

LARGE = SMALL_BYTES  # elements: four times the bytes below which a buffer is copied without a question


class Holder(nn.Module):
    """Buffers by keyword."""

    def __init__(self, **buffers: Tensor | None) -> None:
        super().__init__()
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)


def large(value: float = 0.0) -> Tensor:
    return torch.full((LARGE,), value)


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.named_buffers()}


def assert_equal(module: nn.Module, expected: dict[str, Tensor]) -> None:
    found = dict(module.named_buffers())
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor.nan_to_num(nan=-7.0), expected[name].nan_to_num(nan=-7.0)), name


def one_like(tensor: Tensor) -> Tensor:
    one = torch.ones(tensor.shape, dtype=tensor.dtype)
    return one.to_sparse() if tensor.is_sparse else one


def copied(guard: BufferGuard, micro_batch: int = 0) -> set[str]:
    return set(guard.before(micro_batch))


# -- which buffers there are -----------------------------------------------------------------------------------------


def test_slots_are_named_as_the_module_names_them_and_once() -> None:
    module: Any = nn.Sequential(nn.BatchNorm1d(2), Holder(mask=torch.ones(2), none=None))
    module.register_buffer("own", torch.zeros(1))
    module[1].register_buffer("again", module[1].mask)
    module.append(module[0])
    assert [slot.name for slot in buffer_slots(module)] == [name for name, _ in module.named_buffers()]


# -- batch normalisation, whose kernel does not touch the version counter ---------------------------------------------


def test_the_version_counter_of_running_statistics_stays_still() -> None:
    """Why the guard compares values: should this fail, torch counts and the guard may be simpler."""
    norm: Any = nn.BatchNorm1d(2)
    before, version = norm.running_mean.clone(), norm.running_mean._version
    norm(torch.randn(8, 2) + 3)
    assert not torch.equal(norm.running_mean, before)
    assert norm.running_mean._version == version


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(LARGE), nn.InstanceNorm1d(LARGE, track_running_stats=True)])
def test_running_statistics_come_back_at_every_batch(norm: Any) -> None:
    guard = BufferGuard(norm)
    for _ in range(5):
        before = values(norm)
        guard.before_batch(new_window=True)
        norm(torch.randn(4, LARGE, 2) + 3)
        assert not torch.equal(norm.running_mean, before["running_mean"])
        guard.restore(0)
        assert_equal(norm, before)
        norm(torch.randn(4, LARGE, 2))


def test_running_statistics_that_start_to_move_late_are_copied_all_the_same() -> None:
    """A norm in eval mode, as in a frozen backbone, does not change between the first two batches."""
    norm = nn.BatchNorm1d(LARGE).eval()
    guard = BufferGuard(norm)
    for _ in range(3):
        guard.before_batch(new_window=True)
    norm.train()
    before = values(norm)
    norm(torch.randn(4, LARGE))
    guard.restore(0)
    assert_equal(norm, before)


# -- accumulation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, 1, 2, 3])
@pytest.mark.parametrize("windows_before", [0, 1, 2, 3])
def test_restore_to_each_micro_batch(bad: int, windows_before: int) -> None:
    module: Any = nn.Sequential(nn.BatchNorm1d(3), Holder(count=torch.zeros(()), big=large()))
    guard = BufferGuard(module)
    history: list[dict[str, Tensor]] = []
    for _ in range(windows_before + 1):
        history = []
        for micro_batch in range(4):
            history.append(values(module))
            guard.before_batch(new_window=micro_batch == 0)
            module[0](torch.randn(8, 3))
            module[1].count += 1
            module[1].big.add_(1)
    guard.restore(bad)
    assert_equal(module, history[bad])


def test_a_window_that_ends_early_leaves_no_copies_of_the_longer_one_before() -> None:
    module: Any = Holder(count=torch.zeros(()))
    guard = BufferGuard(module)
    for new_window in (True, False, False, True, False):
        guard.before_batch(new_window=new_window)
        module.count += 1
    assert float(guard.before(1)["count"]) == 4.0
    assert guard.before(2) == {}
    guard.restore(2)
    assert float(module.count) == 5.0  # nothing is known of a third micro-batch in this window


def test_copies_of_an_earlier_window_are_written_over_instead_of_allocated() -> None:
    module: Any = Holder(big=large())
    guard = BufferGuard(module)
    for _ in range(4):
        guard.before_batch(new_window=True)
        module.big.add_(1)
    pointer = guard.before(0)["big"].data_ptr()
    guard.before_batch(new_window=True)
    assert guard.before(0)["big"].data_ptr() == pointer
    assert float(guard.before(0)["big"][0]) == 4.0


# -- what is copied --------------------------------------------------------------------------------------------------


def test_a_large_constant_mask_is_not_copied_after_the_second_batch() -> None:
    mask = torch.full((80, 80), -math.inf).triu(1)
    nan = large(math.nan)
    module: Any = Holder(mask=mask, nan=nan, tokens=torch.arange(LARGE), count=torch.zeros(()))
    guard = BufferGuard(module)
    guard.before_batch(new_window=True)
    assert copied(guard) == {"mask", "nan", "tokens", "count"}
    guard.before_batch(new_window=True)
    assert copied(guard) == {"count"}  # small: a copy is cheaper than the question


def test_many_small_constants_are_copied_only_up_to_a_budget() -> None:
    count = SMALL_TOTAL_BYTES // SMALL_BYTES + 10
    module: Any = Holder(**{f"small{i}": torch.zeros(SMALL_BYTES // 4) for i in range(count)})
    guard = BufferGuard(module)
    for _ in range(3):
        guard.before_batch(new_window=True)
    assert len(copied(guard)) == SMALL_TOTAL_BYTES // SMALL_BYTES


def test_a_buffer_that_becomes_volatile_later_joins() -> None:
    module: Any = Holder(big=large())
    guard = BufferGuard(module)
    for _ in range(4):
        guard.before_batch(new_window=True)
    assert copied(guard) == set()
    module.big.add_(1)  # its first change, which nobody foresaw, cannot be undone
    guard.before_batch(new_window=True)
    assert copied(guard) == {"big"}
    module.big.add_(1)
    guard.restore(0)
    assert float(module.big[0]) == 1.0


def test_a_constant_that_is_replaced_by_assignment_joins() -> None:
    """The new tensor has a version counter of its own, which may well read as the old one did."""
    module: Any = Holder(big=large())
    guard = BufferGuard(module)
    for _ in range(3):
        guard.before_batch(new_window=True)
    module.big = large(1.0)
    guard.before_batch(new_window=True)
    assert copied(guard) == {"big"}
    module.big = large(2.0)
    guard.restore(0)
    assert float(module.big[0]) == 1.0


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_a_buffer_that_is_replaced_by_assignment_comes_back(batches: int) -> None:
    module: Any = Holder(average=large(), count=torch.zeros(()))
    guard = BufferGuard(module)
    before = values(module)
    for i in range(batches):
        before = values(module)
        guard.before_batch(new_window=True)
        module.average = module.average * 0.5 + 1
        module.count = torch.tensor(float(i))
    guard.restore(0)
    assert_equal(module, before)


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_a_buffer_that_grows_or_changes_its_dtype_comes_back(batches: int) -> None:
    module: Any = Holder(cache=torch.zeros(1), cast=torch.zeros(2))
    guard = BufferGuard(module)
    before = values(module)
    for _ in range(batches):
        before = values(module)
        guard.before_batch(new_window=True)
        module.cache = torch.cat([module.cache, torch.ones(1)])
        module.cast = module.cast.double() + 1
    guard.restore(0)
    assert_equal(module, before)
    assert module.cast.dtype == before["cast"].dtype


def test_a_restored_copy_is_not_shared_with_the_guard() -> None:
    module: Any = Holder(cache=torch.zeros(1))
    guard = BufferGuard(module)
    guard.before_batch(new_window=True)
    module.cache = torch.ones(5)
    guard.restore(0)
    module.cache.add_(3)  # must not reach the copy
    guard.restore(0)
    assert module.cache.tolist() == [0.0]


@pytest.mark.parametrize(("first_seen_in", "guarded_from"), [(1, 2), (2, 4), (3, 4), (4, 8), (5, 8)])
def test_a_buffer_that_is_registered_in_a_forward_is_found(first_seen_in: int, guarded_from: int) -> None:
    module: Any = Holder(first=torch.zeros(()))
    guard = BufferGuard(module)
    for batch in range(1, 11):
        guard.before_batch(new_window=True)
        if batch == first_seen_in:
            module.register_buffer("late", large())
        if batch >= first_seen_in:
            module.late.add_(1)
        assert ("late" in guard.before(0)) == (batch >= guarded_from)
    guard.restore(0)
    assert float(module.late[0]) == 10 - first_seen_in


def test_a_large_cache_that_a_forward_registers_once_is_not_copied_for_ever() -> None:
    module: Any = Holder()
    guard = BufferGuard(module)
    for batch in range(1, 5):
        guard.before_batch(new_window=True)
        assert copied(guard) == ({"cache"} if batch == 2 else set())
        if batch == 1:
            module.register_buffer("cache", large())


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_a_restored_batch_does_not_make_a_buffer_look_constant(bad: int) -> None:
    """A run whose first batches are all bad must still find out what changes."""
    module: Any = Holder(big=large())
    guard = BufferGuard(module)
    for _ in range(bad):
        guard.before_batch(new_window=True)
        module.big.add_(1)
        guard.restore(0)
        assert float(module.big[0]) == 0.0
    for batch in range(3):
        guard.before_batch(new_window=True)
        module.big.add_(1)
        assert float(guard.before(0)["big"][0]) == batch


def test_a_buffer_that_was_none_at_first_is_guarded() -> None:
    module: Any = Holder()
    module.register_buffer("late", None)
    guard = BufferGuard(module)
    guard.before_batch(new_window=True)
    module.late = large()
    guard.before_batch(new_window=True)
    module.late.add_(1)
    guard.before_batch(new_window=True)
    module.late.add_(1)
    guard.restore(0)
    assert float(module.late[0]) == 1.0


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_a_buffer_that_is_given_up_does_no_harm(batches: int) -> None:
    module: Any = Holder(gone=large(), stays=torch.zeros(()))
    guard = BufferGuard(module)
    for _ in range(batches):
        guard.before_batch(new_window=True)
        module.stays += 1
    module.gone = None
    guard.before_batch(new_window=True)
    module.stays += 1
    guard.restore(0)
    assert float(module.stays) == batches
    assert module.gone is None


def test_lazy_buffers_wait_for_their_first_forward() -> None:
    module: Any = nn.Sequential(nn.LazyBatchNorm1d(), Holder(count=torch.zeros(())))
    guard = BufferGuard(module)
    guard.before_batch(new_window=True)
    assert copied(guard) == {"0.num_batches_tracked", "1.count"}
    for _ in range(4):
        module[0](torch.randn(4, 3) + 1)
        before = values(module)
        guard.before_batch(new_window=True)
        module[0](torch.randn(4, 3) + 1)
        guard.restore(0)
        assert_equal(module, before)


def test_a_cache_that_was_made_in_inference_mode_is_left_alone() -> None:
    """A mask built during validation: such tensors have no version counter and cannot be written to in training."""
    with torch.inference_mode():
        module: Any = Holder(cache=large(), small=torch.zeros(2))
    guard = BufferGuard(module)
    for _ in range(3):
        guard.before_batch(new_window=True)
    assert copied(guard) == {"small"}
    with torch.inference_mode():
        module.small = torch.ones(2)
    guard.restore(0)
    assert module.small.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, dtype=torch.bfloat16),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(0),
        torch.zeros(2, 3).T,
        torch.zeros(LARGE, dtype=torch.complex64),
        torch.zeros(4, 4).to_sparse(),
    ],
    ids=["bool", "int", "bfloat16", "complex", "empty", "transposed", "large-complex", "sparse"],
)
def test_any_tensor_may_be_a_buffer(tensor: Tensor) -> None:
    module: Any = Holder(odd=tensor)
    guard = BufferGuard(module)
    before = tensor
    for _ in range(4):
        before = module.odd.clone()
        guard.before_batch(new_window=True)
        module.odd = ~module.odd if tensor.dtype == torch.bool else 2 * module.odd + one_like(tensor)
    guard.restore(0)
    assert torch.equal(module.odd.to_dense(), before.to_dense())


@pytest.mark.parametrize("sparse", [False, True])
def test_a_buffer_that_stays_the_same_tensor_is_copied_anew_at_each_batch(*, sparse: bool) -> None:
    start = torch.eye(4).to_sparse() if sparse else torch.eye(4)
    module: Any = Holder(same=start)
    guard = BufferGuard(module)
    for batch in range(5):
        guard.before_batch(new_window=True)
        assert torch.equal(guard.before(0)["same"].to_dense(), torch.eye(4) * 2**batch)
        module.same.mul_(2)
    guard.restore(0)
    assert torch.equal(module.same.to_dense(), torch.eye(4) * 2**4)


def test_a_buffer_that_is_resized_in_place_comes_back() -> None:
    module: Any = Holder(cache=torch.arange(6.0).reshape(2, 3))
    guard = BufferGuard(module)
    for shape in ((2, 3), (3, 2), (6,), (12,)):
        before = module.cache.clone()
        guard.before_batch(new_window=True)
        module.cache.resize_(shape)
    guard.restore(0)
    assert torch.equal(module.cache, before)


def test_a_module_without_buffers_costs_nothing() -> None:
    guard = BufferGuard(nn.Linear(2, 2))
    for _ in range(3):
        guard.before_batch(new_window=True)
    guard.restore(0)
    assert guard.before(0) == {}


def test_restoring_needs_no_gradient_and_leaves_none() -> None:
    module: Any = Holder(learned=torch.zeros(2, requires_grad=True))
    guard = BufferGuard(module)
    guard.before_batch(new_window=True)
    with torch.no_grad():
        module.learned.add_(1)
    guard.restore(0)
    assert module.learned.tolist() == [0.0, 0.0]
    assert module.learned.requires_grad
    assert module.learned.is_leaf
