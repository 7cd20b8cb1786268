"""3 × 3 convolutions on the CPU, for pictures alone: fewer multiplications, a few rows at a time.

A convolution along an axis is A ((G w) ∘ (B x)): polynomials are multiplied at points instead of by their coefficients
(Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2016, arXiv:1509.09308; A, G, B are its Aᵀ, G, Bᵀ).
Over both axes, and over all channels, the products ∘ are matrix products. There is no gradient, and rounding is some
1e-5 of an output's deviation: training computes plain convolutions.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.nn.cores import side_by_side

SMALLEST = 32
"""Side of an input below which the transformed weights, which are larger, take longer than what they spare."""
WIDEST_DIRECT = 127
"""Channels up to which a plain convolution is as fast: transforming the maps takes what the products spare."""
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
    """Whether a layer of this input is computed faster here, and may be: no gradient, no half precision."""
    # In this order: where gradients are on, as in an export, the sides may be symbols.
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and min(x.shape[2:]) >= SMALLEST


class Conv3x3(nn.Conv2d):
    """A plain convolution of stride 1 that keeps the size, with zeros or the input's reflection around it.

    Wide ones are computed by `convolution` where that is faster.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, reflect: bool = False) -> None:
        super().__init__(inputs, outputs, 3, 1, 1, bias=bias, padding_mode="reflect" if reflect else "zeros")

    def forward(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o h w"]:  # type: ignore[override]
        if min(self.weight.shape[:2]) > WIDEST_DIRECT and worth(x):
            return convolution(x, self.weight, self.bias, reflect=self.padding_mode == "reflect")
        return super().forward(x)


def convolution(
    x: Float[Tensor, "n i h w"],
    weight: Float[Tensor, "o i 3 3"],
    bias: Float[Tensor, " o"] | None = None,
    *,
    reflect: bool = False,
) -> Float[Tensor, "n o h w"]:
    """Convolution of the same size, over zeros or over the input's reflection. The answer has its channels last."""
    n, _, h, w = x.shape
    y = x.new_empty(n, h, w, len(weight))
    tall, wide = (math.ceil(size / 4) for size in (h, w))
    u = _kernels(weight, same())

    def rows_of(part: tuple[int, int, int]) -> None:
        k, begin, end = part
        image = x[k].permute(1, 2, 0)

        def load(low: int, high: int, out: Tensor) -> None:
            out.copy_(image[low:high])

        for top, strip in _strips(image, load, u, same(), begin, end, wide, reflect=reflect):
            rows = y[k, top : top + len(strip)]
            strip = strip[: len(rows), :w]
            if bias is None:
                rows.copy_(strip)
            else:
                torch.add(strip, bias, out=rows)

    side_by_side(rows_of, _parts(n, tall))
    return y.permute(0, 3, 1, 2)


def _parts(n: int, tall: int) -> list[tuple[int, int, int]]:
    """Image, first row of tiles, and the row after the last: a part for each thread."""
    threads = min(torch.get_num_threads(), tall)
    bounds = [round(k * tall / threads) for k in range(threads + 1)]
    return [(k, *part) for k in range(n) for part in itertools.pairwise(bounds)]


def _kernels(weight: Float[Tensor, "o i 3 3"], scheme: Scheme) -> list[Float[Tensor, "r o i"]]:
    """(G w) Gᵀ, row by row."""
    taps = weight.reshape(-1, 9).T
    return [(torch.kron(g, scheme.G) @ taps).view(-1, *weight.shape[:2]) for g in scheme.G.split(1)]


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
    u = _kernels(weight, scheme)
    y = x.new_empty(n, h * up, w * up, len(weight))
    noise = None if noise is None else noise.expand(n, 1, *y.shape[1:3]) * gain

    def rows_of(part: tuple[int, int, int]) -> None:
        k, begin, end = part
        image = x[k].permute(1, 2, 0)

        def load(low: int, high: int, out: Tensor) -> None:
            torch.mul(image[low:high], s[k], out=out)

        strips = _strips(image, load, u, scheme, max(begin - up + 1, 0), end, wide)
        first = begin * len(scheme.A)
        for top, strip in strips if taps is None else _filtered(strips, taps, w * up, first):
            rows = y[k, top : top + len(strip)]
            torch.addcmul(bias, strip[: len(rows), : w * up], d[k], out=rows)
            if noise is not None:
                rows.add_(noise[k, 0, top : top + len(rows), :, None])
            F.leaky_relu_(rows, 0.2)
            if clamp is not None:
                rows.clamp_(-clamp, clamp)

    side_by_side(rows_of, _parts(n, tall))
    return y.permute(0, 3, 1, 2)


def _strips(
    x: Float[Tensor, "h w i"],
    load: Callable[[int, int, Tensor], None],
    u: Sequence[Float[Tensor, "r o i"]],
    scheme: Scheme,
    begin: int,
    end: int,
    wide: int,
    *,
    reflect: bool = False,
) -> Iterator[tuple[int, Float[Tensor, "rows columns o"]]]:
    """Convolution of x: rows begin … end - 1 of `wide` tiles, some at a time, with the number of the first output.

    `load` puts rows low … high - 1 of x, or what they are scaled to, into its last argument. `u`: `_kernels`.
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
        load(low, high, padded[low - first : high - first, 1 : w + 1])
        padded[: low - first] = 0
        padded[high - first :] = 0
        if reflect:
            _reflect(padded, low - first, high - first if high == h else None, w)
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


def _reflect(padded: Float[Tensor, "rows columns i"], top: int, bottom: int | None, w: int) -> None:
    """A row or column of reflection around rows `top` … `bottom` - 1 and columns 1 … w; without a bottom, not below."""
    if top:
        padded[0] = padded[2]
    if bottom is not None and bottom < len(padded):
        padded[bottom] = padded[bottom - 2]
    padded[:, 0], padded[:, w + 1] = padded[:, 2], padded[:, w - 1]


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
