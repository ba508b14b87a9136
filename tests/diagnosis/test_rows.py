from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from gradwatch.diagnosis.memory import FINITE, Read
from gradwatch.diagnosis.rows import guilty_rows

if TYPE_CHECKING:
    from torch import Tensor

INF, NAN = math.inf, math.nan


def reads(*tensors: Tensor) -> list[Read]:
    return [Read(tensor, tensor, FINITE, [], "") for tensor in tensors]


def test_the_bad_rows_of_the_output_are_guilty() -> None:
    output = torch.zeros(4, 3)
    output[1, 2] = output[3, 0] = NAN
    assert guilty_rows("log", [], output) == ([1, 3], 4)


def test_a_loss_that_is_one_number_has_no_rows() -> None:
    assert guilty_rows("mean", reads(torch.ones(3)), torch.tensor(NAN)) == ([], None)


def log_probabilities() -> Tensor:
    return torch.zeros(4, 3).index_put_((torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1])), torch.tensor(-INF))


def test_the_rows_whose_own_class_is_impossible_are_guilty_of_an_infinite_loss() -> None:
    targets = torch.tensor([2, 1, 1, 0])
    assert guilty_rows("nll_loss", reads(log_probabilities(), targets), torch.tensor(INF)) == ([0, 2], 4)


def test_an_ignored_target_is_not_guilty() -> None:
    targets = torch.tensor([2, -100, 0, 0])
    log_p = log_probabilities()
    log_p[1, 0] = -INF
    assert guilty_rows("nll_loss", reads(log_p, targets), torch.tensor(INF)) == ([0], 4)


def test_a_loss_over_positions_has_no_rows() -> None:
    images = torch.zeros(2, 3, 4)
    assert guilty_rows("nll_loss", reads(images, torch.zeros(2, 4).long()), torch.tensor(INF)) == ([], None)
