"""Numbers that a dtype cannot hold: limits, guards and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from tests.probes.lint.kit import Kit

# -- clamps ------------------------------------------------------------------------------------------------------------


def clamp_that_float32_rounds(k: Kit) -> Tensor:
    p = k.out().float().sigmoid()
    return p.clamp(1e-8, 1 - 1e-8)  # unsafe: clamp-without-effect


def clamp_that_bfloat16_rounds(k: Kit) -> Tensor:
    p = k.out().bfloat16().sigmoid()
    return torch.clamp(p, min=1e-3, max=0.999)  # unsafe: clamp-without-effect


def clamp_that_float16_rounds(k: Kit) -> Tensor:
    return k.out().half().clamp_min(1e-10)  # unsafe: clamp-without-effect


def clamp_of_a_cosine(k: Kit) -> Tensor:
    cosine = functional.cosine_similarity(k.out().float(), k.batch)
    return cosine.clamp(-1 + 1e-8, 1 - 1e-8)  # unsafe: clamp-without-effect


def clamp_that_the_dtype_holds(k: Kit) -> Tensor:
    p = k.out().sigmoid()
    return p.float().clamp(1e-6, 1 - 1e-6) + p.double().clamp(1e-8, 1 - 1e-8) + p.half().clamp(1e-3, 0.999)


def clamp_to_whole_numbers(k: Kit) -> Tensor:
    return k.out().clamp(0, 1) + k.out().half().clamp(-1.0, 1.0) + k.out().clamp(min=0.1)


# -- guards ------------------------------------------------------------------------------------------------------------


def quotient_with_an_eps_that_float16_loses(k: Kit) -> Tensor:
    z = k.out().half()
    return z / (z.abs() + 1e-12)  # unsafe: eps-without-effect


def log_with_an_eps_that_float16_loses(k: Kit) -> Tensor:
    return (functional.relu(k.out().half()) + 1e-8).log()  # unsafe: eps-without-effect


def rms_norm_with_an_eps_that_float16_loses(k: Kit) -> Tensor:
    z = k.out().half()
    return z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-8)  # unsafe: eps-without-effect


def inverse_beyond_float16(k: Kit) -> Tensor:
    return 1 / (functional.relu(k.out().half()) + 1e-6)  # unsafe: eps-without-effect


def root_with_an_eps_that_float16_loses(k: Kit) -> Tensor:
    return ((k.out().half() ** 2).sum(-1) + 1e-10).sqrt()  # unsafe: eps-without-effect


def guards_that_the_dtype_holds(k: Kit) -> Tensor:
    z = k.out()
    first = z.bfloat16() / (z.bfloat16().abs() + 1e-12) + z.half() / (z.half().abs() + 1e-4)
    return first.float() + z.float() * torch.rsqrt(z.float().pow(2).mean(-1, keepdim=True) + 1e-8)


# -- masks -------------------------------------------------------------------------------------------------------------


def two_masks_of_the_smallest_number(k: Kit) -> Tensor:
    lowest = torch.finfo(torch.float32).min
    first = torch.zeros(8, 5).masked_fill(k.keep, lowest)
    second = torch.where(k.weights > 0.5, lowest, 0.0)
    return (k.out().float() + first + second).softmax(-1)  # unsafe: mask-overflow


def one_mask_added_twice(k: Kit) -> Tensor:
    mask = (1.0 - k.weights.round()) * torch.finfo(torch.float32).min
    scores = k.out().float() + mask
    return (scores + mask).softmax(-1)  # unsafe: mask-overflow


def sum_of_masks(k: Kit) -> Tensor:
    causal = torch.full((5, 5), torch.finfo(torch.float32).min).triu(1)
    padding = (~k.keep[:5]).float() * torch.finfo(torch.float32).min
    mask = causal + padding  # unsafe: mask-overflow
    return (k.out()[:5].float() + mask).softmax(-1)


def smallest_number_of_float16(k: Kit) -> Tensor:
    scores = k.out().half()
    return (scores + (~k.keep).half() * torch.finfo(torch.float16).min).softmax(-1)  # unsafe: mask-overflow


def masks_that_are_joined(k: Kit) -> Tensor:
    lowest = torch.finfo(torch.float32).min
    filled = k.out().float().masked_fill(k.keep | (k.weights > 0.5), lowest)
    return filled.softmax(-1)


def one_mask_of_the_smallest_number(k: Kit) -> Tensor:
    mask = (~k.keep).float() * torch.finfo(torch.float32).min
    return (k.out().float() + mask).softmax(-1)


def two_masks_of_minus_infinity(k: Kit) -> Tensor:
    causal = torch.full((8, 5), -torch.inf).triu(1)
    padding = torch.zeros(8, 5).masked_fill(k.weights < 0, -torch.inf)
    return (k.out() + causal + padding).softmax(-1)


def two_masks_of_a_billion(k: Kit) -> Tensor:
    first = (~k.keep).float() * -1e9
    return (k.out() + first + (k.weights < 0.5) * -1e9).softmax(-1)


def mask_beyond_float16(k: Kit) -> Tensor:
    mask = (~k.keep).half() * -1e9  # unsafe: mask-beyond-range
    return (k.out().half() + mask).softmax(-1)


def mask_beyond_float16_by_a_cast(k: Kit) -> Tensor:
    mask = torch.where(k.keep, 0.0, -1e9)
    return (k.out().half() + mask.half()).softmax(-1)  # unsafe: mask-beyond-range


def mask_beyond_bfloat16_by_a_cast(k: Kit) -> Tensor:
    mask = torch.zeros(8, 5).masked_fill(k.keep, torch.finfo(torch.float32).min)
    return (k.out().bfloat16() + mask.to(torch.bfloat16)).softmax(-1)  # unsafe: mask-beyond-range


def mask_that_float16_holds(k: Kit) -> Tensor:
    return (k.out().half() + (~k.keep).half() * -1e4).softmax(-1)
