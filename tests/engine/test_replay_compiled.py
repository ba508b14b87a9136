from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch import HealthMonitor, NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def careless(graph: Any, _inputs: Any) -> Callable[..., Any]:
    """A compiler whose fused code overflows where the operations one by one do not."""

    def run(*arguments: Any) -> Any:
        return tuple(result * torch.inf if result.is_floating_point() else result for result in graph(*arguments))

    return run


def test_what_only_compiled_code_makes_is_not_blamed_on_an_operation(tmp_path: Path) -> None:
    torch._dynamo.reset()
    network = nn.Linear(3, 1)
    compiled = torch.compile(lambda x: network(x).square().mean(), backend=careless)

    def loss_of(_module: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = compiled(batch)
        return loss

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    monitor = HealthMonitor(dirpath=tmp_path)
    monitor.start(network, optimizer, loss_function=loss_of)
    batch = torch.ones(2, 3)
    monitor.begin_batch(batch, 0)
    loss = loss_of(network, batch)
    monitor.observe_loss(loss)
    loss.backward()  # type: ignore[no-untyped-call]
    with pytest.raises(NonFiniteError) as raised:
        monitor.before_step(optimizer)
    incident = raised.value.incident
    assert (incident.origin.phase, incident.origin.op, incident.reproduced) == ("not_reproduced", None, False)
    assert "compiled parts run eagerly" in incident.explanation
