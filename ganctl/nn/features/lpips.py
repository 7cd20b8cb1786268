"""LPIPS 0.1, the learned perceptual distance: Zhang et al., 2018. arXiv:1801.03924, sec. 3, eq. 1."""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ganctl.nn.features.alexnet import AlexNet
from ganctl.nn.features.squeezenet import SqueezeNet
from ganctl.nn.features.vgg import VGG16Features

Backbone = Literal["alex", "vgg", "squeeze"]
BACKBONES: dict[Backbone, type[AlexNet | VGG16Features | SqueezeNet]] = {
    "alex": AlexNet,
    "vgg": VGG16Features,
    "squeeze": SqueezeNet,
}

SIDE = 256
"""Pictures twice as large and more are shrunk by a whole factor, to this side or a little more, and then compared."""


class LPIPS(nn.Module):
    """The distance of two images over the features of one of BACKBONES.

    `net` has torchvision's parameter names, `heads` those of the published heads: lin0.model.1.weight, ….
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.net = BACKBONES[backbone]()
        self.min_side = self.net.MIN_SIDE
        # Index 0 is a dropout in the authors' module; it acted only while the heads were trained.
        self.heads = nn.ModuleDict(
            {
                f"lin{k}": nn.ModuleDict({"model": nn.Sequential(nn.Identity(), nn.Conv2d(c, 1, 1, bias=False))})
                for k, c in enumerate(self.net.CHANNELS)
            }
        )
        # ImageNet's mean and deviation for images on [-1, 1], rounded as the authors did.
        for name, values in (("shift", (-0.030, -0.088, -0.188)), ("scale", (0.458, 0.448, 0.450))):
            self.register_buffer(name, torch.tensor(values, device="cpu").reshape(1, 3, 1, 1), persistent=False)

    def maps(self, x: Float[Tensor, "n 3 h w"], y: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _"]]:
        """One map of weighted squared differences per layer, from RGB images on [-1, 1].

        Each place's features are divided by their norm over the channels first. Two equal images give zeros exactly.
        Raises ValueError for images too small for the network.
        """
        if min(x.shape[2:]) < self.min_side:
            size = f"{x.shape[3]}x{x.shape[2]}"
            raise ValueError(f"images are {size}, and this network needs {self.min_side} pixels on both sides")
        x, y = ((image - self.shift) / self.scale for image in (x, y))
        maps: list[Tensor] = []
        # Both side by side, so that only one layer of each is in memory.
        for head, (before, end) in zip(self.heads.values(), pairwise((-1, *self.net.OUTPUTS)), strict=True):
            layers = self.net.features[before + 1 : end + 1]
            x, y = layers(x), layers(y)
            maps.append(head["model"]((_unit(x) - _unit(y)) ** 2).squeeze(1))  # type: ignore[index]
        return maps

    def distance(self, x: Float[Tensor, "n 3 h w"], y: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """The means of the maps, summed over the layers (eq. 1). Differentiable in both images."""
        return torch.stack([layer.mean((1, 2)) for layer in self.maps(x, y)]).sum(0)


def lpips_input(x: Float[Tensor, "n c h w"], bounds: tuple[float, float]) -> Float[Tensor, "n 3 h2 w2"]:
    """Grey or RGB pictures of a generator, whose range is `bounds`, as RGB on [-1, 1].

    Large ones are shrunk to about SIDE by averaging blocks, as in StyleGAN's path length and StyleGAN2's projector.
    """
    factor = min(x.shape[2:]) // SIDE
    if factor > 1:
        x = F.interpolate(x, (x.shape[2] // factor, x.shape[3] // factor), mode="area")
    low, high = bounds
    return ((x - low) * (2 / (high - low)) - 1).expand(-1, 3, -1, -1)


def _unit(x: Tensor) -> Tensor:
    # vector_norm has a gradient at zero too, where no channel is active; a square root of the sum has none.
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)
