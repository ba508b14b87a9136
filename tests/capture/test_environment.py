from __future__ import annotations

import json
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradwatch.capture import environment


def test_versions_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package"))
    assert set(environment.versions()) == {"python", "torch"}
    assert environment.versions()["torch"].startswith("2.")


def test_hardware_names_the_device() -> None:
    described = environment.hardware("cpu")
    assert described["device"] == "cpu"
    assert described["torch_threads"] == torch.get_num_threads()


def test_flags_are_those_of_now() -> None:
    assert not environment.determinism()["anomaly_mode"]
    with torch.autograd.set_detect_anomaly(mode=True):
        assert environment.determinism()["anomaly_mode"]


def test_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    torch.manual_seed(23)
    assert environment.seeds() == {"torch": 23, "PL_GLOBAL_SEED": "17"}


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.SGD, lr=torch.tensor(0.5), momentum=0.9),
        partial(torch.optim.AdamW, betas=(0.8, 0.99)),
        partial(torch.optim.LBFGS, line_search_fn="strong_wolfe"),
        torch.optim.Adafactor,
        torch.optim.Rprop,
    ],
    ids=["SGD", "AdamW", "LBFGS", "Adafactor", "Rprop"],
)
def test_an_optimizer_is_described_in_json(make: Any) -> None:
    optimizer = make([nn.Parameter(torch.ones(2))])
    described = json.loads(json.dumps(environment.describe_optimizer(optimizer)))
    assert described["class"] == type(optimizer).__name__
    assert described["groups"][0]["parameters"] == 1
    assert "params" not in described["groups"][0]
    assert described["groups"][0]["lr"] == pytest.approx(float(optimizer.param_groups[0]["lr"]))


def test_learning_rates_are_numbers_whatever_the_optimizer_keeps() -> None:
    groups: list[dict[str, Any]] = [{"params": [nn.Parameter(torch.ones(1))]} for _ in range(2)]
    groups[0]["lr"] = torch.tensor(0.5)
    optimizer = torch.optim.Adam(groups, lr=0.25)
    rates = environment.learning_rates(optimizer)
    assert rates == [0.5, 0.25]
    assert {type(rate) for rate in rates} == {float}
    for group in optimizer.param_groups:
        del group["lr"]
    assert environment.learning_rates(optimizer) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        ("a", "a"),
        (torch.tensor(2.0), 2.0),
        (torch.tensor([2]), 2),
        ((1, [torch.tensor(2)]), [1, [2]]),
        (Path("a"), repr(Path("a"))),
    ],
    ids=repr,
)
def test_plain_values(value: object, expected: object) -> None:
    assert environment.plain(value) == expected


def test_the_host_is_named() -> None:
    assert environment.hardware("cpu")["hostname"] == platform.node()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(["/home/me/train.py", "--token", "secret"], "train.py"), (["-c"], "-c"), ([""], None), ([], None)],
)
def test_the_script_has_neither_folder_nor_arguments(
    arguments: list[str], name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    assert environment.script() == name


def test_a_scheduler_is_described_by_its_settings() -> None:
    optimizers = [torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5) for _ in range(2)]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizers[1], step_size=7, gamma=0.25)
    described = environment.describe_scheduler(scheduler, optimizers, interval="step", monitor=None)
    assert described == {
        "class": "StepLR",
        "optimizer": 1,
        "interval": "step",
        "monitor": None,
        "settings": {"step_size": 7, "gamma": 0.25, "base_lrs": [0.5]},
    }


def test_what_differs_between_processes_or_steps_is_no_setting() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)
    described = [environment.describe_scheduler(entry, [optimizer]) for entry in (warm, plateau)]
    for _ in range(3):
        optimizer.step()
        warm.step()
        plateau.step(1.0)
    assert [environment.describe_scheduler(entry, [optimizer]) for entry in (warm, plateau)] == described
    assert "0x" not in repr(described)
    assert described[1]["settings"]["patience"] == 3


def test_a_sequence_of_schedulers_names_its_parts() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    kinds = torch.optim.lr_scheduler
    parts = [kinds.LinearLR(optimizer, total_iters=5), kinds.CosineAnnealingLR(optimizer, T_max=50)]
    described = environment.describe_scheduler(kinds.SequentialLR(optimizer, parts, milestones=[5]), [optimizer])
    assert [part["class"] for part in described["schedulers"]] == ["LinearLR", "CosineAnnealingLR"]
    assert described["schedulers"][1]["settings"]["T_max"] == 50


def test_a_scheduler_of_any_make_is_no_trouble() -> None:
    class Slotted:
        __slots__ = ()

    assert environment.describe_scheduler(Slotted(), [])["settings"] == {}
    many = torch.optim.lr_scheduler.MultiStepLR
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = many(optimizer, list(range(1000)))
    assert "milestones" not in environment.describe_scheduler(scheduler, [optimizer])["settings"]
