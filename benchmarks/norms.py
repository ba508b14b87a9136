"""Norms, verdict and clip coefficient against `torch.nn.utils.clip_grad_norm_` on the same gradients.

Both sides run in turn, each on gradients that have just been written, and the figure is the median of the ratios
round by round: a slow minute of the machine hits both. Run ``python benchmarks/norms.py --help``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from gradwatch.numerics import clip_coefficient, l2_norms, scale_

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Shapes = list[tuple[int, ...]]
NEVER, ALWAYS = 1e9, 1e-3  # limits on the total norm: nothing is clipped, clipping acts
ROUNDS = {"large": 60, "small": 300}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Times of one case in microseconds, and how many times `clip_grad_norm_`'s it took; ``limit`` is the goal."""

    case: str
    clipping: str
    clip_grad_norm_us: float
    gradwatch_us: float
    minimum: float
    median: float
    maximum: float
    limit: float | None
    syncs: int | None  # device synchronisations of one step; None without a GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Largest relative error of the norm against float64, over normal numbers and over one number everywhere."""

    dtype: str
    elements: int
    gradwatch: float
    vector_norm: float


def transformer(width: int = 512, layers: int = 6, words: int = 8192) -> Shapes:
    """Return the shapes of a GPT: 23.6M parameters in 76 tensors as it stands."""
    block = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,), (width,), (width,)]
    block += [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(words, width), (1024, width), *block * layers, (width,), (width,)]


def resnet50() -> Shapes:
    """Return the shapes of ResNet-50: 25.6M parameters in 161 tensors (He et al., 2016, table 1)."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolutions = [(planes, channels, 1, 1), (planes, planes, 3, 3), (4 * planes, planes, 1, 1)]
            if block == 0:
                convolutions.append((4 * planes, channels, 1, 1))
            shapes += [shape for weight in convolutions for shape in (weight, weight[:1], weight[:1])]
            channels = 4 * planes
    return [*shapes, (1000, 2048), (1000,)]


def small_tensors(count: int = 400) -> Shapes:
    """Return sizes between 64 and 4096, evenly spread on a logarithmic scale, hardly any of them a round number."""
    exponents = 6 + 6 * torch.rand(count, generator=torch.Generator().manual_seed(0))
    return [(int(size),) for size in (2**exponents).tolist()]


# Name: shapes, number of rounds, limits of the ratio without and with clipping.
CASES: dict[str, tuple[Shapes, str, float | None, float | None]] = {
    "transformer, 24M in 76 tensors": (transformer(), "large", 0.65, 1.10),
    "ResNet-50, 26M in 161 tensors": (resnet50(), "large", 0.65, 1.10),
    "400 small tensors": (small_tensors(), "small", 0.65, 1.15),
    "transformer of width 128, 2M in 50 tensors": (transformer(128, 4, 1024), "small", None, None),
    "perceptron, 6 tensors": ([(128, 64), (128,), (128, 128), (128,), (10, 128), (10,)], "small", None, None),
}


def clip_with_gradwatch(parameters: Sequence[nn.Parameter], max_norm: float) -> None:
    """Do one step as the monitor does it: one pass, one transfer, and a second pass only to clip."""
    gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
    total = math.hypot(*l2_norms(gradients).tolist())
    if math.isfinite(total) and (coefficient := clip_coefficient(total, max_norm)) < 1.0:
        scale_(gradients, coefficient)


def clip_with_torch(parameters: Sequence[nn.Parameter], max_norm: float) -> None:
    """Do what a Trainer with `gradient_clip_val` does."""
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def measure(device: str = "cpu", scale: float = 1.0) -> list[Ratio]:
    """Time every case on ``device``, nothing clipped and clipping; ``scale`` multiplies the number of rounds."""
    rows = []
    for case, (shapes, size, unclipped, clipped) in CASES.items():
        gradients = _Gradients.of(shapes, device)
        rounds = max(3, round(ROUNDS[size] * scale))
        rows.append(_compare(case, "nothing", gradients, NEVER, rounds=rounds, limit=unclipped))
        rows.append(_compare(case, "acts", gradients, ALWAYS, rounds=rounds, limit=clipped))
    return rows


class _Gradients(NamedTuple):
    """Parameters, and the values that their gradients get before each measurement."""

    parameters: list[nn.Parameter]
    source: list[Tensor]

    @classmethod
    def of(cls, shapes: Shapes, device: str) -> _Gradients:
        generator = torch.Generator().manual_seed(0)
        source = [torch.randn(shape, generator=generator).mul_(1e-2).to(device) for shape in shapes]
        parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in source]
        for parameter, gradient in zip(parameters, source, strict=True):
            parameter.grad = gradient.clone()
        return cls(parameters, source)

    def write(self) -> None:
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, self.source, strict=True):
                if parameter.grad is not None:
                    parameter.grad.copy_(gradient)


def _compare(
    case: str, clipping: str, gradients: _Gradients, max_norm: float, *, rounds: int, limit: float | None
) -> Ratio:
    theirs, ours = _interleaved(gradients, max_norm, rounds)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(
        case=case,
        clipping=clipping,
        clip_grad_norm_us=1e6 * statistics.median(theirs),
        gradwatch_us=1e6 * statistics.median(ours),
        minimum=min(ratios),
        median=statistics.median(ratios),
        maximum=max(ratios),
        limit=limit,
        syncs=_synchronisations(gradients.parameters, max_norm),
    )


def _interleaved(gradients: _Gradients, max_norm: float, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of PyTorch and of gradwatch, round by round, in alternating order."""
    sides = (clip_with_torch, clip_with_gradwatch)
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(-2, rounds):  # two rounds to warm up
        for side in (0, 1) if i % 2 == 0 else (1, 0):
            gradients.write()
            duration = _time(sides[side], gradients.parameters, max_norm)
            if i >= 0:
                seconds[side].append(duration)
    return seconds


def _time(clip: Callable[[Sequence[nn.Parameter], float], None], parameters: list[nn.Parameter], norm: float) -> float:
    on_gpu = parameters[0].is_cuda
    if on_gpu:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    clip(parameters, norm)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _synchronisations(parameters: list[nn.Parameter], max_norm: float) -> int | None:
    """Count how often one step waits for the GPU, by the warnings of PyTorch's own debug mode."""
    if not parameters[0].is_cuda:
        return None
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            clip_with_gradwatch(parameters, max_norm)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def precision() -> list[Precision]:
    """Compare with float64; beside it one `vector_norm` in float32 (float64 for double precision)."""
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)
    rows = [_precision(size, dtype) for dtype in dtypes for size in (1_000, 100_000, 10_000_000)]
    return [*rows, _precision(25_000_000, torch.float32)]


def _precision(elements: int, dtype: torch.dtype) -> Precision:
    ours, plain = 0.0, 0.0
    for tensor in (torch.randn(elements, dtype=torch.float32).to(dtype), torch.full((elements,), 0.1, dtype=dtype)):
        parts = torch.view_as_real(tensor) if dtype.is_complex else tensor
        exact = math.sqrt(sum(float(piece.double().square().sum()) for piece in parts.view(-1).tensor_split(64)))
        ours = max(ours, abs(l2_norms([tensor]).item() / exact - 1))
        wide = torch.promote_types(dtype, torch.float32)
        plain = max(plain, abs(vector_norm(tensor, dtype=wide).item() / exact - 1))
    return Precision(dtype=str(dtype).removeprefix("torch."), elements=elements, gradwatch=ours, vector_norm=plain)


def ratio_table(rows: Sequence[Ratio]) -> str:
    """Return the ratios (gradwatch by `clip_grad_norm_`) as a table in Markdown."""
    lines = [
        "| gradients | clipping | `clip_grad_norm_`, µs | gradwatch, µs | least | median | largest | limit | syncs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = f"{row.clip_grad_norm_us:.0f} | {row.gradwatch_us:.0f}"
        ratios = f"{row.minimum:.2f} | {row.median:.2f} | {row.maximum:.2f}"
        limit = "" if row.limit is None else f"{row.limit:.2f}"
        syncs = "" if row.syncs is None else str(row.syncs)
        lines.append(f"| {row.case} | {row.clipping} | {times} | {ratios} | {limit} | {syncs} |")
    return "\n".join(lines)


def precision_table(rows: Sequence[Precision]) -> str:
    """Return the errors as a table in Markdown."""
    lines = ["| dtype | elements | gradwatch | `vector_norm` |", "|---|---|---|---|"]
    lines += [f"| {row.dtype} | {row.elements:,} | {row.gradwatch:.1e} | {row.vector_norm:.1e} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of rounds")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads\n")
    print(ratio_table(measure(arguments.device, arguments.scale)), "\n", precision_table(precision()), sep="\n")


if __name__ == "__main__":
    main()
