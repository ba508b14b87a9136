"""The trace of a step: every operation whose result is not finite, and whose bad inputs explain it.

A tensor carries the memory of who wrote it: per storage, the operations that have put NaN or ±inf there. So each
record knows its causes, and the births are found by walking from a bad loss or gradient through causes only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gradwatch.diagnosis.collectives import wait_for
from gradwatch.diagnosis.memory import Leaf, Memory, Read, Special, holds_nan, is_mask, special_of
from gradwatch.diagnosis.responsibility import Explanation, Literals, explain_infinity, explain_nan
from gradwatch.diagnosis.rows import guilty_rows
from gradwatch.diagnosis.summary import first_bad_index, summary_of
from gradwatch.replica.guard import GuardMode
from gradwatch.tracing import autograd_internals as internals
from gradwatch.tracing.op_names import node_op_name
from gradwatch.tracing.operations import inputs_in, literal_infinities, numbers_in, tensors_in, written
from gradwatch.tracing.source import Place, user_place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from gradwatch.records import TensorSummary, Transition
    from gradwatch.replica.guard import StepGuard
    from gradwatch.tracing.module_stack import Location, ModuleStack
    from gradwatch.tracing.operations import Operation

MAX_INPUTS = 6
# They may leave out a NaN of an input.
SELECTING = frozenset(
    {"where", "masked_fill", "maximum", "minimum", "fmax", "fmin", "clamp", "clamp_min", "clamp_max", "nan_to_num"}
    | {"threshold", "copy", "copysign", "xlogy", "lerp", "hypot", "pow"}
)
# Here an infinity that the user has written means one; a factor of infinity is no mask.
ADDITIVE = frozenset({"add", "sub", "rsub", "where", "clamp", "clamp_min", "clamp_max", "maximum", "minimum"})


class Identity(NamedTuple):
    """What an operation is called and where it stands; for a derivative, those of its forward operation.

    ``derivative``: its derivative runs, not the operation itself (again, or in a hook).
    """

    op: str
    location: Location
    place: Place | None
    in_backward: bool = False
    derivative: bool = False


class Call(NamedTuple):
    """One operation at work."""

    what: Operation
    identity: Identity
    reads: list[Read]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    @property
    def tensors(self) -> list[Read]:
        """The inputs that are tensors to the user."""
        return [read for read in self.reads if not read.is_number]

    @property
    def numbers(self) -> list[float]:
        """The plain numbers among the arguments; some come wrapped into a tensor."""
        wrapped = [float(read.before) for read in self.reads if read.is_number]
        return numbers_in(self.args, self.kwargs) + wrapped


@dataclass(slots=True, eq=False)
class Record:
    """An operation with a non-finite result.

    ``of_nan`` and ``of_infinity`` say what explains its NaN and its infinities; None where it has none of them. The
    summaries are taken at births, and where deliberate infinities pass.
    """

    index: int
    identity: Identity
    special: Special
    of_nan: Explanation | None = None
    of_infinity: Explanation | None = None
    shrinks: bool = False
    collective: bool = False
    inputs: list[TensorSummary] = field(default_factory=list)
    output: TensorSummary | None = None
    bad_index: list[int] | None = None
    bad_rows: list[int] = field(default_factory=list)
    rows: int | None = None
    producers: list[str] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)

    @property
    def context(self) -> bool:
        """Whether nothing but deliberate infinities, as of a mask, is in the result."""
        return self.of_nan is None and self.of_infinity is not None and self.of_infinity.context

    @property
    def transition(self) -> Transition | None:
        """How the value was born, None if it was not born here."""
        explanations = [found for found in (self.of_nan, self.of_infinity) if found is not None]
        return next((found.transition for found in explanations if found.transition), None)


class StopAtBirth(Exception):  # noqa: N818 - the end of a run, no fault
    """Raised at the operation that ``stop_at`` names, with its tensors at hand."""

    def __init__(self, name: str, inputs: list[Any], output: Any) -> None:
        super().__init__(name)
        self.name, self.inputs, self.output = name, inputs, output


class Decided(Exception):  # noqa: N818 - as above
    """Everything that a replay can find out has been found out."""


class Tracer(GuardMode):  # type: ignore[no-untyped-call]
    """While entered, watches every operation of this thread and of the backward passes that it starts.

    Args:
        modules: follows the running module.
        memory: knows the tensors that exist before the step by name.
        guard: is shown every operation before it runs.
        stop_at: index of the operation at which to raise ``StopAtBirth``.

    Attributes:
        decided: set once a bad loss has been seen: what follows cannot change the verdict, and is not traced.
        finished: whether ``Decided`` has been raised.
        anomaly_at: the operation whose derivative PyTorch's anomaly mode would blame: the first to return NaN.
    """

    def __init__(self, modules: ModuleStack, memory: Memory, guard: StepGuard, *, stop_at: int | None = None) -> None:
        super().__init__(guard)
        self.decided = self.finished = False
        self.anomaly_at: int | None = None
        self._modules, self._memory, self._stop_at = modules, memory, stop_at
        self._by_node: dict[int, Identity] = {}
        self._made_at: dict[int, int] = {}
        self._last_before = internals.newest_node_number()

    def run(self, func: Any, what: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one operation, and remember it if its result is not finite."""
        if self.decided:
            return self._run_decided(func, what, args, kwargs)
        identity = self._identify(what)
        if what.view:
            return func(*args, **kwargs)
        reads = self._memory.read(inputs_in(what, args, kwargs), keep=bool(what.writes))
        result = func(*args, **kwargs)
        outputs = tensors_in(result) + written(what, args, kwargs)
        if what.collective:
            wait_for(result)
        if what.empty:
            self._memory.reserve(outputs, Record(self.operations, identity, Special()))
        else:
            self._note(Call(what, identity, reads, args, kwargs), outputs)
        if self.operations == self._stop_at:
            _stop(identity.op, [read.before for read in reads], result)
        return result

    def _run_decided(self, func: Any, what: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Look for nothing but the first NaN of the backward pass, for the sake of anomaly mode's traceback."""
        result = func(*args, **kwargs)
        node = internals.current_node()
        if node is not None and not what.view and any(map(holds_nan, tensors_in(result))):
            self.anomaly_at = self._made_by_forward(node)
            self.finished = True
            raise Decided
        return result

    def _made_by_forward(self, node: Any) -> int | None:
        """Return the number of the operation whose derivative a node is, None if it was not seen."""
        number = internals.node_number(node)
        return None if number is None else self._made_at.get(number)

    def record_of(self, tensor: Tensor) -> list[Record | Leaf]:
        """Return who has made the non-finite elements of ``tensor``, an input or result of the step."""
        return [writer for read in self._memory.read([tensor]) for writer in read.writers]

    @property
    def bad_weights(self) -> list[Leaf]:
        """The parameters that were non-finite before the step and have been used in it."""
        return self._memory.bad_weights

    def _note(self, call: Call, outputs: list[Tensor]) -> None:
        record, from_weights = None, any(read.from_weights for read in call.reads)
        for output in outputs:
            special = special_of(output)
            if special and record is None:
                record = self._record(call, output, special)
            writer = record if special else None
            self._memory.write(output, writer, call.identity.op, from_weights=from_weights, special=special)

    def _record(self, call: Call, output: Tensor, special: Special) -> Record:
        reads = call.tensors
        of_nan, of_infinity = self._explain(call, reads, output, special)
        found = of_nan or of_infinity
        record = Record(
            index=self.operations,
            identity=call.identity,
            special=special,
            of_nan=of_nan,
            of_infinity=of_infinity,
            shrinks=output.numel() < max([read.tensor.numel() for read in reads], default=0),
            collective=call.what.collective,
        )
        if (of_nan and of_nan.is_birth) or (of_infinity and of_infinity.is_birth) or (found and found.parents):
            self._look_closer(record, call, output)
        if special.nan and call.identity.in_backward and self.anomaly_at is None:
            self.anomaly_at = self._made_by_forward(internals.current_node())
        return record

    def _explain(
        self, call: Call, reads: list[Read], output: Tensor, special: Special
    ) -> tuple[Explanation | None, Explanation | None]:
        what = call.what
        posinf, neginf = literal_infinities(call.numbers)
        literals = Literals(posinf, neginf, written=what.literal or what.name in ADDITIVE)
        of_nan = None
        if special.nan:
            selects = what.name in SELECTING
            of_nan = explain_nan(output, reads, literals, pointwise=what.pointwise, selects=selects)
        if not (special.posinf or special.neginf):
            return of_nan, None
        of_infinity = explain_infinity(output, special, reads, literals, pointwise=what.pointwise)
        if of_infinity.is_birth and is_mask(output) and not any(read.from_weights for read in reads):
            of_infinity = Explanation(via="inf", context=True)  # a mask being made, as by log of zeros and ones
        return of_nan, of_infinity

    def _look_closer(self, record: Record, call: Call, output: Tensor) -> None:
        """Take the numbers of a birth now: its tensors will be gone when the step has ended."""
        floating = [read for read in call.tensors if read.tensor.is_floating_point() or read.tensor.is_complex()]
        shown = floating[:MAX_INPUTS]
        record.inputs = [summary_of(read.before) for read in shown]
        record.producers = [read.made_by for read in shown]
        record.output = summary_of(output)
        record.bad_index = first_bad_index(internals.dense(output))
        record.bad_rows, record.rows = guilty_rows(call.identity.op, call.tensors, internals.dense(output))
        record.numbers = call.numbers

    def _identify(self, what: Operation) -> Identity:
        node = internals.current_node()
        if node is None:
            identity = Identity(what.name, self._modules.top, user_place())
            self._name_newest_node(identity)
            return identity
        return self._identify_in_backward(node, what)

    def _name_newest_node(self, identity: Identity) -> None:
        """Give the newest node its name, if it has none.

        The first operation after a node was made is the node's own; later ones without a node of theirs (no gradient
        needed) see the same number.
        """
        number = internals.newest_node_number()
        if number is not None and number != self._last_before:
            self._by_node.setdefault(number, identity)
            self._made_at.setdefault(number, self.operations)

    def _identify_in_backward(self, node: Any, what: Operation) -> Identity:
        number = internals.node_number(node)
        forward = None if number is None else self._by_node.get(number)
        inside, function = user_place(in_backward=True), internals.custom_function(node)
        identity = self._identify_derivative(node, what, forward, inside, function)
        # Nodes are made here too: in a recomputed forward, and by the graph of a derivative.
        if inside is not None or torch.is_grad_enabled():
            named = Identity(what.name, identity.location, inside) if function is not None else identity
            self._name_newest_node(named)
        return identity

    def _identify_derivative(
        self, node: Any, what: Operation, forward: Identity | None, inside: Place | None, function: type | None
    ) -> Identity:
        if function is not None:
            place = inside or (forward.place if forward else None)
            location = forward.location if forward else self._modules.top
            return Identity(function.__name__, location, place, in_backward=True, derivative=True)
        if inside is not None and torch.is_grad_enabled():  # a forward that is recomputed, as checkpointing does
            return Identity(what.name, self._modules.top, inside, in_backward=True)
        if inside is not None:  # a hook on a tensor or a parameter
            location = forward.location if forward and not self._modules.running else self._modules.top
            return Identity(what.name, location, inside, in_backward=True)
        if forward is not None:
            return forward._replace(in_backward=True, derivative=True)
        name = node_op_name(node.name())
        if "accumulate_grad" in name:
            return Identity(what.name, self._modules.top, None, in_backward=True)
        return Identity(name, self._modules.top, None, in_backward=True, derivative=True)


def _stop(op: str, inputs: list[Tensor], output: Any) -> None:
    """Where the debugger stops: the tensors are this function's arguments."""
    raise StopAtBirth(op, inputs, output)
