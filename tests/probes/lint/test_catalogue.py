from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradwatch.probes.lint import RULES, lint
from gradwatch.probes.lint.catalogue import Rule, as_markdown
from tests.probes.lint import snippets_zero
from tests.probes.lint.kit import Kit

PAGE = Path(__file__).parents[3] / "docs" / "graph_lint.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == as_markdown()


def test_codes_are_unique_and_in_kebab_case() -> None:
    codes = [rule.code for rule in RULES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", code) for code in codes)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_every_rule_is_described(rule: Rule) -> None:
    assert "{cause}" in rule.message
    assert all((rule.meaning, rule.advice, rule.reference))
    assert rule.severity in {"warning", "info"}
    assert not rule.message.endswith(".")


def test_a_message_says_what_is_computed_and_from_which_value_on() -> None:
    kit = Kit()
    (finding,) = lint(kit, lambda: snippets_zero.odds(kit))
    assert finding.message == "division by what can be 0: sigmoid(x) is 1 for x above 16.6"
    assert finding.advice == "x / y.clamp(min=eps) for a positive y, or x / torch.where(y == 0, 1, y)"
    assert finding.severity == "warning"
