"""Every case does what its truth says of it, in plain training without gradwatch."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils._pytree import tree_leaves

from tests.zoo.case import SCALER
from tests.zoo.families import CASES, FAMILIES
from tests.zoo.plain import fit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.zoo.case import Case

BUGS, LOOK_ALIKES = 60, 15
TRIALS = [pytest.param(case, precision, id=f"{case.name}-{precision}") for case in CASES for precision in case.truth]


class Recorder(Callback):
    """Notes what is not finite, by batch, and keeps updates by bad gradients away from the weights."""

    def __init__(self) -> None:
        self.signs: dict[int, set[str]] = defaultdict(set)
        self.batch_idx = 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.batch_idx = batch_idx
        self._note("batch", leaves(batch))
        self._note("parameter", module.parameters())

    def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
        self._note("loss", [loss])

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        self._note("gradient", gradients(module.parameters()))

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if bad(gradients(module.parameters())):
            optimizer.zero_grad()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        state = [value for optimizer in trainer.optimizers for value in leaves(list(optimizer.state.values()))]
        self._note("parameter", module.parameters())
        self._note("optimizer", state)

    def _note(self, sign: str, tensors: Iterable[Any]) -> None:
        if bad(tensors):
            self.signs[self.batch_idx].add(sign)


def leaves(batch: Any) -> list[Any]:
    """Return what a nested container holds, those of dataclasses included."""
    return [
        leaf
        for node in tree_leaves(batch)
        for leaf in (leaves(list(vars(node).values())) if is_dataclass(node) else [node])
    ]


def gradients(parameters: Iterable[Any]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def bad(tensors: Iterable[Any]) -> bool:
    return any(not torch.isfinite(_values(t)).all() for t in tensors if isinstance(t, torch.Tensor) and is_floating(t))


def is_floating(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _values(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("case", "precision"), TRIALS)
def test_the_bug_shows_at_its_batch_and_no_earlier(case: Case, precision: str) -> None:
    recorder, truth = Recorder(), case.truth[precision]
    fit(case, precision, recorder)
    # A bad batch is none by itself; scaled gradients of a healthy run may overflow, and the scaler skips them.
    routine = {"batch"} if truth.incident or precision != SCALER else {"batch", "gradient"}
    shown = {index: signs - routine for index, signs in recorder.signs.items() if signs - routine}
    if not truth.incident:
        assert not shown
        return
    if truth.cause is not None:  # a run that grows until it ends; no batch is to blame
        assert shown
        return
    assert min(shown) == case.bad_batch
    signs = recorder.signs[case.bad_batch]
    if truth.phase == "forward":
        assert "loss" in signs
    elif truth.phase == "backward":
        assert signs & {"gradient", "parameter"}  # the latter: born in the module's own hook before the step
        assert "loss" not in signs
    elif truth.phase == "input":
        assert "batch" in signs
        assert signs & {"loss", "gradient"}
    elif truth.phase == "optimizer":
        assert not signs & {"loss", "gradient"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_batches_are_the_same_at_every_call(case: Case) -> None:
    first, second = leaves(case.batches()), leaves(case.batches())
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_marker_is_there_once_if_the_line_is_judged(case: Case) -> None:
    markers = Counter(
        line.rpartition("# born: ")[2].rstrip()
        for name in FAMILIES
        for line in Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8").splitlines()
        if "# born: " in line
    )
    judged = any(truth.line for truth in case.truth.values())
    assert markers[case.name] == judged
    assert (case.marked_line is not None) == judged


def test_names_are_unique() -> None:
    assert max(Counter(case.name for case in CASES).values()) == 1


def test_every_marker_belongs_to_a_case() -> None:
    folder = Path(__file__).parent
    text = "\n".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in FAMILIES)
    marked = {line.rpartition("# born: ")[2].rstrip() for line in text.splitlines() if "# born: " in line}
    assert marked <= {case.name for case in CASES}


def test_there_are_enough_bugs_and_look_alikes() -> None:
    healthy = [case for case in CASES if not any(truth.incident for truth in case.truth.values())]
    assert len(CASES) - len(healthy) >= BUGS
    assert len(healthy) >= LOOK_ALIKES
