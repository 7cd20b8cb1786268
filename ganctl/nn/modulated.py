"""Modulated convolution: styles scale a convolution's input channels (Karras et al. 2020, sec. 2.2)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ganctl.nn.equalized import activate
from ganctl.nn.resample import Filter, conv_up2
from ganctl.nn.winograd import styled_layer, worth


def demodulation(weight: Float[Tensor, "o i k k"], s: Float[Tensor, "n i"], eps: float = 1e-8) -> Float[Tensor, "n o"]:
    """1 / √(Σ (w · s)² + eps) over input channels and kernel  (eq. 3), by one product of squares."""
    with torch.autocast(s.device.type, enabled=False):
        return (s.square() @ weight.square().sum((2, 3)).T + eps).rsqrt()


def modulated_conv2d(
    x: Float[Tensor, "n i h w"],
    weight: Float[Tensor, "o i k k"],
    s: Float[Tensor, "n i"],
    *,
    demodulate: bool = True,
    padding: int = 0,
    up_filter: Filter | None = None,
    fused: bool = False,
) -> Float[Tensor, "n o h2 w2"]:
    """x ∗ w'' with w' = s · w (eq. 1) and w'' = w' / ‖w'‖ (eq. 3); with `up_filter`, on twice the size (`conv_up2`).

    Not `fused`, the activations are scaled by s before and demodulated after one convolution for the whole batch;
    `fused`, each sample has its own weights in a grouped one. The numbers are the same up to rounding. Under autocast
    to float16, weights and styles are brought to size 1 first: demodulation makes that no difference but to overflow.
    """
    if demodulate and _narrow(x):
        # Constants to the gradient: along a factor that makes no difference, its part is 0.
        weight = weight / weight.detach().abs().amax((1, 2, 3), keepdim=True) / weight[0].numel() ** 0.5
        s = s / s.detach().abs().amax(1, keepdim=True)
    n, i, h, w = x.shape
    d = demodulation(weight, s) if demodulate else None
    if not fused:
        x = _conv(x * s.to(x.dtype)[:, :, None, None], weight, padding, up_filter, 1)
        return x if d is None else x * d.to(x.dtype)[:, :, None, None]
    own = weight * s[:, None, :, None, None]  # [n,o,i,k,k]
    own = own if d is None else own * d[:, :, None, None, None]
    x = _conv(x.reshape(1, n * i, h, w), own.flatten(0, 1).to(x.dtype), padding, up_filter, n)
    return x.reshape(n, -1, *x.shape[2:])


def styled_conv2d(
    x: Float[Tensor, "n i h w"],
    weight: Float[Tensor, "o i 3 3"],
    s: Float[Tensor, "n i"],
    bias: Float[Tensor, " o"],
    noise: Float[Tensor, "n 1 h2 w2"] | Float[Tensor, "h2 w2"] | None = None,
    up_filter: Filter | None = None,
    *,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Float[Tensor, "n o h2 w2"]:
    """A layer of a style-based generator: modulated convolution, noise, bias, leaky ReLU (fig. 2c; see `activate`).

    On the CPU, without gradients, by fewer multiplications (`nn.winograd`): the same numbers up to rounding.
    """
    if worth(x):
        d, clamp = demodulation(weight, s), None if clamp is None else clamp * gain
        return styled_layer(x, weight, s, d, bias, noise, up_filter, gain=math.sqrt(2) * gain, clamp=clamp)
    x = modulated_conv2d(x, weight, s, padding=1, up_filter=up_filter)
    x = x if noise is None else x + noise.to(x.dtype)
    return activate(x + bias.to(x.dtype)[:, None, None], "lrelu", gain=gain, clamp=clamp)


def _narrow(x: Tensor) -> bool:
    kind = x.device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16


def _conv(x: Tensor, weight: Tensor, padding: int, up_filter: Filter | None, groups: int) -> Tensor:
    if up_filter is None:
        return F.conv2d(x, weight, padding=padding, groups=groups)
    return conv_up2(x, weight, up_filter, groups=groups)
