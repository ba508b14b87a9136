"""What is measured at one module of a forward pass: a few scalars on the device, and how to read them later."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gradwatch.capture.host_values import host_values
from gradwatch.capture.sites import CONVOLUTION
from gradwatch.observations import BatchNormState, LayerInput, ModuleOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradwatch.capture.dead_units import UnitHistory
    from gradwatch.capture.origins import Origin
    from gradwatch.capture.sites import Site

# Elements of which mean and deviation are taken: more change them by less than a thousandth.
ENOUGH = 1 << 20
# So many values are not the same by chance.
FEW = 16
# The place of the smallest value among the scalars of an input.
LOW = 0
# Where the derivative is under 1 % of its largest: 1 - y² < 0.01 for tanh, 4 y (1 - y) < 0.01 for the sigmoid.
FLAT_TANH = math.sqrt(0.99)
FLAT_SIGMOID = math.sqrt(0.99) / 2
FORMATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


class Sample(NamedTuple):
    """Scalars on the device, and what makes an entry of the observation of their values, None if there is none."""

    scalars: tuple[Tensor, ...]
    read: Callable[[Sequence[float]], Any]
    with_graph: bool = True
    is_data: bool = False


def plain(value: object) -> Tensor | None:
    """Return the dense floating-point tensor that ``value`` or its first entry is, None if it is anything else."""
    if isinstance(value, PackedSequence):
        value = value.data
    elif isinstance(value, (tuple, list)) and value:
        value = value[0]
    if not isinstance(value, Tensor) or type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return None  # another class of tensors with kernels of its own: distributed, fake, quantised
    dense = value.layout is torch.strided and not value.is_nested and not value.is_meta
    return value if dense and value.dtype in FORMATS and value.numel() and value.dim() else None


def sample_input(
    site: Site, tensor: Tensor, origin: Origin | None, history: UnitHistory, *, graph: bool, scale: bool
) -> Sample:
    """Measure what enters a layer with weights.

    Mean, deviation and range are taken of data, and of everything else where ``scale`` asks for it.
    """
    detached = tensor.detach()
    is_data = graph and site.trains and tensor.grad_fn is None and not tensor.requires_grad
    scalars: dict[str, Tensor] = {}
    if scale or is_data or origin is not None:
        scalars["low"], scalars["high"] = torch.aminmax(detached)
    if scale or is_data:
        scalars["mean"], scalars["std"] = _mean_and_deviation(_part(detached).float())
    units = 0
    if origin is not None and origin.activation == "relu":
        count = history.add(*_by_unit(site, detached, origin))
        if count is not None:
            units, scalars["dead"] = history.units, count
    elif origin is not None and origin.exact:
        part = _part(detached)
        flat = part.abs() > FLAT_TANH if origin.activation == "tanh" else (part - 0.5).abs() > FLAT_SIGMOID
        scalars["saturated"] = flat.sum()
    elements = _part(detached).numel()
    layer = site.layer.name if site.layer else site.path

    def read(values: Sequence[float]) -> LayerInput:
        told = dict(zip(scalars, values, strict=True))
        low, high = told.get("low", math.nan), told.get("high", math.nan)
        finite = math.isfinite(low) and math.isfinite(high)
        # A clamp or hardtanh that lets negative values through has no dead half.
        made_by = None if origin is None or (origin.activation == "relu" and low < 0) else origin
        std = _known(told.get("std", math.nan))
        if finite and low == high:
            std = 0.0 if elements >= FEW else math.nan
        return LayerInput(
            layer=layer,
            mean=_known(told.get("mean", math.nan)),
            std=std,
            largest=_known(max(-low, high)),
            is_data=is_data,
            activation=made_by.activation if made_by else None,
            source=made_by.source.name if made_by and made_by.source else None,
            units=units,
            dead=told["dead"] / units if "dead" in told and made_by else math.nan,
            saturated=told["saturated"] / elements if "saturated" in told and finite else math.nan,
        )

    return Sample(tuple(scalars.values()), read, graph, is_data)


def with_second_call(sample: Sample, tensor: Tensor) -> Sample:
    """Return a sample of data that knows of a second call: a start token of zeros is no constant input."""
    first = len(sample.scalars)

    def read(values: Sequence[float]) -> LayerInput:
        entry: LayerInput = sample.read(values[:first])
        constant = values[LOW] == values[first] == values[first + 1]
        return replace(entry, std=math.nan) if entry.std == 0 and not constant else entry

    return Sample((*sample.scalars, *torch.aminmax(tensor.detach())), read, sample.with_graph, is_data=False)


def sample_output(path: str, tensor: Tensor) -> Sample | None:
    """Measure what a module returns; None for large tensors of wide formats, which do not overflow in practice."""
    wide = tensor.dtype is torch.float32 or tensor.dtype is torch.float64
    if wide and tensor.numel() > ENOUGH:
        return None
    limit = torch.finfo(tensor.dtype).max

    def read(values: Sequence[float]) -> ModuleOutput | None:
        largest = max(-values[0], values[1])
        # The end of the format stands for something else: a mask of finfo.min, or what is infinite in all but name.
        return ModuleOutput(module=path, largest=largest, limit=limit) if 0 <= largest < limit else None

    return Sample(tuple(torch.aminmax(tensor.detach())), read)


def sample_batch_norm(path: str, module: Any, samples: int) -> Sample:
    """Read a BatchNorm's mode and running statistics, as they are before this batch."""
    tracked = module.running_mean is not None and module.running_var is not None
    scalars: tuple[Tensor, ...] = ()
    if tracked:
        scalars = (*torch.aminmax(module.running_mean.detach()), *torch.aminmax(module.running_var.detach()))
    training = module.training or not tracked

    def read(values: Sequence[float]) -> BatchNormState:
        return BatchNormState(
            module=path,
            samples=samples,
            at_start=tracked and list(values) == [0.0, 0.0, 1.0, 1.0],
            finite=all(map(math.isfinite, values)),
            training=training,
        )

    return Sample(scalars, read)


def read_samples(samples: Sequence[Sample]) -> list[Any]:
    """Return what each sample tells, after one transfer a device."""
    values = host_values([scalar for sample in samples for scalar in sample.scalars])
    told, start = [], 0
    for sample in samples:
        end = start + len(sample.scalars)
        told.append(sample.read(values[start:end]))
        start = end
    return told


def _part(tensor: Tensor) -> Tensor:
    """Return the first samples of a large tensor, a view; what is measured of it needs no more and makes copies."""
    if tensor.numel() <= ENOUGH:
        return tensor
    rows = max(1, ENOUGH // (tensor.numel() // tensor.shape[0]))
    return tensor.narrow(0, 0, rows)


def _by_unit(site: Site, tensor: Tensor, origin: Origin) -> tuple[Tensor, int]:
    """Return the tensor and the dimension of its units: channels, before they were flattened, or features."""
    if isinstance(site.module, CONVOLUTION):
        return tensor, tensor.dim() - len(site.module.kernel_size) - 1
    if origin.shape is not None and origin.source is not None:
        return tensor.reshape(origin.shape), 1 if origin.source.channels_first else -1
    return tensor, -1


def _mean_and_deviation(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what ``torch.std_mean(values, correction=0)`` does, in a sixth of its time on a CPU."""
    mean = values.mean()
    return mean, torch.linalg.vector_norm(values - mean) / math.sqrt(values.numel())


def _known(value: float) -> float:
    return value if math.isfinite(value) else math.nan
