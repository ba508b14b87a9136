from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.replica import randomness
from gradwatch.replica.randomness import RandomTracker, capture, generators_in, preserved, restore


def drawn(*generators: torch.Generator) -> list[Any]:
    """Draw from everything."""
    own = [torch.rand(2, generator=generator).tolist() for generator in generators]
    return [torch.rand(2).tolist(), np.random.rand(), np.random.randn(), random.random(), random.gauss(0, 1), *own]  # noqa: NPY002 - the global generator is what is captured


class Noisy(nn.Module):
    """Generators in an attribute, a list and a dictionary, one of them twice, and the global one."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.Generator().manual_seed(1)
        self.many = [torch.Generator().manual_seed(2), self.own]
        self.named = {"x": torch.Generator().manual_seed(3)}
        self.default = torch.default_generator


def test_everything_comes_back() -> None:
    own = torch.Generator().manual_seed(5)
    random.gauss(0, 1)  # leaves a second number behind, which belongs to the state; so does numpy's
    np.random.randn()  # noqa: NPY002 - as above
    state = capture({"own": own})
    expected = drawn(own)
    assert drawn(own) != expected
    restore(state)
    assert drawn(own) == expected
    restore(state)
    assert drawn(own) == expected


def test_states_go_to_other_generators_of_the_same_names() -> None:
    own, other = torch.Generator().manual_seed(5), torch.Generator()
    state = capture({"own": own})
    expected = torch.rand(2, generator=own)
    moved = own.get_state()
    restore(state, {"own": other, "unknown": torch.Generator()})
    assert torch.equal(torch.rand(2, generator=other), expected)
    assert torch.equal(own.get_state(), moved)


def test_what_was_not_captured_is_left_alone() -> None:
    state = randomness._capture({}, with_numpy=False, with_python=False)
    expected: Any = (randomness._numpy_state(), random.getstate())
    restore(state)
    assert random.getstate() == expected[1]
    assert randomness._same(randomness._numpy_state(), expected[0])


def test_preserved_after_an_error() -> None:
    own = torch.Generator()
    before = capture({"own": own})

    def fail() -> None:
        with preserved({"own": own}):
            drawn(own)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    after = drawn(own)
    restore(before)
    assert drawn(own) == after


def test_no_accelerator_is_initialised() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        pytest.skip("another test of this process uses one")
    assert capture().devices == {}
    assert not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_generators_come_back() -> None:
    torch.rand(1, device="cuda")
    state = randomness.from_dict(randomness.as_dict(capture()))
    assert "cuda:0" in state.devices
    expected = torch.rand(4, device="cuda")
    restore(state)
    assert torch.equal(torch.rand(4, device="cuda"), expected)


def test_generators_of_a_module_by_dotted_name() -> None:
    module: Any = nn.Sequential(nn.Linear(2, 2), Noisy())
    found = generators_in(module)
    assert list(found) == ["1.own", "1.many.0", "1.named.x"]
    assert found["1.own"] is module[1].own


# -- plain form --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "Philox"])
def test_the_plain_form_opens_with_weights_only(tmp_path: Any, kind: str) -> None:
    numpy: Any = np.random
    original = numpy.get_bit_generator()
    own = torch.Generator().manual_seed(5)
    try:
        numpy.set_bit_generator(getattr(np.random, kind)(3))
        torch.save(randomness.as_dict(capture({"own": own})), tmp_path / "state.pt")
        expected = drawn(own)
        state = randomness.from_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        restore(state, {"own": own})
        assert drawn(own) == expected
    finally:
        numpy.set_bit_generator(original)


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": None},
        {"cpu": torch.zeros(3)},
        {"cpu": torch.zeros(5056, dtype=torch.float32)},
        {"python": [3, [1, 2], None]},
        {"numpy": {"bit_generator": "MT19937"}},
        {"numpy": {"bit_generator": "seed", "state": 1}},
        {"numpy": 3},
        {"devices": {"cuda:0": 1}},
        {"generators": [1]},
    ],
)
def test_a_broken_plain_form_is_a_value_error(change: dict[str, Any]) -> None:
    state = capture()
    with pytest.raises(ValueError, match="not the state of a random generator"):
        randomness.from_dict({**randomness.as_dict(state), **change})
    with pytest.raises(ValueError, match="not the state of a random generator"):
        randomness.from_dict(None)


# -- the tracker -------------------------------------------------------------------------------------------------------


def captured(tracker: RandomTracker, step: Any, batches: int) -> list[tuple[bool, bool]]:
    """Return, batch by batch, whether numpy's and Python's states were captured."""
    seen = []
    for batch in range(1, batches + 1):
        state = tracker.before_batch()
        seen.append((state.numpy is not None, state.python is not None))
        step(batch)
        tracker.after_batch()
    return seen


def test_unused_generators_are_captured_on_trial_only() -> None:
    seen = captured(RandomTracker(nn.Linear(2, 2)), lambda _: torch.rand(1), 9)
    assert [batch for batch, (numpy, _) in enumerate(seen, 1) if numpy] == [1, 2, 4, 8]
    assert [batch for batch, (_, python) in enumerate(seen, 1) if python] == [1, 2, 4, 8]


@pytest.mark.parametrize("first", [1, 2, 3, 5])
def test_a_generator_that_moves_is_captured_from_the_next_trial_on(first: int) -> None:
    seen = captured(RandomTracker(nn.Linear(2, 2)), lambda batch: batch < first or np.random.rand(), 16)  # noqa: NPY002 - as above
    noticed = {1: 1, 2: 2, 3: 4, 5: 8}[first]
    assert all(numpy for numpy, _ in seen[noticed:])
    assert not all(numpy for numpy, _ in seen[:noticed]) or noticed < 3
    assert not all(python for _, python in seen)


def test_python_is_noticed_alone() -> None:
    seen = captured(RandomTracker(nn.Linear(2, 2)), lambda _: random.random(), 8)
    assert all(python for _, python in seen)
    assert not all(numpy for numpy, _ in seen)


def test_draws_between_the_batches_do_not_count() -> None:
    """A loader in the same process draws from numpy, but no step does."""
    tracker = RandomTracker(nn.Linear(2, 2))
    for _ in range(4):
        tracker.before_batch()
        tracker.after_batch()
        np.random.rand()  # noqa: NPY002 - as above
    tracker.before_batch()
    assert tracker.before_batch().numpy is None


def test_every_batch_can_be_drawn_again() -> None:
    module = Noisy()
    tracker = RandomTracker(module)
    for _ in range(6):
        state = tracker.before_batch()
        generators = list(generators_in(module).values())
        expected = drawn(*generators)
        tracker.after_batch()
        restore(state)
        assert drawn(*generators) == expected


def test_a_generator_that_is_made_later_is_found_at_the_next_trial() -> None:
    module: Any = nn.Linear(2, 2)
    tracker = RandomTracker(module)
    seen = []
    for batch in range(1, 9):
        if batch == 3:
            module.late = torch.Generator()
        seen.append("late" in tracker.before_batch().generators)
        tracker.after_batch()
    assert seen == [False, False, False, True, True, True, True, True]
