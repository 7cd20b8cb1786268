"""PSNR, SSIM and MS-SSIM against BasicSR, pytorch-msssim, scikit-image and leftthomas/SRGAN: every recorded row."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ganctl.metrics.psnr import luma, psnr, shave
from ganctl.metrics.ssim import C1, C2, WINDOW, gaussian, ms_ssim, similarity, ssim
from tests.conftest import golden
from tests.golden.inception_weights import arrays

Score = Callable[[np.ndarray, np.ndarray], float]


def window_float32(size: int = 11) -> np.ndarray:
    """pytorch-msssim's window, which is made in float32 even for images in float64."""
    at = torch.arange(size, dtype=torch.float32) - size // 2
    weights = torch.exp(-(at**2) / (2 * 1.5**2))
    return (weights / weights.sum()).double().numpy()


def within(border: int, score: Score, *, y: bool = False) -> Score:
    """As the super-resolution papers score: shave first, then convert."""
    convert = luma if y else lambda x: x
    return lambda a, b: score(convert(shave(a, border)), convert(shave(b, border)))


def damped_psnr(border: int = 0, *, y: bool = False) -> Score:
    """BasicSR's torch variant: 1e-8 added to the error of pixels 0..1, so that equal images get 80."""
    exact = within(border, psnr, y=y)
    return lambda a, b: -10 * math.log10(10 ** (-exact(a, b) / 10) + 1e-8)


def uniform7(a: np.ndarray, b: np.ndarray) -> float:
    """scikit-image's default: even weights, and sample covariances, which are 49/48 of the others."""
    return similarity(a, b, np.full(7, 1 / 7), (C1, C2 * 48 / 49))[0].mean()


def zero_padded(a: np.ndarray, b: np.ndarray) -> float:
    around = ((5, 5), (5, 5), (0, 0))
    return ssim(np.pad(a, around), np.pad(b, around))


def zero_padded_float32(a: np.ndarray, b: np.ndarray) -> float:
    """The same in float32 on pixels 0..1, as leftthomas/SRGAN computes it: σ² = E[x²] - μ² loses its digits there."""
    taps = torch.from_numpy(window_float32())
    window = torch.outer(taps, taps).float().expand(3, 1, 11, 11)
    x, y = (torch.from_numpy(np.ascontiguousarray(i.transpose(2, 0, 1)))[None].float() / 255 for i in (a, b))
    mu_x, mu_y, xx, yy, xy = (
        torch.nn.functional.conv2d(m, window, padding=5, groups=3) for m in (x, y, x * x, y * y, x * y)
    )
    top = (2 * mu_x * mu_y + 0.01**2) * (2 * (xy - mu_x * mu_y) + 0.03**2)
    return (top / ((mu_x**2 + mu_y**2 + 0.01**2) * (xx - mu_x**2 + yy - mu_y**2 + 0.03**2))).mean().item()


EXACT, FLOAT32_LUMA = 1e-12, 1e-6
ROWS: dict[str, list[tuple[Score, float]]] = {
    "basicsr.psnr_rgb_crop0": [(psnr, EXACT)],
    "basicsr.psnr_rgb_crop4": [(within(4, psnr), EXACT)],
    "basicsr.psnr_y_crop0": [(within(0, psnr, y=True), FLOAT32_LUMA)],
    "basicsr.psnr_y_crop4": [(within(4, psnr, y=True), FLOAT32_LUMA)],
    "basicsr.psnr_pt_rgb": [(damped_psnr(), 1e-7)],
    "basicsr.psnr_pt_y": [(damped_psnr(4, y=True), FLOAT32_LUMA)],
    "basicsr.ssim_rgb_crop0": [(ssim, EXACT)],
    "basicsr.ssim_rgb_crop4": [(within(4, ssim), EXACT)],
    "basicsr.ssim_y_crop0": [(within(0, ssim, y=True), FLOAT32_LUMA)],
    "basicsr.ssim_y_crop4": [(within(4, ssim, y=True), FLOAT32_LUMA)],
    "basicsr.ssim_pt_rgb": [(ssim, 1e-7)],
    "basicsr.ssim_single_channel_R": [(lambda a, b: ssim(a[..., :1], b[..., :1]), EXACT)],
    "skimage.ssim_gaussian_rgb": [(ssim, EXACT)],
    "skimage.ssim_uniform7_rgb": [(uniform7, EXACT)],
    # Each of these twice: as the tool rounds, and as ganctl scores.
    "pytorch_msssim.ssim_range255": [(lambda a, b: ssim(a, b, window_float32()), EXACT), (ssim, 2e-5)],
    "pytorch_msssim.ms_ssim_range255": [(lambda a, b: ms_ssim(a, b, window_float32()), EXACT), (ms_ssim, 5e-6)],
    "pytorch_msssim.ms_ssim_win7": [
        (lambda a, b: ms_ssim(a, b, window_float32(7)), EXACT),
        (lambda a, b: ms_ssim(a, b, gaussian(7)), 5e-6),
    ],
    "pytorch_msssim.ms_ssim_float32_range1": [(ms_ssim, 1e-4)],
    "leftthomas_srgan.ssim_0_1_samepad": [(zero_padded_float32, 1e-6), (zero_padded, 3e-4)],
}


@pytest.mark.parametrize("name", ["ssim_psnr_excerpt.safetensors", "ssim_psnr.safetensors"])
def test_every_recorded_row(name: str) -> None:
    recorded, _ = arrays(golden(name))
    pairs = list(zip(*(recorded[f"in.image{i}"].transpose(0, 2, 3, 1) for i in (0, 1)), strict=True))
    for row, scores in ROWS.items():
        for score, rtol in scores:
            found = [score(a, b) for a, b in pairs]
            np.testing.assert_allclose(found, recorded[f"out.{row}"], rtol=rtol, err_msg=row)
    left = {k.removeprefix("out.") for k in recorded if k.startswith("out.")} - ROWS.keys()
    assert left <= {"basicsr.y_channel_first_image_every5th", "pytorch_msssim.ms_ssim_cross_0_with_3"}


def test_the_luma_plane_and_a_pair_that_has_little_in_common() -> None:
    recorded, _ = arrays(golden("ssim_psnr.safetensors"))
    first, second = (recorded[f"in.image{i}"].transpose(0, 2, 3, 1) for i in (0, 1))
    y = luma(first[0])
    assert y.dtype == np.float64 and y.shape == (176, 192, 1)
    np.testing.assert_allclose(y[::5, ::5, 0], recorded["out.basicsr.y_channel_first_image_every5th"], rtol=3e-7)
    wanted = recorded["out.pytorch_msssim.ms_ssim_cross_0_with_3"][0]
    assert ms_ssim(first[0], second[3], window_float32()) == pytest.approx(wanted, rel=1e-12)
    assert ms_ssim(first[0], second[3], WINDOW) == pytest.approx(wanted, rel=1e-6)
