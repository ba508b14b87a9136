"""The values behind the heatmaps, small enough to travel with the page: 16 bits a value, packed and compressed.

A value is a count of steps of a thousandth (``STEP`` orders of magnitude) above the least one, so that three digits
are exact; consecutive columns differ little, so differences compress well, low bytes apart from high ones. Then
zlib's format, which every browser of today unpacks by itself, and base64.
"""

from __future__ import annotations

import base64
import math
import zlib
from typing import Any

import numpy as np

UNKNOWN, NONFINITE, ZERO, FIRST = 0, 1, 2, 3
STEP = 4e-4  # orders of magnitude: 0.09 % from one code to the next
CODES = 2**16


def packed(values: np.ndarray, nonfinite: np.ndarray) -> dict[str, Any]:
    """Return values as JSON: ``step``, ``low`` and ``data``.

    Args:
        values: [columns, layers], not negative; NaN is not known.
        nonfinite: [columns, layers] what was NaN or infinite, whatever ``values`` says.
    """
    found, low, step = codes(values, nonfinite)
    by_layer = np.ascontiguousarray(found.T)
    differences = np.diff(by_layer, axis=1, prepend=np.uint16(0))  # modulo 2**16, as the script adds them up
    content = (differences & 0xFF).astype(np.uint8).tobytes() + (differences >> 8).astype(np.uint8).tobytes()
    # Differences are noise and runs of equals: looking for other repetitions takes ten times as long for nothing.
    packer = zlib.compressobj(6, strategy=zlib.Z_RLE)
    packed_content = packer.compress(content) + packer.flush()
    return {"step": step, "low": low, "data": base64.b64encode(packed_content).decode("ascii")}


def codes(values: np.ndarray, nonfinite: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return the code of each value, the power of ten of code ``FIRST``, and the powers of ten between two codes."""
    positive = np.isfinite(values) & (values > 0.0)
    power = np.log10(values, where=positive, out=np.zeros(values.shape))
    low = float(power[positive].min()) if positive.any() else 0.0
    span = float(power[positive].max()) - low if positive.any() else 0.0
    step = max(STEP, math.nextafter(span / (CODES - 1 - FIRST), math.inf))
    found = np.full(values.shape, UNKNOWN, dtype=np.uint16)
    found[positive] = (FIRST + np.rint((power[positive] - low) / step)).astype(np.uint16)
    found[values == 0.0] = ZERO
    found[nonfinite | np.isinf(values)] = NONFINITE
    return found, low, step


def unpacked(block: dict[str, Any], columns: int) -> np.ndarray:
    """Return what the script makes of a block: [columns, layers]; NaN is not known, inf is not finite."""
    content = np.frombuffer(zlib.decompress(base64.b64decode(block["data"])), dtype=np.uint8).astype(np.uint16)
    half = content.size // 2
    differences = (content[:half] | (content[half:] << 8)).reshape(-1, columns)
    found = np.cumsum(differences, axis=1, dtype=np.uint16).T
    values = 10.0 ** (block["low"] + (found.astype(np.float64) - FIRST) * block["step"])
    return np.select([found == UNKNOWN, found == NONFINITE, found == ZERO], [np.nan, np.inf, 0.0], values)
