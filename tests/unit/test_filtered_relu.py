"""Filters by products of blocks, against zero insertion and convolution; filter design, against SciPy's."""

import numpy as np
import pytest
import scipy.signal
import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor

from ganctl.nn import filtered_relu as fr
from ganctl.nn.filtered_relu import band, filtered_relu, lowpass, separable
from ganctl.nn.resample import upfirdn2d


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("taps", "width"), [(12, 0.1), (12, 2.0), (24, 3.3), (7, 1.5), (12, 7.9)])
def test_low_pass_is_scipys(taps: int, width: float) -> None:
    """Every branch of Kaiser's formula, even and odd lengths."""
    ours = lowpass(taps, 2.1, width, 16.0).double()
    theirs = scipy.signal.firwin(taps, cutoff=2.1, width=width, fs=16.0)
    assert np.abs(ours.numpy() - theirs).max() <= 1e-7
    assert ours.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("taps", [12, 9])
def test_radial_low_pass_is_a_windowed_jinc(taps: int) -> None:
    ours = lowpass(taps, 3.0, 2.5, 16.0, radial=True).double().numpy()
    t = (np.arange(taps) - (taps - 1) / 2) / 16
    r = np.maximum(np.hypot(*np.meshgrid(t, t)), 1e-12)
    window = np.kaiser(taps, scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, 2.5 / 8)))
    f = scipy.special.j1(2 * np.pi * 3.0 * r) / r * np.outer(window, window)
    assert np.abs(ours - f / f.sum()).max() <= 1e-7
    assert np.allclose(ours, np.rot90(ours), atol=1e-9)


@pytest.mark.parametrize("up", [1, 2, 3, 4])
@pytest.mark.parametrize("down", [1, 2, 4])
@pytest.mark.parametrize("padding", [(0, 0), (5, 3), (-3, 2), (-4, -7), (11, -2)])
@pytest.mark.parametrize("rows", [8, 1000])
def test_a_band_is_zero_insertion_padding_and_convolution(
    up: int, down: int, padding: tuple[int, int], rows: int
) -> None:
    f, x = noise(7), noise(3, 2, 25, seed=1)
    ours = fr.along(band(f, 25, up=up, down=down, padding=padding, rows=rows), x)
    ref = upfirdn2d(x[None], f[None], up=(up, 1), down=(down, 1), padding=(*padding, 0, 0))[0]
    assert ours.shape == ref.shape and (ours - ref).abs().max() <= 1e-5


def plain(x: Tensor, bias: Tensor, fu: Tensor, fd: Tensor, up: int, down: int, padding: tuple[int, int]) -> Tensor:
    """The same in whole steps, with every inserted zero."""
    x = upfirdn2d(x + bias[:, None, None], fu, up=up, padding=(*padding, *padding), gain=float(up**2))
    x = (F.leaky_relu(x, 0.2) * 2**0.5).clamp(-0.5, 0.5)
    return upfirdn2d(x, fd, down=down)


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize(("up", "down", "padding"), [(2, 2, (9, 8)), (4, 2, (17, 16)), (2, 1, (-3, -2))])
def test_filtered_relu_and_its_gradients(radial: bool, up: int, down: int, padding: tuple[int, int]) -> None:
    """In parts that fit the cache, whole with gradients, and differentiated twice."""
    x, bias, fu = noise(2, 40, 30, 26), noise(40, seed=1), noise(6 * up, seed=2) / 3
    fd = noise(*([6 * down] * (1 + radial)), seed=3) / 3
    ref = plain(x, bias, fu, fd, up, down, padding)
    options = {"up": up, "down": down, "padding": padding, "clamp": 0.5}
    assert (filtered_relu(x, bias, fu, fd, **options) - ref).abs().max() <= 2e-5
    grads = []
    for function in (
        lambda x, b: filtered_relu(x, b, fu, fd, **options),
        lambda x, b: plain(x, b, fu, fd, up, down, padding),
    ):
        xs, bs = x[:, :2].clone().requires_grad_(), bias[:2].clone().requires_grad_()
        (grad,) = torch.autograd.grad(function(xs, bs).square().sum(), xs, create_graph=True)
        grads.append((grad.detach(), *torch.autograd.grad(grad.square().sum(), (xs, bs))))
    for ours, theirs in zip(*grads, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_without_filters_it_adds_the_bias_and_clamps() -> None:
    x, bias = noise(2, 3, 8, 6), noise(3, seed=1)
    y = filtered_relu(x, bias, None, None, padding=(-1, -2), slope=1.0, gain=1.0, clamp=0.7)
    assert torch.allclose(y, (x + bias[:, None, None])[:, :, 1:-2, 1:-2].clamp(-0.7, 0.7), atol=1e-7)
    half = filtered_relu(x.bfloat16(), bias, None, None, slope=1.0, gain=1.0)
    assert half.dtype == torch.bfloat16


def test_a_radial_filter_falls_apart_into_few_separable_ones() -> None:
    f = lowpass(12, 3.0, 2.5, 16.0, radial=True)
    pairs = separable(f)
    assert 1 < len(pairs) <= 4
    assert (sum(y.outer(x) for y, x in pairs) - f).abs().max() <= 2e-7


def test_upsampling_keeps_a_wave_and_filtering_removes_one() -> None:
    """What the filters are for: a wave below the cutoff passes, one in the stopband does not."""
    f = lowpass(12, 6.0, 8.0, 32.0)
    t = (torch.arange(16) + 0.5) / 16
    low = torch.sin(2 * torch.pi * 2 * t).expand(1, 1, 16, 16).contiguous()
    y = filtered_relu(low, torch.zeros(1), f, None, up=2, padding=(6, 5), slope=1.0, gain=1.0)[0, 0, 16]
    wave = torch.sin(2 * torch.pi * 2 * (torch.arange(32) + 0.5) / 32)
    assert (y - wave)[8:24].abs().max() <= 0.03
    high = torch.sin(2 * torch.pi * 12 * (torch.arange(32) + 0.25) / 32).expand(1, 1, 32, 32).contiguous()
    assert filtered_relu(high, torch.zeros(1), None, f, slope=1.0, gain=1.0).abs().max() <= 0.01
