"""The perceptual loss of an inversion, as in StyleGAN2's projector: Karras et al., 2020. arXiv:1912.04958, app. D."""

from jaxtyping import Float
from torch import Tensor

from ganctl.inversion.optimize import Loss, squared_error
from ganctl.nn.features.lpips import LPIPS, lpips_input

SMALLEST = 64
"""Side of the patches LPIPS was learned on; smaller pictures show it less than their pixels do."""


def perceptual_loss(lpips: LPIPS, bounds: tuple[float, float], *, l2: bool) -> Loss:
    """LPIPS of pictures whose range is `bounds`; with `l2`, the mean squared error on [-1, 1] is added to it."""
    scale = (2 / (bounds[1] - bounds[0])) ** 2

    def loss(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"], mask: Tensor | None) -> Float[Tensor, " n"]:
        # Where no pixel counts, both show the same.
        shown = y if mask is None else mask * y + (1 - mask) * x
        found = lpips.distance(lpips_input(x, bounds), lpips_input(shown, bounds))
        return found + scale * squared_error(x, y, mask) if l2 else found

    return loss
