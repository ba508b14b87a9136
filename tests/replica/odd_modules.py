"""Modules that a plain ``copy.deepcopy`` fails on, or that a careless copy would share with the original."""

from __future__ import annotations

import threading
import types
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, weight_norm
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.data import TensorDataset
from torchmetrics.classification import MulticlassAccuracy

if TYPE_CHECKING:
    from collections.abc import Callable


class Odd(NamedTuple):
    """A module by name; ``loss`` runs it on a batch of shape [4, 6]."""

    name: str
    build: Callable[[], nn.Module]
    loss: Callable[[Any, Tensor], Tensor] = lambda module, x: module(x).square().mean()


class Body(nn.Module):
    """A linear layer, to which each case adds what is odd about it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Tied(Body):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(6, 6)
        self.other.weight = self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.linear(x).tanh())


class InLists(Body):
    def __init__(self) -> None:
        super().__init__()
        self.plain = [nn.Parameter(torch.randn(6)), {"scale": nn.Parameter(torch.randn(6))}]
        self.registered = nn.ParameterList([nn.Parameter(torch.randn(6)) for _ in range(2)])
        self.named = nn.ParameterDict({"shift": nn.Parameter(torch.randn(6))})

    def forward(self, x: Tensor) -> Tensor:
        plain: Any = self.plain
        x = self.linear(x) * plain[0] + plain[1]["scale"]
        return x * self.registered[0] + self.registered[1] + self.named["shift"]


class Closures(Body):
    """Lambdas, a recursive function, a default argument and a bound method, all of which lead back to the module."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.scale = nn.Parameter(torch.ones(6))
        self.closure: Any = lambda x: x * self.scale
        self.by_default: Any = lambda x, module=self: x + module.scale
        self.steps = [self.linear.forward, self.count]

        def halved(x: Tensor, depth: int) -> Tensor:
            return x * self.scale if depth == 0 else halved(x / 2, depth - 1)

        self.recursive: Any = halved

    def count(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return self.recursive(self.by_default(self.closure(x)), 2)


class Uncopyable(Body):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.holder = types.SimpleNamespace(lock=self.lock, scale=nn.Parameter(torch.ones(6)))
        self.generator = (i for i in range(3))
        self.module_type = types
        self.thread = threading.Thread(target=print)
        self.data = TensorDataset(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.linear(x) * self.holder.scale


class NonLeaf(Body):
    """Attributes that were computed, among them a hidden state that each step hands to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.cached = self.linear.weight * 2
        self.hidden = [self.linear(torch.ones(4, 6)).detach()]

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x) + self.hidden[0]
        self.hidden = [x.detach()]
        return x @ self.cached.detach()


class Noise(Body):
    def __init__(self) -> None:
        super().__init__()
        self.noise = torch.Generator()
        self.noise.manual_seed(7)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.linear(x)) + torch.randn(x.shape, generator=self.noise)


class TensorHook(Body):
    """Each gradient is scaled by a hook that counts in its module."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 1
        weight: Any = self.linear.weight
        bias: Any = self.linear.bias
        weight.register_hook(self.scaled)
        bias.register_hook(lambda grad: grad * self.seen)

    def scaled(self, grad: Tensor) -> Tensor:
        self.seen += 1
        return grad * self.seen


class ModuleHooks(Body):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(6))
        self.handle = self.linear.register_forward_hook(lambda _module, _inputs, output: output * self.factor)
        self.register_forward_pre_hook(self.before)

    def before(self, _: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0] + self.factor


class Metric(Body):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(6)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x)
        self.accuracy(logits.detach(), torch.arange(4))
        return logits * self.accuracy.compute()


class Parent(Body):
    """Child and parent know each other, the child its parent by a weak reference."""

    def __init__(self) -> None:
        super().__init__()
        child: Any = Body()
        child.parent = weakref.ref(self)
        self.child: Any = child
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x) * self.child.parent().scale


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


class Marked(Tensor):
    """A subclass whose operations return the subclass."""


class Subclass(Body):
    def __init__(self) -> None:
        super().__init__()
        self.marked = nn.Parameter(torch.randn(6).as_subclass(Marked))

    def forward(self, x: Tensor) -> Tensor:
        return (self.linear(x) * self.marked).as_subclass(Tensor)


class WithAttributes(nn.Parameter):
    """A parameter class of its own."""


class OwnParameter(Body):
    def __init__(self) -> None:
        super().__init__()
        scale: Any = WithAttributes(torch.ones(6))
        scale.factor = 3.0
        self.scale: Any = scale

    def forward(self, x: Tensor) -> Tensor:
        scale: Any = self.scale
        return self.linear(x) * scale * scale.factor


class Views(Body):
    """A buffer, a view of it, and parameters that lie in one piece of memory."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.randn(12)
        self.first, self.second = nn.Parameter(flat[:6]), nn.Parameter(flat[6:])
        self.register_buffer("running", torch.zeros(2, 6))
        self.last = self.buffer()[1]

    def buffer(self) -> Any:
        return self.running

    def forward(self, x: Tensor) -> Tensor:
        self.last.add_(1)
        return self.linear(x) * self.first + self.second * self.buffer()[1]


class Refusing(Body):
    """Wants to be neither pickled nor copied."""

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("no")

    def __deepcopy__(self, memo: dict[int, Any]) -> Refusing:
        raise TypeError("no")


def inference_buffer() -> nn.Module:
    module = Body()
    with torch.inference_mode():
        module.register_buffer("mask", torch.ones(6))
    module.register_forward_hook(lambda module, _inputs, output: output + module.mask)
    return module


def frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 2))
    module[0].requires_grad_(False)
    module[1].eval()
    return module


def parametrized() -> nn.Module:
    module = Body()
    register_parametrization(module.linear, "weight", Symmetric())
    module.lock = threading.Lock()  # type: ignore[assignment]
    return module


def compiled() -> nn.Module:
    inner: Any = torch.compile(Body(), backend="eager")
    module = nn.Sequential(inner, nn.Linear(6, 2))
    module.compile(backend="eager")
    return module


def half() -> nn.Module:
    return Body().bfloat16()


def first_of_sequence(module: Any, x: Tensor) -> Tensor:
    return module(x[:, None])[0].square().mean()


ODD = [
    Odd("batch-norm-and-dropout", lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))),
    Odd("tied", Tied),
    Odd("in-lists", InLists),
    Odd("closures", Closures),
    Odd("uncopyable", Uncopyable),
    Odd("non-leaf", NonLeaf),
    Odd("generator", Noise),
    Odd("tensor-hook", TensorHook),
    Odd("module-hooks", ModuleHooks),
    Odd("metric", Metric),
    Odd("weak-reference", Parent),
    Odd("tensor-subclass", Subclass),
    Odd("parameter-subclass", OwnParameter),
    Odd("views", Views),
    Odd("refusing", Refusing),
    Odd("inference-buffer", inference_buffer),
    Odd("frozen", frozen),
    Odd("parametrized", parametrized),
    Odd("spectral-norm", lambda: parametrizations.spectral_norm(nn.Linear(6, 5))),
    Odd("old-spectral-norm", lambda: old_spectral_norm(nn.Linear(6, 5))),
    Odd("weight-norm", lambda: parametrizations.weight_norm(nn.Linear(6, 5))),
    Odd("old-weight-norm", lambda: weight_norm(nn.Linear(6, 5))),
    Odd("lazy", lambda: nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d())),
    Odd("gru", lambda: nn.GRU(6, 5, num_layers=2, dropout=0.3), first_of_sequence),
    Odd("transformer", lambda: nn.TransformerEncoderLayer(6, 2, 8), first_of_sequence),
    Odd("compiled", compiled),
    Odd("traced-graph", lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)))),
    Odd("script", lambda: torch.jit.script(nn.Linear(6, 5))),
    Odd("bfloat16", half, lambda module, x: module(x.bfloat16()).square().mean()),
    Odd("sparse-embedding", lambda: nn.Embedding(9, 5, sparse=True), lambda m, x: m(x.abs().long()).square().mean()),
    Odd(
        "functional",
        lambda: nn.Sequential(nn.Linear(6, 5), nn.GELU()),
        lambda m, x: functional.mse_loss(m(x), x[:, :5]),
    ),
]
