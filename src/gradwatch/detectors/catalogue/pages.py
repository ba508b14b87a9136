"""The catalogue as text: the pages of ``docs/rules``, and their table of contents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.detectors.catalogue.families import FAMILIES

if TYPE_CHECKING:
    from gradwatch.detectors.catalogue.rule import Rule


def contents() -> str:
    """Return ``docs/rules/README.md``: every rule in one table a family."""
    tables = "\n".join(_table(family, rules) for family, rules in FAMILIES.items())
    return f"""\
# Health rules

What gradwatch reads out of the numbers of a run. Each rule looks at every log step and, through the rows in between, at
every optimizer step; a sign that lasts opens a finding, which is told once, and closed once the sign has gone. Findings
are in `events.jsonl` (type `finding`) with layer, evidence and advice. `gradwatch rules` prints this table,
`gradwatch rules CODE` one rule.

Severity `info` is said of healthy trainings too; `warning` and `error` are not, on the trainings that we try
([figures](../rule_figures.md)).

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
`detectors=[]` for none. Besides its own thresholds every rule has `records` and `steps` (how long a sign must last),
`quiet` and `release` (when a finding closes).

## A rule of your own

A pair of plain functions, `(init, update)`: `init()` returns a state, `update(state, seen)` the next one and a list of
alarms. gradwatch opens, updates and closes the findings, keeps the state in checkpoints (so make it of numbers,
strings, lists and NamedTuples), and switches a rule off that raises.

```python
from gradwatch.detectors.alarms import Alarm


def loss_below(state, seen):
    lowest = min(seen.rows.loss)
    return state, [Alarm(message=f"The loss is {{lowest:.3g}}: is a label in the input?")] if lowest < 0.01 else []


NumericalHealthMonitor(detectors=["default", (lambda: None, loss_below)])
```

`seen` is a [`gradwatch.observations.Observation`](../../src/gradwatch/observations.py): every step since the last log
step, the layers' norms and ratios, the sampled forward pass. NaN in it means "not known". In YAML, name the pair by its
import path: `detectors: [default, my_project.rules:pair]`.
"""


def page(rule: Rule, *, picture: str | None = None) -> str:
    """Return the page of one rule; ``picture`` is the path of its image, relative to the page."""
    parts = [f"# {rule.code}", f"Severity `{rule.severity}`. {rule.meaning}"]
    if picture is not None:
        parts.append(f"![{rule.code}: a training with the fault and the same one without it]({picture})")
    parts += ["## When it is found", f"{_sentence(rule.formula)}. {_persistence(rule)}"]
    if rule.silent_when:
        parts.append(f"Silent on: {rule.silent_when}.")
    if rule.thresholds:
        rows = [f"| `{t.name}` | {t.value:g} | {t.meaning} | {t.source} |" for t in rule.thresholds]
        parts.append("\n".join(["| threshold | value | meaning | source |", "|---|---|---|---|", *rows]))
    causes = "\n".join(f"- {cause}" for cause in rule.causes)
    parts += ["## Likely causes", causes, "## What to do", rule.advice]
    return "\n\n".join(parts) + "\n"


def _table(family: str, rules: tuple[Rule, ...]) -> str:
    rows = [f"| [`{rule.code}`]({rule.code}.md) | {rule.severity} | {rule.meaning} |" for rule in rules]
    return "\n".join([f"## {_sentence(family)}", "", "| rule | severity | meaning |", "|---|---|---|", *rows, ""])


def _persistence(rule: Rule) -> str:
    records = "one log step" if rule.records == 1 else f"{rule.records} log steps in a row"
    span = f" that span {rule.steps} optimizer steps" if rule.steps else ""
    closes = "the next log step" if rule.quiet == 1 else f"{rule.quiet} log steps"
    return (
        f"The finding opens after {records}{span}, and closes after {closes} at less than {rule.release:g} times that."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
