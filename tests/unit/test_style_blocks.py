"""The blocks of the StyleGAN line against their definitions: scipy's upfirdn, zero insertion, one sample at a time."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import upfirdn
from torch import Tensor

from ganctl.nn import winograd
from ganctl.nn.equalized import EqualizedConv2d, EqualizedLinear, ResampledConv2d, activate
from ganctl.nn.minibatch_std import minibatch_std
from ganctl.nn.modulated import demodulation, modulated_conv2d
from ganctl.nn.resample import BINOMIAL, conv_down2, conv_up2, downsample2d, fir_filter, upfirdn2d, upsample2d
from ganctl.nn.winograd import styled_layer


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(x: Tensor, fx: Tensor, fy: Tensor, up: tuple, down: tuple, pad: tuple) -> Tensor:
    """Along each axis by scipy: its output begins where the filter's first tap meets the first sample."""

    def axis(a: np.ndarray, f: np.ndarray, up: int, down: int, before: int, after: int) -> np.ndarray:
        full = np.apply_along_axis(lambda row: upfirdn(f, row, up), -1, a)
        # scipy omits the zeros after the last sample.
        full = np.concatenate([full, np.zeros((*full.shape[:-1], up - 1 + 64))], -1)
        full = np.concatenate([np.zeros((*full.shape[:-1], 64)), full], -1)
        first = 64 + len(f) - 1 - before
        count = a.shape[-1] * up + before + after - len(f) + 1
        return full[..., first : first + count : down]

    y = axis(x.numpy(), fx.numpy(), up[0], down[0], pad[0], pad[1])
    y = axis(y.swapaxes(-1, -2), fy.numpy(), up[1], down[1], pad[2], pad[3])
    return torch.from_numpy(y.swapaxes(-1, -2).copy())


@pytest.mark.parametrize("up", [(1, 1), (2, 2), (4, 1), (3, 2)])
@pytest.mark.parametrize("down", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (2, 1, 2, 1), (5, 7, 4, 6), (-1, 2, 3, -2), (-2, -1, -1, -2)])
def test_upfirdn2d_is_scipys(up: tuple, down: tuple, pad: tuple) -> None:
    x, fx, fy = normal(2, 3, 9, 10), normal(5, seed=1), normal(4, seed=2)
    ref = by_definition(x, fx, fy, up, down, pad)
    whole = upfirdn2d(x, fy.outer(fx), up=up, down=down, padding=pad, gain=3.0)
    assert whole.shape == ref.shape and (whole - 3 * ref).abs().max() < 1e-12
    apart = upfirdn2d(x, fx[None, :], up=(up[0], 1), down=(down[0], 1), padding=(*pad[:2], 0, 0))
    apart = upfirdn2d(apart, fy[:, None], up=(1, up[1]), down=(1, down[1]), padding=(0, 0, *pad[2:]))
    assert (apart - ref).abs().max() < 1e-12
    square = by_definition(x, fx, fx, up, down, pad)
    for f in (fx, fx.outer(fx)):
        assert (upfirdn2d(x, f, up=up, down=down, padding=pad, gain=3.0) - 3 * square).abs().max() < 1e-12
        turned = f.flip(list(range(f.ndim)))
        assert torch.equal(
            upfirdn2d(x, turned, up=up, down=down, padding=pad, flip=True),
            upfirdn2d(x, f, up=up, down=down, padding=pad),
        )


@pytest.mark.parametrize("up", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("down", [(1, 1), (2, 3)])
@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (2, 1, 4, 6), (-1, 2, 1, -2)])
def test_upfirdn2ds_gradients_are_the_transpose_and_its_own(up: tuple, down: tuple, pad: tuple) -> None:
    for f in (normal(4, seed=1), normal(3, 4, seed=1)):
        for flip in (False, True):

            def resampled(x: Tensor, f: Tensor = f, flip: bool = flip) -> Tensor:
                return upfirdn2d(x, f, up=up, down=down, padding=pad, gain=3.0, flip=flip)

            x = normal(1, 2, 7, 8).requires_grad_()
            y = resampled(x)
            other = torch.randn_like(y).requires_grad_()
            (back,) = torch.autograd.grad(y, x, other, create_graph=True)
            assert back.shape == x.shape and abs(((y * other).sum() - (x * back).sum()).item()) < 1e-10
            (again,) = torch.autograd.grad(back, other, x)
            assert (again - y).abs().max() < 1e-12


def test_filters_sum_to_one_and_resampling_keeps_flat_pictures_and_their_place() -> None:
    f, flat = fir_filter(BINOMIAL), torch.ones(1, 2, 8, 8)
    assert f.shape == (4, 4) and f.sum() == 1 and torch.equal(f, f.T)
    assert torch.equal(fir_filter(BINOMIAL, separable=True), torch.tensor([1, 3, 3, 1]) / 8)
    assert upsample2d(flat, f).shape == (1, 2, 16, 16) and downsample2d(flat, f).shape == (1, 2, 4, 4)
    assert torch.allclose(upsample2d(flat, f)[..., 1:-1, 1:-1], torch.ones(14, 14))
    assert torch.allclose(downsample2d(flat, f)[..., 1:-1, 1:-1], torch.ones(2, 2))
    # A ramp of pixel centres stays where it is.
    ramp = (torch.arange(8) + 0.5).expand(1, 1, 8, 8)
    assert torch.allclose(upsample2d(ramp, f)[0, 0, 8, 2:-2], (torch.arange(16)[2:-2] + 0.5) / 2)
    assert torch.allclose(downsample2d(ramp, f)[0, 0, 2, 1:-1], (torch.arange(4)[1:-1] + 0.5) * 2)


@pytest.mark.parametrize("taps", [(1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 4.0, 3.0, 2.0, 1.0)])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_resampling_convolutions_are_resampling_and_convolution(taps: tuple, k: int) -> None:
    x, weight = normal(2, 3, 6, 6), normal(4, 3, k, k, seed=1)
    f = fir_filter(taps).double()
    up = F.conv2d(upsample2d(F.pad(x, (8, 8, 8, 8)), f), weight.flip(2, 3), padding=k // 2)
    assert (conv_up2(x, weight, f) - up[:, :, 16:-16, 16:-16]).abs().max() < 1e-12
    padded = F.pad(x, (8, 8, 8, 8))
    smooth = upfirdn2d(padded, f, padding=((len(taps) - 1) // 2, (len(taps) - 2) // 2) * 2)
    down = F.conv2d(smooth, weight, padding=k // 2)[:, :, 8:-8, 8:-8][:, :, ::2, ::2]
    assert (conv_down2(x, weight, f) - down).abs().max() < 1e-12


def test_modulated_convolution_is_each_samples_own() -> None:
    x, weight, s = normal(3, 5, 6, 6), normal(4, 5, 3, 3, seed=1), normal(3, 5, seed=2)
    f = fir_filter(BINOMIAL).double()
    for demodulate in (False, True):
        rows = []
        for i in range(3):
            own = weight * s[i, None, :, None, None]
            if demodulate:
                own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
            rows.append((F.conv2d(x[i : i + 1], own, padding=1), conv_up2(x[i : i + 1], own, f)))
        for fused in (False, True):
            same = modulated_conv2d(x, weight, s, demodulate=demodulate, padding=1, fused=fused)
            twice = modulated_conv2d(x, weight, s, demodulate=demodulate, up_filter=f, fused=fused)
            assert (same - torch.cat([a for a, _ in rows])).abs().max() < 1e-12
            assert (twice - torch.cat([b for _, b in rows])).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("up", "height", "width", "tiles"), [(1, 19, 16, 256), (2, 10, 33, 256), (1, 40, 9, 6), (2, 32, 8, 6)]
)
def test_layers_of_pictures_are_the_plain_ones(
    up: int, height: int, width: int, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any size, in one strip or in many, by one thread or two, and whatever else is in the batch."""
    monkeypatch.setattr(winograd, "TILES", tiles)
    shapes = (3, 5, height, width), (4, 5, 3, 3), (3, 5), (4,), (3, 1, height * up, width * up)
    x, weight, s, bias, maps = (normal(*shape, seed=i).float() for i, shape in enumerate(shapes))
    f = fir_filter((1.0, 3.0, 5.0, 2.0)) if up == 2 else None
    for noise, clamp in ((maps, 1.5), (maps[0, 0], None), (None, None)):
        plain = modulated_conv2d(x, weight, s, padding=1, up_filter=f) + (0 if noise is None else noise)
        plain = activate(plain + bias[:, None, None], "lrelu", gain=0.5, clamp=None if clamp is None else 2 * clamp)
        d = demodulation(weight, s)
        y = styled_layer(x, weight, s, d, bias, noise, f, gain=math.sqrt(0.5), clamp=clamp)
        assert y.shape == plain.shape and (y - plain).abs().max() < 3e-5
        own = noise if noise is None or noise.ndim == 2 else noise[1:2]
        alone = styled_layer(x[1:2], weight, s[1:2], d[1:2], bias, own, f, gain=math.sqrt(0.5), clamp=clamp)
        assert alone.equal(y[1:2])
    torch.set_num_threads(2)
    try:
        assert (styled_layer(x, weight, s, d, bias, None, f, gain=math.sqrt(0.5)) - y).abs().max() < 1e-5
    finally:
        torch.set_num_threads(1)


def test_penalties_can_be_differentiated_through_every_block() -> None:
    x = normal(2, 2, 4, 4).requires_grad_()
    w, s, f = normal(2, 2, 3, 3, seed=1).requires_grad_(), normal(2, 2, seed=2).requires_grad_(), fir_filter(BINOMIAL)

    def every(x: Tensor, w: Tensor, s: Tensor) -> Tensor:
        x = modulated_conv2d(x, w, s, up_filter=f.double())
        return minibatch_std(conv_down2(activate(x, "lrelu"), w, f.double()), 2)

    assert torch.autograd.gradcheck(every, (x, w, s), fast_mode=True)
    assert torch.autograd.gradgradcheck(every, (x, w, s), fast_mode=True)


@pytest.mark.parametrize(("n", "group", "size"), [(8, 4, 4), (3, 4, 3), (6, 4, 3), (6, None, 6), (1, 4, 1), (5, 4, 1)])
def test_minibatch_std_of_samples_a_stride_apart(n: int, group: int | None, size: int) -> None:
    x = normal(n, 4, 3, 3)
    y = minibatch_std(x, group, 2)
    assert y.shape == (n, 6, 3, 3) and torch.equal(y[:, :4], x)
    for i in range(n):
        members = x[i % (n // size) :: n // size]
        for half in range(2):
            spread = (members[:, 2 * half : 2 * half + 2].var(0, unbiased=False) + 1e-8).sqrt().mean()
            assert (y[i, 4 + half] - spread).abs().max() < 1e-12


@torch.no_grad()
def test_equalized_layers_keep_the_variance_and_scale_the_learning_rate() -> None:
    torch.manual_seed(0)
    x = torch.randn(4096, 256)
    for lr in (1.0, 0.01):
        layer = EqualizedLinear(256, 64, lr=lr, activation="lrelu")
        assert abs(float(layer(x).square().mean()) - 1) < 0.05
        before = layer(x[:1])
        layer.bias += 1.0
        assert abs(float((layer(x[:1]) - before).abs().max()) - lr * 2**0.5) < 1e-5
    assert torch.equal(EqualizedLinear(3, 2, bias=1.0)(torch.zeros(1, 3)), torch.ones(1, 2))
    conv = EqualizedConv2d(64, 16, 3, gain=2.0)
    assert abs(float(conv(torch.randn(8, 64, 16, 16)).var()) - 4 * (1 - 2 / 16 / 3) ** 2) < 0.3
    bounded = ResampledConv2d(64, 16, 1, bias=False, clamp=0.5)(torch.randn(2, 64, 4, 4))
    assert bounded.max() == 0.5 and bounded.min() == -0.5
    assert activate(torch.tensor([2.0, -10.0]), "lrelu", gain=0.5, clamp=1.0).tolist() == [0.5, -0.5]
