"""The one kind of array that comparing works on: float64, NaN where nothing is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The largest floats overflow where they are added or squared, and NaN is what most of this is about: the results are
# infinite or NaN as they should be, and a warning of numpy's on the terminal would tell nobody anything.
quietly = np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")
