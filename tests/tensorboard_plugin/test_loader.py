from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.plugins import base_plugin

from gradwatch.serialization import tensorboard_rows
from gradwatch.tensorboard_plugin.loader import KEPT_ROWS, PLUGIN_NAME, NumericalHealthLoader
from gradwatch.tensorboard_plugin.plugin import NumericalHealthPlugin
from tests.tensorboard_plugin.serving import ROOT

HEAVY = ("torch", "lightning", "pytorch_lightning", "gradwatch.engine", "gradwatch.capture")


def modules_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(run.stdout.split())


@pytest.mark.parametrize("module", ["loader", "plugin", "routes"])
def test_the_plugin_loads_nothing_heavy(module: str) -> None:
    assert modules_after(f"import gradwatch.tensorboard_plugin.{module}").isdisjoint(HEAVY)


def test_the_start_of_tensorboard_loads_next_to_nothing() -> None:
    """It is paid by everybody who has gradwatch installed, whether there is any data of ours or not."""
    before = modules_after("from tensorboard.plugins import base_plugin")
    start = (
        "from gradwatch.tensorboard_plugin.loader import NumericalHealthLoader;"
        "from types import SimpleNamespace;"
        "loader = NumericalHealthLoader();"
        "loader.fix_flags(SimpleNamespace(samples_per_plugin={}));"
        "plugin = loader.load(SimpleNamespace(data_provider=None));"
        "plugin.get_plugin_apps(), plugin.is_active(), plugin.frontend_metadata(), plugin.data_plugin_names()"
    )
    ours = modules_after(start) - before
    assert {name for name in ours if name.partition(".")[0] not in sys.stdlib_module_names} == {
        "gradwatch",
        "gradwatch.tensorboard_plugin",
        "gradwatch.tensorboard_plugin.loader",
        "gradwatch.tensorboard_plugin.plugin",
    }


def test_the_name_is_that_of_the_rows() -> None:
    assert PLUGIN_NAME == tensorboard_rows.PLUGIN_NAME
    assert NumericalHealthPlugin.plugin_name == PLUGIN_NAME


def test_the_entry_point_leads_to_the_loader() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, place),) = project["entry-points"]["tensorboard_plugins"].items()
    found = EntryPoint(name, place, "tensorboard_plugins").load()
    assert found is NumericalHealthLoader
    assert issubclass(found, base_plugin.TBLoader)


def test_all_rows_are_kept() -> None:
    flags = SimpleNamespace(samples_per_plugin={"images": 3})
    NumericalHealthLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"images": 3, "numerical_health": KEPT_ROWS}


def test_the_users_own_number_wins() -> None:
    flags = SimpleNamespace(samples_per_plugin={"numerical_health": 7})
    NumericalHealthLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"numerical_health": 7}


@pytest.mark.parametrize("flags", [SimpleNamespace(), SimpleNamespace(samples_per_plugin=None), None])
def test_unknown_flags_are_a_warning_and_not_the_end_of_tensorboard(
    flags: Any, caplog: pytest.LogCaptureFixture
) -> None:
    NumericalHealthLoader().fix_flags(flags)
    assert "the Numerical Health tab may miss steps" in caplog.text
