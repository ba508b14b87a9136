"""The stand-in for the accelerators' arithmetic, against PyTorch's batch normalisation of all samples at once."""

from __future__ import annotations

import torch
from torch.nn import functional

from tests.distributed.sync_batch_norm import KERNELS

EPS = 1e-5


def test_halves_of_a_batch_are_normalised_as_the_whole() -> None:
    torch.manual_seed(0)
    x = torch.randn(10, 3, 2, dtype=torch.float32, requires_grad=True)
    weight, bias, grad = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True), torch.randn(10, 3, 2)
    running = [torch.zeros(3), torch.ones(3)]
    expected = functional.batch_norm(x, running[0], running[1], weight, bias, training=True, eps=EPS)
    expected.backward(grad)  # type: ignore[no-untyped-call]

    parts, grads = torch.split(x.detach(), [4, 6]), torch.split(grad, [4, 6])
    means, invstds = zip(*(KERNELS["batch_norm_stats"](part, EPS) for part in parts), strict=True)
    counts, own = torch.tensor([8.0, 12.0]), [torch.zeros(3), torch.ones(3)]
    mean, invstd = KERNELS["batch_norm_gather_stats_with_counts"](
        x, torch.stack(means), torch.stack(invstds), own[0], own[1], 0.1, EPS, counts
    )
    args = (mean, invstd)
    y = [KERNELS["batch_norm_elemt"](part, weight.detach(), bias.detach(), *args, EPS) for part in parts]
    torch.testing.assert_close(torch.cat(y), expected.detach())
    torch.testing.assert_close(own, running)

    reduced = [
        KERNELS["batch_norm_backward_reduce"](g, part, *args, weight.detach(), True, True, True)
        for g, part in zip(grads, parts, strict=True)
    ]
    dy, dy_xmu, d_weight, d_bias = (sum(values) for values in zip(*reduced, strict=True))
    d_x = [
        KERNELS["batch_norm_backward_elemt"](g, part, *args, weight.detach(), dy, dy_xmu, counts)
        for g, part in zip(grads, parts, strict=True)
    ]
    torch.testing.assert_close(torch.cat(d_x), x.grad)
    torch.testing.assert_close(d_weight, weight.grad)
    torch.testing.assert_close(d_bias, bias.grad)
