"""A small server with the routes of the plugin, and a page around it as TensorBoard's: to test the page alone."""

from __future__ import annotations

import json
import socketserver
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np

import gradwatch.tensorboard_plugin
from gradwatch.serialization.tensorboard_rows import CURVE_NAMES, METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.tensorboard_plugin.samples import SampleRun

PATH = "/data/plugin/numerical_health/"
TYPES = {"js": "text/javascript", "css": "text/css"}

# What TensorBoard 2.21 sends with the page of a plugin: no inline script but the one that imports the module.
POLICY = (
    "default-src 'self';font-src 'self' data:;img-src 'self' data: blob:;object-src 'none';"
    "style-src 'self' https://www.gstatic.com data: 'unsafe-inline';connect-src 'self';script-src 'self' 'sha256-{}'"
)
ENTRY_SCRIPT = 'import("./index.js").then((m) => void m.render());'
ENTRY = """<!DOCTYPE html>
<head><base href="plugin/numerical_health/" /></head>
<body><script type="module">{}</script></body>"""
HOST = """<!DOCTYPE html>
<style>
  html, body {{ margin: 0; height: 100% }}
  iframe {{ border: 0; width: 100%; height: 100%; display: block }}
</style>
<body class="{}"><script>
  const ports = [];
  addEventListener("message", (event) => {{
    if (event.data !== "experimental.bootstrap") return;
    ports.push(event.ports[0]);
    event.ports[0].start();
  }});
  function reload() {{
    const message = {{type: "experimental.DataReloaded", id: 0, payload: null, error: null, isReply: false}};
    ports.forEach((port) => port.postMessage(JSON.stringify(message)));
  }}
</script><iframe src="data/plugin_entry.html?name=numerical_health"></iframe></body>"""


class Stub:
    """The application. ``runs`` may be changed while it serves; ``asked`` has every path that was."""

    def __init__(self, runs: list[SampleRun], *, dark: bool = False, prefix: str = "") -> None:
        self.runs = runs
        self.dark = dark
        self.prefix = prefix
        self.asked: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        path = environ["PATH_INFO"]
        path = path.removeprefix(self.prefix) if path.startswith(self.prefix) else "outside"
        query = {key: values[-1] for key, values in parse_qs(environ["QUERY_STRING"], keep_blank_values=True).items()}
        self.asked.append(path + (f"?{environ['QUERY_STRING']}" if query else ""))
        status, kind, body, extra = self._answer(path, query, environ.get("HTTP_IF_NONE_MATCH"))
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body))), *extra])
        return [body]

    def _answer(
        self, path: str, query: dict[str, str], tag: str | None
    ) -> tuple[str, str, bytes, list[tuple[str, str]]]:
        if path == "/":
            return "200 OK", "text/html", HOST.format("dark-mode" if self.dark else "").encode(), []
        if path == "/data/plugin_entry.html":
            return "200 OK", "text/html", ENTRY.format(ENTRY_SCRIPT).encode(), [("Content-Security-Policy", _policy())]
        name = path.removeprefix(PATH)
        if name.endswith((".js", ".css")):
            return self._static(name)
        try:
            kind, body = self._data(name, query)
        except LookupError as error:
            return "404 Not Found", "application/json", json.dumps({"error": f"no such {error}"}).encode(), []
        found = f'"{hash(body)}"'
        if tag == found:
            return "304 Not Modified", kind, b"", [("ETag", found)]
        return "200 OK", kind, body, [("ETag", found), ("Cache-Control", "no-cache")]

    def _static(self, name: str) -> tuple[str, str, bytes, list[tuple[str, str]]]:
        file = _static_folder() / name
        if not file.is_file():
            return "404 Not Found", "text/plain", b"", []
        return "200 OK", TYPES[name.rpartition(".")[2]], file.read_bytes(), [("Cache-Control", "max-age=600")]

    def _data(self, name: str, query: dict[str, str]) -> tuple[str, bytes]:
        if name == "runs":
            return "application/json", json.dumps({"runs": [run.listed() for run in self.runs]}).encode()
        run = {run.name: run for run in self.runs}[query["run"]]
        if int(query.get("optimizer", 0)) not in run.optimizers:
            raise LookupError("optimizer")
        if name == "matrix":
            return "application/octet-stream", _matrix(run, query)
        if name == "layer":
            values = run.values[:, :, int(query["layer"])]
            return "application/octet-stream", _binary({"metrics": list(METRICS)}, run.first, run.last, values)
        if name == "curves":
            return "application/octet-stream", _binary({"columns": list(CURVE_NAMES)}, run.first, run.last, run.curves)
        if name == "events":
            told = {key: getattr(run, key) for key in ("findings", "incidents", "checks", "starts", "ends")}
            return "application/json", json.dumps(told).encode()
        raise LookupError(name)


def _matrix(run: SampleRun, query: dict[str, str]) -> bytes:
    low, high = int(query.get("from", run.first[0])), int(query.get("to", run.last[-1]))
    inside = np.flatnonzero((run.last >= low) & (run.last <= high))
    metric = run.values[METRICS.index(query["metric"])]
    head = {"layers": run.layers, "rows": int(inside.size)}
    if not inside.size:
        return _binary(head, run.first[:0], run.last[:0], metric[:0])
    part = (run.last[inside] - low) * int(query["columns"]) // (high - low + 1)
    start = np.flatnonzero(np.diff(part, prepend=-1))
    end = np.append(start[1:], inside.size) - 1
    values = np.maximum.reduceat(metric[inside], start, axis=0)
    return _binary(head, run.first[inside][start], run.last[inside][end], values)


def _binary(head: dict[str, Any], first: np.ndarray, last: np.ndarray, values: np.ndarray) -> bytes:
    described = {
        **head,
        "first": first.tolist(),
        "last": last.tolist(),
        "shape": list(values.shape),
        "dtype": values.dtype.name,
    }
    header = json.dumps(described).encode()
    header += b" " * (-(len(header) + 4) % 8)
    return struct.pack("<I", len(header)) + header + np.ascontiguousarray(values).tobytes()


def _static_folder() -> Any:
    from pathlib import Path  # noqa: PLC0415

    return Path(gradwatch.tensorboard_plugin.__path__[0]) / "static"


def _policy() -> str:
    import base64  # noqa: PLC0415
    import hashlib  # noqa: PLC0415

    return POLICY.format(base64.b64encode(hashlib.sha256(ENTRY_SCRIPT.encode()).digest()).decode())


class _Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


class Server:
    """Serves one stub after another at one address, so that a browser keeps the modules that it has read."""

    def __init__(self) -> None:
        self.url = ""
        self._stub: Stub | None = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        assert self._stub is not None
        return self._stub(environ, start_response)

    def show(self, stub: Stub) -> str:
        """Serve ``stub`` from now on and return its address."""
        self._stub = stub
        return f"{self.url}{stub.prefix}/"


@contextmanager
def serving() -> Iterator[Server]:
    """Serve on a free port of this machine."""
    server = Server()
    http = make_server("127.0.0.1", 0, server, server_class=_Threaded, handler_class=_Quiet)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
