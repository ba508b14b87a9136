"""Whose backward is wrong: custom functions and module calls, each checked by itself on what it was given.

A call is right if the derivative of <v, call(x)> agrees with a centred difference, for random v and along random
changes of its inputs and weights. That needs nothing of the rest of the network, so a fault elsewhere does not show.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gradwatch.probes.correctness import WHOLE_TOLERANCE, make_direction, slopes_along
from gradwatch.probes.float64 import Float64Mode
from gradwatch.probes.objectives import Objective
from gradwatch.probes.stop_gradients import StopGradients
from gradwatch.records import Culprit
from gradwatch.replica import randomness
from gradwatch.replica.unnoticed import unnoticed
from gradwatch.tracing.custom_functions import ApplicationWatch, is_users_own
from gradwatch.tracing.module_stack import Location, ModuleStack
from gradwatch.tracing.source import Place, definition_of, user_place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gradwatch.probes.evaluation import Evaluator
    from gradwatch.probes.slopes import Slope
    from gradwatch.replica.copying import SideCopy

SEEDS = (1, 2, 3)
MAX_APPLICATIONS = 500
CALLS_OF_A_MODULE = 8


class Call(NamedTuple):
    """A call as it was made; tensors are detached clones."""

    run: Callable[..., Any]
    arguments: Any
    weights: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    random_state: randomness.RandomState
    location: Location
    place: Place | None


def find_culprit(evaluator: Evaluator) -> Culprit | None:
    """Return what has a wrong backward: the first custom function, else the innermost module."""
    with unnoticed(evaluator.module):
        return _wrong_function(evaluator) or _innermost_module(evaluator)


def _wrong_function(evaluator: Evaluator) -> Culprit | None:
    surrogate: Culprit | None = None
    for function, call in _applications(evaluator):
        wrong = wrong_slope(call)
        if wrong is None:
            continue
        line = call.place.source_line() if call.place else definition_of(function.forward)
        culprit = Culprit(
            module=call.location.path,
            module_type=call.location.type,
            function=function.__name__,
            source=line,
            surrogate=wrong.is_flat,
        )
        if not culprit.surrogate:
            return culprit
        surrogate = surrogate or culprit  # meant, most likely: is there another?
    return surrogate


def wrong_slope(call: Call) -> Slope | None:
    """Return the first slope along which a call's derivative disagrees with its differences."""
    run = _Rerun(call)
    if not run.base:
        return None
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in run.base.items()}
    total = run.total(leaves)
    if not total.requires_grad:
        return None
    # Weights take part as themselves: a module looks them up where they are.
    wanted = {name: call.weights.get(name, leaf) for name, leaf in leaves.items()}
    found: Sequence[Tensor | None] = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    gradients = {name: gradient for name, gradient in zip(wanted, found, strict=True) if gradient is not None}
    objective = Objective("local", float(total.detach()), gradients, frozenset(leaves))
    for seed in SEEDS:  # all that goes in moves together, as all weights do in a check of the whole
        direction = make_direction(run.base, list(run.base), seed, {})
        (slope,) = slopes_along(
            direction, [objective], run.base, lambda moved: [float(run.total(moved).detach())], WHOLE_TOLERANCE
        )
        if slope.verdict == "mismatch":
            return slope
    return None


class _Rerun:
    """A call made again, with values moved; where it stops gradients on purpose, values stay as at the first time."""

    def __init__(self, call: Call) -> None:
        inputs, self._rebuild = _moving_parts(call.arguments)
        self._call = call
        self._inputs = [f"input {i}" for i in range(len(inputs))]
        self.base = {name: tensor.detach().clone() for name, tensor in zip(self._inputs, inputs, strict=True)}
        self.base |= {name: parameter.detach().clone() for name, parameter in call.weights.items()}
        self._stops = StopGradients()
        self._cotangents: list[Tensor] = []

    def total(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return <v, outputs>, where ``given`` replaces inputs and weights by name."""
        for name, parameter in self._call.weights.items():
            parameter.data = given.get(name, self.base[name]).detach().clone()
        for name, buffer in self._call.buffers.items():
            self._call.run.get_buffer(name).data = buffer.clone()  # type: ignore[attr-defined]
        randomness.restore(self._call.random_state)
        # Clones, as the call may write into what it is given; with a graph, without which nothing is stopped.
        inputs = [given.get(name, self.base[name]) for name in self._inputs]
        arguments, keywords = self._rebuild([_with_graph(tensor).clone() for tensor in inputs])
        with self._stops.held() if self._cotangents else self._stops.recorder(), Float64Mode():
            result = self._call.run(*arguments, **keywords)
        outputs = [leaf for leaf in pytree.tree_leaves(result) if _is_differentiable(leaf)]
        if not self._cotangents:
            generator = torch.Generator().manual_seed(0)
            self._cotangents = [torch.randn(o.shape, generator=generator, dtype=o.dtype).to(o.device) for o in outputs]
        products = [torch.vdot(v.flatten(), o.flatten()).real for v, o in zip(self._cotangents, outputs, strict=True)]
        return torch.stack(products).sum() if products else torch.zeros(())


def _applications(evaluator: Evaluator) -> list[tuple[Any, Call]]:
    """Return every application of a user's own ``autograd.Function`` in the forward pass, in order."""
    found: list[tuple[Any, Call]] = []
    stacks: list[ModuleStack] = []

    def around(cls: Any, args: tuple[Any, ...], apply: Callable[..., Any]) -> Any:
        if is_users_own(cls) and not watch.depth and len(found) < MAX_APPLICATIONS:
            call = Call(
                cls.apply,
                (_kept(args), {}),
                {},
                {},
                randomness.capture(),
                stacks[0].top,
                user_place(),
            )
            found.append((cls, call))
        return apply(*args)

    def follow(copy: SideCopy) -> None:
        stacks.append(ModuleStack(copy.module))
        stacks[0].__enter__()

    watch = ApplicationWatch(around)
    try:
        evaluator.gradients(None, watch, prepare=follow)
    finally:
        for stack in stacks:
            stack.__exit__(None, None, None)
    return found


def _innermost_module(evaluator: Evaluator) -> Culprit | None:
    """Walk down from the root, each time into the first child whose call is wrong."""
    location, place = Location("", ""), None
    module: nn.Module | None = None
    while True:
        children = _calls_within(evaluator, location.path)
        wrong = next((call for call in children if wrong_slope(call) is not None), None)
        if wrong is None:
            break
        location, place, module = wrong.location, wrong.place, wrong.run  # type: ignore[assignment]
    if module is None:
        return None
    line = None if type(module).__module__.startswith("torch.") else definition_of(type(module).forward)
    return Culprit(
        module=location.path,
        module_type=location.type,
        function=None,
        source=line or (place.source_line() if place else None),
    )


def _calls_within(evaluator: Evaluator, parent: str) -> list[Call]:
    """Return the calls that the forward of one module makes to others."""
    recorder = _CallRecorder(parent)
    try:
        evaluator.gradients(prepare=recorder.follow)
    finally:
        recorder.stop()
    return recorder.calls


class _CallRecorder:
    """Keeps what the forward of one module gives to the modules that it calls."""

    def __init__(self, parent: str) -> None:
        self.calls: list[Call] = []
        self._parent = parent
        self._counted: Counter[str] = Counter()
        self._running = [""]
        self._handles: list[Any] = []

    def follow(self, copy: SideCopy) -> None:
        """Begin to record the calls of a copy."""
        for path, module in copy.module.named_modules():
            if path:
                enter, leave = functools.partial(self._enter, path), functools.partial(self._leave, path)
                self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                self._handles.append(module.register_forward_hook(leave, always_call=True))

    def stop(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._running[-1] == self._parent and self._counted[path] < CALLS_OF_A_MODULE:
            self._counted[path] += 1
            call = Call(
                module,
                (_kept(args), _kept(kwargs)),
                {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad},
                {name: buffer.detach().clone() for name, buffer in module.named_buffers()},
                randomness.capture(),
                Location(path, type(module).__name__),
                user_place(),
            )
            self.calls.append(call)
        self._running.append(path)

    def _leave(self, path: str, *_: Any) -> None:
        while len(self._running) > 1 and self._running.pop() != path:
            pass


def _kept(arguments: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), arguments)


def _moving_parts(arguments: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """Return the tensors that a derivative is wanted of, and what puts others in their place."""
    leaves, form = pytree.tree_flatten(arguments)
    positions = [i for i, leaf in enumerate(leaves) if _takes_gradient(leaf)]

    def rebuild(tensors: Sequence[Tensor]) -> Any:
        placed = list(leaves)
        for position, tensor in zip(positions, tensors, strict=True):
            placed[position] = tensor
        return pytree.tree_unflatten(placed, form)

    return [leaves[position] for position in positions], rebuild


def _with_graph(tensor: Tensor) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()


def _takes_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
