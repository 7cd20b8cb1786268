"""A picture as it is shown: within its range, and still differentiable beyond it."""

import torch
from torch import Tensor


class Clip(torch.autograd.Function):
    """x cut to [-1, 1]; the gradient passes as if it were not.

    Networks that end without a tanh leave the range. An inversion sees the cut picture, and yet a pixel beyond white
    can come back: the cut's own gradient there would be 0.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


def clip(x: Tensor) -> Tensor:
    return Clip.apply(x)  # type: ignore[return-value]
