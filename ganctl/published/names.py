"""What StyleGAN2's layouts have in common: NVIDIA's names for the noise maps and the resampling filters."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Networks = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]
"""A config, and {net: tensors}."""
FILTER = [1, 3, 3, 1]


def noise_name(index: int) -> str:
    """Noise maps are counted through the layers: 0 is that of the 4 × 4 layer, then two a resolution."""
    side = 2 ** ((index + 5) // 2)
    return f"synthesis.b{side}.conv{0 if index % 2 else 1}.noise_const"


def blur_kernel() -> Tensor:
    """The filter as a kernel of sum 1, [4, 4]."""
    row = torch.tensor(FILTER, dtype=torch.float32)
    return torch.outer(row, row) / row.sum() ** 2


def with_filters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the resampling filters that NVIDIA's layers keep and other layouts have no names for."""
    prefixes = {m[1] for k in tensors if (m := re.match(r"((?:synthesis\.)?b\d+)\.", k))}
    layers = {m[1] for k in tensors if (m := re.fullmatch(r"(.+\.(?:fromrgb|conv\d?|skip))\.weight", k))}
    blocks = {p for p in prefixes if p != "b4"}
    return {**tensors, **{f"{p}.resample_filter": blur_kernel() for p in sorted(blocks | layers)}}
