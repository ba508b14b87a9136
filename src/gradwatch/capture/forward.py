"""One forward pass looked at: what enters the layers with weights, what modules return, how BatchNorm stands.

Hooks are on for one pass only. They read, measure on the device and keep numbers alone; the host learns them later, in
one transfer. What the numbers mean is told in ``observations.Forward``.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from gradwatch.capture.dead_units import UnitHistory
from gradwatch.capture.forward_samples import (
    Sample,
    plain,
    read_samples,
    sample_batch_norm,
    sample_input,
    sample_output,
    with_second_call,
)
from gradwatch.capture.origins import Layer, Owners, origin_of
from gradwatch.capture.sites import Site, SiteFinder
from gradwatch.observations import Forward
from gradwatch.tracing.autograd_internals import node_number
from gradwatch.tracing.function_mode import unseen

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.hooks import RemovableHandle

    Look = Callable[[Any, Any, bool], None]

Samples = dict[nn.Module, Sample]


class ForwardWatch:
    """Samples forward passes: ``begin(module)``, the pass, ``end()``; then ``take()`` returns what was seen.

    Hooks are there between ``begin`` and ``end`` only. Nothing in them writes to a tensor of the training, makes a
    graph, draws a random number or raises. A module that is called several times counts with its first call, with
    its first one that makes a graph if there is such a call.
    """

    def __init__(self, granularity: str = "layer") -> None:
        self._finder = SiteFinder(granularity)
        self._handles: list[RemovableHandle] = []
        self._hooks: list[_Hook] = []
        self._histories: WeakKeyDictionary[nn.Module, UnitHistory] = WeakKeyDictionary()
        self._owners = Owners({}, {}, {})
        self._returned: dict[int, Layer] = {}
        self._inputs: Samples = {}
        self._outputs: Samples = {}
        self._batch_norms: Samples = {}
        self._begun = False
        self._with_outputs = self._with_scale = True

    def begin(self, module: nn.Module, *, outputs: bool = True, scale: bool = True) -> None:
        """Put the hooks on.

        Args:
            module: whose next forward pass is looked at.
            outputs: whether the size of what modules return matters, as it does in float16.
            scale: whether mean and deviation of every input matter, as they do at initialisation; of data they do
                always.
        """
        self.end()
        self._inputs, self._outputs, self._batch_norms = {}, {}, {}
        self._begun, self._with_outputs, self._with_scale = True, outputs, scale
        with suppress(Exception):  # whatever is odd about a module must not end a training
            sites, weighted, others = self._finder.find(module)
            self._returned = {}
            self._owners = Owners(self._returned, weighted, others)
            for site in sites:
                self._attach(site)

    def end(self) -> None:
        """Take the hooks off; may be called at any time."""
        handles, self._handles = self._handles, []
        hooks, self._hooks = self._hooks, []
        for handle in handles:
            handle.remove()
        for hook in hooks:
            hook.look = None  # a copy of the module that was made meanwhile has it still
        self._owners = Owners({}, {}, {})

    def take(self) -> Forward | None:
        """Return what the last pass showed, with one transfer to the host; None if none was looked at."""
        self.end()
        groups = [list(samples.values()) for samples in (self._inputs, self._outputs, self._batch_norms)]
        self._inputs, self._outputs, self._batch_norms = {}, {}, {}
        begun, self._begun = self._begun, False
        if not begun:
            return None
        with suppress(Exception):  # as in begin
            told = read_samples([sample for group in groups for sample in group])
            ends = [len(groups[0]), len(groups[0]) + len(groups[1])]
            return Forward(
                inputs=tuple(told[: ends[0]]),
                outputs=tuple(entry for entry in told[ends[0] : ends[1]] if entry is not None),
                batch_norms=tuple(told[ends[1] :]),
            )
        return None

    def _attach(self, site: Site) -> None:
        if site.layer is not None:
            self._before(site, self._look_at_input)
        if site.is_batch_norm:
            self._before(site, self._look_at_batch_norm)
        if (site.is_leaf and self._with_outputs) or site.layer is not None:
            self._after(site, self._look_at_output)

    def _before(self, site: Site, look: Callable[..., None]) -> None:
        hook = _Hook(lambda args, _, graph: look(site, args, graph))
        self._hooks.append(hook)
        self._handles.append(site.module.register_forward_pre_hook(hook))

    def _after(self, site: Site, look: Callable[..., None]) -> None:
        hook = _Hook(lambda _, output, graph: look(site, output, graph))
        self._hooks.append(hook)
        self._handles.append(site.module.register_forward_hook(hook))

    def _look_at_input(self, site: Site, args: tuple[Any, ...], graph: bool) -> None:  # noqa: FBT001 - of a hook
        before = self._inputs.get(site.module)
        tensor = plain(args[:1])
        if tensor is None or (before is not None and (before.with_graph or not graph)):
            if tensor is not None and before is not None and before.is_data:
                self._inputs[site.module] = with_second_call(before, tensor)
            return
        origin = origin_of(tensor, self._owners) if graph else None
        history = self._histories.setdefault(site.module, UnitHistory())
        self._inputs.pop(site.module, None)
        scale = self._with_scale
        self._inputs[site.module] = sample_input(site, tensor, origin, history, graph=graph, scale=scale)

    def _look_at_output(self, site: Site, output: Any, graph: bool) -> None:  # noqa: FBT001 - of a hook
        tensor = plain(output)
        if tensor is None:
            return
        if site.layer is not None and graph and tensor.grad_fn is not None:
            number = node_number(tensor.grad_fn)
            if number is not None:
                self._returned[number] = site.layer
        if self._with_outputs and site.module not in self._outputs:
            sample = sample_output(site.path, tensor)
            if sample is not None:
                self._outputs[site.module] = sample

    def _look_at_batch_norm(self, site: Site, args: tuple[Any, ...], _graph: bool) -> None:  # noqa: FBT001 - of a hook
        tensor = plain(args[:1])
        if tensor is None or site.module in self._batch_norms:
            return
        samples = tensor.shape[0] * _ranks(site.module)
        self._batch_norms[site.module] = sample_batch_norm(site.path, site.module, samples)


class _Hook:
    """A hook that looks and never touches; it stays behind when its module is copied or pickled."""

    def __init__(self, look: Look) -> None:
        self.look: Look | None = look

    def __call__(self, _module: nn.Module, args: Any, output: Any = None) -> None:
        look = self.look
        if look is None or torch.compiler.is_compiling():
            return
        with suppress(Exception):  # a look that fails is left out
            if _is_ordinary():
                graph = torch.is_grad_enabled()
                with torch.no_grad(), unseen():
                    look(args, output, graph)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


def _is_ordinary() -> bool:
    """Whether operations do what they say: no function transform, no dispatch mode, no capture of a CUDA graph."""
    if torch.is_inference_mode_enabled() or torch._C._len_torch_dispatch_stack():  # noqa: SLF001 - no public name
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:  # noqa: SLF001 - no public name
        return False
    return not (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())  # type: ignore[no-untyped-call]


def _ranks(module: nn.Module) -> int:
    """Return over how many devices a BatchNorm joins its samples."""
    if not isinstance(module, nn.SyncBatchNorm) or not torch.distributed.is_available():
        return 1
    if not torch.distributed.is_initialized():
        return 1
    return torch.distributed.get_world_size(module.process_group)
