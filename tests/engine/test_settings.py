"""Every argument: what is accepted, what is refused, and that the message names argument, value and choices."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradwatch import HealthMonitor, NumericalHealthMonitor
from gradwatch.engine.settings import Settings

ACCEPTED: list[tuple[str, Any]] = [
    ("dirpath", None),
    ("dirpath", "runs/a"),
    ("dirpath", Path("runs/a")),
    ("log_every_n_steps", None),
    ("log_every_n_steps", 1),
    ("log_every_n_steps", 10_000),
    ("granularity", "layer"),
    ("granularity", "parameter"),
    ("layer_scalars", "auto"),
    ("layer_scalars", True),
    ("layer_scalars", False),
    ("clip", "auto"),
    ("clip", None),
    ("clip", 1),
    ("clip", 0.5),
    ("clip", 1e-30),
    ("clip", np.float64(0.25)),
    ("on_nonfinite", "raise"),
    ("on_nonfinite", "stop"),
    ("on_nonfinite", "skip"),
    ("on_nonfinite", "warn"),
    ("max_incident_bytes", 0),
    ("max_incident_bytes", 2**40),
    ("max_skips", 0),
    ("max_skips", 10**6),
    ("anomaly_steps", 0),
    ("anomaly_steps", 7),
    ("gradient_check_every_n_steps", "auto"),
    ("gradient_check_every_n_steps", None),
    ("gradient_check_every_n_steps", 1),
    ("on_gradient_mismatch", "warn"),
    ("on_gradient_mismatch", "raise"),
    ("graph_lint", True),
    ("graph_lint", False),
    ("detectors", "default"),
    ("detectors", []),
    ("detectors", ["exploding-gradient", {"dead-layer": {"steps": 5}}]),
    ("detectors", ((dict, max),)),
    ("detectors", ["default", {"loss-plateau": False}]),
]

PATH = "a path or None"
CLIP = "'auto', a positive finite number (the largest L2 norm) or None (never clip)"
DETECTORS = "'default' or a list of rules' codes, import paths, {code: thresholds} or pairs of functions"
COUNT = "an integer of at least 0"
CHECK = "an integer of at least 1, 'auto' or None"

REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("dirpath", 3, TypeError, PATH),
    ("dirpath", b"runs", TypeError, PATH),
    ("dirpath", "", ValueError, "a path or None, not an empty string"),
    ("log_every_n_steps", 0, ValueError, "an integer of at least 1 or None"),
    ("log_every_n_steps", -5, ValueError, "an integer of at least 1 or None"),
    ("log_every_n_steps", 1.0, TypeError, "an integer of at least 1 or None"),
    ("log_every_n_steps", True, TypeError, "an integer of at least 1 or None"),
    ("log_every_n_steps", "auto", TypeError, "an integer of at least 1 or None"),
    ("granularity", "module", ValueError, "one of 'layer', 'parameter'"),
    ("granularity", None, TypeError, "one of 'layer', 'parameter'"),
    ("granularity", ["layer"], TypeError, "one of 'layer', 'parameter'"),
    ("layer_scalars", "yes", ValueError, "True, False or 'auto'"),
    ("layer_scalars", 1, TypeError, "True, False or 'auto'"),
    ("layer_scalars", None, TypeError, "True, False or 'auto'"),
    ("clip", 0, ValueError, CLIP),
    ("clip", 0.0, ValueError, CLIP),
    ("clip", -1.0, ValueError, CLIP),
    ("clip", float("nan"), ValueError, CLIP),
    ("clip", float("inf"), ValueError, CLIP),
    ("clip", True, TypeError, CLIP),
    ("clip", False, TypeError, CLIP),
    ("clip", "1.0", ValueError, CLIP),
    ("clip", "none", ValueError, CLIP),
    ("clip", [1.0], TypeError, CLIP),
    ("on_nonfinite", "ignore", ValueError, "one of 'raise', 'stop', 'skip', 'warn'"),
    ("on_nonfinite", "Raise", ValueError, "one of 'raise', 'stop', 'skip', 'warn'"),
    ("on_nonfinite", None, TypeError, "one of 'raise', 'stop', 'skip', 'warn'"),
    ("on_nonfinite", True, TypeError, "one of 'raise', 'stop', 'skip', 'warn'"),
    ("max_incident_bytes", -1, ValueError, COUNT),
    ("max_incident_bytes", 1e9, TypeError, COUNT),
    ("max_skips", -1, ValueError, COUNT),
    ("max_skips", 2.5, TypeError, COUNT),
    ("max_skips", None, TypeError, COUNT),
    ("max_skips", False, TypeError, COUNT),
    ("anomaly_steps", -1, ValueError, COUNT),
    ("anomaly_steps", "100", TypeError, COUNT),
    ("anomaly_steps", None, TypeError, COUNT),
    ("gradient_check_every_n_steps", 0, ValueError, CHECK),
    ("on_gradient_mismatch", "stop", ValueError, "one of 'warn', 'raise'"),
    ("on_gradient_mismatch", None, TypeError, "one of 'warn', 'raise'"),
    ("graph_lint", 1, TypeError, "True or False"),
    ("graph_lint", "auto", TypeError, "True or False"),
    ("gradient_check_every_n_steps", "never", TypeError, CHECK),
    ("gradient_check_every_n_steps", 1.5, TypeError, CHECK),
    ("detectors", "none", ValueError, DETECTORS),
    ("detectors", None, TypeError, DETECTORS),
    ("detectors", {"dead-layer": {}}, TypeError, DETECTORS),
]


def case_id(value: object) -> str | None:
    return repr(value) if not isinstance(value, type) else value.__name__


@pytest.mark.parametrize(("name", "value"), ACCEPTED, ids=case_id)
def test_accepted(name: str, value: Any) -> None:
    assert getattr(Settings(**{name: value}), name) is value


@pytest.mark.parametrize(("name", "value", "kind", "accepted"), REFUSED, ids=case_id)
def test_refused_with_a_message_that_names_argument_value_and_choices(
    name: str, value: Any, kind: type[Exception], accepted: str
) -> None:
    message = f"NumericalHealthMonitor({name}={value!r}): {name} must be {accepted}."
    with pytest.raises(kind, match=f"^{re.escape(message)}$") as caught:
        Settings(**{name: value})
    assert type(caught.value) is kind


@pytest.mark.parametrize("name", sorted({name for name, *_ in REFUSED}))
def test_every_argument_stands_in_the_tables(name: str) -> None:
    assert {name for name, *_ in REFUSED} == {name for name, _ in ACCEPTED} == set(Settings.__slots__)


@pytest.mark.parametrize("make", [NumericalHealthMonitor, HealthMonitor])
def test_callback_and_engine_check_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match="on_nonfinite must be one of"):
        make(on_nonfinite="ignore")


def test_arguments_are_keywords_only() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        Settings("runs")  # type: ignore[call-arg]


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="on_nan"):
        HealthMonitor(on_nan="raise")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dirpath": Path("runs/a"), "clip": 0.5},
        {"detectors": [(dict, torch.nn.Linear(2, 2)), {"dead-layer": {"steps": 5}}]},
    ],
    ids=["defaults", "path", "callables"],
)
def test_settings_go_into_the_log_as_json(changes: dict[str, Any]) -> None:
    values = json.loads(json.dumps(Settings(**changes).as_dict(), allow_nan=False))
    assert set(values) == set(Settings.__slots__)
    assert values["dirpath"] == ("runs/a" if "dirpath" in changes else None)
    assert values["clip"] == changes.get("clip", "auto")
