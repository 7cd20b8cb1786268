"""Penalties on gradients: a discriminator's with respect to images, a generator's to its styles."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.nn.norm import rank_mean
from ganctl.phase import Progress, Terms


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
    return (gradient_norms(D, interpolated(real, fake, alpha)) - 1).square().mean()


def interpolated(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """x̂ = α x + (1 - α) x̃, one α per sample."""
    alpha = alpha.view(-1, *[1] * (real.ndim - 1))
    return alpha * real + (1 - alpha) * fake


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


@torch.no_grad()
def clip_weights(D: nn.Module, c: float) -> None:
    """w ← clip(w, -c, c)  (Arjovsky et al. 2017, alg. 1, line 7)."""
    for w in D.parameters():
        w.clamp_(-c, c)


def orthogonality(weights: Iterable[Tensor]) -> Tensor:
    """Σ ‖W Wᵀ ⊙ (1 - I)‖²_F, W as [out, rest]: inner products of a weight's rows (Brock et al. 2019, eq. 3)."""
    total = []
    for weight in weights:
        rows = weight.flatten(1)
        products = rows @ rows.T
        total.append((products - products.diagonal().diag()).square().sum())
    return torch.stack(total).sum()


def path_lengths(
    image: Float[Tensor, "n c h w"], ws: Float[Tensor, "n l d"], normal: Float[Tensor, "n c h w"]
) -> Float[Tensor, " n"]:
    """‖J_wᵀ y‖₂ for each sample  (Karras et al. 2020, eq. 4), `image` made of `ws` and `normal` from N(0, I).

    The root mean square over the layers, and y over √(h w), as in the authors' code: lengths of one size at any depth
    and resolution.
    """
    y = normal / (image.shape[2] * image.shape[3]) ** 0.5
    (grad,) = torch.autograd.grad((image * y).sum(), ws, create_graph=True)
    return grad.square().sum(2).mean(1).sqrt()


def path_length_penalty(
    lengths: Float[Tensor, " n"], mean: Float[Tensor, ""], decay: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, ""]]:
    """(length - a)² for each sample, and a: the running mean after a step of `decay` towards this batch's.

    Differentiable through a too (the authors' code). The batch is that of all ranks.
    """
    a = mean.lerp(rank_mean(lengths.mean()), decay)
    return (lengths - a).square(), a


def consistency(plain: Tensor, augmented: Tensor) -> Tensor:
    """E (D(x) - D(T(x)))², from the logits of images and of the same images augmented."""
    return (plain - augmented).square().mean()


BCR_WEIGHT = 10.0
"""λ of real and of generated images (Zhao et al. 2020, arXiv:2002.04724)."""


def balanced_consistency(
    D: Callable[[Tensor], Tensor], p: Progress, real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]
) -> Terms:
    """λ E (D(x) - D(T(x)))² + λ E (D(G(z)) - D(T(G(z))))²  (bCR; Zhao et al. 2020, alg. 1), a part of D's loss.

    `real` and `fake`: images as D sees them, and their logits. T is `p.vary`; there are no terms where it is None.
    """
    if p.vary is None:
        return {}
    terms = {"D_bcr_real": real, "D_bcr_fake": fake}
    return {name: BCR_WEIGHT * consistency(logits, D(p.vary(x))) for name, (x, logits) in terms.items()}
