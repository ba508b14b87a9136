"""A browser for the tests of the page: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.tensorboard_plugin.stub_server import Server, Stub, serving
from tests.tensorboard_plugin.tab import Tab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

    from tests.tensorboard_plugin.samples import SampleRun

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 900
PATIENCE = 10_000  # ms for anything that the page is to show


def _missing(what: str) -> NoReturn:
    """Skip where a person works, fail where the suite stands for the project."""
    message = f"the tests of the page need {what}"
    if os.environ.get("CI"):
        pytest.fail(f"{message}; .ci/run installs it", pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
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
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that may not complain: an error of a script, or what the security policy refuses, fails the test."""
    page = context.new_page()
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        broken_off = "net::ERR_FAILED" in message.text  # by the test itself
        ours = "/numerical_health/" in message.location.get("url", "") and not broken_off
        if message.type == "error" and (ours or "Content Security Policy" in message.text):
            complaints.append(message.text)

    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", note)
    yield page
    page.close()
    assert not complaints


@pytest.fixture
def serve(page: Page, server: Server) -> Callable[..., tuple[Stub, Tab]]:
    """Serve sample runs and return the stub and the tab, not yet open."""

    def start(*runs: SampleRun, dark: bool = False, prefix: str = "") -> tuple[Stub, Tab]:
        stub = Stub(list(runs), dark=dark, prefix=prefix)
        return stub, Tab(page, server.show(stub))

    return start
