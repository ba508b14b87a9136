"""A monitor that fails is a warning in the log; the training goes on."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from gradwatch.errors import GradientMismatchError, NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("gradwatch")

F = TypeVar("F", bound="Callable[..., Any]")


class Failures:
    """The failures of a monitor itself, each told once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def report(self, where: str, error: Exception) -> None:
        """Warn of a failure in ``where``, unless that was done before."""
        if where not in self._told:
            self._told.add(where)
            log.warning(
                "gradwatch itself failed in %s (%s: %s). Training goes on unwatched there; please report this.",
                where,
                type(error).__name__,
                error,
                exc_info=log.isEnabledFor(logging.DEBUG),
            )


def never_fatal(hook: F) -> F:
    """Turn a failure of the monitor itself into one warning a hook; only what is to be raised ends the run.

    ``hook`` is a method of an object whose ``_failures`` are ``Failures``.
    """

    @functools.wraps(hook)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return hook(self, *args, **kwargs)
        except (NonFiniteError, GradientMismatchError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the training run goes on
            self._failures.report(hook.__name__, error)
            return None

    return guarded  # type: ignore[return-value]
