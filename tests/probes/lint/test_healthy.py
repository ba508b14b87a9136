from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from gradwatch.probes.lint import lint
from tests.probes.lint.healthy_sequences import SEQUENCES
from tests.probes.lint.healthy_vision import VISION

if TYPE_CHECKING:
    from collections.abc import Callable

ARCHITECTURES = (*VISION, *SEQUENCES)
STEPS = 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda cls: cls.__name__)
def test_nothing_is_said_of_a_healthy_architecture(architecture: Callable[[], Any], precision: str) -> None:
    torch.manual_seed(0)
    module = architecture()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            findings = lint(module, module.loss)
            loss = module.loss()
        assert findings == []
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda cls: cls.__name__)
def test_the_step_has_been_recorded(architecture: Callable[[], Any]) -> None:
    """No findings must not mean that nothing was seen."""
    torch.manual_seed(0)
    module = architecture()
    findings = lint(module, lambda: torch.log(module.loss() + torch.randn(())))
    assert [finding.code for finding in findings] == ["log-of-negative"]
