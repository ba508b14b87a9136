"""Which settings there are, and which make two runs different experiments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gradwatch.records import ParameterRow, RunStart
from gradwatch.report.compare.differences import NOT_RECORDED, differing, parameters_differ
from gradwatch.report.compare.settings import decides, experiment_of, flatten, seed_of
from tests.report.logs import run_start

GROUP = {"parameters": 2, "lr": 0.01, "betas": [0.9, 0.999], "weight_decay": 0.1}


def start(*groups: dict[str, Any], **changes: Any) -> RunStart:
    described = {"class": "AdamW", "defaults": {"lr": 0.01}, "groups": list(groups) or [GROUP]}
    return run_start(**{"optimizers": [described], **changes})


def row(name: str = "a.weight", **changes: Any) -> ParameterRow:
    values: dict[str, Any] = {"name": name, "layer": name.rpartition(".")[0], "shape": (4, 3), "dtype": "float32"}
    return ParameterRow(**{**values, "device": "cpu", "requires_grad": True, "optimizer": 0, **changes})


def same_experiment(one: RunStart, other: RunStart) -> bool:
    return experiment_of(flatten(one)) == experiment_of(flatten(other))


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": {"torch": 7, "PL_GLOBAL_SEED": "7"}},
        {"time": 5.0, "run_id": "other", "resumed_from": "another"},
        {"hardware": {"device": "cuda:3", "pid": 12, "hostname": "elsewhere", "platform": "other", "torch_threads": 9}},
        {"settings": {"dirpath": "/elsewhere", "log_every_n_steps": 7}},
        {"script": "another.py", "git": {"commit": "a" * 40, "branch": "other", "dirty": True}},
    ],
)
def test_what_makes_no_other_experiment(changes: dict[str, Any]) -> None:
    git = {"commit": "a" * 40, "branch": "main", "dirty": None}
    base = start(hardware={"device": "cuda:0", "pid": 1, "hostname": "here"}, seeds={"torch": 0}, git=git)
    assert same_experiment(base, replace(base, **changes))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"optimizers": [{"class": "AdamW", "groups": [{**GROUP, "lr": 0.1}]}]}, "optimizer.lr"),
        ({"optimizers": [{"class": "SGD", "groups": [GROUP]}]}, "optimizer.class"),
        ({"versions": {"torch": "2.0"}}, "versions.torch"),
        ({"precision": {"precision": "16-mixed"}}, "precision.precision"),
        ({"strategy": "DDPStrategy"}, "strategy"),
        ({"git": {"commit": "b" * 40, "branch": "main", "dirty": False}}, "git.commit"),
        ({"schedulers": [{"class": "StepLR", "settings": {"gamma": 0.1}}]}, "scheduler.gamma"),
        ({"world_size": 8}, "world_size"),
        ({"hardware": {"device": "cpu"}}, "hardware.device"),
        ({"determinism": {"deterministic_algorithms": True}}, "determinism.deterministic_algorithms"),
        ({"parameters": [row(shape=(4, 4))]}, "model.parameters"),
        ({"parameters": [row("b.weight")]}, "model.table"),
        ({"parameters": [row(shape=(3, 4))]}, "model.table"),
        ({"parameters": [row(dtype="bfloat16")]}, "model.table"),
        ({"parameters": [row(optimizer=1)]}, "model.table"),
    ],
)
def test_what_makes_another_experiment(changes: dict[str, Any], name: str) -> None:
    values: dict[str, Any] = {"versions": {"torch": "2.1"}, "precision": {"precision": "32-true"}, "strategy": "Single"}
    values |= {"hardware": {"device": "cuda:0"}, "determinism": {"deterministic_algorithms": False}}
    base = start(world_size=1, parameters=[row()], **values)
    other = replace(base, **changes)
    assert not same_experiment(base, other)
    (found,) = (line for line in differing([[flatten(base)], [flatten(other)]]) if line.name == name)
    assert found.decides


def test_parameter_groups_that_agree_say_it_once() -> None:
    flat = flatten(start(GROUP, {**GROUP, "weight_decay": 0.0}))
    assert flat["optimizer.lr"] == 0.01
    assert flat["optimizer.betas"] == [0.9, 0.999]
    assert (flat["optimizer.groups[0].weight_decay"], flat["optimizer.groups[1].weight_decay"]) == (0.1, 0.0)
    assert not any("defaults" in name or "parameters" in name for name in flat if name.startswith("optimizer"))


def test_the_rate_is_the_one_the_user_gave_and_not_the_first_of_a_warm_up() -> None:
    assert flatten(start({**GROUP, "lr": 1e-6, "initial_lr": 0.01}))["optimizer.lr"] == 0.01


def test_where_an_object_lies_in_memory_is_no_setting() -> None:
    one, other = (start({**GROUP, "hook": f"<function f at {address}>"}) for address in ("0x7f01", "0x7f02"))
    assert same_experiment(one, other)
    assert flatten(one)["optimizer.hook"] == "<function f>"


def test_a_repository_that_is_not_there_is_no_setting() -> None:
    assert not [name for name in flatten(start(git=None)) if name.startswith("git")]


def test_the_rates_of_a_schedule_are_those_of_the_optimizer() -> None:
    schedulers = [{"class": "StepLR", "optimizer": 0, "settings": {"base_lrs": [0.1], "gamma": 0.5}}]
    names = [name for name in flatten(start(schedulers=schedulers)) if name.startswith("scheduler")]
    assert names == ["scheduler.class", "scheduler.optimizer", "scheduler.gamma"]


def test_several_optimizers_keep_their_number() -> None:
    described = {"class": "Adam", "groups": [GROUP]}
    flat = flatten(run_start(optimizers=[described, {**described, "class": "SGD"}]))
    assert (flat["optimizers[0].class"], flat["optimizers[1].class"]) == ("Adam", "SGD")


@pytest.mark.parametrize("optimizer", ["odd", {"groups": "odd"}, {"groups": []}, {"groups": [3]}, None, []])
def test_an_odd_optimizer_is_no_reason_to_fail(optimizer: Any) -> None:
    assert flatten(run_start(optimizers=[optimizer]))


def test_the_seed_is_lightnings_else_torchs() -> None:
    assert seed_of(start(seeds={"torch": 3, "PL_GLOBAL_SEED": "5"})) == "5"
    assert seed_of(start(seeds={"torch": 3, "PL_GLOBAL_SEED": None})) == "3"
    assert seed_of(start(seeds={})) is None


def test_only_what_differs_is_listed_and_never_a_seed() -> None:
    one, other = ({"a": 1, "b": 2.5, "seeds.torch": seed} for seed in (0, 1))
    assert differing([[one], [other]]) == []
    (found,) = differing([[one], [{**other, "b": 3e-5}]])
    assert found == ("b", ("2.5", "3e-05"), True)


def test_what_one_run_does_not_have_is_said() -> None:
    (found,) = differing([[{"a": 1}], [{}]])
    assert found.values == ("1", NOT_RECORDED)


def test_a_group_of_many_values_is_cut() -> None:
    (found,) = differing([[{"a": value} for value in range(9)], [{"a": 0}]])
    assert found.values == ("0, 1, 2, 3, ...", "0")


def test_what_decides_comes_first() -> None:
    rows = differing([[{"hardware.platform": "x", "strategy": "a"}], [{"hardware.platform": "y", "strategy": "b"}]])
    assert [found.name for found in rows] == ["strategy", "hardware.platform"]
    assert [decides(found.name) for found in rows] == [True, False]


def test_layers_that_come_go_and_change() -> None:
    one = [row("a.weight"), row("b.weight"), row("c.weight")]
    other = [row("a.weight", shape=(8,)), row("c.weight", requires_grad=False, optimizer=None), row("d.weight")]
    found = parameters_differ(one, other)
    assert (found.added, found.removed) == (("d",), ("b",))
    assert found.changed == ("a.weight: 4x3 -> 8", "c.weight: trained, optimizer 0 -> frozen, no optimizer")
    assert not any(parameters_differ(one, one))
