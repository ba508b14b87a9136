from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from gradwatch.probes.lint import RULES
from tests.probes.lint import (
    snippets_precision,
    snippets_probability,
    snippets_unseen,
    snippets_unseen_again,
    snippets_unseen_third,
    snippets_zero,
)
from tests.probes.lint.kit import expected, lint_autocast, lint_plain, lint_step, places, snippets

if TYPE_CHECKING:
    from tests.probes.lint.kit import Snippet

pytestmark = pytest.mark.filterwarnings("ignore:std.* degrees of freedom")

FILES = (
    snippets_probability,
    snippets_zero,
    snippets_precision,
    snippets_unseen,
    snippets_unseen_again,
    snippets_unseen_third,
)
ALL = [snippet for file in FILES for snippet in snippets(file)]
NAMES = [snippet.__name__ for snippet in ALL]


@pytest.mark.parametrize("snippet", ALL, ids=NAMES)
def test_what_is_marked_is_found_and_nothing_else(snippet: Snippet) -> None:
    assert places(lint_plain(snippet)) == expected(snippet)


@pytest.mark.parametrize("snippet", ALL, ids=NAMES)
def test_the_same_is_found_in_a_submodule_of_a_training_step(snippet: Snippet) -> None:
    findings = lint_step(snippet)
    assert places(findings) == expected(snippet)
    assert {finding.module for finding in findings} <= {"inner"}


@pytest.mark.parametrize("snippet", ALL, ids=NAMES)
def test_the_same_is_found_under_autocast(snippet: Snippet) -> None:
    assert places(lint_autocast(snippet)) == expected(snippet)


def test_every_rule_has_three_unsafe_spellings() -> None:
    spellings = Counter(code for snippet in ALL for code in {code for code, _ in expected(snippet)})
    assert {rule.code: spellings[rule.code] for rule in RULES if spellings[rule.code] < 3} == {}
    assert set(spellings) <= {rule.code for rule in RULES}


def test_half_of_the_snippets_are_guarded() -> None:
    safe = [snippet for snippet in ALL if not expected(snippet)]
    assert len(safe) >= len(ALL) / 3
