"""The names and arguments that the contract promises to users, and no others."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version

import lightning.pytorch
import pytest
import pytorch_lightning

import gradwatch
from gradwatch.integrations.pytorch_lightning import NumericalHealthMonitor as TwinMonitor

PUBLIC = {
    "GradientCheckReport",
    "GradientMismatchError",
    "HealthMonitor",
    "NonFiniteError",
    "NumericalHealthMonitor",
    "__version__",
    "assert_gradients",
    "check_gradients",
    "load_events",
    "load_incident",
    "load_last_steps",
    "load_steps",
}
DEFAULTS = {
    "dirpath": None,
    "log_every_n_steps": None,
    "granularity": "layer",
    "layer_scalars": "auto",
    "clip": "auto",
    "on_nonfinite": "raise",
    "max_skips": 10,
    "anomaly_steps": 100,
    "max_incident_bytes": 2 * 2**30,
    "gradient_check_every_n_steps": "auto",
    "on_gradient_mismatch": "warn",
    "graph_lint": True,
    "detectors": "default",
}


def test_all_is_what_the_contract_names() -> None:
    assert set(gradwatch.__all__) == PUBLIC
    assert dir(gradwatch) == sorted(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_exists(name: str) -> None:
    assert getattr(gradwatch, name) is not None


def test_a_star_import_brings_the_public_names_and_no_other() -> None:
    program = "before = set(globals()); from gradwatch import *; print(*sorted(set(globals()) - before - {'before'}))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.split() == sorted(PUBLIC)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gradwatch' has no attribute 'NumericalHealthMonitr'"):
        _ = gradwatch.NumericalHealthMonitr  # type: ignore[attr-defined]


def test_a_public_name_is_looked_up_once() -> None:
    assert gradwatch.NonFiniteError is gradwatch.NonFiniteError
    assert "NonFiniteError" in vars(gradwatch)


def test_the_version_is_that_of_the_distribution() -> None:
    assert gradwatch.__version__ == version("gradwatch")


def test_the_callback_takes_the_contracts_arguments() -> None:
    parameters = inspect.signature(gradwatch.NumericalHealthMonitor).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == DEFAULTS
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


def test_the_callback_has_a_twin_for_pytorch_lightning() -> None:
    assert inspect.signature(TwinMonitor) == inspect.signature(gradwatch.NumericalHealthMonitor)
    assert issubclass(TwinMonitor, pytorch_lightning.Callback)
    assert issubclass(gradwatch.NumericalHealthMonitor, lightning.pytorch.Callback)
