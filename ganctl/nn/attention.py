"""Self-attention over the positions of a feature map: Zhang, Goodfellow, Metaxas & Odena, 2019. arXiv:1805.08318."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.nn.spectral import SNConv2d


class SelfAttention(nn.Module):
    """γ o + x  (eq. 3), o = W_o Σᵢ βⱼᵢ g(xᵢ) with β the softmax over i of f(xᵢ)ᵀ h(xⱼ)  (eq. 1 and 2); γ begins at 0.

    The keys f (here `phi`) and values g are max-pooled 2 × 2 (the authors' code). Keys as in Brock et al. 2019's code.
    """

    def __init__(self, channels: int, *, eps: float = 1e-12, spectral: bool = True) -> None:
        super().__init__()
        inner, half = max(1, channels // 8), max(1, channels // 2)
        self.theta, self.phi, self.g = (
            SNConv2d(channels, n, 1, bias=False, eps=eps, spectral=spectral) for n in (inner, inner, half)
        )
        self.o = SNConv2d(half, channels, 1, bias=False, eps=eps, spectral=spectral)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        theta = self.theta(x).flatten(2)  # [N, C/8, HW]
        phi = F.max_pool2d(self.phi(x), 2).flatten(2)  # [N, C/8, HW/4]
        g = F.max_pool2d(self.g(x), 2).flatten(2)  # [N, C/2, HW/4]
        beta = (theta.transpose(1, 2) @ phi).softmax(2)  # [N, HW, HW/4]
        o = self.o((g @ beta.transpose(1, 2)).unflatten(2, x.shape[2:]))
        return self.gamma * o + x
