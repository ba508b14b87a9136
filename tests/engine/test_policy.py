"""Every combination of the rules, written out: a table to read against the contract."""

from __future__ import annotations

import pytest

from gradwatch.engine.policy import Decision, decide, decide_on_state

RAISE = Decision("raised", drop=True, raises=True)
STOP = Decision("stopped", drop=True, stops=True)
SKIP = Decision("skipped", drop=True)
WARN = Decision("warned", drop=False)

# (on_nonfinite, can_skip, skips so far compared with max_skips) -> decision
TABLE = {
    ("raise", True, "below"): RAISE,
    ("raise", True, "at"): RAISE,
    ("raise", True, "above"): RAISE,
    ("raise", False, "below"): RAISE,
    ("raise", False, "at"): RAISE,
    ("raise", False, "above"): RAISE,
    ("stop", True, "below"): STOP,
    ("stop", True, "at"): STOP,  # stopping may take long (min_steps): it has no limit of its own
    ("stop", True, "above"): STOP,
    ("stop", False, "below"): RAISE,  # LBFGS cannot drop one evaluation
    ("stop", False, "at"): RAISE,
    ("stop", False, "above"): RAISE,
    ("skip", True, "below"): SKIP,
    ("skip", True, "at"): RAISE,
    ("skip", True, "above"): RAISE,
    ("skip", False, "below"): RAISE,
    ("skip", False, "at"): RAISE,
    ("skip", False, "above"): RAISE,
    ("warn", True, "below"): WARN,
    ("warn", True, "at"): WARN,
    ("warn", True, "above"): WARN,
    ("warn", False, "below"): WARN,
    ("warn", False, "at"): WARN,
    ("warn", False, "above"): WARN,
}
SKIPS = {"below": 2, "at": 3, "above": 4}


@pytest.mark.parametrize(("case", "decision"), TABLE.items(), ids=lambda value: "-".join(map(str, value)))
def test_bad_step(case: tuple[str, bool, str], decision: Decision) -> None:
    on_nonfinite, can_skip, skips = case
    assert decide(on_nonfinite, skips_in_a_row=SKIPS[skips], max_skips=3, can_skip=can_skip) == decision


def test_no_skip_at_all_is_allowed_with_max_skips_0() -> None:
    assert decide("skip", skips_in_a_row=0, max_skips=0, can_skip=True) == RAISE


@pytest.mark.parametrize(
    ("on_nonfinite", "decision"),
    [
        ("raise", Decision("raised", drop=False, raises=True)),
        ("stop", Decision("stopped", drop=False, stops=True)),
        ("skip", Decision("warned", drop=False)),  # there is no update to drop
        ("warn", Decision("warned", drop=False)),
    ],
)
def test_bad_state(on_nonfinite: str, decision: Decision) -> None:
    assert decide_on_state(on_nonfinite) == decision


@pytest.mark.parametrize("decision", [*TABLE.values(), *map(decide_on_state, ("raise", "stop", "skip", "warn"))])
def test_a_run_ends_in_one_way_only_and_the_action_says_so(decision: Decision) -> None:
    assert decision.raises == (decision.action == "raised")
    assert decision.stops == (decision.action == "stopped")
    assert decision.drop or decision.action != "skipped"
