"""Scores of one pair of images: what is known without a reference program."""

import math

import numpy as np
import pytest

from ganctl.metrics.psnr import luma, psnr, shave
from ganctl.metrics.ssim import C1, WEIGHTS, gaussian, halved, ms_ssim, similarity, ssim


def image(seed: int, h: int = 40, w: int = 48, c: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, c), dtype=np.uint8)


def constant(value: float, h: int = 40, w: int = 48) -> np.ndarray:
    return np.full((h, w, 3), value)


def test_psnr_of_known_errors() -> None:
    assert psnr(constant(10), constant(11)) == pytest.approx(20 * math.log10(255), rel=1e-15)
    assert psnr(constant(0), constant(255)) == 0
    # uint8 does not wrap around, and one wrong channel counts as a third.
    black, white = (constant(v).astype(np.uint8) for v in (0, 255))
    assert psnr(black, white) == 0
    white[..., :2] = 0
    assert psnr(black, white) == pytest.approx(10 * math.log10(3), rel=1e-15)
    a, b = image(0), image(1)
    assert psnr(a, b) == psnr(b, a) == psnr(a.astype(np.float64), b)
    assert psnr(a, a) == math.inf


def test_luma_and_shave() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    np.testing.assert_allclose(luma(colours)[0, :, 0], [16, 235, 81.481, 144.553, 40.966], rtol=1e-14)
    a = image(0, 10, 14)
    assert shave(a, 0).shape == a.shape
    np.testing.assert_array_equal(shave(a, 4), a[4:6, 4:10])
    with pytest.raises(ValueError, match="a border of 5 pixels at each side leaves nothing of 14x10"):
        shave(a, 5)


def naive_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 13 at every position of the window, word for word."""
    weights = np.outer(gaussian(), gaussian())
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (i[top : top + 11, left : left + 11].astype(np.float64) for i in (x, y))
            mu_a, mu_b = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - mu_a) ** 2).sum(), (weights * (b - mu_b) ** 2).sum()
            vab = (weights * (a - mu_a) * (b - mu_b)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            top_part = (2 * mu_a * mu_b + c1) * (2 * vab + c2)
            found.append(top_part / ((mu_a**2 + mu_b**2 + c1) * (va + vb + c2)))
    return float(np.mean(found))


def test_ssim_is_equation_13() -> None:
    # Higher than a strip, and no multiple of one.
    a, b = image(2, 90, 25), image(3, 90, 25)
    mixed = (0.7 * a + 0.3 * b).astype(np.uint8)
    wanted = [naive_ssim(a[..., c], mixed[..., c]) for c in range(3)]
    np.testing.assert_allclose(similarity(a, mixed)[0], wanted, rtol=1e-11)
    assert ssim(a, mixed) == pytest.approx(np.mean(wanted), rel=1e-11)
    assert ssim(a, mixed) == pytest.approx(ssim(mixed, a), rel=1e-13)
    assert ssim(a, a) == 1
    # Without contrast only the luminance is left.
    assert ssim(constant(100), constant(120)) == pytest.approx((2 * 100 * 120 + C1) / (100**2 + 120**2 + C1), rel=1e-10)
    assert ssim(image(0, 11, 11), 255 - image(0, 11, 11)) < 0


def test_ms_ssim_by_hand() -> None:
    """Equation 7 from the pieces: means of 2 x 2 pixels between the scales."""
    a = image(4, 176, 192).astype(np.float64)
    b = 0.5 * a + 0.5 * image(5, 176, 192)
    wanted = np.ones(3)
    x, y = a, b
    for scale, weight in enumerate(WEIGHTS):
        whole, contrast = similarity(x, y)
        wanted *= (whole if scale == 4 else contrast) ** weight
        if scale < 4:
            x, y = (i.reshape(i.shape[0] // 2, 2, i.shape[1] // 2, 2, 3).mean((1, 3)) for i in (x, y))
    assert ms_ssim(a, b) == pytest.approx(wanted.mean(), rel=1e-12)
    assert ms_ssim(a, a) == pytest.approx(1, abs=1e-12)
    # A negative mean has no fractional power: it counts as nothing, never as a complex number or NaN.
    assert ms_ssim(a, 255 - a) == 0


def test_ms_ssim_of_odd_sides_has_a_zero_line_in_front() -> None:
    a, b = image(6, 161, 175), image(7, 161, 175)
    found = ms_ssim(a, b)
    assert 0 <= found < 0.5
    assert ms_ssim(a, a) == pytest.approx(1, abs=1e-12)
    half = halved(a)
    assert half.shape == (81, 88, 3)
    np.testing.assert_allclose(half[0, 0], a[0, 0] / 4)
    np.testing.assert_allclose(half[3, 5], a[5:7, 9:11].mean((0, 1)))


def test_what_cannot_be_scored_is_refused() -> None:
    a = image(0)
    for value in (np.nan, np.inf, 1e200):
        bad = a.astype(np.float64)
        bad[3, 4, 1] = value
        for x, y in ((a, bad), (bad, a), (bad, bad + 1)):
            with pytest.raises(ValueError, match="NaN or infinity"):
                ssim(x, y)
    for value in (np.nan, np.inf):
        bad[3, 4, 1] = value
        for x, y in ((a, bad), (bad, a), (bad, bad)):
            with pytest.raises(ValueError, match="NaN or infinity"):
                psnr(x, y)
    for score in (psnr, ssim, ms_ssim):
        with pytest.raises(ValueError, match="differ in shape"):
            score(a, a[:-1])
        with pytest.raises(ValueError, match="an image is"):
            score(a[..., 0], a[..., 0])
    with pytest.raises(ValueError, match="ssim needs images of at least 11x11 pixels, these are 48x10"):
        ssim(a[:10], a[:10])
    with pytest.raises(
        ValueError, match="ms-ssim needs images of more than 160 pixels at each side, these are 192x160"
    ):
        ms_ssim(image(0, 160, 192), image(1, 160, 192))
