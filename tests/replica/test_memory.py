from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from gradwatch.replica import memory
from gradwatch.replica.memory import bytes_needed, fits, free_bytes

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
MIB = 2**20


def model() -> nn.Module:
    """Weights 4 * (8 * 4 + 4), of which the bias is frozen; buffers 4 * (4 + 4) + 8, weights of the norm 4 * 8."""
    module = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    module[0].bias.requires_grad_(False)
    return module


WEIGHTS, FROZEN, BUFFERS = 4 * (32 + 4 + 8), 4 * 4, 4 * 8 + 8


def needed(module: nn.Module, *optimizers: Any, state: bool = False, share: bool = False) -> dict[torch.device, int]:
    return bytes_needed(module, optimizers, with_optimizer_state=state, share_weights=share)


def test_weights_buffers_and_gradients_are_counted() -> None:
    assert needed(model()) == {CPU: WEIGHTS + BUFFERS + WEIGHTS - FROZEN}
    assert needed(model(), share=True) == {CPU: BUFFERS + WEIGHTS - FROZEN}


def test_tied_weights_and_lists_count_once() -> None:
    module: Any = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    module.plain = [torch.zeros(4), module[0].weight]
    assert needed(module) == {CPU: 2 * 64 + 16}


def test_optimizer_state_counts_if_it_is_copied() -> None:
    module = nn.Linear(8, 8, bias=False)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    assert needed(module, optimizer) == {CPU: 2 * 256}
    assert needed(module, optimizer, state=True) == {CPU: 2 * 256 + 2 * 256 + 4}


def test_parameters_that_only_an_optimizer_knows_count() -> None:
    outside = nn.Parameter(torch.zeros(4))
    assert needed(nn.Module(), torch.optim.SGD([outside], lr=0.1)) == {CPU: 32}


def test_devices_are_counted_apart_and_meta_takes_nothing() -> None:
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, device="meta"))
    assert needed(module) == {CPU: 128, torch.device("meta"): 0}
    assert fits(needed(module))


def test_lazy_modules_take_what_they_have() -> None:
    assert needed(nn.Sequential(nn.LazyLinear(3), nn.Linear(1, 1, bias=False))) == {CPU: 8}


# -- what is free ------------------------------------------------------------------------------------------------------


def test_this_machine_has_some_memory() -> None:
    free = free_bytes(CPU)
    assert free is None or MIB < free < 2**50


def test_what_is_unknown_counts_as_enough() -> None:
    assert free_bytes(torch.device("meta")) is None
    assert fits({torch.device("meta"): 2**60})


def test_the_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_free_host_bytes", lambda: 1000)
    assert fits({CPU: 500})
    assert not fits({CPU: 501})
    assert fits({CPU: 900}, share=0.9)
    assert fits({})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cached_memory_of_a_cuda_device_is_free() -> None:
    device = torch.device("cuda:0")
    before = free_bytes(device)
    held = torch.empty(64 * MIB, dtype=torch.uint8, device=device)
    during = free_bytes(device)
    del held
    after = free_bytes(device)
    assert before is not None
    assert during is not None
    assert after is not None
    assert during <= before - 60 * MIB
    assert after >= during + 64 * MIB


class Host:
    """A made-up /proc and /sys/fs/cgroup."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        monkeypatch.setattr(memory, "MEMINFO", root / "meminfo")
        monkeypatch.setattr(memory, "CGROUPS", root / "groups")
        monkeypatch.setattr(memory, "CGROUP_ROOT", root / "fs")

    def write(self, **files: object) -> None:
        for name, text in files.items():
            path = self.root / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_nothing_known(host: Host) -> None:
    assert free_bytes(CPU) is None
    host.write(meminfo="MemAvailable: x", groups="nonsense")
    assert free_bytes(CPU) is None


def test_no_limit(host: Host) -> None:
    host.write(meminfo="MemTotal: 9 kB\nMemAvailable:   5 kB", groups="0::/a")
    host.write(fs__a__memory_DOT_max="max", fs__a__memory_DOT_current=1)
    assert free_bytes(CPU) == 5 * 1024


def test_the_tightest_group_bounds(host: Host) -> None:
    host.write(meminfo="MemAvailable: 1000000 kB", groups="0::/a/b")
    host.write(fs__a__memory_DOT_max=1000, fs__a__memory_DOT_current=300)
    host.write(fs__a__b__memory_DOT_max=2000, fs__a__b__memory_DOT_current=100)
    assert free_bytes(CPU) == 700
    host.write(fs__a__memory_DOT_stat="anon 200\ninactive_file 50")
    assert free_bytes(CPU) == 750


def test_the_path_of_the_host_inside_of_a_container(host: Host) -> None:
    host.write(meminfo="MemAvailable: 1000000 kB", groups="0::/not/mounted/here")
    host.write(fs__memory_DOT_max=1000, fs__memory_DOT_current=1200)
    assert free_bytes(CPU) == 0


def test_the_older_groups(host: Host) -> None:
    host.write(meminfo="MemAvailable: 1000000 kB", groups="7:cpu:/a\n5:memory,x:/a")
    host.write(fs__memory__a__memory_DOT_limit_in_bytes=1000, fs__memory__a__memory_DOT_usage_in_bytes=400)
    host.write(fs__memory__memory_DOT_limit_in_bytes=2**63 - 4096, fs__memory__memory_DOT_usage_in_bytes=400)
    assert free_bytes(CPU) == 600
