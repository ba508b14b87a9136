"""The plugin as TensorBoard sees it. What answers the page is loaded with the first request for it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from tensorboard.plugins import base_plugin

from gradwatch.tensorboard_plugin.loader import PLUGIN_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gradwatch.tensorboard_plugin.routes import Routes

TAB_NAME = "Numerical Health"
# "/*": the files of the page.
ROUTES = ("/runs", "/matrix", "/layer", "/curves", "/events", "/*")


class NumericalHealthPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # TensorBoard has no annotations
    """The Numerical Health tab."""

    plugin_name = PLUGIN_NAME

    def __init__(self, context: Any) -> None:
        self._provider = context.data_provider

    def is_active(self) -> bool:
        """Leave it to TensorBoard, which shows the tab as soon as a run has data under the plugin's name."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Return how the tab is called and where its page begins."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name=TAB_NAME)

    def get_plugin_apps(self) -> dict[str, Any]:
        """Return the routes."""
        return {route: self._app(route) for route in ROUTES}

    def _app(self, route: str) -> Callable[[Any, Any], Iterable[bytes]]:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            answer: Iterable[bytes] = self._routes.apps[route](environ, start_response)
            return answer

        return app

    @cached_property
    def _routes(self) -> Routes:
        from gradwatch.tensorboard_plugin.routes import Routes  # noqa: PLC0415 - not at the start of every TensorBoard

        return Routes(self._provider)
