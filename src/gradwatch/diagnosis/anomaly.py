"""Anomaly mode for live training, switched on after the first non-finite value."""

from __future__ import annotations

import torch


class AnomalyMode:
    """Turns autograd's anomaly mode on around each batch, for a number of steps.

    ``check_nan`` stays off: the checking mode raises inside backward, which would change what ``skip`` and ``warn``
    promise and leave the other ranks waiting in their all-reduce. A user's own anomaly mode is never weakened.
    """

    def __init__(self) -> None:
        self._steps_left = 0
        self._saved: tuple[bool, bool] | None = None

    @property
    def armed(self) -> bool:
        """Whether the coming batches run in anomaly mode."""
        return self._steps_left > 0

    def arm(self, steps: int) -> None:
        """Run the next ``steps`` batches in anomaly mode."""
        self._steps_left = max(self._steps_left, steps)

    def begin_batch(self) -> None:
        """Switch on, if armed and the user has not done so already."""
        if self._steps_left and not torch.is_anomaly_enabled():
            self._saved = (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
            torch.autograd.set_detect_anomaly(mode=True, check_nan=False)
        self._steps_left = max(0, self._steps_left - 1)

    def end_batch(self) -> None:
        """Restore the user's setting; safe to call at any time."""
        if self._saved is not None:
            mode, check_nan = self._saved
            self._saved = None
            torch.autograd.set_detect_anomaly(mode=mode, check_nan=check_nan)
