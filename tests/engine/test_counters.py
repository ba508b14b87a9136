from __future__ import annotations

import json

from gradwatch.engine.counters import Counters


def test_steps_are_counted_by_what_happened() -> None:
    counters = Counters()
    counters.count(clipped=True, skipped=False, nonfinite=False)
    counters.count(clipped=False, skipped=True, nonfinite=True)
    counters.count(clipped=False, skipped=False, nonfinite=False)
    assert (counters.steps, counters.clipped, counters.skipped, counters.nonfinite) == (3, 1, 1, 1)
    assert counters.clip_rate == 1 / 3


def test_a_step_that_was_spoilt_after_it_had_been_counted_counts_once() -> None:
    counters = Counters()
    counters.count(clipped=False, skipped=False, nonfinite=False)
    counters.count(clipped=False, skipped=True, nonfinite=True, again=True)
    assert (counters.steps, counters.skipped, counters.nonfinite) == (1, 1, 1)


def test_the_share_of_no_steps_is_zero() -> None:
    assert Counters().clip_rate == 0.0


def test_the_state_goes_through_json_and_back() -> None:
    counters = Counters(steps=5, clipped=4, skipped=3, nonfinite=2, overflows=1, incidents=6)
    other = Counters()
    other.load_state_dict(json.loads(json.dumps(counters.state_dict())))
    assert other == counters


def test_older_and_newer_states_load() -> None:
    counters = Counters(steps=9)
    counters.load_state_dict({"skipped": 2, "unheard_of": 7})
    assert counters == Counters(skipped=2)


def test_trouble_is_what_a_user_wants_to_hear_at_once() -> None:
    calm = Counters(steps=5, clipped=5).trouble
    assert calm == Counters().trouble
    assert all(Counters(**{name: 1}).trouble != calm for name in ("nonfinite", "skipped", "incidents"))
