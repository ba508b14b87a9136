from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch.capture.host_norms import screening_norms
from gradwatch.capture.parameters import group_parameters
from gradwatch.capture.state_scan import Birth, StateScanner

if TYPE_CHECKING:
    from array import array

BAD = [math.nan, math.inf, -math.inf]
COUNTS = {math.inf: (0, 1, 0), -math.inf: (0, 0, 1)}


class Model(nn.Module):
    """A weight, a running mean, and a mask of -inf."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("mask", torch.full((4, 4), -math.inf).triu(1))
        self.register_buffer("codes", torch.arange(3))


def scanner_of(module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> StateScanner:
    optimizer = optimizer or torch.optim.Adam(module.parameters())
    return StateScanner(module, group_parameters(module, [optimizer]))


def kinds(births: list[Birth]) -> list[tuple[str, str]]:
    return [(birth.kind, birth.name) for birth in births]


def write(tensor: Tensor, value: float, index: int = 0) -> None:
    with torch.no_grad():
        tensor.view(-1)[index] = value


def adam_with_state(module: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


# -- births only -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    ("name", "kind"), [("layer.weight", "parameter"), ("norm.running_mean", "buffer")], ids=["weight", "buffer"]
)
def test_a_value_that_has_become_bad_is_born_once(value: float, name: str, kind: str) -> None:
    module = Model()
    scanner = scanner_of(module)
    assert scanner.baseline() == []
    assert scanner.scan() == []
    write(module.state_dict()[name], value)
    assert scanner.scan() == [Birth(kind, name, COUNTS.get(value, (1, 0, 0)))]  # type: ignore[arg-type]
    assert scanner.scan() == []


@pytest.mark.parametrize("value", BAD)
def test_optimizer_state(value: float) -> None:
    module = Model()
    optimizer = adam_with_state(module)
    scanner = scanner_of(module, optimizer)
    scanner.baseline()
    write(optimizer.state[module.layer.bias]["exp_avg_sq"], value, 2)
    assert kinds(scanner.scan()) == [("optimizer", "layer.bias.exp_avg_sq")]
    assert scanner.scan() == []


def test_weights_that_were_measured_elsewhere_are_passed_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Model()
    scanner = scanner_of(module)
    scanner.baseline()
    looked_at: list[int] = []

    def count(tensors: list[Tensor]) -> array[float]:
        looked_at.append(len(tensors))
        return screening_norms(tensors)

    monkeypatch.setattr("gradwatch.capture.state_scan.screening_norms", count)
    scanner.found_finite(list(module.parameters()))
    assert scanner.scan() == scanner.scan() == []
    assert looked_at[1] - looked_at[0] == len(list(module.parameters()))


def test_weights_that_were_written_to_since_are_looked_at() -> None:
    module = Model()
    scanner = scanner_of(module)
    scanner.baseline()
    scanner.found_finite(list(module.parameters()))
    write(module.layer.weight, math.nan)
    assert kinds(scanner.scan()) == [("parameter", "layer.weight")]


def test_a_count_of_steps_that_is_no_number_is_born_each_time_anew() -> None:
    module = Model()
    optimizer = adam_with_state(module)
    scanner = scanner_of(module, optimizer)
    scanner.baseline()
    for value in BAD:
        optimizer.state[module.layer.bias]["step"].fill_(value)
        assert scanner.scan() == [Birth("optimizer", "layer.bias.step", COUNTS.get(value, (1, 0, 0)))]
        optimizer.state[module.layer.bias]["step"].fill_(3.0)
        assert scanner.scan() == []


def test_state_that_appears_bad_is_a_birth() -> None:
    """Adam makes its state in the first step."""
    module = Model()
    optimizer = torch.optim.Adam(module.parameters())
    scanner = scanner_of(module, optimizer)
    scanner.baseline()
    optimizer.state[module.layer.weight]["exp_avg"] = torch.full((3, 3), -math.inf)
    assert kinds(scanner.scan()) == [("optimizer", "layer.weight.exp_avg")]


@pytest.mark.parametrize("measured", [True, False])
def test_what_recovers_may_be_born_again(*, measured: bool) -> None:
    module = Model()
    scanner = scanner_of(module)
    scanner.baseline()
    for _ in range(2):
        write(module.layer.weight, math.nan)
        assert kinds(scanner.scan()) == [("parameter", "layer.weight")]
        write(module.layer.weight, 0.0)
        if measured:
            scanner.found_finite(list(module.parameters()))
        assert scanner.scan() == []


def test_more_bad_elements_are_a_birth_fewer_are_none() -> None:
    module = Model()
    scanner = scanner_of(module)
    scanner.baseline()
    write(module.layer.weight, math.nan, 0)
    write(module.layer.weight, math.nan, 1)
    scanner.scan()
    write(module.layer.weight, 0.0, 0)
    assert scanner.scan() == []
    write(module.layer.weight, math.nan, 0)
    assert kinds(scanner.scan()) == [("parameter", "layer.weight")]


def test_infinity_that_turns_into_nan_is_a_birth() -> None:
    module = Model()
    write(module.layer.weight, math.inf)
    scanner = scanner_of(module)
    scanner.baseline()
    write(module.layer.weight, math.nan)
    assert scanner.scan() == [Birth("parameter", "layer.weight", (1, 0, 0))]


def test_several_births_come_together_weights_first() -> None:
    module = Model()
    optimizer = adam_with_state(module)
    scanner = scanner_of(module, optimizer)
    scanner.baseline()
    write(optimizer.state[module.layer.weight]["exp_avg"], math.nan)
    write(module.norm.running_var, math.inf)  # type: ignore[arg-type]
    write(module.norm.weight, math.nan)
    assert kinds(scanner.scan()) == [
        ("parameter", "norm.weight"),
        ("buffer", "norm.running_var"),
        ("optimizer", "layer.weight.exp_avg"),
    ]


# -- what is there from the start ------------------------------------------------------------------------------------


def test_a_mask_is_no_fault() -> None:
    module = Model()
    scanner = scanner_of(module)
    assert scanner.baseline() == []
    assert scanner.scan() == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_no_one_puts_there_on_purpose_is_told_at_the_start_and_no_birth(value: float) -> None:
    module = Model()
    write(module.layer.weight, value)
    scanner = scanner_of(module)
    assert kinds(scanner.baseline()) == [("parameter", "layer.weight")]
    assert scanner.scan() == []


def test_persisting_weights_are_named_until_they_recover() -> None:
    module = Model()
    write(module.layer.weight, math.nan)
    write(module.layer.bias, -math.inf)
    scanner = scanner_of(module)
    scanner.baseline()
    births = scanner.scan()
    assert kinds(scanner.persisting(births)) == [("parameter", "layer.weight")]
    write(module.norm.weight, math.inf)
    births = scanner.scan()
    assert kinds(scanner.persisting(births)) == [("parameter", "layer.weight")]
    write(module.layer.weight, 0.0)
    assert kinds(scanner.persisting(scanner.scan())) == [("parameter", "norm.weight")]


# -- masks that are made or grow in a forward ------------------------------------------------------------------------


def test_a_new_buffer_of_minus_infinity_is_a_mask() -> None:
    module = Model()
    scanner = scanner_of(module)
    scanner.baseline()
    module.register_buffer("causal", torch.full((2, 2), -math.inf).triu(1))
    assert scanner.scan() == []
    module.causal = torch.full((9, 9), -math.inf).triu(1)  # a longer sequence came
    assert scanner.scan() == []
    write(module.causal, math.nan)
    assert kinds(scanner.scan()) == [("buffer", "causal")]


def test_a_mask_that_hides_more_is_no_birth() -> None:
    """A curriculum or a sliding window writes into the mask that is there."""
    module = Model()
    scanner = scanner_of(module)
    scanner.baseline()
    module.get_buffer("mask")[:, 0] = -math.inf
    assert scanner.scan() == []
    write(module.mask, math.inf)  # type: ignore[arg-type]
    assert kinds(scanner.scan()) == [("buffer", "mask")]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_new_buffer_that_is_bad_is_a_birth(value: float) -> None:
    module = Model()
    scanner = scanner_of(module)
    scanner.baseline()
    module.register_buffer("late", torch.tensor([value]))
    assert kinds(scanner.scan()) == [("buffer", "late")]


def test_a_running_mean_of_minus_infinity_is_a_birth() -> None:
    """The shape is the old one and nothing in it was infinite: no mask."""
    module = Model()
    scanner = scanner_of(module)
    scanner.baseline()
    write(module.norm.running_mean, -math.inf)  # type: ignore[arg-type]
    assert kinds(scanner.scan()) == [("buffer", "norm.running_mean")]


# -- where the values of a bad batch are already in the buffers ------------------------------------------------------


def test_replaced_buffers_are_looked_at_instead() -> None:
    module = Model()
    scanner = scanner_of(module)
    scanner.baseline()
    write(module.norm.running_mean, math.nan)  # type: ignore[arg-type]
    assert scanner.scan({"norm.running_mean": torch.zeros(3)}) == []
    assert kinds(scanner.scan()) == [("buffer", "norm.running_mean")]  # the next look finds what the batch has left
    write(module.norm.running_mean, 0.0)  # type: ignore[arg-type]
    assert kinds(scanner.scan({"norm.running_var": torch.full((3,), math.nan)})) == [("buffer", "norm.running_var")]


def test_a_parameter_is_never_replaced() -> None:
    module = Model()
    scanner = scanner_of(module)
    scanner.baseline()
    write(module.layer.weight, math.nan)
    assert kinds(scanner.scan({"layer.weight": torch.zeros(3, 3)})) == [("parameter", "layer.weight")]


# -- states of every form --------------------------------------------------------------------------------------------


def test_lists_in_the_state_as_lbfgs_has_them() -> None:
    module = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module(torch.ones(2, 3)).square().sum() + module.weight.abs().sqrt().sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    scanner = scanner_of(module, optimizer)
    assert scanner.baseline() == []
    state = optimizer.state[module.weight]
    write(state["old_dirs"][0], math.nan)
    assert kinds(scanner.scan()) == [("optimizer", "weight.old_dirs[0]")]
    write(state["d"], math.inf)
    assert kinds(scanner.scan()) == [("optimizer", "weight.d")]


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ({"precond": {"left": torch.tensor([math.nan])}}, "weight.precond.left"),
        ({"factors": (torch.ones(1), [torch.tensor([math.nan])])}, "weight.factors[1][0]"),
    ],
    ids=["dictionary", "nested"],
)
def test_nested_states_of_other_optimizers(state: dict[str, Any], name: str) -> None:
    module = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scanner = scanner_of(module, optimizer)
    scanner.baseline()
    optimizer.state[module.weight].update(state)
    assert kinds(scanner.scan()) == [("optimizer", name)]


def test_states_that_are_no_tensors_are_passed_over() -> None:
    module = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    optimizer.state[module.weight].update(step=3, note="x", best=math.nan, none=None, codes=torch.arange(3))
    assert scanner_of(module, optimizer).scan() == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_every_dtype_that_can_be_bad(dtype: torch.dtype) -> None:
    module: Any = nn.Module()
    module.weight = nn.Parameter(torch.ones(3, dtype=dtype))
    scanner = scanner_of(module)
    assert scanner.baseline() == []
    write(module.weight, math.nan)
    assert kinds(scanner.scan()) == [("parameter", "weight")]


def test_lazy_modules_are_looked_at_once_they_have_values() -> None:
    module: Any = nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d())
    scanner = scanner_of(module)
    assert scanner.baseline() == []
    module(torch.ones(3, 2))
    assert scanner.scan() == []
    write(module[0].weight, math.nan)
    assert kinds(scanner.scan()) == [("parameter", "0.weight")]


def test_a_module_without_state_has_no_births() -> None:
    module = nn.ReLU()
    scanner = StateScanner(module, [])
    assert scanner.baseline() == scanner.scan() == []


def test_a_second_scanner_takes_over_what_the_first_has_seen() -> None:
    module = Model()
    write(module.layer.weight, math.nan)
    first = scanner_of(module)
    first.baseline()
    second = scanner_of(module)
    second.remember(first)
    assert second.scan() == []
    write(module.layer.weight, math.nan, 1)
    assert kinds(second.scan()) == [("parameter", "layer.weight")]
    assert kinds(first.scan()) == [("parameter", "layer.weight")]  # each goes its own way from there
