"""Settings for the fits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import torch

from tests.integrations.fits import failures

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _globals() -> Iterator[None]:
    """Compute on one thread, keep Lightning quiet, and fail where a test leaves anomaly mode on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    lightning.setLevel(logging.ERROR)
    yield
    lightning.setLevel(level)
    torch.set_num_threads(threads)
    left_on = torch.is_anomaly_enabled()
    torch.autograd.set_detect_anomaly(mode=False)
    assert not left_on


@pytest.fixture
def nothing_fails(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which the monitor has failed inside: that training went on then shows nothing."""
    yield
    assert failures(caplog.messages) == []
