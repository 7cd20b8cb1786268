"""AlexNet in one column, as torchvision publishes it: Krizhevsky, 2014. arXiv:1404.5997, sec. 5, footnote 1.

Parameter names are torchvision's. The classifier is left out: only the convolutions serve as features.
"""

from torch import nn


class AlexNet(nn.Module):
    """The convolutions of AlexNet."""

    CHANNELS = (64, 192, 384, 256, 256)
    """Of the five ReLUs."""
    OUTPUTS = (1, 4, 7, 9, 11)
    """Their places in `features`."""
    MIN_SIDE = 31
    """Of an image: of a smaller one the second pool leaves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, 1, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, 1, 1),
            nn.ReLU(inplace=True),
        )
