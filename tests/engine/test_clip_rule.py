from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from gradwatch.engine.clip_rule import resolve_clip_rule
from gradwatch.engine.context import RunContext
from gradwatch.records import ClipRule

LOOP = ClipRule(max_norm=0.5, family=None, reason="the Trainer clips by norm", source="Trainer(gradient_clip_val=0.5)")
OFF = ClipRule(max_norm=None, family=None, reason="switched off", source="Trainer(gradient_clip_val=0)")


def resolve(clip: Any, module: nn.Module | None = None, **loop: Any) -> ClipRule:
    return resolve_clip_rule(clip, module or nn.LSTM(2, 2), RunContext(dirpath=str(Path()), **loop))


@pytest.mark.parametrize("clip", ["auto", 3.0, None])
@pytest.mark.parametrize("rule", [LOOP, OFF], ids=["limit", "off"])
@pytest.mark.parametrize("manual", [False, True])
def test_what_the_loop_does_by_itself_wins(clip: Any, rule: ClipRule, *, manual: bool) -> None:
    assert resolve(clip, clip_rule=rule, manual_optimization=manual) is rule


@pytest.mark.parametrize("manual", [False, True])
def test_a_number_counts_in_both_kinds_of_optimization(*, manual: bool) -> None:
    rule = resolve(2, manual_optimization=manual)
    assert (rule.max_norm, rule.family, rule.source) == (2.0, None, "argument clip")
    assert isinstance(rule.max_norm, float)


@pytest.mark.parametrize("manual", [False, True])
def test_none_never_clips(*, manual: bool) -> None:
    rule = resolve(None, manual_optimization=manual)
    assert (rule.max_norm, rule.source) == (None, "argument clip")


def test_auto_asks_the_architecture() -> None:
    rule = resolve("auto")
    assert (rule.family, rule.max_norm) == ("recurrent", 0.25)


def test_auto_does_not_clip_in_manual_optimization() -> None:
    rule = resolve("auto", manual_optimization=True)
    assert (rule.max_norm, rule.family) == (None, None)
    assert "manual optimization" in rule.reason
