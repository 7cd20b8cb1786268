"""The perceptual loss: a distance of features of VGG-19, which was trained on ImageNet and stays as it is.

Johnson, Alahi & Fei-Fei, 2016. arXiv:1603.08155, sec. 3.2. SRGAN's is the squared error at relu5_4 (eq. 5), ESRGAN's
the L1 distance at conv5_4 (sec. 3.3), that of pix2pixHD's code L1 distances at relu1_1 … relu5_1, weighted 1/32 … 1.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ganctl.nn.features.vgg import VGG19Features

VGG19 = "vgg19-imagenet"
"""The zoo entry of the weights."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of RGB on [0, 1]."""
SMALLEST = 16
"""Side of an image: of a smaller one the fourth pool leaves nothing."""


class Perceptual(VGG19Features):
    """φ: VGG-19 up to the last of `layers`, each given with its weight in the loss, such as {"relu5_4": 1.0}.

    A member of a family's Nets that is neither trained nor saved: the loop passes it by, and training fills it with the
    weights that the family's `given` names.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: Mapping[str, float]) -> None:
        super().__init__(list(layers))
        self.weights = list(layers.values())
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def of(self, x: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        """φ(x) at each of the layers, of grey or RGB images on [-1, 1]. Raises ValueError for too small ones."""
        if min(x.shape[2:]) < SMALLEST:
            size = f"{x.shape[3]}x{x.shape[2]}"
            raise ValueError(f"images are {size}, and the perceptual loss needs {SMALLEST} pixels on both sides")
        return self(((x + 1) / 2 - self.mean) / self.deviation)

    def distance(
        self,
        x: Float[Tensor, "n c h w"],
        y: Float[Tensor, "n c h w"],
        error: Callable[[Tensor, Tensor], Tensor] = F.l1_loss,
    ) -> Float[Tensor, ""]:
        """Σ wᵢ ‖φᵢ(x) - φᵢ(y)‖, a mean over each layer's numbers. The gradient goes to x alone."""
        with torch.no_grad():
            wanted = self.of(y)
        errors = [w * error(a, b) for w, a, b in zip(self.weights, self.of(x), wanted, strict=True)]
        return torch.stack(errors).sum()


def gram(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c c"]:
    """φ φᵀ: products of channels, summed over positions, over the number of values c h w (Gatys et al. 2016, eq. 3)."""
    flat = x.flatten(2)
    return flat @ flat.mT / x[0].numel()
