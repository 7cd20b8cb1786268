"""Spectral normalisation: Miyato, Kataoka, Koyama & Yoshida, 2018. arXiv:1802.05957."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize


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


def singular(weight: Tensor, u: Tensor, eps: float, *, training: bool) -> Tensor:
    """W / σ(W), W as [out, rest]: one step of power iteration from u [1, out] (alg. 1), in evaluation too.

    Training keeps the new u, evaluation does not. Brock et al. 2019's code, whose weights are published so.
    """
    matrix = weight.flatten(1)
    with torch.no_grad():
        v = F.normalize(u @ matrix, dim=1, eps=eps)
        new = F.normalize(v @ matrix.T, dim=1, eps=eps)
        if training:
            u.copy_(new)
    return weight / (new @ matrix @ v.T).squeeze()


class SNConv2d(nn.Module):
    """A convolution of the same size, for odd k, by W / σ(W). Keys `weight`, `bias`, `u0`.

    Without `spectral` it is by W itself, and has no u0.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, bias: bool = True, eps: float = 1e-12, spectral: bool = True
    ) -> None:
        super().__init__()
        self.eps, self.spectral = eps, spectral
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        _begin(self, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, _weight(self), self.bias, padding=self.weight.shape[-1] // 2)


class SNLinear(nn.Module):
    """A linear map by W / σ(W). Keys and `spectral` as `SNConv2d`'s."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, eps: float = 1e-12, spectral: bool = True
    ) -> None:
        super().__init__()
        self.eps, self.spectral = eps, spectral
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        _begin(self, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, _weight(self), self.bias)


class SNEmbedding(nn.Module):
    """A vector for each class: rows of W / σ(W). Keys `weight`, `u0`, which has as many entries as classes."""

    def __init__(self, classes: int, outputs: int, *, eps: float = 1e-12) -> None:
        super().__init__()
        self.eps, self.spectral = eps, True
        self.weight = nn.Parameter(torch.empty(classes, outputs))
        _begin(self, classes)

    def forward(self, c: Tensor) -> Tensor:
        return F.embedding(c, _weight(self))


def _begin(layer: SNConv2d | SNLinear | SNEmbedding, rows: int) -> None:
    nn.init.orthogonal_(layer.weight)  # Brock et al. 2019, appendix B: "orthogonal initialization"
    if layer.spectral:
        layer.register_buffer("u0", torch.randn(1, rows))


def _weight(layer: SNConv2d | SNLinear | SNEmbedding) -> Tensor:
    if not layer.spectral:
        return layer.weight
    return singular(layer.weight, layer.get_buffer("u0"), layer.eps, training=layer.training)


class Divided(nn.Module):
    """W → W / σ(W), σ = uᵀ W v, W as [out, rest]  (eq. 8): for a plain layer's weight. In training each use takes one
    step of power iteration (alg. 1); in evaluation the stored u and v are used as they are. In float32.
    """

    WARM = 15
    """Steps before the first use, as PyTorch takes: a network is drawn from before it is trained."""

    def __init__(self, weight: Tensor, *, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed
        matrix = self.matrix(weight.detach())
        self.register_buffer("u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(matrix.shape[1]), dim=0))
        for _ in range(self.WARM):
            self.step(matrix)

    def matrix(self, weight: Tensor) -> Tensor:
        return (weight.transpose(0, 1) if self.transposed else weight).flatten(1)

    @torch.no_grad()
    def step(self, matrix: Tensor) -> None:
        u, v = self.get_buffer("u"), self.get_buffer("v")
        v.copy_(F.normalize(matrix.T @ u, dim=0, eps=1e-12))
        u.copy_(F.normalize(matrix @ v, dim=0, eps=1e-12))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            matrix = self.matrix(weight)
            if self.training:
                self.step(matrix)
            # Clones: the graph of this use still reads them when the next one has taken its step.
            return weight / torch.dot(self.get_buffer("u").clone(), matrix @ self.get_buffer("v").clone())


PLAIN = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
OWN = (SpectralConv, SNConv2d, SNLinear, SNEmbedding)
"""Layers that divide their weight themselves."""
SUFFIX = ".parametrizations.weight.original"
"""Ends the name of a weight that is divided, in a state dict."""


def divide(net: nn.Module) -> None:
    """Makes every convolution and linear map of a network one by W / σ(W)."""
    for layer in [m for m in net.modules() if isinstance(m, PLAIN)]:
        divided = Divided(layer.weight, transposed=isinstance(layer, nn.ConvTranspose2d))
        parametrize.register_parametrization(layer, "weight", divided, unsafe=True)


def is_divided(names: Iterable[str]) -> bool:
    """Whether a state dict of these names is of a network that `divide` changed."""
    return any(name.endswith(SUFFIX) for name in names)
