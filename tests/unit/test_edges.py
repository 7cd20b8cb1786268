"""Canny's edges against another writing of them, pixel by pixel, and what smoothing leaves alone."""

import math

import numpy as np
import torch
from scipy import ndimage

from ganctl.nn.edges import canny, luma, without_edges


def slowly(grey: np.ndarray, low: float, high: float) -> np.ndarray:
    """The angle of each gradient, its two neighbours along it, and connected pixels by their labels."""
    dx, dy = (ndimage.sobel(grey, axis=a, mode="nearest") for a in (1, 0))
    strength = np.abs(dx) + np.abs(dy)
    around = np.pad(strength, 1)
    weak = np.zeros(grey.shape, bool)
    for y, x in np.ndindex(*grey.shape):
        angle = math.degrees(math.atan2(dy[y, x], dx[y, x])) % 180
        down, right, ties = 1, 1, False
        if angle < 22.5 or angle > 157.5:
            down, right, ties = 0, 1, True
        elif 67.5 < angle < 112.5:
            down, right, ties = 1, 0, True
        elif angle > 90:
            right = -1
        here = strength[y, x]
        before, after = around[y + 1 - down, x + 1 - right], around[y + 1 + down, x + 1 + right]
        weak[y, x] = here > low and here > before and (here >= after if ties else here > after)
    labels, _ = ndimage.label(weak, np.ones((3, 3)))
    return weak & np.isin(labels, np.unique(labels[weak & (strength > high)]))


def test_canny_is_that_of_another_writing() -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.uniform(0, 255, (2, 40, 52)), (0, 1.5, 1.5))
    pictures = ((smooth - smooth.min()) / np.ptp(smooth) * 255).round()
    for low, high in ((100.0, 200.0), (60.0, 300.0)):
        found = canny(torch.from_numpy(pictures)[:, None], low, high)[:, 0].numpy()
        wanted = np.stack([slowly(p, low, high) for p in pictures])
        assert 30 < wanted.sum() < wanted.size / 3
        assert np.array_equal(found, wanted)


def test_edges_are_smoothed_and_nothing_else() -> None:
    x = torch.full((1, 3, 24, 32), -0.5)
    x[..., 16:] = 0.8
    y = without_edges(x)
    assert torch.equal(y[..., :12], x[..., :12]) and torch.equal(y[..., 20:], x[..., 20:])
    row = y[0, 0, 12]
    assert row[13] == -0.5 and -0.5 < row[15] < row[16] < 0.8
    # The kernel's sixteenths: 1 + 4 of the bright side from the first dark pixel.
    assert torch.isclose(row[15], torch.tensor(-0.5 + 1.3 * 5 / 16))
    assert torch.equal(without_edges(torch.zeros(1, 1, 8, 8)), torch.zeros(1, 1, 8, 8))
    assert torch.allclose(luma(torch.ones(1, 3, 2, 2)), torch.ones(1, 1, 2, 2))
