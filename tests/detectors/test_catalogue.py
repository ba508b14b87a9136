"""The catalogue of rules: complete, sourced, and what the pages of the documentation say."""

from __future__ import annotations

import json
import re
import string
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gradwatch.detectors.catalogue import mixed_precision, updates
from gradwatch.detectors.catalogue.families import FAMILIES, RULES
from gradwatch.detectors.catalogue.pages import contents, page, read_examples
from gradwatch.detectors.default import DETECTORS
from gradwatch.detectors.selection import select
from tests.detectors.observations import findings, observation

if TYPE_CHECKING:
    from gradwatch.detectors.catalogue.rule import Rule

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = read_examples(DOCS / "rules" / "examples.json")
BY_ENGINE: set[str] = set()
# What a rule says in place of its message where a part of the sign is another one.
ALTERNATIVES = {"loss-scale-stuck": mixed_precision.STUCK_LOW, "frozen-weights": updates.FROZEN_ORPHAN}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)


def places(message: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(message) if name is not None}


def as_pattern(message: str) -> str:
    """What a message looks like once its places have been filled in."""
    parts = (re.escape(text) + ("" if name is None else ".*") for text, name, _, _ in string.Formatter().parse(message))
    return "".join(parts)


def test_the_table_of_contents_is_current() -> None:
    assert (DOCS / "rules" / "README.md").read_text(encoding="utf-8") == contents()


@every_rule
def test_the_page_of_a_rule_is_current(rule: Rule) -> None:
    text = (DOCS / "rules" / f"{rule.code}.md").read_text(encoding="utf-8")
    assert text == page(rule, example=EXAMPLES[rule.code])


@every_rule
def test_the_picture_of_a_rule_is_there_and_small(rule: Rule) -> None:
    picture = DOCS / "images" / "rules" / f"{rule.code}.svg"
    assert 0 < picture.stat().st_size < 25_000
    assert f"found at step {EXAMPLES[rule.code].step}" in picture.read_text(encoding="utf-8")


def test_there_is_nothing_for_rules_that_are_gone() -> None:
    assert {path.stem for path in (DOCS / "rules").glob("*.md")} == {*RULES, "README"}
    assert {path.stem for path in (DOCS / "images" / "rules").iterdir()} == set(RULES)
    assert set(EXAMPLES) == set(RULES)


@every_rule
def test_the_example_is_what_the_rule_says(rule: Rule) -> None:
    """Should the message change, ``make rule-pictures`` makes the examples anew."""
    example = EXAMPLES[rule.code]
    messages = [message for message in (rule.message, ALTERNATIVES.get(rule.code)) if message]
    assert any(re.fullmatch(as_pattern(message), example.message) for message in messages)


def test_examples_hold_no_paths_of_the_machine_that_made_them() -> None:
    text = json.dumps([example._asdict() for example in EXAMPLES.values()])
    assert not re.search(r'[ ("](/|[A-Z]:\\)\w', text)


def test_every_rule_has_one_detector_and_every_detector_a_rule() -> None:
    assert [detector.rule.code for detector in DETECTORS] == [code for code in RULES if code not in BY_ENGINE]
    assert all(detector.rule is RULES[detector.rule.code] for detector in DETECTORS)
    assert sum(map(len, FAMILIES.values())) == len(RULES)


@every_rule
def test_a_rule_is_described(rule: Rule) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", rule.code)
    assert rule.severity in {"info", "warning", "error"}
    assert all((rule.meaning, rule.formula, rule.message, rule.advice, rule.quantity))
    assert rule.causes
    assert all(text.endswith((".", "?")) for text in (rule.meaning, rule.advice))
    assert not rule.formula.endswith(".")
    assert not rule.silent_when.endswith(".")


@every_rule
def test_every_threshold_has_a_source_and_is_named_by_the_definition(rule: Rule) -> None:
    names = [threshold.name for threshold in rule.thresholds]
    assert len(set(names)) == len(names)
    assert not set(names) & {"records", "steps", "quiet", "release"}
    assert all(threshold.source and threshold.meaning for threshold in rule.thresholds)
    assert set(re.findall(r"`(\w+)`", rule.formula)) == set(names)


@every_rule
def test_a_message_has_places_for_what_its_evidence_holds(rule: Rule) -> None:
    """Apart from the layer and the step, a place is filled by the evidence, or by what the detector puts there."""
    by_detector = {
        "gradient-mismatch": {"names", "where"},
        "stopped-gradient": {"names", "what", "lines"},
        "precision-gap": {"name", "precision", "error", "cosine", "others"},
        "irreproducible-gradient": {"largest_difference", "why"},
        "batch-mixing": {"what", "line", "change"},
        "huge-gradient": {"grad_norm", "fate"},
    }
    known = {"layer", "since", *EXAMPLES[rule.code].evidence, *by_detector.get(rule.code, ())}
    if rule.code not in ALTERNATIVES:
        assert places(rule.message) <= known


def test_the_rule_of_ones_own_in_the_docs_works() -> None:
    text = (DOCS / "rules" / "README.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Alarm" in block)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - our own documentation
    (own,) = select([(lambda: None, names["loss_below"])])
    assert own.rule.code == "loss-below"
    told = findings(own, [observation(10), observation(20, rows_changed={"loss": 0.004}), observation(30)])
    assert [(one.step, one.status, one.message) for one in told] == [
        (20, "opened", "The loss is 0.004: is a label in the input?")
    ]


@every_rule
def test_the_change_that_a_page_shows_is_accepted(rule: Rule) -> None:
    for block in re.findall(r"detectors=(\[.*\])\)\n```", page(rule)):
        select(json.loads(block))


def test_the_changes_in_the_table_of_contents_are_accepted() -> None:
    (block,) = re.findall(r"NumericalHealthMonitor\(detectors=(\[.*False\}\])\)", contents())
    detectors = {detector.rule.code: detector for detector in select(eval(block))}  # noqa: S307 - our own documentation
    assert detectors["loss-spike"].limits["deviations"] == 20
    assert "loss-plateau" not in detectors


def test_gradwatch_rules_needs_neither_torch_nor_numpy() -> None:
    """It answers at once for that reason: in a tenth of the time that torch takes to load."""
    code = (
        "import sys; from gradwatch.cli import main\n"
        "status = main(['rules']) or main(['rules', 'loss-spike'])\n"
        "sys.exit(status or sorted({'torch', 'numpy', 'lightning', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "loss-spike" in done.stdout
