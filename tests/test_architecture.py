"""What import-linter cannot see: a fresh interpreter loads nothing heavy, and every module can be imported."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest

import gradwatch

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "lightning", "pytorch_lightning", "tensorboard", "numpy")
# Of the modules that the design promises to be free of torch, those that exist.
LIGHT = ("cli", "detectors.catalogue", "errors", "records", "serialization")
MODULES = sorted(
    module.name for module in walk_packages(gradwatch.__path__, "gradwatch.") if "__main__" not in module.name
)
REPORT_MODULES = [name for name in MODULES if name.startswith("gradwatch.report")]
LIGHT_MODULES = [f"gradwatch.{name}" for name in LIGHT if f"gradwatch.{name}" in MODULES]


def heavy_modules_after(statement: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded once it has executed a statement."""
    program = f"{statement}\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return run.stdout.split()


def contract(identifier: str) -> dict[str, Any]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[dict[str, Any]] = configuration["tool"]["importlinter"]["contracts"]
    return next(contract for contract in contracts if contract["id"] == identifier)


@pytest.mark.parametrize("module", ["gradwatch", *LIGHT_MODULES])
def test_reading_a_run_loads_nothing_heavy(module: str) -> None:
    assert heavy_modules_after(f"import {module}") == []


@pytest.mark.parametrize("name", ["NonFiniteError", "load_events", "load_incident", "load_last_steps", "__version__"])
def test_a_light_name_loads_nothing_heavy(name: str) -> None:
    assert heavy_modules_after(f"from gradwatch import {name}") == []


def test_a_table_of_steps_loads_numpy_alone() -> None:
    assert heavy_modules_after("from gradwatch import load_steps") == ["numpy"]


def test_the_check_sees_a_heavy_import() -> None:
    assert heavy_modules_after("import numpy") == ["numpy"]
    assert "torch" in heavy_modules_after("from gradwatch import NumericalHealthMonitor")


def test_showing_a_run_loads_numpy_at_most() -> None:
    assert heavy_modules_after(f"import {', '.join(REPORT_MODULES)}") == ["numpy"]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported(module: str) -> None:
    import_module(module)


def test_the_contract_on_torch_covers_every_light_module() -> None:
    assert contract("torch-free")["source_modules"] == LIGHT_MODULES
    assert contract("torch-free")["forbidden_modules"] == list(HEAVY)


def test_the_contract_on_the_report_forbids_all_but_numpy() -> None:
    forbidden = set(contract("report")["forbidden_modules"])
    assert forbidden == {*HEAVY, "matplotlib"} - {"numpy"}
