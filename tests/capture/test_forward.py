from __future__ import annotations

import copy
import math
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradwatch.capture.forward import ForwardWatch
from gradwatch.observations import BatchNormState, Forward, LayerInput

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def seen(module: nn.Module, *batches: Any, watch: ForwardWatch | None = None) -> Forward:
    watch = watch or ForwardWatch()
    forward = None
    for batch in batches:
        watch.begin(module)
        module(batch)
        watch.end()
        forward = watch.take()
    assert forward is not None
    return forward


def hooks_of(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def by_layer(forward: Forward) -> dict[str, LayerInput]:
    return {entry.layer: entry for entry in forward.inputs}


class Functional(nn.Module):
    """A convolution, BatchNorm, and functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.hidden = nn.Linear(3 * 9, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.norm(self.conv(x))), 2)
        x = functional.dropout(x, 0.1, training=self.training).flatten(1)
        return self.head(torch.sigmoid(self.hidden(x)))


class Channels(nn.Module):
    """A net on (batch, time, channel) with a recurrent layer, a convolution on the transposed, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 6)
        self.rnn = nn.RNN(6, 5, batch_first=True)
        self.conv = nn.Conv1d(5, 4, 3, padding=1)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.rnn(functional.relu(self.embed(x)))
        x = functional.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        x, _ = self.attention(x, x, x)
        return self.head(x.mean(1))


def test_an_mlp_is_measured_as_it_is() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x = 3 * torch.randn(32, 4) + 1
    forward = seen(net, x)
    first, second = forward.inputs
    assert (first.layer, first.is_data, first.activation, first.source) == ("0", True, None, None)
    assert first.mean == pytest.approx(float(x.mean()), rel=1e-5)
    assert first.std == pytest.approx(float(x.std(correction=0)), rel=1e-5)
    assert first.largest == pytest.approx(float(x.abs().max()))
    hidden = torch.tanh(net[0](x)).detach()
    assert (second.layer, second.is_data, second.activation, second.source) == ("2", False, "tanh", "0")
    assert second.saturated == pytest.approx(float((1 - hidden**2 < 0.01).float().mean()))
    assert math.isnan(second.dead)
    assert [entry.module for entry in forward.outputs] == ["0", "1", "2"]
    assert forward.outputs[0].largest == pytest.approx(float(net[0](x).detach().abs().max()))


def test_without_scale_only_data_has_mean_and_deviation() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 2))
    watch, x = ForwardWatch(), torch.randn(32, 4)
    whole = seen(net, x, watch=watch)
    watch.begin(net, scale=False)
    net(x)
    forward = watch.take()
    assert forward is not None
    data, hidden, plain = forward.inputs
    assert data == whole.inputs[0]
    assert hidden.saturated == whole.inputs[1].saturated
    assert (hidden.activation, hidden.source) == ("tanh", "0")
    assert all(map(math.isnan, (hidden.mean, hidden.std, plain.mean, plain.std, plain.largest)))
    assert not any(map(math.isnan, (whole.inputs[2].mean, whole.inputs[2].std)))


@pytest.mark.parametrize("change", ["layer", "weight", "frozen"])
def test_a_network_that_has_changed_is_looked_at_as_it_is(change: str) -> None:
    net: Any = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    watch, x = ForwardWatch(), torch.randn(32, 4)
    seen(net, x, watch=watch)
    if change == "layer":
        net.append(nn.Linear(2, 2))
        assert [entry.layer for entry in seen(net, x, watch=watch).inputs] == ["0", "2", "3"]
    elif change == "weight":
        net[0].weight = nn.Parameter(torch.randn(8, 4))
        assert by_layer(seen(net, x, watch=watch))["2"].source == "0"
    else:
        net[0].requires_grad_(requires_grad=False)
        assert not by_layer(seen(net, x, watch=watch))["0"].is_data


def test_saturated_sigmoids_are_counted() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        net[0].weight.mul_(20)
    x = torch.randn(32, 4)
    y = torch.sigmoid(net[0](x))
    entry = by_layer(seen(net, x))["3"]
    expected = float((4 * y * (1 - y) < 0.01).float().mean())
    assert 0.2 < expected < 1
    assert (entry.activation, entry.source) == ("sigmoid", "0")
    assert entry.saturated == pytest.approx(expected)


def test_what_is_pooled_or_dropped_is_not_said_to_be_saturated() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(8, 2))
    assert math.isnan(by_layer(seen(net, torch.randn(32, 4)))["3"].saturated)


def test_channels_of_a_flattened_map_are_its_units_and_the_source_is_before_the_norm() -> None:
    net = Functional()
    with torch.no_grad():
        net.norm.bias[1] = -100
    forward = seen(net, *(torch.randn(8, 1, 8, 8) for _ in range(4)))
    hidden, head = by_layer(forward)["hidden"], by_layer(forward)["head"]
    assert (hidden.activation, hidden.source) == ("relu", "conv")
    assert hidden.dead == pytest.approx(1 / 3)
    assert (head.activation, head.source) == ("sigmoid", "hidden")


def test_dead_units_are_known_after_four_batches_and_64_positions() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([-100.0, 100, -100, 100, 100]))
    watch = ForwardWatch()
    told = [by_layer(seen(net, torch.randn(8, 4), watch=watch))["2"].dead for _ in range(9)]
    assert all(math.isnan(share) for share in told[:7])
    assert told[7:] == pytest.approx([0.4, 0.4])
    assert by_layer(seen(net, torch.randn(8, 4), watch=watch))["2"].units == 5


def test_a_unit_that_wakes_up_is_not_dead_and_one_that_falls_asleep_is_after_four_batches() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
    watch, told = ForwardWatch(), []
    for step in range(14):
        with torch.no_grad():
            net[0].bias[:] = 100 if 4 <= step < 6 else -100
        told.append(by_layer(seen(net, torch.randn(32, 4), watch=watch))["2"].dead)
    assert told[3:] == [1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_a_batch_of_nan_neither_kills_nor_wakes() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].bias[:] = -100
    watch, nan = ForwardWatch(), torch.full((32, 4), math.nan)
    seen(net, *[torch.randn(32, 4)] * 4, watch=watch)
    bad = by_layer(seen(net, nan, watch=watch))["2"]
    assert math.isnan(bad.mean)
    assert math.isnan(bad.std)
    assert math.isnan(bad.largest)
    assert by_layer(seen(net, torch.randn(32, 4), watch=watch))["2"].dead == 1


def test_units_of_batch_time_channel_are_the_channels() -> None:
    net = Channels()
    with torch.no_grad():
        net.embed.bias[:3] = -100
        bias = net.conv.bias
        assert bias is not None
        bias.copy_(torch.tensor([-100.0, 100, 100, 100]))
    entries = by_layer(seen(net, *[torch.randn(4, 7, 3) for _ in range(4)]))
    assert (entries["rnn"].activation, entries["rnn"].source, entries["rnn"].dead) == ("relu", "embed", 0.5)
    assert (entries["attention"].activation, entries["attention"].source) == ("relu", "conv")
    assert entries["attention"].dead == 0.25
    assert (entries["conv"].activation, entries["conv"].source) == ("tanh", "rnn")
    assert entries["head"].activation is None


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (nn.ReLU(inplace=True), "relu"),
        (nn.ReLU6(), "relu"),
        (nn.Hardtanh(), None),
        (nn.LeakyReLU(), None),
        (nn.GELU(), None),
        (nn.Tanh(), "tanh"),
        (nn.Identity(), None),
    ],
)
def test_activations_with_a_dead_half_or_flat_ends_are_known(activation: nn.Module, expected: str | None) -> None:
    net = nn.Sequential(nn.Linear(4, 32), activation, nn.Linear(32, 2))
    assert by_layer(seen(net, torch.randn(64, 4)))["2"].activation == expected


def test_a_clamp_at_zero_is_a_relu() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).clamp(min=0))

    assert by_layer(seen(Net(), torch.randn(64, 4)))["b"].source == "a"


@pytest.mark.parametrize(("trained", "source"), [(True, "(root)"), (False, "norm")])
def test_a_functional_layer_behind_a_norm_is_the_source_and_the_norm_if_there_is_none(
    trained: bool,  # noqa: FBT001
    source: str,
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 4), requires_grad=trained)
            self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.norm(functional.linear(x, self.weight))))

    assert by_layer(seen(Net(), torch.randn(16, 4)))["head"].source == source


def test_layers_have_the_names_of_the_records() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2))
    watch = ForwardWatch("parameter")
    assert [entry.layer for entry in seen(net, torch.randn(8, 4)).inputs] == ["0", "2"]
    assert by_layer(seen(net, torch.randn(8, 4)))["2"].source == "0"
    assert by_layer(seen(net, torch.randn(8, 4), watch=watch))["2.weight"].layer == "2.weight"


def test_what_a_frozen_part_returns_is_data_and_what_enters_it_is_not() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    net[:2].requires_grad_(False)
    assert [entry.is_data for entry in seen(net, torch.randn(8, 4)).inputs] == [False, False, True]


def test_without_a_graph_nothing_is_data() -> None:
    net = nn.Linear(4, 4)
    watch = ForwardWatch()
    watch.begin(net)
    with torch.no_grad():
        net(100 * torch.randn(8, 4))
    assert [entry.is_data for entry in (watch.take() or Forward()).inputs] == [False]


def test_a_call_with_a_graph_counts_before_one_without() -> None:
    net = nn.Linear(4, 4)
    watch = ForwardWatch()
    watch.begin(net)
    with torch.no_grad():
        net(torch.zeros(8, 4))
    net(torch.ones(8, 4))
    net(torch.zeros(8, 4))
    forward = watch.take()
    assert forward is not None
    assert [(entry.is_data, entry.mean) for entry in forward.inputs] == [(True, 1.0)]


def test_a_start_token_of_zeros_is_no_constant_input() -> None:
    net = nn.Linear(4, 4)
    watch = ForwardWatch()
    for second, constant in ((torch.randn(8, 4), False), (torch.zeros(8, 4), True)):
        watch.begin(net)
        net(torch.zeros(8, 4))
        net(second)
        forward = watch.take()
        assert forward is not None
        assert (forward.inputs[0].std == 0) is constant


def test_a_few_equal_numbers_are_not_called_constant() -> None:
    assert math.isnan(seen(nn.Linear(1, 2), torch.ones(2, 1)).inputs[0].std)
    assert seen(nn.Linear(8, 2), torch.full((2, 8), 0.1)).inputs[0].std == 0


def test_checkpointed_segments_are_measured() -> None:
    class Net(nn.Module):
        def __init__(self, *, reentrant: bool) -> None:
            super().__init__()
            self.reentrant = reentrant
            self.a = nn.Linear(4, 8)
            self.b = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.b, torch.relu(self.a(x)), use_reentrant=self.reentrant)

    for reentrant in (False, True):
        entries = by_layer(seen(Net(reentrant=reentrant), torch.randn(8, 4)))
        assert list(entries) == ["a", "b.0", "b.2"]
        assert entries["b.2"].activation == (None if reentrant else "relu")
        assert not entries["b.2"].is_data


def test_autocast_is_seen_in_its_format() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        forward = seen(net, x)
    assert [entry.limit for entry in forward.outputs] == [torch.finfo(torch.bfloat16).max] * 3
    assert (forward.inputs[1].activation, forward.inputs[1].source) == ("relu", "0")
    hidden = torch.relu(net[0].bfloat16()(x.bfloat16())).float()
    assert forward.inputs[1].std == pytest.approx(float(hidden.detach().std(correction=0)), rel=0.01)


def test_masks_at_the_end_of_the_format_and_infinite_outputs_are_left_out() -> None:
    class Mask(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, x: Tensor) -> Tensor:
            return x.masked_fill(x > 0, self.value)

    values = [torch.finfo(torch.float32).min, -math.inf, math.nan, -3e4]
    net = nn.Sequential(*(Mask(value) for value in values))
    for part, value in zip(net, values, strict=True):
        outputs = seen(nn.Sequential(part), torch.randn(8, 4)).outputs
        assert [entry.largest for entry in outputs] == ([3e4] if value == -3e4 else [])


def test_batch_norm_tells_its_samples_mode_and_statistics() -> None:
    norm = nn.BatchNorm1d(4)
    net, watch = nn.Sequential(norm), ForwardWatch()
    expected = BatchNormState(module="0", samples=6, at_start=True, finite=True)
    assert seen(net, torch.randn(6, 4), watch=watch).batch_norms == (expected,)
    assert not seen(net, torch.randn(6, 4), watch=watch).batch_norms[0].at_start
    net.eval()
    assert norm.running_var is not None
    norm.running_var[0] = math.inf
    state = seen(net, torch.randn(6, 4)).batch_norms[0]
    assert (state.training, state.finite) == (False, False)
    without = seen(nn.BatchNorm1d(4, track_running_stats=False).eval(), torch.randn(6, 4)).batch_norms[0]
    assert (without.training, without.at_start, without.finite) == (True, False, True)


def test_a_pass_is_taken_once() -> None:
    net, watch = nn.Linear(4, 2), ForwardWatch()
    watch.begin(net)
    assert watch.take() == Forward()
    assert watch.take() is None


@pytest.mark.parametrize("make", [Functional, Channels])
def test_no_hook_stays(make: Callable[[], nn.Module]) -> None:
    net, watch = make(), ForwardWatch()
    watch.begin(net)
    assert hooks_of(net)
    watch.end()
    watch.end()
    assert not hooks_of(net)


def test_a_forward_that_raises_leaves_what_was_seen() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("broken")

    net, watch = nn.Sequential(nn.Linear(4, 2), Broken()), ForwardWatch()
    watch.begin(net)
    with pytest.raises(ValueError, match="broken"):
        net(torch.randn(2, 4))
    forward = watch.take()
    assert forward is not None
    assert [entry.layer for entry in forward.inputs] == ["0"]
    assert not hooks_of(net)


def test_a_look_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr("gradwatch.capture.forward.sample_input", fail)
    forward = seen(nn.Sequential(nn.Linear(4, 2)), torch.randn(2, 4))
    assert not forward.inputs
    assert forward.outputs


def test_a_copy_made_during_the_pass_has_no_working_hook() -> None:
    class Copying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.copies: list[Any] = []

        def forward(self, x: Tensor) -> Tensor:
            self.copies = [copy.deepcopy(self.inner), pickle.loads(pickle.dumps(self.inner))]
            return self.inner(x) + self.copies[0](x)

    net = Copying()
    x = torch.randn(2, 4)
    assert [entry.layer for entry in seen(net, x).inputs] == ["inner"]
    for clone in net.copies:
        assert torch.equal(clone(x), net.inner(x))


@pytest.mark.parametrize("odd", ["meta", "sparse", "complex", "integer", "none"])
def test_odd_inputs_are_passed_over(odd: str) -> None:
    class Net(nn.Linear):
        def forward(self, input: Any) -> Any:  # noqa: A002 - as in torch
            return input

    net = Net(4, 2)
    x = {
        "meta": torch.randn(2, 4, device="meta"),
        "sparse": torch.eye(4).to_sparse(),
        "complex": torch.randn(2, 4, dtype=torch.complex64),
        "integer": torch.ones(2, 4, dtype=torch.long),
        "none": None,
    }[odd]
    forward = seen(net, x)
    assert (forward.inputs, forward.outputs) == ((), ())


def test_function_transforms_are_left_alone() -> None:
    net, watch = nn.Linear(4, 2), ForwardWatch()
    watch.begin(net)
    torch.vmap(net)(torch.randn(3, 4))
    assert (watch.take() or Forward()).inputs == ()


def test_compiled_modules_are_left_alone() -> None:
    part = nn.Linear(4, 2)
    part.compile(backend="eager")
    net = nn.Sequential(nn.Linear(4, 4), part)
    assert [entry.layer for entry in seen(net, torch.randn(2, 4)).inputs] == ["0"]


def test_modules_with_compiled_methods_are_left_alone() -> None:
    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        @torch.compile(backend="eager")
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    net, watch = nn.Sequential(Compiled(), nn.Linear(4, 2)), ForwardWatch()
    watch.begin(net)
    assert hooks_of(net[0]) == 0
    assert hooks_of(net[1]) == 2
    watch.end()


def test_the_fast_path_of_a_transformer_in_evaluation_is_kept() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    net, watch = nn.Sequential(nn.Linear(4, 4), layer), ForwardWatch()
    watch.begin(net)
    assert not hooks_of(layer)
    layer.train()
    watch.begin(net)
    assert hooks_of(layer)
    watch.end()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("make", "shape"), [(Functional, (8, 1, 8, 8)), (Channels, (4, 7, 3))], ids=["functional", "channels"]
)
def test_training_is_bitwise_the_same(make: Callable[[], nn.Module], shape: tuple[int, ...], precision: Any) -> None:
    def train(watch: ForwardWatch | None) -> list[Tensor]:
        torch.manual_seed(1)
        net = make()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(5):
            x = torch.randn(shape)
            if watch is not None:
                watch.begin(net)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
                loss = net(x).float().square().mean()
            if watch is not None:
                watch.end()
            optimizer.zero_grad()
            loss.backward()
            if watch is not None:
                assert watch.take() is not None
            optimizer.step()
        return [*net.state_dict().values(), torch.get_rng_state()]

    for with_watch, without in zip(train(ForwardWatch()), train(None), strict=True):
        assert torch.equal(with_watch, without)
