"""How precise a gradient is in half precision, layer by layer, beside the noise between batches."""

from __future__ import annotations

import statistics
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gradwatch import check_gradients
from gradwatch.demo.digits import DigitsCNN, digit_loaders
from gradwatch.demo.text import CharTransformer, english_characters, text_loaders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRAINED_STEPS = 150
NOISE_BATCHES = 16
FORMATS = {"fp32": None, "bf16-mixed": torch.bfloat16, "fp16 autocast": torch.float16}


class Layer(NamedTuple):
    """One tensor: relative error of its gradient by format, and the noise of a single batch's gradient."""

    name: str
    errors: dict[str, float]
    noise: float


def networks() -> Iterator[tuple[str, nn.Module, list[Any], Callable[[nn.Module, Any], Tensor]]]:
    """Yield name, network, batches and loss of the demo's convolutional and transformer networks."""
    torch.manual_seed(0)
    train, test, alphabet = english_characters()
    yield "transformer", CharTransformer(alphabet), _batches(text_loaders(train, test)[0]), _text_loss
    torch.manual_seed(0)
    yield "CNN with BatchNorm", DigitsCNN(), _batches(digit_loaders()[0]), _digits_loss


def measure(network: nn.Module, batches: list[Any], loss: Callable[[nn.Module, Any], Tensor]) -> list[Layer]:
    """Train a little, then compare the gradients of one batch in every format with float64."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for batch in islice(cycle(batches), TRAINED_STEPS):
        optimizer.zero_grad()
        loss(network, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    reports = {name: check_gradients(network, _under(loss, batches[0], dtype)) for name, dtype in FORMATS.items()}
    noise = _noise(network, batches[:NOISE_BATCHES], loss)
    layers = []
    for name in noise:
        errors = {key: report.parameters[name].precision_error for key, report in reports.items()}
        known = {key: error for key, error in errors.items() if error is not None}
        if len(known) == len(errors):  # without a gradient to speak of, as a bias before BatchNorm, none is compared
            layers.append(Layer(name, known, noise[name]))
    return layers


def as_table(layers: list[Layer]) -> str:
    """Return a markdown table with the medians in its last row."""
    lines = ["| tensor | " + " | ".join(FORMATS) + " | noise of one batch |", "|---" * (len(FORMATS) + 2) + "|"]
    lines += [
        f"| {layer.name} | {' | '.join(_spelled(layer.errors[key]) for key in FORMATS)} | {layer.noise:.1f} |"
        for layer in layers
    ]
    medians = [_spelled(statistics.median(layer.errors[key] for layer in layers)) for key in FORMATS]
    noise = statistics.median(layer.noise for layer in layers)
    return "\n".join([*lines, f"| **median** | {' | '.join(medians)} | {noise:.1f} |"])


def _spelled(error: float) -> str:
    return f"{error:.1e}" if error < 1e-4 else f"{error:.2%}"


def _under(
    loss: Callable[[nn.Module, Any], Tensor], batch: Any, dtype: torch.dtype | None
) -> Callable[[nn.Module], Tensor]:
    def under(network: nn.Module) -> Tensor:
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            return loss(network, batch)

    return under


def _noise(network: nn.Module, batches: list[Any], loss: Callable[[nn.Module, Any], Tensor]) -> dict[str, float]:
    """Return, by tensor, the median of ‖g - mean‖ / ‖mean‖ over the batches."""
    named = dict(network.named_parameters())
    gradients = [torch.autograd.grad(loss(network, batch), list(named.values())) for batch in batches]
    found = {}
    for name, of_batches in zip(named, zip(*gradients, strict=True), strict=True):
        mean = torch.stack(of_batches).mean(0)
        norm = float(mean.norm())
        found[name] = statistics.median(float((gradient - mean).norm()) / norm for gradient in of_batches)
    return found


def _batches(loader: Any) -> list[Any]:
    return list(islice(loader, 2 * NOISE_BATCHES))


def _text_loss(network: Any, batch: Any) -> Tensor:
    loss: Tensor = network.loss(batch)
    return loss


def _digits_loss(network: Any, batch: Any) -> Tensor:
    images, labels = batch
    loss: Tensor = network.loss(network(images), labels)
    return loss
