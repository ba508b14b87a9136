"""All detectors together: their memory in a checkpoint, layers that come and go, and a rule that fails."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from gradwatch.detectors.default import DETECTORS
from gradwatch.detectors.detector import Limits, Reading, Sign, remembering
from gradwatch.detectors.panel import Panel, restored, to_plain
from tests.detectors.constant import observation
from tests.detectors.toy import Given, toy

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from gradwatch.observations import Observation


class Memory(NamedTuple):
    seen: int = 0
    names: tuple[str, ...] = ()
    largest: np.ndarray = np.zeros(0)
    history: np.ndarray = np.zeros((2, 0))


def _remember(state: Memory, seen: Observation, _limits: Limits) -> tuple[Memory, Reading]:
    norms = seen.layers.weight_norm
    largest = norms if not state.largest.size else np.fmax(state.largest, norms)
    history = np.stack([norms, norms]) if not state.history.size else np.stack([state.history[1], norms])
    state = Memory(state.seen + 1, (*state.names, "x"), largest, history)
    return state, Reading(largest / 10, seen.layers.names, lambda i: Sign({"value": float(largest[i])}))


REMEMBERING = remembering(toy().rule, Memory, _remember, by_layer=("largest", "history"))


def test_the_memory_is_plain_and_comes_back(tmp_path: Path) -> None:
    panel = Panel([*DETECTORS, REMEMBERING])
    for step in range(0, 60, 10):
        panel.observe(observation(step))
    saved = panel.state_dict()
    torch.save(saved, tmp_path / "state.pt")
    assert json.loads(json.dumps(saved)).keys() == saved.keys()
    again = Panel([*DETECTORS, REMEMBERING])
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.observe(observation(60)) == panel.observe(observation(60))
    assert json.dumps(again.state_dict(), sort_keys=True) == json.dumps(panel.state_dict(), sort_keys=True)


def test_a_memory_that_was_never_asked_for_is_kept_for_the_next_checkpoint() -> None:
    panel = Panel(DETECTORS)
    panel.observe(observation(0))
    again = Panel(DETECTORS)
    again.load_state_dict(panel.state_dict())
    assert json.dumps(again.state_dict()) == json.dumps(panel.state_dict())  # NaN differs from itself


def test_a_memory_of_another_shape_begins_anew() -> None:
    panel = Panel([REMEMBERING])
    panel.load_state_dict({"toy/0": {"state": {"other": 1}, "episodes": [], "layers": []}})
    panel.observe(observation(0))
    assert panel.state_dict()["toy/0"]["state"]["seen"] == 1


def test_layers_keep_their_memory_when_others_join_and_go() -> None:
    panel = Panel([REMEMBERING])
    panel.observe(observation(0, layers=["a", "b"], weight_norm=[1.0, 2.0]))
    panel.observe(observation(1, layers=["new", "b", "a"], weight_norm=[0.5, 0.1, 0.1]))
    state = panel.state_dict()["toy/0"]["state"]
    assert state["largest"] == [0.5, 2.0, 1.0]
    assert state["history"][0][1:] == [2.0, 1.0]


def test_optimizers_have_memories_of_their_own() -> None:
    panel = Panel([REMEMBERING])
    for optimizer in (0, 1, 0):
        panel.observe(observation(0, optimizer=optimizer))
    assert {key: saved["state"]["seen"] for key, saved in panel.state_dict().items()} == {"toy/0": 2, "toy/1": 1}


def test_a_detector_sees_only_what_it_reads() -> None:
    panel = Panel([toy(), REMEMBERING])
    panel.observe(Given(0, [0.0]))
    assert list(panel.state_dict()) == ["toy/0"]


def test_a_rule_that_fails_is_off_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_state: Any, _record: Any, _limits: Limits) -> tuple[Any, Reading]:
        raise ZeroDivisionError("broken on purpose")

    panel = Panel([remembering(replace(toy().rule, code="broken"), Memory, fail), toy()])
    found = [finding for step in range(3) for finding in panel.observe(observation(step))]
    assert found == []
    assert len([message for message in caplog.messages if "broken on purpose" in message]) == 1
    assert [f.status for f in panel.observe(Given(5, [1.0]))] == ["opened"]


def test_states_come_back_in_their_types() -> None:
    state = Memory(3, ("a", "b"), np.array([1.0, np.nan]), np.ones((2, 2)))
    again = restored(Memory(), json.loads(json.dumps(to_plain(state))))
    assert (again.seen, again.names) == (3, ("a", "b"))
    np.testing.assert_array_equal(again.largest, state.largest)
    np.testing.assert_array_equal(again.history, state.history)
