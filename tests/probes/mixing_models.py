"""Models whose samples influence one another by mistake; each wrong line ends in ``# mixes``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES, LENGTH = 6, 5


class Body(nn.Module):
    """Two layers with something between them; (N, T, F) in, (N, 3) out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x))).mean(1)

    def between(self, h: Tensor) -> Tensor:
        return h


class WrongPermute(Body):
    def between(self, h: Tensor) -> Tensor:
        turned = h.permute(1, 0, 2)
        return turned.reshape(h.shape)  # mixes


class Folded(Body):
    """The last batches that fit are folded in pairs."""

    def between(self, h: Tensor) -> Tensor:
        pairs = h.reshape(-1, 2, LENGTH, FEATURES)
        return pairs.transpose(1, 3).reshape(h.shape)  # mixes


class SoftmaxOverBatch(Body):
    def between(self, h: Tensor) -> Tensor:
        return h * torch.softmax(h, dim=0)  # mixes


class MeanOverBatch(Body):
    def between(self, h: Tensor) -> Tensor:
        mean = h.mean(0, keepdim=True)
        return h - mean  # mixes


class NormOverBatch(Body):
    def between(self, h: Tensor) -> Tensor:
        return nn.functional.layer_norm(h.permute(1, 2, 0), [len(h)]).permute(2, 0, 1)  # mixes


class Cumulated(Body):
    def between(self, h: Tensor) -> Tensor:
        return h.cumsum(0)  # mixes


class WrongUnflatten(Body):
    def between(self, h: Tensor) -> Tensor:
        rows = h.flatten(0, 1)
        return rows.view(LENGTH, -1, FEATURES).transpose(0, 1)  # mixes


class Rolled(Body):
    def between(self, h: Tensor) -> Tensor:
        return h + h.roll(1, 0)  # mixes


class Shifted(Body):
    def between(self, h: Tensor) -> Tensor:
        return h.roll(1, 0)  # mixes


class SlippedAttention(Body):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(FEATURES, 2)

    def between(self, h: Tensor) -> Tensor:
        return self.attention(h, h, h)[0]  # mixes


class SlippedRecurrence(Body):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(FEATURES, FEATURES)

    def between(self, h: Tensor) -> Tensor:
        return self.recurrent(h)[0]  # mixes


class AtTheInput(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(LENGTH, -1, FEATURES).transpose(0, 1))  # mixes


class Inner(nn.Module):
    """A block in a larger model, with a fault in its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dense(x)
        return x + h.permute(1, 0, 2).reshape(x.shape)  # mixes


class SoftmaxAtTheEnd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(LENGTH * FEATURES, 3), nn.Softmax(dim=0))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # mixes
