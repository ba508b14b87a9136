"""Training cannot notice that a bad step is run again: with and without the replay it ends bitwise the same."""

from __future__ import annotations

import contextlib
import random
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import pytorch_lightning

from gradwatch.engine.replay import Replayer
from gradwatch.replica.copying import SideCopy
from gradwatch.replica.guard import StepGuard
from tests.cases import CASES, Case, named
from tests.noninterference.fingerprint import differences
from tests.noninterference.planting import Plan, planted
from tests.noninterference.replay_cases import REPLAY_CASES, in_place_views
from tests.noninterference.replaying import compared, trial, unnoticed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.noninterference.planting import Way

EVERY_CASE = (*CASES, *REPLAY_CASES)


def known(name: str) -> Case:
    """Return the case called ``name``, of those for the replay too."""
    return next(case for case in EVERY_CASE if case.name == name)


@pytest.mark.parametrize("case", EVERY_CASE, ids=lambda case: case.name)
def test_a_replay_leaves_no_trace_in_any_case(case: Case, tmp_path: Path) -> None:
    unnoticed(planted(case, Plan()), tmp_path)


@pytest.mark.parametrize("mode", ["stop", "warn"])
@pytest.mark.parametrize("name", ["cnn_batchnorm", "accumulation", "scaled_from_1024", "gan_layernorm"])
def test_nor_in_the_modes_that_do_not_drop(name: str, mode: str, tmp_path: Path) -> None:
    unnoticed(planted(known(name), Plan()), tmp_path, mode)


@pytest.mark.parametrize("name", ["lbfgs", "accumulation", "clamping"])
def test_weights_and_state_stay_as_before_the_step_when_the_run_is_ended(name: str, tmp_path: Path) -> None:
    replayed = unnoticed(planted(known(name), Plan()), tmp_path, "raise")
    assert replayed.fingerprint["error"] == "NonFiniteError"
    assert replayed.incidents[0]["action"] == "raised"


@pytest.mark.parametrize("name", ["clamping", "cnn_batchnorm", "transformer", "parametrized", "lstm", "sparse", "tied"])
def test_nor_where_the_copy_shares_the_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no memory for a copy of the weights: whatever the step writes into them is taken back."""
    sharing: list[bool] = []

    def fits(self: Replayer, *, share_weights: bool) -> bool:
        sharing.append(share_weights)
        return share_weights

    monkeypatch.setattr(Replayer, "_fits", fits)
    unnoticed(planted(known(name), Plan()), tmp_path)
    assert sharing[:2] == [False, True]


def test_earlier_batches_of_a_window_are_not_written_to_again(tmp_path: Path) -> None:
    """What only the real run has spoilt is looked for in the whole window, whose batches are views of the data."""
    case = Case("in_place_views", in_place_views)
    replayed = compared(planted(case, Plan("loss of the real run", epoch=0, batch_idx=2)), tmp_path)
    assert [incident["reproduced"] for incident in replayed.incidents] == [False]
    assert len(replayed.replays) == 4  # alone and in its window, then the whole window


@pytest.mark.parametrize("way", ["loss", "loss of the real run"])
def test_nor_with_the_checks_that_a_loss_scale_calls_for(way: Way, tmp_path: Path) -> None:
    """A scale that begins far too high overflows for many steps, each of which is run again without it."""
    replayed = compared(planted(named("scaled"), Plan(way, epoch=6)), tmp_path)
    assert len(replayed.replays) > 10


@pytest.mark.parametrize("name", ["cnn_batchnorm", "gan_layernorm", "scaled_from_1024"])
def test_nor_under_pytorch_lightning(name: str, tmp_path: Path) -> None:
    unnoticed(planted(known(name), Plan()), tmp_path, package=pytorch_lightning)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(200))
def test_nor_wherever_the_nan_sits(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    case = dice.choice(EVERY_CASE)
    way: Way = dice.choice(("batch", "loss", "loss of the real run"))
    plan = Plan(way, epoch=dice.randrange(2), batch_idx=dice.randrange(5))
    compared(planted(case, plan), tmp_path, dice.choice(("skip", "warn", "stop", "raise")), seed_value=seed)


# -- the comparison can fail -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def not_preserved(_generators: object) -> Iterator[None]:
    yield


def original(module: Any, optimizers: Any, **_options: Any) -> SideCopy:
    return SideCopy(module, list(optimizers), {})


class Mistake(NamedTuple):
    """What a replay does carelessly, and where that shows."""

    target: str
    careless: Any
    case: str
    where: str
    plan: Plan = Plan()


MISTAKES = (
    Mistake("replica.unnoticed.randomness.preserved", not_preserved, "mlp", "random/numpy/2"),
    Mistake("replica.unnoticed.rewound", not_preserved, "global_generators", "weights/network.0.weight"),
    Mistake("engine.replay.side_copy", original, "cnn_batchnorm", "attributes//calls/training_step"),
    Mistake("replica.unnoticed.io", SimpleNamespace(StringIO=lambda: sys.stdout), "mlp", "printed"),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.target)
def test_a_careless_replay_is_noticed(mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"gradwatch.{mistake.target}", mistake.careless)
    assert mistake.where in noticed(planted(known(mistake.case), mistake.plan), tmp_path)


def test_a_careless_sharing_of_weights_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replayer, "_fits", lambda _self, *, share_weights: share_weights)
    monkeypatch.setattr(StepGuard, "__exit__", lambda *_: None)
    assert "weights/discriminator.0.weight" in noticed(planted(known("clamping"), Plan()), tmp_path)


def noticed(case: Case, root: Path) -> list[str]:
    """Return where the trials with and without the replay differ."""
    without, replayed = (trial(case, root / str(replay), replay=replay) for replay in (False, True))
    return [line.partition(": ")[0] for line in differences(without.fingerprint, replayed.fingerprint)]
