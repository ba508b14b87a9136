"""The lines of gradwatch's logger, where nobody has set up logging."""

from __future__ import annotations

import logging


def make_visible() -> None:
    """Show the choice of the clip rule where nobody has set up logging, as Lightning shows its own lines."""
    log = logging.getLogger("gradwatch")
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
