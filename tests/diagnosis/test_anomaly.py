from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from gradwatch.diagnosis.anomaly import AnomalyMode

if TYPE_CHECKING:
    from collections.abc import Iterator


def state() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = state()
    yield
    torch.autograd.set_detect_anomaly(*before)


def batches(anomaly: AnomalyMode, count: int) -> list[bool]:
    """In which of the next batches the mode is on."""
    seen = []
    for _ in range(count):
        anomaly.begin_batch()
        seen.append(torch.is_anomaly_enabled())
        anomaly.end_batch()
        assert not torch.is_anomaly_enabled()
    return seen


def test_off_until_armed() -> None:
    anomaly = AnomalyMode()
    assert not anomaly.armed
    assert batches(anomaly, 3) == [False, False, False]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_on_for_so_many_batches_only(steps: int) -> None:
    anomaly = AnomalyMode()
    anomaly.arm(steps)
    assert anomaly.armed == (steps > 0)
    assert batches(anomaly, 5) == [i < steps for i in range(5)]
    assert not anomaly.armed


def test_a_later_incident_begins_the_count_anew_and_never_shortens_it() -> None:
    anomaly = AnomalyMode()
    anomaly.arm(3)
    batches(anomaly, 2)
    anomaly.arm(3)
    anomaly.arm(1)
    assert batches(anomaly, 4) == [True, True, True, False]


def test_the_mode_does_not_check_for_nan() -> None:
    """The checking mode raises inside backward, which would change what skip and warn promise."""
    anomaly = AnomalyMode()
    anomaly.arm(1)
    anomaly.begin_batch()
    assert state() == (True, False)
    x = torch.tensor([-1.0], requires_grad=True)
    torch.autograd.backward(x.sqrt().sum())
    assert x.grad is not None
    assert bool(x.grad.isnan())
    anomaly.end_batch()


@pytest.mark.parametrize("check_nan", [True, False])
def test_the_users_own_mode_is_never_weakened(*, check_nan: bool) -> None:
    torch.autograd.set_detect_anomaly(mode=True, check_nan=check_nan)
    anomaly = AnomalyMode()
    anomaly.arm(2)
    for _ in range(3):
        anomaly.begin_batch()
        assert state() == (True, check_nan)
        anomaly.end_batch()
        assert state() == (True, check_nan)


@pytest.mark.parametrize("check_nan", [True, False])
def test_the_users_setting_of_check_nan_comes_back_too(*, check_nan: bool) -> None:
    torch.autograd.set_detect_anomaly(mode=False, check_nan=check_nan)
    anomaly = AnomalyMode()
    anomaly.arm(1)
    anomaly.begin_batch()
    anomaly.end_batch()
    assert state() == (False, check_nan)


def test_a_batch_without_an_end_keeps_the_first_setting() -> None:
    """An exception in the batch: the next one begins without the end of this one."""
    anomaly = AnomalyMode()
    anomaly.arm(5)
    before = state()
    anomaly.begin_batch()
    anomaly.begin_batch()
    anomaly.end_batch()
    assert state() == before
    anomaly.end_batch()
    assert state() == before
