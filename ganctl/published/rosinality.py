"""StyleGAN2 under the names of rosinality's implementation, which e4e, pSp and OpenMMLab follow."""

import math
import re
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganctl.errors import printable
from ganctl.io.pickle_machine import Refused
from ganctl.published.names import blur_kernel, noise_name, with_filters

MEAN_SEEDS = 10_000
"""Styles whose mean is the w_avg of a file that has none …"""
MAX_WIDTH = 4096
"""… where its mapping network is at most so wide: TADNE's, the widest known, has 1024."""


def is_generator(state: Mapping[str, Tensor]) -> bool:
    return "input.input" in state and "to_rgb1.conv.weight" in state


def is_discriminator(state: Mapping[str, Tensor]) -> bool:
    return "convs.0.0.weight" in state and "final_linear.1.weight" in state


_STYLED = {
    "conv.weight": "weight", "conv.modulation.weight": "affine.weight", "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength", "activate.bias": "bias", "bias": "bias",
}  # fmt: skip


def generator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        head, _, rest = key.partition(".")
        number, _, tail = rest.partition(".")
        i = int(number) if re.fullmatch(r"\d{1,2}", number) else -1
        if key.endswith((".blur.kernel", ".upsample.kernel")):
            _check_filter(tensor, 4)
        elif key == "input.input":
            out["synthesis.b4.const"] = tensor.squeeze(0)
        elif key == "latent_avg":
            # e4e's and pSp's files repeat it for every layer.
            out["mapping.w_avg"] = (tensor[0] if tensor.ndim > 1 and len(tensor) else tensor).flatten()
        elif head == "style" and i > 0 and tail in ("weight", "bias"):
            out[f"mapping.fc{i - 1}.{tail}"] = tensor
        elif head == "noises" and (match := re.fullmatch(r"noise_(\d{1,2})", rest)):
            out[noise_name(int(match[1]))] = tensor.reshape(tensor.shape[-2:])
        elif head in ("conv1", "to_rgb1") and rest in _STYLED:
            layer = "conv1" if head == "conv1" else "torgb"
            out[f"synthesis.b4.{layer}.{_STYLED[rest]}"] = _squeezed(tensor, rest)
        elif head in ("convs", "to_rgbs") and i >= 0 and tail in _STYLED:
            side = 8 << (i // 2 if head == "convs" else i)
            layer = f"conv{i % 2}" if head == "convs" else "torgb"
            out[f"synthesis.b{side}.{layer}.{_STYLED[tail]}"] = _squeezed(tensor, tail)
        else:
            raise Refused(f"it has the tensor '{printable(key[:80])}', which this layout's generator has not")
    return with_filters(out)


def _squeezed(tensor: Tensor, name: str) -> Tensor:
    """Weights have a leading axis of 1, noise strengths are vectors of one number, biases may be [1, n, 1, 1]."""
    if name == "conv.weight":
        return tensor.squeeze(0)
    return (
        tensor.reshape(())
        if name == "noise.weight" and tensor.numel() == 1
        else tensor.flatten()
        if name == "bias"
        else tensor
    )


def discriminator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`convs.0` reads the image, `convs.1` … halve it: their number is that of the halvings down to 4 × 4."""
    side = 4 << max((int(m[1]) for k in state if (m := re.match(r"convs\.(\d{1,2})\.", k))), default=0)
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.endswith(".kernel"):
            _check_filter(tensor, 1)
        elif match := re.fullmatch(r"convs\.0\.(0\.weight|1\.bias)", key):
            out[f"b{side}.fromrgb.{match[1][2:]}"] = tensor
        elif match := re.fullmatch(r"convs\.(\d{1,2})\.(conv1|conv2|skip)\.\d\.(weight|bias)", key):
            layer = {"conv1": "conv0", "conv2": "conv1", "skip": "skip"}[match[2]]
            out[f"b{side >> (int(match[1]) - 1)}.{layer}.{match[3]}"] = tensor
        elif match := re.fullmatch(r"final_conv\.\d\.(weight|bias)", key):
            out[f"b4.conv.{match[1]}"] = tensor
        elif match := re.fullmatch(r"final_linear\.([01])\.(weight|bias)", key):
            out[f"b4.{('fc', 'out')[int(match[1])]}.{match[2]}"] = tensor
        else:
            raise Refused(f"it has the tensor '{printable(key[:80])}', which this layout's discriminator has not")
    return with_filters(out)


def _check_filter(kernel: Tensor, gain: int) -> None:
    expected = blur_kernel()
    if kernel.shape != (4, 4) or not any(torch.allclose(kernel.float(), expected * g, atol=1e-6) for g in (1, gain)):
        raise Refused("it resamples by another filter than [1, 3, 3, 1]")


def with_mean(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean style, where a file has none: of 10,000 z of numpy's seed 0."""
    layers = [k for k in state if re.fullmatch(r"mapping\.fc\d+\.weight", k)]
    if "mapping.w_avg" in state or not layers:
        return state
    if any(n > MAX_WIDTH for k in layers for n in state[k].shape):
        raise Refused(f"its mapping network is wider than {MAX_WIDTH}, and it has no mean style")
    try:
        w = _mean_style(state, len(layers))
    except (KeyError, IndexError, RuntimeError) as e:
        raise Refused("the layers of its mapping network do not fit together") from e
    return {**state, "mapping.w_avg": w}


def _mean_style(state: Mapping[str, Tensor], layers: int) -> Tensor:
    width = state["mapping.fc0.weight"].shape[1]
    x = torch.from_numpy(np.random.RandomState(0).randn(MEAN_SEEDS, width)).float()
    x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for i in range(layers):
        weight, bias = state[f"mapping.fc{i}.weight"].float(), state[f"mapping.fc{i}.bias"].float()
        x = F.linear(x, weight * (0.01 / math.sqrt(x.shape[1])), bias * 0.01)
        x = F.leaky_relu(x, 0.2) * math.sqrt(2)
    return x.mean(0)
