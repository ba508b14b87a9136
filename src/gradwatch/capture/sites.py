"""The modules of a network that a forward pass is looked at in, by the names of the step records."""

from __future__ import annotations

from functools import lru_cache
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from gradwatch.capture.origins import Layer
from gradwatch.capture.parameters import ROOT_LAYER, layer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

CONVOLUTION = _ConvNd
BATCH_NORM = _BatchNorm
WEIGHTED = (nn.Linear, CONVOLUTION, nn.RNNBase, nn.MultiheadAttention)
LOOKS = 16
# They take their fast path in evaluation only where no hook is on them or below, and its rounding is another.
FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
MATRIX = 2


class Site(NamedTuple):
    """A module to look at: its path, its layer, and what is of interest there.

    ``layer`` is None where nothing is to be said of the input; ``parameters`` are its own.
    """

    module: nn.Module
    path: str
    layer: Layer | None
    parameters: list[Any]
    is_leaf: bool
    is_batch_norm: bool

    @property
    def trains(self) -> bool:
        """Whether one of its parameters is trainable, as it is now."""
        return any(parameter.requires_grad for parameter in self.parameters)


class Sites(NamedTuple):
    """The sites of a network, and which layer its parameters belong to, by id, as ``origins.Owners`` has it."""

    sites: list[Site]
    weighted: dict[int, Layer]
    others: dict[int, Layer]


class SiteFinder:
    """Finds the sites of a network, anew only when its modules or their parameters are others.

    What changes without a trace in either (a method that is compiled) is found at the next of every ``LOOKS`` calls.
    """

    def __init__(self, granularity: str) -> None:
        self._granularity = granularity
        self._root: nn.Module | None = None
        self._parts: list[tuple[nn.Module, list[Any]]] = []
        self._sites = Sites([], {}, {})
        self._looks = 0

    def find(self, root: nn.Module) -> Sites:
        """Return the sites of ``root`` as it is now."""
        self._looks += 1
        if root is not self._root or self._looks >= LOOKS or not self._is_as_it_was():
            self._sites = sites_of(root, self._granularity)
            self._parts = [(module, _members(module)) for module in root.modules()]
            self._root, self._looks = root, 0
        return self._sites

    def _is_as_it_was(self) -> bool:
        for module, before in self._parts:
            now = _members(module)
            if len(now) != len(before) or not all(map(is_, now, before)):
                return False
        return True


def _members(module: nn.Module) -> list[Any]:
    """Return what makes a module what it is: children, parameters and their types (lazy or not), fast path or not."""
    parameters = module._parameters.values()  # noqa: SLF001 - no generators
    return [*module._modules.values(), *parameters, *map(type, parameters), module.training]  # noqa: SLF001 - as above


def sites_of(root: nn.Module, granularity: str) -> Sites:
    """Return the modules of ``root`` to look at; none that is compiled or scripted, or may take a fast path."""
    if getattr(root, "_compiler_ctx", None) is not None:  # Lightning keeps the parts of a compiled module there
        return Sites([], {}, {})
    names = {id(parameter): name for name, parameter in root.named_parameters()}
    found = Sites([], {}, {})
    for path, module in _open_modules(root, "", set()):
        own = _own_parameters(module)
        if any(is_lazy(parameter) for parameter in own):
            continue
        layer = _layer(module, path, own, names, granularity)
        by_id = found.weighted if any(parameter.dim() >= MATRIX for parameter in own) else found.others
        by_id.update({id(parameter): layer for parameter in own if id(parameter) not in by_id})
        found.sites.append(
            Site(
                module=module,
                path=path or ROOT_LAYER,
                layer=layer if isinstance(module, WEIGHTED) else None,
                parameters=own,
                is_leaf=not module._modules or isinstance(module, nn.MultiheadAttention),  # noqa: SLF001 - no generator a module
                is_batch_norm=isinstance(module, BATCH_NORM),
            )
        )
    return found


def _open_modules(module: nn.Module, path: str, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    if module in seen or _closed(module):
        return
    seen.add(module)
    yield path, module
    for name, child in module.named_children():
        if name != "parametrizations":
            yield from _open_modules(child, f"{path}.{name}" if path else name, seen)


def _closed(module: nn.Module) -> bool:
    compiled = getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
    compiled = compiled or _is_compiled(vars(module).get("forward"))
    compiled = compiled or _has_compiled_methods(type(module))  # type: ignore[arg-type]  # a class has a hash
    fast = isinstance(module, FAST_PATHS) and not module.training
    return compiled or fast or isinstance(module, torch.jit.ScriptModule)


@lru_cache(maxsize=1024)
def _has_compiled_methods(cls: Any) -> bool:
    """Whether a method is decorated with ``torch.compile``: hooks inside of it would make it compile again."""
    own = cls.__mro__[: cls.__mro__.index(nn.Module)]
    return any(_is_compiled(member) for ancestor in own for member in vars(ancestor).values())


def _is_compiled(member: object) -> bool:
    return getattr(member, "_torchdynamo_orig_callable", None) is not None


def _own_parameters(module: nn.Module) -> list[Any]:
    """Return the parameters that a module holds itself, those behind its parametrizations too; the weight first."""
    own = [p for p in module._parameters.values() if p is not None]  # noqa: SLF001 - no generator a module
    parametrizations = module._modules.get("parametrizations")  # noqa: SLF001 - without a search through its children
    if parametrizations is not None:
        own = [*parametrizations.parameters(), *own]
    return own


def _layer(module: nn.Module, path: str, own: list[Any], names: dict[int, str], granularity: str) -> Layer:
    name = next((names[id(parameter)] for parameter in own if id(parameter) in names), f"{path}.weight")
    return Layer(layer_of(name.removeprefix("."), granularity), isinstance(module, CONVOLUTION))
