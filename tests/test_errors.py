"""The public errors: caught as RuntimeError, complete after pickling, importable without torch."""

from __future__ import annotations

import copy
import pickle

import pytest

from gradwatch.errors import NonFiniteError
from gradwatch.records import Incident, Origin

INCIDENT = Incident(
    time=1.0,
    step=7,
    epoch=0,
    batch_idx=3,
    rank=0,
    world_size=1,
    first_seen="loss",
    origin=Origin(phase="forward", op="log", module="head"),
    reproduced=True,
    affected=["head.weight"],
    explanation="log of 0",
    advice="add an epsilon",
    anomaly_traceback=None,
    action="raised",
)


class RankError(NonFiniteError):
    """Stands for an integration's own subclass."""


def test_is_a_runtime_error_with_its_message() -> None:
    with pytest.raises(RuntimeError, match=r"^loss is NaN at step 7$") as caught:
        raise NonFiniteError("loss is NaN at step 7", INCIDENT)
    assert isinstance(caught.value, NonFiniteError)
    assert caught.value.incident is INCIDENT


@pytest.mark.parametrize("kind", [NonFiniteError, RankError])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_class_message_and_incident(kind: type[NonFiniteError], protocol: int) -> None:
    again = pickle.loads(pickle.dumps(kind("boom", INCIDENT), protocol))
    assert type(again) is kind
    assert str(again) == "boom"
    assert again.incident == INCIDENT


def test_copying_keeps_the_incident() -> None:
    assert copy.deepcopy(NonFiniteError("boom", INCIDENT)).incident == INCIDENT
