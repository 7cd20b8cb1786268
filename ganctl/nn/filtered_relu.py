"""Leaky ReLU at a higher sampling rate, between two low-pass filters: Karras et al. 2021, sec. 3.2. arXiv:2106.12423.

A filter along one axis, zero insertion and decimation included, is a banded matrix whose rows repeat. It is applied
here as products of blocks of its rows with the samples they reach, which differentiates any number of times, runs at
the speed of matrix products on any device and never makes the inserted zeros.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CACHE = 1 << 17
"""Samples at the high rate that the CPU takes through all steps at once: they stay in its cache."""
UP_ROWS, DOWN_ROWS = 32, 16
"""Outputs that one product gives: more waste multiplications by zero, fewer waste calls."""


def kaiser_beta(taps: int, width: float, rate: float) -> float:
    """Shape of the Kaiser window of a filter of `taps` whose transition band is `width` wide (Kaiser's formulas)."""
    attenuation = 2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21) if attenuation > 21 else 0.0


def lowpass(taps: int, cutoff: float, width: float, rate: float, *, radial: bool = False) -> Float[Tensor, "t ..."]:
    """A Kaiser-windowed low-pass filter of sum 1: [taps], to use along both axes, or `radial` [taps, taps].

    `cutoff` lies in the middle of a transition band of `width`, both in the unit of the sampling rate `rate` (appendix
    C). The radial one is a jinc, the ideal filter on a disc, under the same window along both axes.
    """
    window = np.kaiser(taps, kaiser_beta(taps, width, rate))
    t = (np.arange(taps) - (taps - 1) / 2) / rate
    if radial:
        # J₁(x) / x, which is ½ at 0: an odd number of taps meets it.
        x = 2 * np.pi * cutoff * np.maximum(np.hypot(*np.meshgrid(t, t)), 1e-9 / rate)
        f = torch.special.bessel_j1(torch.from_numpy(x).cpu()).numpy() / x * np.outer(window, window)
    else:
        f = np.sinc(2 * cutoff * t) * window
    return torch.tensor(f / f.sum(), dtype=torch.float32)


@dataclass(frozen=True)
class Band:
    """A filter along one axis as a matrix of `out` rows in equal blocks, each with its own window of inputs."""

    block: Float[Tensor, "b k"]
    first: int
    """Where the first block's window begins; below 0 in the padding."""
    step: int
    """From one window to the next."""
    out: int


def band(
    f: Float[Tensor, " t"], size: int, *, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0), rows: int
) -> Band:
    """f over `size` inputs: up - 1 zeros after each, padding (cropping below 0), convolution, each down-th output.

    `rows` is the wished number of outputs in a block.
    """
    taps, (low, high) = f.shape[0], padding
    out = (size * up + low + high - taps) // down + 1
    # Every block must find its inputs at the same places of its window.
    unit = up // math.gcd(up, down)
    rows = math.ceil(min(rows, out) / unit) * unit
    first, last = -(low // up), ((rows - 1) * down + taps - 1 - low) // up
    j = torch.arange(rows, device=f.device)[:, None]
    i = torch.arange(first, last + 1, device=f.device)
    # Output j sums f[k] x[i], k = (j·down + taps - 1) - (i·up + low): how far i, padded, lies before the last of j.
    k = j * down + taps - 1 - i * up - low
    block = torch.where((k >= 0) & (k < taps), f[k.clamp(0, taps - 1)], 0.0)
    return Band(block, first, rows * down // up, out)


def along(b: Band, x: Float[Tensor, "m a s"]) -> Float[Tensor, "m a s2"]:
    """The last axis filtered."""
    rows, k = b.block.shape
    blocks = math.ceil(b.out / rows)
    end = b.first + (blocks - 1) * b.step + k - x.shape[2]
    windows = F.pad(x, (-b.first, end)).unfold(2, k, b.step)
    # One product for all windows of all maps.
    y = windows.reshape(-1, k) @ b.block.T
    return y.view(*x.shape[:2], blocks * rows)[..., : b.out]


def separable(f: Float[Tensor, "t t"]) -> list[tuple[Float[Tensor, " t"], Float[Tensor, " t"]]]:
    """Pairs (along y, along x) whose outer products add up to f, to float32's accuracy."""
    u, s, v = torch.linalg.svd(f.double())
    kept = int((s > 1e-6 * s[0]).sum())
    return [((u[:, i] * s[i]).to(f.dtype), v[i].to(f.dtype)) for i in range(kept)]


Step = Callable[[Tensor], Tensor]


def filtered_relu(
    x: Float[Tensor, "n c h w"],
    bias: Float[Tensor, " c"],
    up_filter: Float[Tensor, " t"] | None,
    down_filter: Float[Tensor, "t2 ..."] | None,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
    slope: float = 0.2,
    gain: float = math.sqrt(2),
    clamp: float | None = None,
) -> Float[Tensor, "n c h2 w2"]:
    """Bias; upsampling by `up_filter`, power kept; leaky ReLU, times `gain`, to ±`clamp`; `down_filter`, decimation.

    `padding` (low, high) is that of the zero-inserted signal, the same along both axes. Filters are [t], along both
    axes, or [t, t] (the second); None where the factor is 1 and there is none. In float32 throughout.
    """
    n, c, height, width = x.shape
    taps = 1 if up_filter is None else up_filter.shape[0]
    high = [size * up + sum(padding) + 1 - taps for size in (height, width)]
    raised = _raise(up_filter, height, width, up, padding, math.sqrt(gain))
    lowered = _lower(down_filter, high[0], high[1], down)

    def steps(part: Tensor, shift: Tensor) -> Tensor:
        t = raised(part + shift[:, None, None])
        t = F.leaky_relu(t, slope, inplace=not t.requires_grad) if slope != 1 else t
        t = t if clamp is None else t.clamp(-clamp, clamp) if t.requires_grad else t.clamp_(-clamp, clamp)
        return lowered(t)

    with torch.autocast(x.device.type, enabled=False):
        maps, shifts = x.float().flatten(0, 1), bias.float().repeat(n)
        whole = x.device.type != "cpu" or (torch.is_grad_enabled() and (x.requires_grad or bias.requires_grad))
        few = n * c if whole else max(CACHE // (high[0] * high[1]), 1)
        parts = zip(maps.split(few), shifts.split(few), strict=True)
        return torch.cat([steps(*part) for part in parts]).unflatten(0, (n, c)).to(x.dtype)


def _raise(f: Tensor | None, height: int, width: int, up: int, padding: tuple[int, int], gain: float) -> Step:
    """[m, h, w] → [m, w2, h2], transposed; times gain²: that of a leaky ReLU may as well come before it."""
    if f is None:
        low, high = padding
        return lambda x: (F.pad(x, (low, high, low, high)) * gain**2).transpose(1, 2)
    f = f * (up * gain)
    across = band(f, width, up=up, padding=padding, rows=UP_ROWS)
    upright = band(f, height, up=up, padding=padding, rows=UP_ROWS)
    return lambda x: along(upright, along(across, x).transpose(1, 2))


def _lower(f: Tensor | None, height: int, width: int, down: int) -> Step:
    """[m, w, h] → [m, h2, w2]: transposed back."""
    if f is None:
        return lambda x: x.transpose(1, 2)
    if f.ndim == 2 and f.device.type != "cpu":
        # Taking it apart would wait for the device.
        kernel = f.flip(0, 1)[None, None]
        return lambda x: F.conv2d(x.transpose(1, 2)[:, None], kernel, stride=down)[:, 0]
    pairs = [(f, f)] if f.ndim == 1 else separable(f)
    r = len(pairs)
    uprights = [band(y, height, down=down, rows=DOWN_ROWS) for y, _ in pairs]
    acrosses = [band(x, width, down=down, rows=DOWN_ROWS) for _, x in pairs]
    # All pairs at once: each upright output is r numbers side by side, of which each across takes its own.
    upright, across = uprights[0], acrosses[0]
    blocks = torch.stack([b.block for b in uprights], 1).flatten(0, 1)  # [b·r, k]
    upright = Band(blocks, upright.first, upright.step, upright.out * r)
    blocks = torch.stack([b.block for b in acrosses], 2).flatten(1)  # [b, k·r]
    across = Band(blocks, across.first * r, across.step * r, across.out)
    return lambda x: along(across, along(upright, x).unflatten(2, (-1, r)).transpose(1, 2).flatten(2))
