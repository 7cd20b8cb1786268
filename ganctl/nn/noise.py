"""Fresh noise for a synthesis network: the draws of a training run, or those of a generator for each image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Draw = Callable[..., Tensor]
"""draw(n, *shape) → N(0, 1) [n, *shape], a map for each of n images: `Progress.normal` is one."""


def drawn_by(generators: Sequence[torch.Generator], device: torch.device) -> Draw:
    """Noise for each image from a generator of its own, wherever that is."""

    def draw(n: int, *shape: int) -> Tensor:
        drawn = [torch.randn(shape, generator=g, device=g.device) for _, g in zip(range(n), generators, strict=True)]
        return torch.stack(drawn).to(device)

    return draw
