"""LightningCLI and YAML build the callback: jsonargparse reads its signature and its docstring."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel

from gradwatch import NumericalHealthMonitor
from gradwatch.integrations.pytorch_lightning import NumericalHealthMonitor as Twin

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # jsonargparse about the names of its own methods
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter"),  # pytest has arguments too
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]

ALL = """
dirpath: runs/a
log_every_n_steps: 5
granularity: parameter
layer_scalars: false
clip: 0.5
on_nonfinite: skip
max_skips: 3
anomaly_steps: 7
max_incident_bytes: 1000000
gradient_check_every_n_steps: null
on_gradient_mismatch: raise
graph_lint: false
detectors:
  - exploding-gradient
  - {dead-layer: {steps: 5}}
"""
VALUES: dict[str, Any] = {
    "dirpath": "runs/a",
    "log_every_n_steps": 5,
    "granularity": "parameter",
    "layer_scalars": False,
    "clip": 0.5,
    "on_nonfinite": "skip",
    "max_skips": 3,
    "anomaly_steps": 7,
    "max_incident_bytes": 1_000_000,
    "gradient_check_every_n_steps": None,
    "on_gradient_mismatch": "raise",
    "graph_lint": False,
    "detectors": ["exploding-gradient", {"dead-layer": {"steps": 5}}],
}


def parser(kind: Any = NumericalHealthMonitor, base: Any = Callback) -> Any:
    made = LightningArgumentParser()
    made.add_subclass_arguments(base, "watch", default={"class_path": f"{kind.__module__}.{kind.__name__}"})
    return made


def built(yaml: str, kind: Any = NumericalHealthMonitor, base: Any = Callback) -> Any:
    """The settings of a callback built from YAML."""
    text = "watch:\n  class_path: {}.{}\n  init_args:\n{}".format(
        kind.__module__, kind.__name__, "".join(f"    {line}\n" for line in yaml.strip().splitlines())
    )
    made = parser(kind, base)
    return made.instantiate_classes(made.parse_string(text)).watch._engine.settings


@pytest.mark.parametrize(
    ("kind", "base"), [(NumericalHealthMonitor, Callback), (Twin, pytorch_lightning.Callback)], ids=["own", "twin"]
)
def test_every_argument_from_yaml(kind: Any, base: Any) -> None:
    settings = built(ALL, kind, base)
    assert {name: getattr(settings, name) for name in VALUES} == VALUES


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("clip: auto", "auto"),
        ("clip: null", None),
        ("clip: 1", 1.0),
        ("layer_scalars: auto", "auto"),
        ("layer_scalars: true", True),
        ("gradient_check_every_n_steps: auto", "auto"),
        ("gradient_check_every_n_steps: 100", 100),
        ("detectors: default", "default"),
        ("dirpath: null", None),
        ("log_every_n_steps: null", None),
    ],
)
def test_every_form_of_an_argument_from_yaml(line: str, value: Any) -> None:
    assert getattr(built(line), line.partition(":")[0]) == value


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("clip: none", "clip must be 'auto', a positive finite number"),
        ("clip: -1", "clip must be"),
        ("on_nonfinite: explode", "on_nonfinite must be one of 'raise', 'stop', 'skip', 'warn'"),
        ("log_every_n_steps: 0", "log_every_n_steps must be an integer of at least 1"),
        ("max_skips: many", "max_skips"),
        ("layer_scalars: 3", "layer_scalars"),
        ("on_nan: raise", "on_nan"),
    ],
)
def test_a_wrong_value_in_yaml_is_refused_by_name(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, ValueError)) as caught:
        built(line)
    told = " ".join((capsys.readouterr().err + str(caught.value)).split())
    assert words in told


def test_the_command_line_of_a_whole_application(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "trainer:\n  logger: false\n  accelerator: cpu\n  callbacks:\n"
        "    - class_path: gradwatch.NumericalHealthMonitor\n      init_args:\n        clip: 0.5\n"
    )
    application = LightningCLI(
        BoringModel, run=False, args=["--config", str(config)], save_config_callback=None, seed_everything_default=False
    )
    callback = application.trainer.callbacks[0]  # type: ignore[attr-defined]
    assert isinstance(callback, NumericalHealthMonitor)
    assert callback._engine.settings.clip == 0.5


def test_help_describes_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["--watch.help", "gradwatch.NumericalHealthMonitor"])
    assert caught.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for name in inspect.signature(NumericalHealthMonitor).parameters:
        assert f"--watch.{name} " in told
    assert told.count("default:") == len(VALUES)
    assert "consecutive skips after which" in told
