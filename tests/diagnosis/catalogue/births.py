"""Origins of real computations: a few lines of torch, watched operation by operation."""

from __future__ import annotations

import math
import re
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradwatch.diagnosis.circumstances import Birth, Circumstances
from gradwatch.records import Origin, TensorSummary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradwatch.records import Phase, Transition

SUFFIX = re.compile(r"(_forward|_backward|_overrideable|_for_cpu)$")
WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Case(NamedTuple):
    """A computation, the operation in it that gives birth, and the words that must be said.

    ``entry`` is the name of the catalogue entry; ``leaves`` are the tensors that need gradients.
    """

    entry: str
    op: str
    loss: Callable[..., Tensor]
    leaves: Sequence[Tensor]
    says: Sequence[str]
    advises: Sequence[str]
    in_derivative: bool = False
    loss_scale: float | None = None


class Seen(NamedTuple):
    """One birth as it happened."""

    origin: Origin
    producers: list[str]
    scalars: list[float]


def summary(tensor: Tensor) -> TensorSummary:
    finite = tensor.detach()[tensor.isfinite()].double()
    return TensorSummary(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        min=float(finite.min()) if finite.numel() else None,
        max=float(finite.max()) if finite.numel() else None,
        nan=int(tensor.isnan().sum()),
        posinf=int((tensor == math.inf).sum()),
        neginf=int((tensor == -math.inf).sum()),
        zeros=int((tensor == 0).sum()),
    )


def base_name(name: str) -> str:
    return SUFFIX.sub("", name.rpartition("::")[2].strip("_").removeprefix("native_"))


def node_name(node: Any) -> str:
    stem: str = re.sub(r"Backward\d*$", "", node.name())
    custom = node.name().endswith("Backward")
    return stem if custom else base_name(WORDS.sub("_", stem).lower())


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation that makes NaN of non-NaN, or infinities of finite numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.births: list[Seen] = []
        self._writers: dict[int, str] = {}
        self._alive: list[Tensor] = []  # a freed storage's key is given to the next

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        tensors = [x for x in leaves if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())]
        before = [summary(x) for x in tensors]
        producers = [self._writers.get(_key(x), "") for x in tensors]
        result = func(*args, **(kwargs or {}))
        node: Any = torch._C._current_autograd_node()
        op = node_name(node) if node else base_name(func._schema.name)
        for output in tree_leaves(result):
            if isinstance(output, Tensor) and output.is_floating_point():
                scalars = [float(x) for x in leaves if isinstance(x, int | float) and not isinstance(x, bool)]
                self._note(op, bool(node), before, output, producers, scalars)
                if not any(output is x or _key(output) == _key(x) for x in tensors) or func._schema.is_mutable:
                    self._writers[_key(output)] = op
                self._alive.append(output)
        return result

    def _note(  # noqa: PLR0917
        self,
        op: str,
        derivative: bool,  # noqa: FBT001
        inputs: list[TensorSummary],
        output: Tensor,
        producers: list[str],
        scalars: list[float],
    ) -> None:
        after = summary(output)
        transition = transition_of(inputs, after)
        if transition:
            phase: Phase = "backward" if derivative else "forward"
            origin = Origin(phase=phase, op=op, transition=transition, inputs=inputs, output=after)
            self.births.append(Seen(origin, producers, scalars))


def transition_of(inputs: Sequence[TensorSummary], output: TensorSummary) -> Transition | None:
    infinite = any(x.posinf or x.neginf for x in inputs)
    if any(x.nan for x in inputs) or not (output.nan or output.posinf or output.neginf):
        return None
    if output.nan:
        return "inf->nan" if infinite else "finite->nan"
    return None if infinite else "finite->inf"


def birth_of(case: Case) -> Birth:
    """Run forward and backward, and return the first birth in the operation of the case, with what became of it."""
    leaves = [leaf.clone().requires_grad_() if leaf.is_floating_point() else leaf for leaf in case.leaves]
    watch = Watch()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*degrees of freedom is <= 0.*")
        warnings.filterwarnings("ignore", message=".*reduction: 'mean' divides the total loss.*")
        with watch:
            loss = case.loss(*leaves)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    phase = "backward" if case.in_derivative else "forward"
    seen = next(x for x in watch.births if (x.origin.op, x.origin.phase) == (case.op, phase))
    value = loss.item()
    spelled = "NaN" if value != value else "+inf" if value > 0 else "-inf"  # noqa: PLR0124
    return Birth(
        seen.origin,
        Circumstances(
            losses=[] if math.isfinite(value) else [spelled],
            bad_gradients=sum(not bool(gradient.isfinite().all()) for gradient in gradients),
            gradients=len(gradients),
            producers=seen.producers,
            scalars=seen.scalars,
            loss_scale=case.loss_scale,
        ),
    )


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
