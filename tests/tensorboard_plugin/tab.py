"""The tab as a test sees it: the frame inside TensorBoard, and short ways to look at it and to act in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

if TYPE_CHECKING:
    from playwright.sync_api import ElementHandle, Frame, Locator, Page

PREFIX = "p.numerical_health."
ENTRY = "plugin_entry.html?name=numerical_health"

# Where a heatmap of `rows` rows is pointed at: the middle of a row, and the middle of a step.
_READ_PIXEL = """([canvas, x, y]) => {
  const part = [x * canvas.width / canvas.clientWidth, y * canvas.height / canvas.clientHeight].map(Math.floor);
  return [...canvas.getContext("2d").getImageData(...part, 1, 1).data];
}"""


class Tab:
    """The tab in an open page."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def open(self, query: str = "", **view: str) -> Tab:
        """Open the tab; ``view`` is what a deep link says: ``tab.open(metric="nonfinite")``."""
        keys = "".join(f"&{PREFIX}{key}={quote(value, safe='')}" for key, value in view.items())
        self.page.goto(f"{self.url}{query}#numerical_health{keys}")
        self.frame.wait_for_selector(".card:has(canvas[width]), .trouble > .note, .notice")
        return self.settle()

    @property
    def frame(self) -> Frame:
        """The frame of the plugin."""
        holder = self.page.wait_for_selector(f'iframe[src*="{ENTRY}"]', state="attached")
        assert holder is not None
        frame = holder.content_frame()
        assert frame is not None
        return frame

    def settle(self) -> Tab:
        """Wait until what was asked for has come and is drawn."""
        self._frames()
        self.frame.wait_for_selector('main[aria-busy="false"]', state="attached")
        self._frames()
        return self

    def _frames(self) -> None:
        self.frame.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def find(self, selector: str) -> Locator:
        """Return elements of the tab."""
        return self.frame.locator(selector)

    def text(self, selector: str) -> str:
        """Return the text of the first element that fits."""
        return self.find(selector).first.inner_text()

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that fit."""
        return self.find(selector).all_inner_texts()

    def click(self, selector: str) -> Tab:
        """Click the first element that fits."""
        self.find(selector).first.click()
        return self.settle()

    def button(self, name: str) -> Tab:
        """Click a button by its name."""
        self.frame.get_by_role("button", name=name, exact=True).first.click()
        return self.settle()

    def metric(self, name: str) -> Tab:
        """Choose a metric."""
        return self.click(f'[data-metric="{name}"]')

    # -- the heatmap ----------------------------------------------------------------------------------------------

    def canvas(self, card: int = 0) -> ElementHandle:
        """Return the canvas of the heatmap of a run."""
        found = self.find(".card").nth(card).locator(".heat > canvas").first.element_handle()
        assert found is not None
        return found

    def place(self, step: float, row: int, *, rows: int, card: int = 0) -> tuple[float, float]:
        """Return where a step and a row are on the canvas; the axis spans what the toolbar says."""
        first, last = self.shown_steps()
        box = self.canvas(card).bounding_box()
        assert box is not None
        return box["width"] * (step - first + 0.5) / (last - first + 1), box["height"] * (row + 0.5) / rows

    def shown_steps(self) -> tuple[int, int]:
        """Return the first and the last step in view."""
        numbers = self.text(".range").removeprefix("steps ").removeprefix("step ").replace(",", "").split("\N{EN DASH}")
        return int(numbers[0]), int(numbers[-1])

    def pixel(self, step: float, row: int, *, rows: int, card: int = 0) -> tuple[int, ...]:
        """Return red, green, blue and opacity of a cell."""
        canvas = self.canvas(card)
        return tuple(self.frame.evaluate(_READ_PIXEL, [canvas, *self.place(step, row, rows=rows, card=card)]))

    def point(self, step: float, row: int, *, rows: int, card: int = 0) -> dict[str, str]:
        """Move the pointer to a cell and return what the page says about it."""
        self._mouse(step, row, rows, card)
        tip = self.find(".card").nth(card).locator(".tip")
        tip.wait_for()
        said = [text for text in tip.locator("> *").all_inner_texts() if text]
        value = tip.locator(".value").inner_text()
        return {"layer": said[0], "value": value, "all": " | ".join(said)}

    def choose(self, step: float, row: int, *, rows: int, card: int = 0) -> Tab:
        """Click a cell."""
        self._mouse(step, row, rows, card)
        self.page.mouse.down()
        self.page.mouse.up()
        return self.settle()

    def _mouse(self, step: float, row: int, rows: int, card: int) -> None:
        canvas = self.canvas(card)
        canvas.scroll_into_view_if_needed()
        x, y = self.place(step, row, rows=rows, card=card)
        box = canvas.bounding_box()
        assert box is not None
        self.page.mouse.move(box["x"] + x, box["y"] + y)

    # -- the address ----------------------------------------------------------------------------------------------

    def address(self) -> str:
        """Return the address of TensorBoard's own page."""
        return self.page.url

    # -- its modules ----------------------------------------------------------------------------------------------

    def call(self, module: str, function: str, values: np.ndarray, *arguments: Any) -> np.ndarray:
        """Return what a function of one of the page's modules makes of numbers, as float32 on both sides."""
        code = """async ([module, name, values, given]) => {
          const found = await import(new URL(module, document.querySelector("link").href));
          return [...found[name](Float32Array.from(values, Number), ...given)].map(String);
        }"""
        texts = [str(float(value)).replace("inf", "Infinity").replace("nan", "NaN") for value in values]
        return np.array(self.frame.evaluate(code, [module, function, texts, list(arguments)]), dtype=np.float32)


# -- the colours, computed once more in another language ----------------------------------------------------------

_CONES = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
LOW, HIGH = (0.27, 0.10, 262.0), (0.93, 0.15, 100.0)
NONFINITE, ZERO, UNKNOWN = (255, 0, 255, 255), (0, 0, 0, 255), (0, 0, 0, 0)


def scale_colour(part: float) -> tuple[int, ...]:
    """Return the colour at a place between 0 and 1 of the absolute scale (Ottosson's OKLab, a straight line)."""
    ends = [(light, c * np.cos(np.radians(hue)), c * np.sin(np.radians(hue))) for light, c, hue in (LOW, HIGH)]
    lab = np.array(ends[0]) + part * (np.array(ends[1]) - np.array(ends[0]))
    linear = np.clip(_RGB @ (_CONES @ lab) ** 3, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (*np.rint(255 * encoded).astype(int).tolist(), 255)
