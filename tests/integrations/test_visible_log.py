"""gradwatch's own lines are seen where nobody has set up logging, and left alone where somebody has."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gradwatch.integrations.visible_log import make_visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


@contextmanager
def untouched_logger() -> Iterator[logging.Logger]:
    """The logger of gradwatch as it is before anyone has set up logging; no fixture, as pytest adds its handlers."""
    logger = logging.getLogger("gradwatch")
    level, handlers, propagate = logger.level, logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [], False
    logger.setLevel(logging.NOTSET)
    try:
        yield logger
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_a_line_is_seen_once_without_any_logging(capsys: pytest.CaptureFixture[str]) -> None:
    with untouched_logger() as logger:
        make_visible()
        make_visible()
        logger.info("the clip rule")
    assert capsys.readouterr().err == "the clip rule\n"


def test_the_users_level_and_handlers_stay() -> None:
    own = logging.NullHandler()
    with untouched_logger() as logger:
        logger.addHandler(own)
        logger.setLevel(logging.ERROR)
        make_visible()
        assert (logger.level, logger.handlers) == (logging.ERROR, [own])
