"""The headless Chromium of the tests of pages: the system's own, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def launched() -> Iterator[Browser]:
    """Run a browser; without one the test is skipped where a person works, and fails in CI."""
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - an extra of development
    except ImportError:
        _missing("playwright (pip install 'gradwatch[dev]')")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        _missing("Chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # No sandbox: containers and root have none. No GPU: pictures are the same everywhere.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def _missing(what: str) -> NoReturn:
    message = f"the tests of pages need {what}"
    if os.environ.get("CI"):
        pytest.fail(f"{message}; .ci/run installs it", pytrace=False)
    pytest.skip(message)
