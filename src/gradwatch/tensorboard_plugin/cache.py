"""What has been read, as long as it is the latest; bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class Cache:
    """Keeps results until what they were made of has changed, or others need their place.

    Example:
        >>> cache = Cache(max_bytes=100)
        >>> [cache.get("a", stamp, make=lambda: [stamp], size=len) for stamp in (1, 1, 2)]
        [[1], [1], [2]]
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, tuple[Hashable, object, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()  # TensorBoard answers each request in a thread of its own

    def get(self, key: Hashable, stamp: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """Return what was kept under ``key`` if its stamp is still the same, else make it and keep it."""
        with self._lock:
            if key in self._kept and self._kept[key][0] == stamp:
                self._kept.move_to_end(key)
                found: T = self._kept[key][1]  # type: ignore[assignment]
                return found
        made = make()  # two threads may both make it: better than that one waits for the other's large run
        with self._lock:
            self._drop(key)
            self._kept[key] = stamp, made, size(made)
            self._bytes += self._kept[key][2]
            while self._bytes > self._max_bytes and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))
        return made

    def _drop(self, key: Hashable) -> None:
        if key in self._kept:
            self._bytes -= self._kept.pop(key)[2]
