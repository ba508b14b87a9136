from __future__ import annotations

import math

import torch

from gradwatch.capture.host_values import host_values


def test_scalars_of_any_format_come_as_floats_in_their_order() -> None:
    scalars = [torch.tensor(1.5), torch.tensor(2, dtype=torch.int64), torch.tensor([3.0], dtype=torch.float16)]
    assert host_values([*scalars, torch.tensor(True), torch.tensor(math.inf)]) == [1.5, 2.0, 3.0, 1.0, math.inf]
    assert host_values([]) == []
