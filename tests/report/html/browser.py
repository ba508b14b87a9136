"""Pages opened in a browser, and what they did that they should not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Visit:
    """A page that was opened, and all that it did that it should not: ``noise`` has a line for each."""

    def __init__(self, page: Any, noise: list[str]) -> None:
        self.page, self.noise = page, noise


@contextmanager
def opened(
    browser: Any, path: Path, *, javascript: bool = True, width: int = 1280, dark: bool = False
) -> Iterator[Visit]:
    """Open a file in a profile of its own."""
    noise: list[str] = []
    context = browser.new_context(
        java_script_enabled=javascript,
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
    )
    try:
        page = context.new_page()
        page.on("console", lambda message: noise.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: noise.append(f"error: {error}"))
        page.on("dialog", lambda dialog: _note_dialog(dialog, noise))
        page.on("request", lambda request: _note_request(request, path, noise))
        page.goto(path.resolve().as_uri(), wait_until="load")
        yield Visit(page, noise)
    finally:
        context.close()


def _note_dialog(dialog: Any, noise: list[str]) -> None:
    noise.append(f"dialog: {dialog.message}")
    dialog.dismiss()


def _note_request(request: Any, path: Path, noise: list[str]) -> None:
    if request.url.split("#")[0] != path.resolve().as_uri() and not request.url.startswith("data:image/png;"):
        noise.append(f"request: {request.url[:200]}")
