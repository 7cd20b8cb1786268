"""Equalised learning rate: weights of unit variance, scaled at run time (Karras et al. 2018, sec. 4.1)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.nn.resample import BINOMIAL, conv_down2, conv_up2, fir_filter

Activation = Literal["linear", "lrelu"]


def activate(x: Tensor, activation: Activation, *, gain: float = 1.0, clamp: float | None = None) -> Tensor:
    """Linear, or leaky ReLU 0.2 times √2 so that it keeps the variance; then `gain`; then ± `clamp` · `gain`.

    (Karras et al. 2020's code; the clamp is Karras et al. 2020, "Training GANs with limited data", appendix D.)
    """
    if activation == "lrelu":
        # In place: nobody else holds the result, and neither derivative needs it.
        x = F.leaky_relu(x, 0.2).mul_(math.sqrt(2) * gain)
    elif gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


class EqualizedLinear(nn.Module):
    """y = act(x (W · lr · gain / √inputs)ᵀ + b · lr): He's constant at run time, and a learning rate times `lr`.

    `bias` is the value it starts from; None: no bias. In float32 under autocast too: styles and logits are few numbers
    on which much depends.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: float | None = 0.0,
        lr: float = 1.0,
        gain: float = 1.0,
        activation: Activation = "linear",
    ) -> None:
        super().__init__()
        self.scale, self.lr = gain * lr / math.sqrt(inputs), lr
        self.activation: Activation = activation
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr)
        self.bias = None if bias is None else nn.Parameter(torch.full((outputs,), bias / lr))

    def forward(self, x: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        bias = self.bias * self.lr if self.bias is not None and self.lr != 1 else self.bias
        with torch.autocast(x.device.type, enabled=False):
            return activate(F.linear(x.to(self.weight.dtype), self.weight * self.scale, bias), self.activation)


class EqualizedConv2d(nn.Module):
    """x ∗ (W · gain / √(inputs · k²)) + b of the same size, for odd k."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, gain: float = 1.0) -> None:
        super().__init__()
        self.scale = gain / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o h w"]:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[-1] // 2)


class ResampledConv2d(nn.Module):
    """Equalised convolution at twice, half or the same size, activated: StyleGAN2's layers of D and residual skips.

    `gain`, of each use, is that of `activate`. The filter is a buffer at every size, as in the published layout.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        bias: bool = True,
        activation: Activation = "lrelu",
        resample: Literal["up", "down"] | None = None,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.resample, self.clamp = 1 / math.sqrt(inputs * kernel**2), resample, clamp
        self.activation: Activation = activation
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("resample_filter", fir_filter(BINOMIAL))

    def forward(self, x: Float[Tensor, "n i h w"], gain: float = 1.0) -> Float[Tensor, "n o h2 w2"]:
        weight, f = self.weight * self.scale, self.get_buffer("resample_filter")
        if self.resample:
            x = {"up": conv_up2, "down": conv_down2}[self.resample](x, weight, f)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        x = x if self.bias is None else x + self.bias.to(x.dtype)[:, None, None]
        return activate(x, self.activation, gain=gain, clamp=self.clamp)
