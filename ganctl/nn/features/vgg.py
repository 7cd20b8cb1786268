"""VGG-16 and VGG-19, configurations D and E: Simonyan & Zisserman, 2015. arXiv:1409.1556, table 1.

Parameter names are torchvision's. Input is an RGB image on [0, 1], less ImageNet's mean (0.485, 0.456, 0.406), over its
deviation (0.229, 0.224, 0.225).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(channels, 3x3 convolutions) between the pools of VGG-16 …"""
BLOCKS19 = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""… and of VGG-19."""


class VGG16Features(nn.Module):
    """The convolutions of VGG-16, without the classifier: 59 MB of its 553."""

    CHANNELS = (64, 128, 256, 512, 512)
    """Of the last ReLU of each block: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""
    OUTPUTS = (3, 8, 15, 22, 29)
    """Their places in `features`."""
    MIN_SIDE = 16
    """Of an image: of a smaller one the fourth pool leaves nothing."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for channels, convolutions in _BLOCKS:
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, channels, 3, 1, 1), nn.ReLU(inplace=True)]
                inputs = channels
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)


class VGG16(VGG16Features):
    """The whole network. Precision and recall are measured on its second fully connected layer."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 1000),
        )

    def forward(self, x: Float[Tensor, "n 3 224 224"]) -> Float[Tensor, "n 4096"]:
        """fc2 after its ReLU, the features of Kynkäänniemi et al., 2019. arXiv:1904.06991, sec. 3."""
        pooled = F.adaptive_avg_pool2d(self.features(x), 7)
        return self.classifier[:5](pooled.flatten(1))


class VGG19Features(nn.Module):
    """The convolutions of VGG-19 up to the last of the layers asked for, by the names its users give them.

    convB_I is the I-th convolution of block B, 1 … 5, before its ReLU; reluB_I is after it.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        places, built, inputs = {}, [], 3
        for block, (channels, convolutions) in enumerate(BLOCKS19, 1):
            for i in range(1, convolutions + 1):
                places |= {f"conv{block}_{i}": len(built), f"relu{block}_{i}": len(built) + 1}
                # Not in place: a convolution that was asked for must stay as it is.
                built += [nn.Conv2d(inputs, channels, 3, 1, 1), nn.ReLU()]
                inputs = channels
            built.append(nn.MaxPool2d(2, 2))
        self.outputs = [places[name] for name in layers]
        self.features = nn.Sequential(*built[: max(self.outputs) + 1])

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        """The layers asked for, in that order, of RGB images normalised as above."""
        found = {}
        for place, layer in enumerate(self.features):
            found[place] = x = layer(x)
        return [found[place] for place in self.outputs]


RELUS = (4, 11, 18, 31)
"""Modules of `reflected_vgg19` up to relu1_1, relu2_1, relu3_1 and relu4_1."""


def reflected_vgg19(channels: int = 3, width: int = 64, end: int = RELUS[-1]) -> nn.Sequential:
    """VGG-19 up to relu4_1, or to `end`, as style transfer publishes it, with the numbers of that file's modules.

    A 1x1 convolution first, which takes images on [0, 1] to what the network was trained on; reflection in place of
    zeros at the border; pools that round up. `width` is that of the first block, 64 in the paper.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, 3, 1)]
    inputs = 3
    for wide, convolutions in BLOCKS19:
        for _ in range(convolutions):
            outputs = wide * width // 64
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
    for layer in layers[:end]:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:end])


@torch.no_grad()
def standardise(layers: nn.Sequential, x: Float[Tensor, "n c h w"]) -> None:
    """Scales and shifts each 3x3 filter to mean 0 and deviation 1 before its ReLU, over images and positions.

    Data-dependent initialisation: Salimans & Kingma, Weight Normalization, 2016. arXiv:1602.07868, sec. 3. Without it
    many filters of deep layers answer to no image, and never learn to.
    """
    for layer in layers:
        y = layer(x)
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            assert layer.bias is not None
            std, mean = torch.std_mean(y, (0, 2, 3))
            layer.weight /= std[:, None, None, None]
            layer.bias.copy_((layer.bias - mean) / std)
            y = (y - mean[:, None, None]) / std[:, None, None]
        x = y
