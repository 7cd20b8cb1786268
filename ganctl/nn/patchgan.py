"""PatchGAN: a discriminator that judges overlapping patches (Isola et al. 2017, sec. 3.2.2 and appendix 6.1.2)."""

from jaxtyping import Float
from torch import Tensor, nn

from ganctl.nn.norm import NORMS


class PatchGAN(nn.Module):
    """C64-C128-C256-C512 and one output channel; n_layers = 3 sees 70 × 70 pixels. Returns logits, a map.

    Leaky ReLU 0.2; no norm in the first and last layer; a convolution before a batch norm has no bias.
    """

    def __init__(self, channels: int, *, ndf: int = 64, n_layers: int = 3, norm: str = "batch") -> None:
        super().__init__()
        bias = norm != "batch"
        layers: list[nn.Module] = [nn.Conv2d(channels, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = ndf
        for i in range(1, n_layers + 1):
            out = ndf * min(2**i, 8)
            stride = 2 if i < n_layers else 1  # the last widening keeps the map's size
            layers += [nn.Conv2d(width, out, 4, stride, 1, bias=bias), NORMS[norm](out), nn.LeakyReLU(0.2)]
            width = out
        layers += [nn.Conv2d(width, 1, 4, 1, 1)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h2 w2"]:
        return self.model(x)
