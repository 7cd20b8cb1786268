"""Penalties on a discriminator's gradient."""

from collections.abc import Callable

import torch
from torch import Tensor


def gradient_norms(D: Callable[[Tensor], Tensor], x: Tensor, *, create_graph: bool = True) -> Tensor:
    """‖∇ₓ D(x)‖₂ for each sample, [N], in float32 under autocast too.

    The tiny offset keeps the root differentiable at a zero gradient.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.detach().float().requires_grad_(True)
        logits = D(x)
        (grad,) = torch.autograd.grad(logits.sum(), x, create_graph=create_graph)
        return (grad.flatten(1) + 1e-16).norm(dim=1)


def gradient_penalty(D: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """E (‖∇ D(x̂)‖₂ - 1)², x̂ = α x + (1 - α) x̃, α ~ U[0, 1] per sample  (Gulrajani et al. 2017, eq. 3)."""
    alpha = alpha.view(-1, *[1] * (real.ndim - 1))
    return (gradient_norms(D, alpha * real + (1 - alpha) * fake) - 1).square().mean()


def logits_and_penalty(D: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """D(x) and ‖∇ₓ D(x)‖² for each sample, both [N] and fit for a backward pass, in float32 under autocast too.

    The penalty's mean, times γ / 2, is R1 where x are real images and R2 where they are generated ones, through which
    no gradient flows  (Mescheder et al. 2018, eq. 9, 10).
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.detach().float().requires_grad_(True)
        logits = D(x)
        (grad,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        return logits, grad.square().flatten(1).sum(1)
