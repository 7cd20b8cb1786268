"""Minibatch standard deviation: lets a discriminator see how varied a batch is (Karras et al. 2018, sec. 3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def minibatch_std(x: Float[Tensor, "n c h w"], group: int | None = 4, channels: int = 1) -> Float[Tensor, "n c2 h w"]:
    """Appends `channels` maps: the standard deviation over groups of samples, averaged over channels and pixels.

    A group holds samples n / group apart, StyleGAN's arrangement; None: the whole batch. The deviation is the biased
    one, + 1e-8 under the root. Where `group` does not divide n, the next smaller number that does is taken. The batch
    is what one call sees: groups span neither ranks nor micro-batches, as in the authors' code. As ranks take every
    world-th image, their groups are those of one process where `group` divides a rank's share.
    """
    n, c, h, w = x.shape
    size = next(g for g in range(min(group or n, n), 0, -1) if n % g == 0)
    y = x.reshape(size, n // size, channels, c // channels, h, w)
    y = (y.var(0, unbiased=False) + 1e-8).sqrt().mean((2, 3, 4))  # [n/size, channels]
    return torch.cat([x, y.repeat(size, 1)[:, :, None, None].expand(n, channels, h, w)], 1)


def append_std(layer: nn.Linear | nn.Conv2d, group: int) -> None:
    """Gives a network's last layer one input more: `minibatch_std` of those it has.

    Its weights for it begin at 0, so that the network begins as it was; the layer keeps its name.
    """
    first = layer.weight[:, :1]
    layer.weight = nn.Parameter(torch.cat([layer.weight.detach(), torch.zeros_like(first)], 1))
    if isinstance(layer, nn.Linear):
        layer.in_features += 1
    else:
        layer.in_channels += 1

    def widened(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = given
        maps = minibatch_std(x if x.ndim == 4 else x[:, :, None, None], group)
        return (maps if x.ndim == 4 else maps.flatten(1),)

    layer.register_forward_pre_hook(widened)
