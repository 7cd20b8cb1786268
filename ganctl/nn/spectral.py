"""Spectral normalisation: Miyato, Kataoka, Koyama & Yoshida, 2018. arXiv:1802.05957."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpectralConv(nn.Module):
    """A convolution without bias, its weight over its largest singular value (eq. 8): uᵀ W v, W as [out, in · k · k].

    In training each use takes one step of power iteration (alg. 1); in evaluation the stored u and v are used as they
    are. Parameters and buffers carry PyTorch's names.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight_orig = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        nn.init.kaiming_uniform_(self.weight_orig, a=5**0.5)
        self.register_buffer("weight_u", F.normalize(torch.randn(outputs), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(inputs * kernel**2), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.get_buffer("weight_u"), self.get_buffer("weight_v")
        matrix = self.weight_orig.flatten(1)
        if self.training:
            with torch.no_grad():
                # New tensors: the graph of an earlier use in the same step still reads the old ones.
                v = F.normalize(matrix.T @ u, dim=0, eps=1e-12)
                u = F.normalize(matrix @ v, dim=0, eps=1e-12)
                self.get_buffer("weight_v").copy_(v)
                self.get_buffer("weight_u").copy_(u)
        else:
            u, v = u.clone(), v.clone()
        return F.conv2d(x, self.weight_orig / torch.dot(u, matrix @ v), None, self.stride, self.padding)
