"""Settings for the loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _globals() -> Iterator[None]:
    """Compute on one thread, and fail where a test leaves anomaly mode on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    left_on = torch.is_anomaly_enabled()
    torch.autograd.set_detect_anomaly(mode=False)
    assert not left_on
