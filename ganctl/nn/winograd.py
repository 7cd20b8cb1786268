"""A layer of a style-based generator on the CPU, for pictures alone: fewer multiplications, a few rows at a time.

A convolution along an axis is A ((G w) ∘ (B x)): polynomials are multiplied at points instead of by their coefficients
(Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2016, arXiv:1509.09308; A, G, B are its Aᵀ, G, Bᵀ).
Over both axes, and over all channels, the products ∘ are matrix products. There is no gradient, and rounding is some
1e-5 of an output's deviation: training computes plain convolutions.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ganctl.nn.cores import side_by_side

SMALLEST = 32
"""Side of an input below which the transformed weights, which are larger, take longer than what they spare."""
TILES = 256
"""Tiles that are computed at once: their maps stay in the cache, and the matrix products are large enough."""


@dataclass(frozen=True)
class Scheme:
    """From each window of inputs, `step` after the last one, len(A) outputs."""

    B: Float[Tensor, "r window"]
    G: Float[Tensor, "r 3"]
    A: Float[Tensor, "out r"]
    step: int


def toom_cook(outputs: int, taps: int, points: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B, G and A of a correlation, at outputs + taps - 2 points and at infinity: the transpose of interpolation."""
    n = outputs + taps - 1
    values = np.vander([*points, 0.0], n, increasing=True)
    values[-1] = np.eye(n)[-1]
    a, g = (values[:, :columns].copy() for columns in (outputs, taps))
    a[-1], g[-1] = np.eye(outputs)[-1], np.eye(taps)[-1]
    return np.linalg.inv(values).T.round(12), g, a.T


@functools.cache
def same() -> Scheme:
    """3 taps, of the same size: 4 outputs for 6 products, where they would take 12."""
    # The closer to 1 the points, the smaller the rounding; those of opposite sign leave zeros in B.
    b, g, a = (torch.tensor(m, dtype=torch.float32) for m in toom_cook(4, 3, (0.0, 0.75, -0.75, 1.5, -1.5)))
    return Scheme(b, g, a, 4)


@functools.cache
def twice() -> Scheme:
    """Transposed convolution of stride 2 by 3 taps: 6 outputs for 7 products, where they would take 9.

    Even outputs are w₂ x[i-1] + w₀ x[i], odd ones w₁ x[i]; the window begins at i - 1.
    """
    b2, g2, a2 = toom_cook(3, 2, (0.0, 1.0, -1.0))
    b, g, a = np.zeros((7, 4)), np.zeros((7, 3)), np.zeros((6, 7))
    b[:4], b[4:, 1:] = b2, np.eye(3)
    g[:4, 2], g[:4, 0], g[4:, 1] = g2[:, 0], g2[:, 1], 1
    a[::2, :4], a[1::2, 4:] = a2, np.eye(3)
    b, g, a = (torch.tensor(m, dtype=torch.float32) for m in (b, g, a))
    return Scheme(b, g, a, 3)


def worth(x: Float[Tensor, "n c h w"]) -> bool:
    """Whether `styled_layer` computes a layer of this input faster, and may: no gradient, no half precision."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32
    return plain and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and x.shape[2] >= SMALLEST


def styled_layer(
    x: Float[Tensor, "n i h w"],
    weight: Float[Tensor, "o i 3 3"],
    s: Float[Tensor, "n i"],
    d: Float[Tensor, "n o"],
    bias: Float[Tensor, " o"],
    noise: Float[Tensor, "n 1 h2 w2"] | Float[Tensor, "h2 w2"] | None = None,
    up_filter: Float[Tensor, "4 4"] | None = None,
    *,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Float[Tensor, "n o h2 w2"]:
    """Modulated convolution, of twice the size with `up_filter`; noise, bias; leaky ReLU 0.2 times `gain`; ± `clamp`.

    `s` scales the inputs and `d`, the demodulation, the outputs. Image by image: none depends on the batch. The answer
    has its channels last in memory.
    """
    # The leaky ReLU's gain may as well come before it.
    d, bias, scheme, up, taps = d * gain, bias * gain, same(), 1, None
    if up_filter is not None:
        scheme, up, taps = twice(), 2, 2 * up_filter.sum(0).flip(0)
        d, taps = d * taps[0] ** 2, taps / taps[0]
    n, _, h, w = x.shape
    # A transposed convolution gives one more row and column.
    tall, wide = (math.ceil((size + up - 1) / scheme.step) for size in (h, w))
    kernels = weight.reshape(-1, 9).T
    u = [(torch.kron(g, scheme.G) @ kernels).view(-1, *weight.shape[:2]) for g in scheme.G.split(1)]
    y = x.new_empty(n, h * up, w * up, len(weight))
    noise = None if noise is None else noise.expand(n, 1, *y.shape[1:3]) * gain

    def rows_of(part: tuple[int, int, int]) -> None:
        k, begin, end = part
        strips = _strips(x[k].permute(1, 2, 0), s[k], u, scheme, max(begin - up + 1, 0), end, wide)
        first = begin * len(scheme.A)
        for top, strip in strips if taps is None else _filtered(strips, taps, w * up, first):
            rows = y[k, top : top + len(strip)]
            torch.addcmul(bias, strip[: len(rows), : w * up], d[k], out=rows)
            if noise is not None:
                rows.add_(noise[k, 0, top : top + len(rows), :, None])
            F.leaky_relu_(rows, 0.2)
            if clamp is not None:
                rows.clamp_(-clamp, clamp)

    threads = min(torch.get_num_threads(), tall)
    bounds = [round(k * tall / threads) for k in range(threads + 1)]
    side_by_side(rows_of, [(k, *part) for k in range(n) for part in itertools.pairwise(bounds)])
    return y.permute(0, 3, 1, 2)


def _strips(
    x: Float[Tensor, "h w i"],
    s: Float[Tensor, " i"],
    u: Sequence[Float[Tensor, "r o i"]],
    scheme: Scheme,
    begin: int,
    end: int,
    wide: int,
) -> Iterator[tuple[int, Float[Tensor, "rows columns o"]]]:
    """Convolution of x · s: rows begin … end - 1 of `wide` tiles, some at a time, with the number of the first output.

    `u`: (G w) Gᵀ, row by row.
    """
    b, a, step = scheme.B, scheme.A, scheme.step
    (r, window), out, (h, w, inputs) = b.shape, len(a), x.shape
    most = min(max(1, TILES // wide), end - begin)
    # A tile more in each row, which nobody uses: so all windows lie at equal distances in memory, and need no copies.
    padded = x.new_zeros((most - 1) * step + window, (wide + 1) * step, inputs)
    row = padded.stride(0)
    for at in range(begin, end, most):
        n = min(most, end - at)
        first = at * step - 1
        low, high = max(first, 0), min(first + len(padded), h)
        torch.mul(x[low:high], s, out=padded[low - first : high - first, 1 : w + 1])
        padded[: low - first] = 0
        padded[high - first :] = 0
        down = torch.bmm(b.expand(n, r, window), padded.as_strided((n, window, row), (step * row, row, 1)))
        down = down.transpose(0, 1).reshape(-1)
        v = x.new_empty(r * n * (wide + 1), r, inputs)
        windows = down.as_strided((len(v) - 1, window, inputs), (step * inputs, inputs, 1))
        torch.bmm(b.expand(len(windows), r, window), windows, out=v[:-1])
        m = x.new_empty(r, r, n * (wide + 1), u[0].shape[1])
        for part, weights, products in zip(v.view(r, -1, r, inputs), u, m, strict=True):
            torch.bmm(part.transpose(0, 1), weights.mT, out=products)
        y = (a @ m.view(r, -1)).view(out, r, -1)
        y = torch.bmm(a.expand(out, out, r), y).view(out, out, n, wide + 1, -1)[:, :, :, :wide]
        yield at * out, y.permute(2, 0, 3, 1, 4).reshape(n * out, wide * out, -1)


def _filtered(
    strips: Iterator[tuple[int, Float[Tensor, "rows columns o"]]], taps: Float[Tensor, " 4"], columns: int, first: int
) -> Iterator[tuple[int, Float[Tensor, "rows2 columns2 o"]]]:
    """Strips under `taps`, of which the first is 1, along both axes: an output is centred between two samples.

    Two outputs must wait for the next strip's samples; those that lie before row `first` - 2 are left out.
    """
    held, rest = None, taps[1:].tolist()
    for top, strip in strips:
        n, width, outputs = strip.shape
        before = strip.new_zeros(3, width + 1, outputs) if held is None else held[-3:]
        held = torch.cat([before, F.pad(strip, (0, 0, 1, 0))])
        down = held[:n].clone()
        for k, tap in enumerate(rest, 1):
            down.add_(held[k : k + n], alpha=tap)
        y = down[:, :columns].clone()
        for k, tap in enumerate(rest, 1):
            y.add_(down[:, k : k + columns], alpha=tap)
        skip = max(0, max(first, 2) - top)
        yield top - 2 + skip, y[skip:]
