from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradwatch.diagnosis.memory import Leaf
from gradwatch.diagnosis.trace import MAX_INPUTS, Record, StopAtBirth, Tracer
from tests.diagnosis.tracing import birth, blamed, leaf, line_of, tracer_of, zeros

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INF, NAN = math.inf, math.nan
MASK = torch.tensor([False, True, False])


@pytest.fixture
def filled_with_nan() -> Iterator[None]:
    """Uninitialised memory holds NaN, instead of whatever was there."""
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


# -- births and what follows from them -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "op", "transition"),
    [
        (lambda: zeros().log(), "log", "finite->inf"),
        (lambda: torch.full((2,), -1.0).sqrt(), "sqrt", "finite->nan"),
        (lambda: torch.full((2,), 100.0).exp(), "exp", "finite->inf"),
        (lambda: torch.ones(2) / 0.0, "div", "finite->inf"),
        (lambda: zeros() / zeros(), "div", "finite->nan"),
        (lambda: torch.full((2,), INF) - torch.full((2,), INF), "sub", "inf->nan"),
        (lambda: zeros() * INF, "mul", "inf->nan"),
        (lambda: torch.empty(0).mean(), "mean", "finite->nan"),
        (lambda: torch.full((2, 2), 3e38) @ torch.full((2, 2), 3e38), "mm", "finite->inf"),
    ],
    ids=["log", "sqrt", "exp", "by number", "by zero", "sub", "mul", "mean", "mm"],
)
def test_a_bad_result_of_good_inputs_is_a_birth(step: Callable[[], Tensor], op: str, transition: str) -> None:
    found = birth(step)
    assert (found.identity.op, found.transition) == (op, transition)


def test_what_follows_from_a_birth_is_blamed_on_it() -> None:
    def step() -> Tensor:
        bad = zeros().log()  # the birth
        return (bad * 0.0 + 1.0).exp().sum()

    found = birth(step)
    assert (line_of(found), found.transition) == ("the birth", "finite->inf")


def test_a_birth_that_the_result_does_not_depend_on_is_not_blamed() -> None:
    def step() -> Tensor:
        (-torch.ones(3)).sqrt().sum()
        return zeros().log().sum()

    assert birth(step).identity.op == "log"


def test_the_earliest_of_several_births_is_blamed() -> None:
    def step() -> Tensor:
        first, second = zeros().log(), torch.full((3,), 100.0).exp()
        return second + first

    assert birth(step).identity.op == "log"


def test_a_nan_is_blamed_on_a_nan_before_it_is_blamed_on_an_infinity() -> None:
    assert birth(lambda: zeros().log() + (-torch.ones(3)).sqrt()).identity.op == "sqrt"


@pytest.mark.parametrize(("part", "op"), [(slice(0, 3), "log"), (slice(3, 6), "sqrt")], ids=["infinity", "nan"])
def test_a_nan_and_an_infinity_in_one_tensor_are_each_followed_to_their_own(part: slice, op: str) -> None:
    """Tensors are followed as wholes; that the part holds one kind only says which way to go."""

    def step() -> Tensor:
        both = torch.cat([zeros().log(), (-torch.ones(3)).sqrt()]) * 2.0
        return both[part].sum()

    assert birth(step).identity.op == op


def test_a_record_says_of_each_kind_what_explains_it() -> None:
    modules, tracer = tracer_of()
    with modules, tracer:
        infinite, nan = zeros().log(), (-torch.ones(3)).sqrt()
        both = torch.cat([infinite, nan])
        quotient = torch.tensor([1.0, 0.0]) / torch.zeros(2)
    [joined], [divided] = tracer.record_of(both), tracer.record_of(quotient)
    [log], [sqrt] = tracer.record_of(infinite), tracer.record_of(nan)
    assert isinstance(joined, Record)
    assert isinstance(divided, Record)
    assert joined.of_nan is not None
    assert joined.of_infinity is not None
    assert (joined.of_nan.causes, joined.of_infinity.causes) == ([sqrt], [log])
    assert (joined.transition, joined.context) == (None, False)
    assert divided.of_nan is not None
    assert divided.of_infinity is not None
    assert (divided.of_nan.transition, divided.of_infinity.transition) == ("finite->nan", "finite->inf")
    assert divided.transition == "finite->nan"
    assert isinstance(log, Record)
    assert (log.of_nan, log.transition) == (None, "finite->inf")


def test_a_nan_beside_a_mask_is_no_context() -> None:
    modules, tracer = tracer_of()
    with modules, tracer:
        masked = masked_fill(torch.ones(3))
        spoilt = torch.cat([masked, (-torch.ones(1)).sqrt()])
    [mask], [both] = tracer.record_of(masked), tracer.record_of(spoilt)
    assert isinstance(mask, Record)
    assert isinstance(both, Record)
    assert mask.context
    assert not both.context


def test_a_finite_result_is_blamed_on_nothing() -> None:
    assert blamed(lambda: torch.nan_to_num(zeros(1).log()).sum()) is None


def test_the_numbers_of_a_birth_are_those_of_its_inputs_and_output() -> None:
    x = torch.tensor([[4.0, 1.0], [2.0, 0.0], [1.0, 0.0]])
    found = birth(lambda: torch.relu(x).log().sum())
    [given] = found.inputs
    assert (given.shape, given.min, given.max, given.zeros) == ((3, 2), 0.0, 4.0, 2)
    assert found.output is not None
    assert (found.output.neginf, found.output.nan) == (2, 0)
    assert (found.bad_index, found.bad_rows, found.rows) == ([1, 1], [1, 2], 3)
    assert found.producers == ["relu"]


def test_plain_numbers_are_kept_and_are_no_inputs() -> None:
    found = birth(lambda: torch.ones(2) / 0.0)
    assert found.numbers == [0.0]
    assert len(found.inputs) == 1


def test_no_more_than_a_few_inputs_are_summarised() -> None:
    many = [torch.full((1,), 3e38) for _ in range(MAX_INPUTS + 3)]
    found = birth(lambda: torch.cat([*many, many[0] * 2.0]) * 1.0)
    assert found.identity.op == "mul"
    found = birth(lambda: torch._foreach_mul(many, 2.0))
    assert len(found.inputs) == MAX_INPUTS


def test_operations_are_counted_views_included() -> None:
    modules, tracer = tracer_of()
    x = torch.ones(4)
    with modules, tracer:
        x.view(2, 2).exp()
    assert tracer.operations == 2


def test_the_trace_stops_at_the_operation_that_is_asked_for() -> None:
    modules, tracer = tracer_of()
    stopping = Tracer(modules, tracer._memory, tracer._guard, stop_at=2)
    x = torch.zeros(3)
    with pytest.raises(StopAtBirth) as stopped, modules, stopping:
        (x + 1.0).sub(1.0).log()
    assert stopped.value.name == "sub"
    assert torch.equal(stopped.value.output, torch.zeros(3))
    assert torch.equal(stopped.value.inputs[0], torch.ones(3))


# -- infinities that are meant ---------------------------------------------------------------------------------------


def masked_fill(x: Tensor) -> Tensor:
    return x.masked_fill(MASK, -INF)


def where_number(x: Tensor) -> Tensor:
    return torch.where(MASK, -INF, x)


def where_full(x: Tensor) -> Tensor:
    return torch.where(MASK, torch.full((3,), -INF), x)


def added_full(x: Tensor) -> Tensor:
    return x + torch.full((3,), -INF).masked_fill(~MASK, 0.0)


def written_by_index(x: Tensor) -> Tensor:
    y = x * 1.0
    y[1] = -INF
    return y


def added_log(x: Tensor) -> Tensor:
    return x + (~MASK).float().log()


def new_full(x: Tensor) -> Tensor:
    return torch.where(MASK, x.new_full((), -INF), x)


def tensor_constant(x: Tensor) -> Tensor:
    return torch.where(MASK, torch.tensor(-INF), x)


def written_by_mask(x: Tensor) -> Tensor:
    y = x * 1.0
    y[MASK] = -INF
    return y


def filled_by_index(x: Tensor) -> Tensor:
    return x.index_fill(0, torch.tensor([1]), -INF)


def scattered(x: Tensor) -> Tensor:
    return x.scatter(0, torch.tensor([1]), -INF)


def padded(x: Tensor) -> Tensor:
    return functional.pad(x[:1], (0, 1), value=-INF)


def diagonal(x: Tensor) -> Tensor:
    return (x[:, None] * torch.ones(3)).fill_diagonal_(-INF)[1]


def upper_triangle(x: Tensor) -> Tensor:
    return x + torch.full((3, 3), -INF).triu()[1]


MASKS = [
    masked_fill,
    where_number,
    where_full,
    added_full,
    written_by_index,
    written_by_mask,
    filled_by_index,
    scattered,
    padded,
    diagonal,
    added_log,
    new_full,
    tensor_constant,
    upper_triangle,
]


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_is_not_blamed_for_an_unrelated_birth(mask: Callable[[Tensor], Tensor]) -> None:
    def step() -> Tensor:
        attention = mask(zeros() + 1.0).softmax(0)
        return attention.sum() * zeros(1).log()

    found = birth(step)
    assert (found.identity.op, found.context) == ("log", False)


@pytest.mark.parametrize("mask", MASKS)
def test_a_softmax_over_nothing_but_masked_scores_is_the_birth(mask: Callable[[Tensor], Tensor]) -> None:
    scores = nn.Parameter(torch.tensor([0.5, 1.0, 2.0]))
    found = birth(lambda: mask(scores)[1:2].softmax(0), known={("parameter", "scores"): scores})
    assert (found.identity.op, found.transition) == ("softmax", "inf->nan")


def test_a_logarithm_that_training_differentiates_is_no_mask() -> None:
    weight = nn.Parameter(torch.tensor([0.0, 1.0]))
    found = birth(lambda: torch.sum(weight.log() * 0.0), known={("parameter", "weight"): weight})
    assert (found.identity.op, found.context) == ("log", False)


def test_a_logarithm_of_more_than_zeros_and_ones_is_no_mask() -> None:
    assert birth(lambda: torch.sum(torch.tensor([0.0, 0.5, 1.0]).log() * 0.0)).identity.op == "log"


def test_a_positive_infinity_as_a_limit_is_not_blamed() -> None:
    def step() -> Tensor:
        nearest = torch.full((3,), INF)
        nearest = torch.minimum(nearest, zeros() + 1.0)
        return (nearest / zeros()).sum()

    assert birth(step).identity.op == "div"


def test_a_literal_minus_infinity_does_not_excuse_a_plus_infinity() -> None:
    def step() -> Tensor:
        return torch.where(MASK, -INF, torch.full((3,), 100.0)).exp() + torch.tensor(1.0)

    found = birth(step)
    assert (found.identity.op, found.transition) == ("exp", "finite->inf")


def test_where_only_masked_values_reach_the_loss_the_picking_operation_is_blamed() -> None:
    def step() -> Tensor:
        scores = zeros().masked_fill(MASK, -INF)
        return -scores[None].log_softmax(1).gather(1, torch.tensor([[1]])).mean()

    found = birth(step)
    assert (found.identity.op, found.context) == ("gather", True)


def test_a_nan_that_is_written_on_purpose_is_the_birth_of_what_it_spoils() -> None:
    found = birth(lambda: zeros().masked_fill(MASK, NAN).sum())
    assert (found.identity.op, found.transition) == ("masked_fill", "finite->nan")


def test_a_nan_that_a_where_leaves_out_is_not_blamed() -> None:
    def step() -> Tensor:
        labels = zeros().masked_fill(MASK, NAN)
        kept = torch.where(labels.isnan(), 0.0, labels)
        return kept.sum() / torch.tensor(0.0)

    assert birth(step).identity.op == "div"


def test_of_two_bad_inputs_of_a_pointwise_operation_the_one_at_the_bad_place_is_blamed() -> None:
    def step() -> Tensor:
        unused = torch.tensor([-1.0, 1.0, 1.0]).sqrt()
        return torch.where(torch.tensor([False, True, True]), unused, zeros().log())

    found = birth(step)
    assert (found.identity.op, found.bad_index) == ("log", [0])


# -- tensors from before the step ------------------------------------------------------------------------------------


def test_a_bad_element_of_the_batch_is_blamed_by_name_and_place() -> None:
    x = torch.ones(4, 2)
    x[2, 1] = NAN
    found = leaf(lambda: (x * 2.0).log().sum(), known={("batch", "batch[0]"): x})
    assert (found.kind, found.name, found.bad_index, found.bad_rows) == ("batch", "batch[0]", [2, 1], [2])


def test_what_was_bad_before_the_step_comes_before_every_birth() -> None:
    x = torch.tensor([NAN])
    found = leaf(lambda: zeros(1).log() + x, known={("batch", "batch"): x})
    assert found.name == "batch"


@pytest.mark.parametrize("values", [[0.0, -INF], [-INF, -INF], [INF, INF]])
def test_a_buffer_that_holds_a_mask_is_not_blamed(values: list[float]) -> None:
    mask = torch.tensor(values)
    found = blamed(lambda: mask - mask.clone(), known={("buffer", "mask"): mask})
    assert not isinstance(found, Leaf)
    assert found is not None
    assert (found.identity.op, found.transition) == ("sub", "inf->nan")


@pytest.mark.parametrize("values", [[0.0, NAN], [0.5, -INF, 0.25], [0.0, INF]])
def test_a_buffer_that_holds_no_mask_is_blamed(values: list[float]) -> None:
    buffer = torch.tensor(values)
    assert leaf(lambda: buffer * 2.0, known={("buffer", "running_var"): buffer}).name == "running_var"


def test_a_buffer_that_was_finite_once_holds_no_mask() -> None:
    buffer = torch.tensor([0.0, -INF])
    found = leaf(lambda: buffer * 2.0, known={("buffer", "scale"): buffer}, born=frozenset({"scale"}))
    assert (found.name, found.context) == ("scale", False)


def test_a_weight_that_looks_like_a_mask_is_blamed_and_listed() -> None:
    weight = nn.Parameter(torch.tensor([0.0, -INF]))
    modules, tracer = tracer_of(known={("parameter", "head.weight"): weight})
    with modules, tracer:
        (weight * 2.0).sum()
    assert [found.name for found in tracer.bad_weights] == ["head.weight"]


def test_a_tensor_that_nobody_has_named_is_blamed_without_a_name() -> None:
    constant = torch.tensor([1.0, NAN])
    found = leaf(lambda: zeros(2) + constant)
    assert (found.kind, found.name) == ("unknown", None)


# -- views, writes in place, out= ------------------------------------------------------------------------------------


def test_a_write_in_place_is_a_birth_by_its_plain_name() -> None:
    x = torch.zeros(3)
    found = birth(lambda: torch.log_(x))
    assert (found.identity.op, found.inputs[0].zeros) == ("log", 3)


def test_a_write_in_place_into_bad_values_follows_from_them() -> None:
    def step() -> Tensor:
        x = zeros().log()
        x += 1.0
        x *= 0.0
        return x

    assert birth(step).identity.op == "log"


def test_a_write_in_place_that_makes_good_values_bad_is_the_birth() -> None:
    def step() -> Tensor:
        x = zeros().log()
        x.zero_().add_(3e38).mul_(2.0)
        return x

    found = birth(step)
    assert (found.identity.op, found.inputs[0].posinf) == ("mul", 0)


def test_a_result_written_to_out_is_blamed_on_its_operation() -> None:
    target = torch.ones(3)

    def step() -> Tensor:
        torch.log(torch.zeros(3), out=target)
        return target.view(3, 1).sum()

    assert birth(step).identity.op == "log"


def test_a_write_through_a_view_is_seen_in_the_base() -> None:
    def step() -> Tensor:
        base = torch.ones(2, 3)
        base.view(6)[4:].sub_(1.0).log_()
        return base.sum()

    assert birth(step).identity.op == "log"


def test_the_parts_of_a_storage_have_writers_of_their_own() -> None:
    def step(part: slice) -> Tensor:
        base = torch.ones(6)
        base[:2] = torch.zeros(2).log()
        base[2:4] = -torch.ones(2).mul(-1.0).sqrt().log().sub(1.0).sqrt()
        return base[part].sum()

    assert birth(lambda: step(slice(0, 2))).identity.op == "log"
    assert birth(lambda: step(slice(2, 4))).identity.op == "sqrt"
    assert blamed(lambda: step(slice(4, 6))) is None


def test_a_part_that_is_overwritten_with_good_values_is_forgotten() -> None:
    def step() -> Tensor:
        base = torch.ones(4)
        base[:2] = torch.zeros(2).log()
        base[2:] = (-torch.ones(2)).sqrt()
        base[:2] = 1.0
        return base * 1.0

    assert birth(step).identity.op == "sqrt"


def test_a_copy_into_a_tensor_is_traced_to_what_was_copied() -> None:
    target = torch.ones(3)

    def step() -> Tensor:
        target.copy_(zeros().detach().log())  # the birth
        return target.sum()

    assert line_of(birth(step)) == "the birth"


# -- memory that nobody has written to -------------------------------------------------------------------------------


def test_uninitialised_memory_is_blamed_where_it_is_used(filled_with_nan: None) -> None:
    def step() -> Tensor:
        garbage = torch.empty(3)  # the birth
        return (garbage * 2.0).sum()

    found = birth(step)
    assert (found.identity.op, found.transition, line_of(found)) == ("empty", "finite->nan", "the birth")


@pytest.mark.parametrize(
    "make",
    [torch.empty_like, lambda x: x.new_empty(3), lambda _: torch.empty_strided((3,), (1,))],
    ids=["like", "new", "strided"],
)
def test_every_kind_of_uninitialised_memory_is_known(make: Callable[[Tensor], Tensor], filled_with_nan: None) -> None:
    x = torch.ones(3)
    assert birth(lambda: make(x).sum()).identity.op.startswith(("empty", "new_empty"))


def test_uninitialised_memory_that_is_written_first_is_not_blamed(filled_with_nan: None) -> None:
    assert blamed(lambda: torch.empty(3).fill_(1.0).sum()) is None
    assert birth(lambda: torch.empty(3).zero_().log().sum()).identity.op == "log"


# -- operations with several results, sparse tensors, casts ----------------------------------------------------------


@pytest.mark.filterwarnings("ignore:var_mean")
def test_of_several_results_only_the_bad_one_carries_the_blame() -> None:
    x = torch.ones(1)
    assert birth(lambda: torch.var_mean(x)[0] + 1.0).identity.op == "var_mean"
    assert blamed(lambda: torch.var_mean(x)[1] + 1.0) is None


def test_a_list_of_results_carries_the_blame() -> None:
    assert birth(lambda: [y + 1.0 for y in torch._foreach_log([torch.ones(2), torch.zeros(2)])]).identity.op == "log"


def test_a_bad_sparse_tensor_is_traced_to_its_values() -> None:
    def step() -> Tensor:
        values = zeros(2).log()  # the birth
        sparse = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), values, (4,), check_invariants=False)
        return torch.sparse.sum(sparse)

    assert line_of(birth(step)) == "the birth"


def test_a_cast_that_autocast_makes_is_a_birth() -> None:
    linear = nn.Linear(2, 2)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return linear(torch.full((1, 2), 1e5))

    found = birth(step, linear)
    assert (found.identity.op, found.transition, found.inputs[0].max) == ("to_copy", "finite->inf", 1e5)
    assert found.output is not None
    assert found.output.dtype == "float16"


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_forward_mode_derivatives_are_traced() -> None:
    def step() -> Tensor:
        x = torch.zeros(3)
        return torch.func.jvp(torch.sqrt, (x,), (torch.ones(3),))[1]

    assert birth(step).transition == "finite->inf"


def test_a_complex_result_is_a_birth() -> None:
    assert birth(lambda: torch.zeros(2, dtype=torch.complex64).reciprocal().abs()).identity.op == "reciprocal"


# -- the guilty rows -------------------------------------------------------------------------------------------------


def test_a_loss_over_a_masked_class_names_the_sample() -> None:
    def step() -> Tensor:
        logits = torch.zeros(4, 3, requires_grad=True).masked_fill(MASK, -INF)
        return functional.cross_entropy(logits, torch.tensor([0, 2, 1, 0]))

    found = birth(step)
    assert (found.identity.op, found.bad_rows, found.rows) == ("nll_loss", [2], 4)
