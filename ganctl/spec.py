"""What a tensor means: the shape, range and names behind an array. No torch here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Image:
    """Images [N, channels, height, width]; `size` is (height, width), or None where a network takes any size."""

    size: tuple[int, int] | None
    channels: int
    range: tuple[float, float] = (-1.0, 1.0)
    numbers: bool = False
    """Whether it is a label map: a pixel's three bytes are its class, and its object's number ÷ 256 and remainder."""

    @property
    def is_point(self) -> bool:
        """Whether it is no picture but a point of the plane: one pixel, two channels (data/toy.py)."""
        return self.size == (1, 1) and self.channels == 2


@dataclass(frozen=True)
class Label:
    """Integer classes [N], 0 … n-1; `names` may be empty."""

    n: int
    names: tuple[str, ...] = ()


Spec = Image | Label
