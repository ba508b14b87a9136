"""The routes: what their arguments must be, and errors as JSON. ``__init__`` says what is answered."""

from __future__ import annotations

import logging
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard import plugin_util
from werkzeug import wrappers

from gradwatch.serialization.tensorboard_rows import METRICS, Metric
from gradwatch.tensorboard_plugin.answers import (
    RequestError,
    binary_answer,
    etag,
    file_answer,
    json_answer,
    tagged,
)
from gradwatch.tensorboard_plugin.queries import Queries
from gradwatch.tensorboard_plugin.reading import RunIndex, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.wrappers import Request, Response

    View = Callable[["Routes", Request], Response]

log = logging.getLogger("gradwatch")

STATIC = Path(__file__).parent / "static"
DEFAULT_COLUMNS, MAX_COLUMNS = 800, 20_000
MAX_STEP = 2**46  # no run comes near it, and times MAX_COLUMNS it is an int64


def _route(view: View) -> View:
    """Turn what goes wrong into JSON: a page can show that, and a traceback helps nobody there."""

    @wraps(view)
    def safe(routes: Routes, request: Request) -> Response:
        try:
            return view(routes, request)
        except RequestError as error:
            return json_answer(request, {"error": str(error)}, error.status)
        except Exception as error:
            log.exception("gradwatch: the Numerical Health tab failed at %s", request.path)
            return json_answer(request, {"error": f"{type(error).__name__}: {error}"}, 500)

    return safe


class Routes:
    """The plugin's answers to the browser.

    Args:
        provider: where TensorBoard has its data.

    Attributes:
        apps: WSGI applications by route.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._queries = Queries()
        views = {
            "/runs": self._runs,
            "/matrix": self._matrix,
            "/layer": self._layer,
            "/curves": self._curves,
            "/events": self._events,
            "/*": self._file,
        }
        self.apps = {route: wrappers.Request.application(view) for route, view in views.items()}

    @_route
    def _runs(self, request: Request) -> Response:
        source = self._source(request)
        runs = source.list()
        tag = etag([(name, run.stamp) for name, run in sorted(runs.items())])
        return tagged(request, tag, lambda: json_answer(request, self._queries.runs(source, runs)))

    @_route
    def _matrix(self, request: Request) -> Response:
        metric, optimizer = _metric(request), _integer(request, "optimizer", 0)
        begin, end = _step(request, "from"), _step(request, "to")
        if begin is not None and end is not None and begin > end:
            raise RequestError(f"from={begin} is after to={end}")
        columns = min(_integer(request, "columns", DEFAULT_COLUMNS, least=1), MAX_COLUMNS)
        return self._of_run(
            request,
            lambda source, run: binary_answer(
                request, self._queries.matrix(source, run, metric, optimizer, begin=begin, end=end, columns=columns)
            ),
        )

    @_route
    def _layer(self, request: Request) -> Response:
        optimizer, layer = _integer(request, "optimizer", 0), _integer(request, "layer", None)
        return self._of_run(
            request,
            lambda source, run: binary_answer(request, self._queries.layer(source, run, optimizer, layer)),
        )

    @_route
    def _curves(self, request: Request) -> Response:
        optimizer = _integer(request, "optimizer", 0)
        return self._of_run(
            request, lambda source, run: binary_answer(request, self._queries.curves(source, run, optimizer))
        )

    @_route
    def _events(self, request: Request) -> Response:
        return self._of_run(request, lambda source, run: json_answer(request, self._queries.events(source, run)))

    @_route
    def _file(self, request: Request) -> Response:
        return file_answer(request, STATIC)

    def _source(self, request: Request) -> Source:
        environ = request.environ
        return Source(self._provider, plugin_util.context(environ), plugin_util.experiment_id(environ))

    def _of_run(self, request: Request, answer: Callable[[Source, RunIndex], Response]) -> Response:
        """Return the answer about the run that a request names, under an ETag that changes with the run's last row."""
        name = _required(request, "run")
        source = self._source(request)
        run = source.list(name).get(name)
        if run is None:
            raise RequestError(f"run {name!r} has no data of gradwatch", 404)
        return tagged(request, etag(request.full_path, run.stamp), lambda: answer(source, run))


def _required(request: Request, name: str) -> str:
    value = request.args.get(name)
    if value is None:
        raise RequestError(f"{name} is missing")
    return str(value)


def _metric(request: Request) -> Metric:
    value = _required(request, "metric")
    for metric in METRICS:
        if metric == value:
            return metric
    raise RequestError(f"metric {value!r} is not one of {', '.join(METRICS)}", 404)


def _optional_integer(request: Request, name: str) -> int | None:
    value = request.args.get(name, "")
    if value == "":
        return None
    try:
        return int(value)
    except ValueError:
        raise RequestError(f"{name}={value!r} is not a whole number") from None


def _step(request: Request, name: str) -> int | None:
    value = _optional_integer(request, name)
    return None if value is None else min(max(value, 0), MAX_STEP)


def _integer(request: Request, name: str, default: int | None, least: int = 0) -> int:
    value = _optional_integer(request, name)
    value = default if value is None else value
    if value is None:
        raise RequestError(f"{name} is missing")
    if value < least:
        raise RequestError(f"{name}={value} is less than {least}")
    return value
