"""How an image becomes Inception's input: the three protocols behind published FIDs, which differ by resize alone.

legacy_tensorflow  TensorFlow 1's bilinear rule without the half-pixel offset, then (x - 128) / 128: the original TTUR
                   code, StyleGAN, torch-fidelity, and so most published numbers.
legacy_pytorch     PyTorch's bilinear rule with half pixels, without antialiasing, on [0, 1], then 2x - 1: pytorch-fid.
clean              Pillow's antialiased bicubic on float channels, clipped, not rounded, then (x - 128) / 128: Parmar,
                   Zhang & Zhu, 2022. arXiv:2104.11222.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

SIDE = 299
MODES = ("legacy_tensorflow", "legacy_pytorch", "clean")


def tensorflow_bilinear(x: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c h2 w2"]:
    """Bilinear with source position i · in/out (no half pixel), neighbours clamped, weights in the dtype of x.

    With aligned corners PyTorch's position is i · (in - 1)/(out - 1). One more pixel on both sides, the last repeated,
    makes that the same number, rounded alike, in one fused pass; the pixel that is then too much is cut off.
    """
    height, width = size
    larger = F.pad(x, (0, 1, 0, 1), mode="replicate")
    return F.interpolate(larger, (height + 1, width + 1), mode="bilinear", align_corners=True)[:, :, :height, :width]


def pillow_float(
    pixels: UInt8[np.ndarray, "h w c"], size: tuple[int, int], filter: str = "bicubic"
) -> Float[np.ndarray, "h2 w2 c"]:
    """Pillow's antialiased resize of each channel in 32-bit float (mode F), clipped to 0 … 255, not rounded."""
    from PIL import Image

    kernel = Image.Resampling[filter.upper()]
    height, width = size
    channels = [
        np.asarray(Image.fromarray(pixels[:, :, c].astype(np.float32)).resize((width, height), kernel))
        for c in range(pixels.shape[2])
    ]
    return np.stack(channels, axis=-1).clip(0, 255)


def _legacy_tensorflow(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 299 299"]:
    return (tensorflow_bilinear(x, (SIDE, SIDE)) - 128) / 128


def _legacy_pytorch(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 299 299"]:
    return 2 * F.interpolate(x / 255, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def _clean(x: Float[Tensor, "n 3 299 299"]) -> Float[Tensor, "n 3 299 299"]:
    return (x - 128) / 128


_NORMALISED: dict[str, Callable[[Tensor], Tensor]] = {
    "legacy_tensorflow": _legacy_tensorflow,
    "legacy_pytorch": _legacy_pytorch,
    "clean": _clean,
}


def on_cpu(pixels: UInt8[np.ndarray, "h w 3"], mode: str) -> np.ndarray:
    """The part of a protocol done per image beside the decoder: clean's resize. Others pass through as uint8."""
    return pillow_float(pixels, (SIDE, SIDE)) if mode == "clean" else pixels


def inception_input(batch: Tensor, mode: str) -> Float[Tensor, "n 3 299 299"]:
    """The protocol's remaining steps on a device. `batch` is [N, H, W, 3] as `on_cpu` returns it, values 0 … 255."""
    x = batch.permute(0, 3, 1, 2)
    return _NORMALISED[mode](x if x.is_floating_point() else x.float())
