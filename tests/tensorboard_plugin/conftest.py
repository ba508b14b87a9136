"""A page in a browser, and the tab of TensorBoard in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser import launched
from tests.tensorboard_plugin.stub_server import Server, Stub, serving
from tests.tensorboard_plugin.tab import Tab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

    from tests.tensorboard_plugin.samples import SampleRun

WIDTH, HEIGHT = 1280, 900
PATIENCE = 10_000  # ms for anything that the page is to show


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


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
