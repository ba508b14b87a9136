"""From a traced origin to plain words: one entry per way in which NaN and infinities are born."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.diagnosis.catalogue.arithmetic import ARITHMETIC
from gradwatch.diagnosis.catalogue.deliberate import DELIBERATE
from gradwatch.diagnosis.catalogue.derivatives import DERIVATIVES
from gradwatch.diagnosis.catalogue.elementwise import ELEMENTWISE
from gradwatch.diagnosis.catalogue.general import GENERAL
from gradwatch.diagnosis.catalogue.linear_algebra import SOLVING
from gradwatch.diagnosis.catalogue.losses import LOSSES
from gradwatch.diagnosis.catalogue.networks import NETWORKS
from gradwatch.diagnosis.catalogue.reductions import REDUCTIONS
from gradwatch.diagnosis.catalogue.softmax import SOFTMAX
from gradwatch.diagnosis.catalogue.writes import WRITES
from gradwatch.diagnosis.circumstances import Birth, Circumstances, Entry, Say
from gradwatch.diagnosis.dynamics import dynamics_text
from gradwatch.diagnosis.wording import Text, consequence

if TYPE_CHECKING:
    from gradwatch.records import Origin

__all__ = ["BACKWARD", "FORWARD", "Circumstances", "Entry", "explain_origin"]

FORWARD = (
    *DELIBERATE,
    *ELEMENTWISE,
    *ARITHMETIC,
    *REDUCTIONS,
    *SOFTMAX,
    *LOSSES,
    *NETWORKS,
    *SOLVING,
    *WRITES,
    *GENERAL,
)
BACKWARD = DERIVATIVES

# Their input can be replaced at the masked elements by a harmless number; a whole row or matrix cannot.
POINTWISE = frozenset().union(*(entry.ops for entry in (*ELEMENTWISE, *ARITHMETIC)))


def explain_origin(origin: Origin, circumstances: Circumstances) -> Text:
    """Return explanation and advice for a value born in a forward or a backward operation."""
    birth = Birth(origin, circumstances)
    if origin.cause == "dynamics":
        return dynamics_text(None, origin, circumstances)
    entry = entry_of(birth)
    advice = _said(entry.advice, birth)
    if birth.is_hidden and birth.op in POINTWISE:
        advice = _joined(f"If a mask hides it, mask the input of {birth.op}, not its output.", advice)
    return Text(_joined(_said(entry.why, birth), consequence(birth)), advice)


def entry_of(birth: Birth) -> Entry:
    """Return the first entry that applies; the last one always does."""
    entries = BACKWARD if birth.in_derivative else FORWARD
    return next(entry for entry in entries if (not entry.ops or birth.op in entry.ops) and entry.applies(birth))


def _said(what: Say, birth: Birth) -> str:
    return what if isinstance(what, str) else what(birth)


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))
