"""The catalogue as text: the pages of ``docs/rules``, and their table of contents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.detectors.catalogue.families import FAMILIES, RULES
from gradwatch.detectors.catalogue.gradients import HUGE

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.detectors.catalogue.rule import Rule
    from gradwatch.records import Severity

WORDS = {0.5: "half of"}


class Example(NamedTuple):
    """A finding of a real training: what was wrong there, what was said, and what its picture shows."""

    fault: str
    step: int
    severity: Severity
    layer: str | None
    message: str
    evidence: dict[str, Any]
    picture: str


def read_examples(path: Path) -> dict[str, Example]:
    """Return the examples that ``make rule-pictures`` has left, by code."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    return {code: Example(**example) for code, example in saved.items()}


def contents() -> str:
    """Return ``docs/rules/README.md``: every rule in one table a family."""
    tables = "\n".join(_table(family, rules) for family, rules in FAMILIES.items())
    return f"""\
# Health rules

The {len(RULES)} things that gradwatch finds in the numbers of a run before they become NaN, or although they never do.
Rules look at every log step (`log_every_n_steps`), and through it at every optimizer step since the one before. A sign
that lasts opens a finding. The finding is told once, told again if it gets much worse, and closed when the sign has
gone. It is in `events.jsonl` (type `finding`) with layer, message, evidence and advice. `gradwatch rules` prints the
tables below, `gradwatch rules CODE` one rule.

- `error`: what is trained or saved is wrong.
- `warning`: the training suffers, or will.
- `info`: worth knowing, and possibly meant. Healthy trainings have some of these; of `warning` and `error` none, on
  those that we try ([figures](../rule_figures.md)).

{tables}
## Changing a threshold, dropping a rule

```python
NumericalHealthMonitor(detectors=["default", {{"loss-spike": {{"deviations": 20}}}}, {{"loss-plateau": False}}])
```

The same in the YAML of LightningCLI:

```yaml
detectors: [default, {{loss-spike: {{deviations: 20}}}}, {{loss-plateau: false}}]
```

A list without `"default"` has in force what it names and nothing else: `detectors=["exploding-gradient"]`, or
`detectors=[]` for none. Besides its own thresholds every rule has four that say how long a sign must last: it opens a
finding after `records` log steps in a row that span `steps` optimizer steps, and the finding closes after `quiet` log
steps at less than `release` times the threshold. `{HUGE.code}` has none of them: it is told with the step itself.

## A rule of your own

A pair of plain functions, `(init, update)`: `init()` returns a state, `update(state, seen)` the next one and a list of
alarms. gradwatch opens, updates and closes the findings, keeps the state in checkpoints (so make it of numbers,
strings, lists and NamedTuples), and switches a rule off that raises.

```python
from gradwatch import NumericalHealthMonitor
from gradwatch.detectors.alarms import Alarm


def loss_below(state, seen):
    lowest = min(seen.rows.loss)
    return state, [Alarm(message=f"The loss is {{lowest:.3g}}: is a label in the input?")] if lowest < 0.01 else []


NumericalHealthMonitor(detectors=["default", (lambda: None, loss_below)])
```

Its code is the name of the function, `loss-below`. `seen` is a
[`gradwatch.observations.Observation`](../../src/gradwatch/observations.py): every step since the last log step, the
layers' norms and ratios, the sampled forward pass. NaN in it means "not known". In YAML, name the pair by its import
path: `detectors: [default, my_project.rules:pair]`.
"""


def page(rule: Rule, *, example: Example | None = None) -> str:
    """Return the page of one rule, with what it found in a training that has the fault."""
    family = next(name for name, rules in FAMILIES.items() if rule in rules)
    parts = [f"# {rule.code}", f"`{rule.severity}` · {family} · [all rules](README.md)", rule.meaning]
    if example is not None:
        parts += _shown(rule, example)
    parts += ["## When it is found", f"{_sentence(rule.formula)}.", persistence(rule)]
    if rule.silent_when:
        parts += ["Where it stays silent:", "\n".join(f"- {part.strip()}" for part in rule.silent_when.split(";"))]
    if rule.thresholds:
        parts += ["## Thresholds", _thresholds(rule), _change(rule)]
    causes = "\n".join(f"- {cause}" for cause in rule.causes)
    parts += ["## Likely causes", causes, "## What to do", rule.advice]
    return "\n\n".join(parts) + "\n"


def persistence(rule: Rule) -> str:
    """Return how long a sign must last, in a sentence."""
    if rule is HUGE:
        return "It is told with the step itself, once for each such step, and is never closed."
    if not rule.looks_at:
        return "It is looked for once, at the start of a run, and is never closed."
    if rule.records == 1:
        opens = f"The finding opens at the first {rule.looks_at} that shows this"
    else:
        span = f" that span {rule.steps} optimizer steps" if rule.steps else ""
        opens = f"The finding opens when {rule.records} {rule.looks_at}s in a row{span} have shown this"
    after = f"the first {rule.looks_at} that shows" if rule.quiet == 1 else f"{rule.quiet} {rule.looks_at}s that show"
    share = WORDS.get(rule.release, f"{rule.release:g} times")
    return f"{opens}. It closes after {after} less than {share} the threshold."


def _shown(rule: Rule, example: Example) -> list[str]:
    """Return the picture and the finding of the training that the picture is of."""
    lines = [f"> **{example.severity}** at step {example.step}: {example.message}"]
    lines += [f">\n> layer: `{example.layer}`"] if example.layer else []
    lines += [f">\n> evidence: `{json.dumps(example.evidence, ensure_ascii=False)}`"] if example.evidence else []
    return [
        f"![{_escaped(example.picture)}](../images/rules/{rule.code}.svg)",
        f"In the picture: {example.fault} What gradwatch says of it:",
        "\n".join(lines),
    ]


def _escaped(text: str) -> str:
    return text.replace("[", "(").replace("]", ")")


def _thresholds(rule: Rule) -> str:
    cells = [(f"`{t.name}`", f"{t.value:g}", t.meaning, t.source) for t in rule.thresholds]
    rows = [_row(row) for row in cells]
    return "\n".join(["| name | value | meaning | where it comes from |", "|---|---|---|---|", *rows])


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _change(rule: Rule) -> str:
    first = rule.thresholds[0]
    change = f'{{"{rule.code}": {{"{first.name}": {2 * first.value:g}}}}}'
    return f'```python\nNumericalHealthMonitor(detectors=["default", {change}])\n```'


def _table(family: str, rules: tuple[Rule, ...]) -> str:
    rows = [f"| [`{rule.code}`]({rule.code}.md) | {rule.severity} | {rule.meaning} |" for rule in rules]
    return "\n".join([f"## {_sentence(family)}", "", "| rule | severity | meaning |", "|---|---|---|", *rows, ""])


def _sentence(text: str) -> str:
    """Return the text with a capital, unless it begins with a symbol or a name of code."""
    word = text.split(maxsplit=1)[0].rstrip(",:")
    return text[:1].upper() + text[1:] if word.isalpha() and len(word) > 1 else text
