"""VGG-16, configuration D: Simonyan & Zisserman, 2015. arXiv:1409.1556, table 1.

Parameter names are torchvision's. Input is an RGB image on [0, 1], less ImageNet's mean (0.485, 0.456, 0.406), over its
deviation (0.229, 0.224, 0.225).
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(channels, 3x3 convolutions) between the pools."""


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
