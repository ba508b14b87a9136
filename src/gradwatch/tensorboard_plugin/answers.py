"""Answers to the browser: JSON, binary frames, files, errors."""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Any

from tensorboard.backend import http_util

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from werkzeug.wrappers import Request, Response

_TYPES = {".css": "text/css", ".js": "text/javascript", ".json": "application/json", ".svg": "image/svg+xml"}


class RequestError(Exception):
    """A request that cannot be answered: what to tell the browser, and the HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def json_answer(request: Request, value: Any, status: int = 200) -> Response:
    """Return JSON; floats that it cannot express must be strings already."""
    return _respond(request, json.dumps(value, allow_nan=False), "application/json", status)


def frame(header: dict[str, Any], values: np.ndarray) -> bytes:
    """Return a header and numbers as one binary answer; see ``gradwatch.tensorboard_plugin``."""
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    header = {**header, "dtype": values.dtype.name, "shape": list(values.shape)}
    text = json.dumps(header, allow_nan=False).encode("ascii")
    text += b" " * (-(4 + len(text)) % 8)
    return struct.pack("<I", len(text)) + text + values.tobytes()


def binary_answer(request: Request, content: bytes) -> Response:
    """Return bytes as they are."""
    return _respond(request, content, "application/octet-stream")


def file_answer(request: Request, folder: Path) -> Response:
    """Return the file of ``folder`` that the last part of the path names; nothing else of the disk can be had."""
    name = request.path.rpartition("/")[2]
    file = next((file for file in folder.iterdir() if file.name == name and file.suffix in _TYPES), None)
    if file is None:
        raise RequestError(f"there is no file {name!r}", 404)
    content = file.read_bytes()
    return tagged(request, etag(content), lambda: _respond(request, content, _TYPES[file.suffix]))


def etag(*parts: Any) -> str:
    """Return a short name for a version of an answer."""
    return f"{zlib.crc32(repr(parts).encode(errors='backslashreplace')):08x}"


def tagged(request: Request, tag: str, answer: Callable[[], Response]) -> Response:
    """Return the answer under its ``ETag``; 304 without making it where the browser has that version."""
    if request.if_none_match.contains(tag):
        response = _respond(request, b"", "application/octet-stream", 304)
    else:
        response = answer()
    response.set_etag(tag)
    return response


def _respond(request: Request, content: str | bytes, content_type: str, status: int = 200) -> Response:
    response: Response = http_util.Respond(request, content, content_type, code=status)
    return response
