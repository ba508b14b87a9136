"""What gradwatch writes down: frozen records of plain Python values.

Sinks, detectors, the report and the tests share these classes. None of them holds a tensor, so a record can be
written to disk, pickled, compared and read on a machine without torch. A field named here is a key in
``events.jsonl`` or ``incident.json``; norms are L2 norms, steps are the Trainer's ``global_step`` before the
optimizer step, times are Unix seconds.

- ``run``: the setting of a run (``RunStart``, with the clip rule and the parameter table), and its end (``RunEnd``)
- ``steps``: ``StepRecord`` with its clipping and window; ``LastSteps``
- ``layers``: ``LayerNorms``, one layer of a step; ``LayerTable``, all of them
- ``findings``: ``Finding``, what a health rule says
- ``checks``: ``GradientCheck`` in a run, ``GradientCheckReport`` outside one; their parts
- ``incidents``: ``Incident``, with the ``Origin`` of the non-finite value
- ``shared``: ``Event``, which every line of the log is, and ``SourceLine``

Import from here. An event that is to be read back must be offered here too: ``serialization`` looks nowhere else.
"""

from __future__ import annotations

from gradwatch.records.checks import (
    CheckVerdict,
    Culprit,
    Explanation,
    GradientCheck,
    GradientCheckReport,
    ParameterCheck,
)
from gradwatch.records.findings import Finding, FindingStatus, Severity
from gradwatch.records.incidents import Action, Cause, FirstSeen, Incident, Origin, Phase, TensorSummary, Transition
from gradwatch.records.layers import LayerNorms, LayerTable
from gradwatch.records.run import ClipRule, ParameterRow, RunEnd, RunStart, RunStatus
from gradwatch.records.shared import SCHEMA_VERSION, Event, SourceLine
from gradwatch.records.steps import ClipState, LastSteps, Pooled, StepRecord, Window

__all__ = [
    "SCHEMA_VERSION",
    "Action",
    "Cause",
    "CheckVerdict",
    "ClipRule",
    "ClipState",
    "Culprit",
    "Event",
    "Explanation",
    "Finding",
    "FindingStatus",
    "FirstSeen",
    "GradientCheck",
    "GradientCheckReport",
    "Incident",
    "LastSteps",
    "LayerNorms",
    "LayerTable",
    "Origin",
    "ParameterCheck",
    "ParameterRow",
    "Phase",
    "Pooled",
    "RunEnd",
    "RunStart",
    "RunStatus",
    "Severity",
    "SourceLine",
    "StepRecord",
    "TensorSummary",
    "Transition",
    "Window",
]
