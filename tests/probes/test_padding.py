from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from gradwatch.probes.padding import PaddingWatch

WORDS = torch.tensor([[0, 1], [2, 0]])


def masks(*modules: nn.Module) -> dict[str, list[float]]:
    """Run modules on words; return the first column of each mask."""
    watch = PaddingWatch()
    with watch:
        for module in modules:
            module(WORDS)
    named = {f"{i}": parameter for i, module in enumerate(modules) for parameter in module.parameters()}
    return {name: mask[:, 0].tolist() for name, mask in watch.masks(named).items()}


def test_the_row_of_a_padding_index_does_not_move() -> None:
    assert masks(nn.Embedding(4, 2, padding_idx=2)) == {"0": [1.0, 1.0, 0.0, 1.0]}
    assert masks(nn.Embedding(4, 2, padding_idx=-1)) == {"0": [1.0, 1.0, 1.0, 0.0]}


def test_nor_that_of_a_bag() -> None:
    assert masks(nn.EmbeddingBag(4, 2, padding_idx=1)) == {"0": [1.0, 0.0, 1.0, 1.0]}


def test_without_a_padding_index_all_rows_move() -> None:
    assert masks(nn.Embedding(4, 2), nn.EmbeddingBag(4, 2)) == {}


def test_two_look_ups_have_rows_of_their_own() -> None:
    found = masks(nn.Embedding(3, 2, padding_idx=0), nn.Embedding(3, 2, padding_idx=1))
    assert found == {"0": [0.0, 1.0, 1.0], "1": [1.0, 0.0, 1.0]}


def test_a_look_up_by_function_counts_by_position_and_by_name() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    watch = PaddingWatch()
    with watch:
        functional.embedding(WORDS, weight, 0)
        functional.embedding(WORDS, weight=weight, padding_idx=1)
    mask = watch.masks({"w": weight})["w"]
    assert mask.tolist() == [[0, 0], [0, 0], [1, 1]]
    assert not mask.requires_grad


def test_a_weight_that_is_not_trained_has_no_mask() -> None:
    watch = PaddingWatch()
    with watch:
        nn.Embedding(3, 2, padding_idx=0)(WORDS)
    assert watch.masks({"other": torch.ones(3, 2)}) == {}
