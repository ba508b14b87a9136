"""The detectors that are in force unless a user chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.detectors import gradients

if TYPE_CHECKING:
    from gradwatch.detectors.detector import Detector

DETECTORS: tuple[Detector, ...] = (*gradients.DETECTORS,)
