"""What no sentence of an incident may look like."""

from __future__ import annotations

import re

SCREEN = 400
# A blank too many, a name without a value, a word said twice, a range behind a preposition of its own.
BAD_GRAMMAR = re.compile(r"[{}]|  | unknown|None\b|\b(\w+) \1\b|\b(of|by) from\b")
TWO_PLACES = re.compile(r" at [^\[(),.:;]{1,40} at \[")
