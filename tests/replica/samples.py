"""Classes that batches are made of; reading a bundle imports them from here."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

RAN: list[str] = []


class Pair(NamedTuple):
    x: Any
    y: Any


@dataclass
class Example:
    x: Any
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    label: int = 0


class Plain:
    """None of its methods may run while it is read."""

    def __init__(self, x: Any) -> None:
        self.x = x
        RAN.append("init")

    def __setattr__(self, name: str, value: Any) -> None:
        RAN.append("setattr")
        object.__setattr__(self, name, value)

    def __setstate__(self, state: Any) -> None:
        RAN.append("setstate")

    @property
    def trap(self) -> int:
        return 0

    @trap.setter
    def trap(self, value: int) -> None:
        RAN.append("property")


class Slotted:
    __slots__ = ("__dict__", "x")

    def __init__(self, x: Any) -> None:
        self.x = x


class Encoding(UserDict[str, Any]):
    """As tokenizers return their batches."""


class Ordered(OrderedDict[str, Any]):
    """A dictionary with an attribute."""


class Items(list[Any]):
    """A list with an attribute."""


class WithNew:
    """Wants an argument to be made."""

    def __new__(cls, x: Any) -> WithNew:  # noqa: PYI034 - Self says no more here
        RAN.append(f"new {x}")
        return super().__new__(cls)
