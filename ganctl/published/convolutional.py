"""Published generators that are stacks of transposed convolutions, as layers of DCGAN's (`main.N`): OpenMMLab's DCGAN,
LSGAN and WGAN-GP (mmgen), StudioGAN's DCGAN and LSGAN, GAN Zoo's DCGAN.

Where those programs convolve, or double by nearest neighbours and convolve, the same map is one transposed convolution.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Found = tuple[dict[str, Any], dict[str, Tensor]] | None
"""A config and G's tensors; None for what is no such network."""
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
MAX_LAYERS = 31
STUDIO_EPS = 1e-4
"""ε of StudioGAN's batch norms."""


class Stack:
    """Tensors under DCGAN's names, layer by layer, and the table of the layers that were put."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state, self.found, self.table = state, dict[str, Tensor](), list[tuple[int, int, int, int]]()
        self.place = 0

    def get(self, key: str, ndim: int) -> Tensor | None:
        tensor = self.state.get(key)
        return tensor if tensor is not None and tensor.ndim == ndim else None

    def norm(self, prefix: str, ahead: int) -> None:
        """The norm under that name, so many modules from here."""
        for end in NORM:
            if (tensor := self.state.get(f"{prefix}.{end}")) is not None:
                self.found[f"main.{self.place + ahead}.{end}"] = tensor

    def conv(self, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> None:
        """A transposed convolution, weight [in, out, k, k]. A bias that is not there is 0: ours all have one."""
        self.table.append((weight.shape[1], weight.shape[-1], stride, padding))
        self.found[f"main.{self.place}.weight"] = weight.contiguous()
        self.found[f"main.{self.place}.bias"] = weight.new_zeros(weight.shape[1]) if bias is None else bias

    def linear(self, weight: Tensor, bias: Tensor, width: int) -> bool:
        """The first layer, weight [width · side², z]. Whether it makes square maps of that width."""
        side = math.isqrt(weight.shape[0] // width) if width else 0
        if not side or side * side * width != weight.shape[0]:
            return False
        self.table.append((width, side, 1, 0))
        self.found |= {"main.0.1.weight": weight, "main.0.1.bias": bias}
        return True

    def config(self, z_dim: int, **more: Any) -> dict[str, Any]:
        side = 1
        for _, kernel, stride, padding in self.table:
            side = (side - 1) * stride - 2 * padding + kernel
        sizes = {"resolution": side, "channels": self.table[-1][0], "z_dim": z_dim, "g_layers": tuple(self.table)}
        return {**sizes, **more}


def openmmlab(state: Mapping[str, Tensor]) -> Found:
    """DCGAN: `noise2feat`, `upsampling.N`, `output_layer`, of kernels 4; a bias in the last convolution alone."""
    stack = Stack(state)
    first, last = stack.get("noise2feat.conv.weight", 4), stack.get("output_layer.conv.weight", 4)
    names = numbered(state, r"upsampling\.(\d{1,2})\.conv\.weight")
    if first is None or last is None or names is None:
        return None
    for i, prefix in enumerate(["noise2feat", *(f"upsampling.{n}" for n in names), "output_layer"]):
        weight = stack.get(f"{prefix}.conv.weight", 4)
        if weight is None or weight.shape[-1] != 4:
            return None
        stack.conv(weight, state.get(f"{prefix}.conv.bias"), *((2, 1) if i else (1, 0)))
        stack.norm(f"{prefix}.bn", 1)
        stack.place += 3
    cfg = stack.config(first.shape[0], g_bias=True, ngf=last.shape[0])
    # These are fig. 1's layers, which the sides alone tell.
    del cfg["g_layers"]
    return cfg, stack.found


def openmmlab_lsgan(state: Mapping[str, Tensor]) -> Found:
    """LSGAN: a linear layer and a norm, then `conv_blocks.N` of kernels 3 and strides 2, 1, 2, 1 … 2, 2, 1.

    Those of stride 2 add a row at the end, as a kernel of 4 does whose last row is 0.
    """
    stack = Stack(state)
    linear, bias = stack.get("noise2feat_head.0.weight", 2), stack.get("noise2feat_head.0.bias", 1)
    scale = stack.get("noise2feat_tail.0.weight", 1)
    names = numbered(state, r"conv_blocks\.(\d{1,2})\.conv\.weight")
    if linear is None or bias is None or scale is None or names is None or len(names) % 2 == 0 or len(names) < 3:
        return None
    if not stack.linear(linear, bias, len(scale)):
        return None
    stack.norm("noise2feat_tail.0", 1)
    stack.place = 3
    for i in names:
        weight = stack.get(f"conv_blocks.{i}.conv.weight", 4)
        if weight is None or weight.shape[-1] != 3:
            return None
        doubles = i % 2 == 0 if i < len(names) - 3 else i < len(names) - 1
        weight = F.pad(weight, (0, 1, 0, 1)) if doubles else weight
        stack.conv(weight, state.get(f"conv_blocks.{i}.conv.bias"), 2 if doubles else 1, 1)
        stack.norm(f"conv_blocks.{i}.bn", 1)
        stack.place += 3
    return stack.config(linear.shape[1]), stack.found


def openmmlab_wgan_gp(state: Mapping[str, Tensor]) -> Found:
    """WGAN-GP: ProGAN's stages with batch norm. `conv_blocks` of 3 × 3 at 0, 2, 3, 5, 6 …, doubling before 2, 5 …"""
    stack = Stack(state)
    linear, bias = stack.get("noise2feat.linear.weight", 2), stack.get("noise2feat.bias", 4)
    last = stack.get("to_rgb.conv.weight", 4)
    names = [int(m[1]) for k in state if (m := re.fullmatch(r"conv_blocks\.(\d{1,2})\.conv\.weight", k))]
    if linear is None or bias is None or last is None or last.shape[-1] != 1:
        return None
    if linear.shape[0] % 16 or not linear.numel():
        return None
    # Layers of doubling, without tensors, are counted too.
    if sorted(names) != [i for i in range(max(names, default=0) + 1) if i % 3 != 1] or len(names) > MAX_LAYERS - 2:
        return None
    stack.conv(linear.T.reshape(linear.shape[1], -1, 4, 4), bias.flatten(), 1, 0)
    stack.norm("noise2feat.norm", 2)
    stack.place = 3
    for i in sorted(names):
        weight = stack.get(f"conv_blocks.{i}.conv.weight", 4)
        if weight is None or weight.shape[-1] != 3:
            return None
        doubles = i % 3 == 2
        weight = doubled(transposed(weight)) if doubles else transposed(weight)
        stack.conv(weight, state.get(f"conv_blocks.{i}.conv.bias"), 2 if doubles else 1, 1)
        stack.norm(f"conv_blocks.{i}.bn", 1)
        stack.place += 3
    stack.conv(transposed(last), state.get("to_rgb.conv.bias"), 1, 0)
    return stack.config(linear.shape[1]), stack.found


def studiogan(state: Mapping[str, Tensor]) -> Found:
    """DCGAN and LSGAN of StudioGAN (`deep_conv`): a linear layer alone, then `blocks.N.0.deconv0` and `conv4`."""
    stack = Stack(state)
    linear, bias, last = stack.get("linear0.weight", 2), stack.get("linear0.bias", 1), stack.get("conv4.weight", 4)
    first, names = stack.get("blocks.0.0.deconv0.weight", 4), numbered(state, r"blocks\.(\d{1,2})\.0\.deconv0\.weight")
    if linear is None or bias is None or last is None or first is None or names is None:
        return None
    if not stack.linear(linear, bias, first.shape[0]):
        return None
    stack.place = 1
    for i in names:
        weight = stack.get(f"blocks.{i}.0.deconv0.weight", 4)
        if weight is None or weight.shape[-1] != 4:
            return None
        stack.conv(weight, state.get(f"blocks.{i}.0.deconv0.bias"), 2, 1)
        stack.norm(f"blocks.{i}.0.bn0", 1)
        stack.place += 3
    stack.conv(transposed(last), state.get("conv4.bias"), 1, last.shape[-1] // 2)
    return stack.config(linear.shape[1], g_bias=True, g_first="linear", bn_eps=STUDIO_EPS), stack.found


def gan_zoo(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """GAN Zoo's G (`formatLayer`, `main.convTransposeN`) under the names of PyTorch's example; others as they are."""
    if "formatLayer.weight" not in state:
        return state
    last = max((int(m[1]) for k in state if (m := re.match(r"main\.batchNorm(\d{1,2})\.", k))), default=0)

    def name(key: str) -> str:
        if match := re.fullmatch(r"main\.(convTranspose|batchNorm)(\d{1,2})\.(\w+)", key):
            return f"main.{3 * int(match[2]) + (match[1] == 'batchNorm')}.{match[3]}"
        return key.replace("formatLayer.", "main.0.").replace("main.outlayer.", f"main.{3 * last + 3}.")

    return {name(k): v for k, v in state.items()}


def numbered(state: Mapping[str, Tensor], pattern: str) -> range | None:
    """The numbers in group 1 of the keys, which count from 0 on without a gap; None where they do not."""
    found = {int(m[1]) for k in state if (m := re.fullmatch(pattern, k))}
    return range(len(found)) if found == set(range(len(found))) and len(found) <= MAX_LAYERS - 2 else None


def transposed(weight: Tensor) -> Tensor:
    """The kernel [out, in, k, k] of a convolution of stride 1 as that of a transposed one, [in, out, k, k]."""
    return weight.transpose(0, 1).flip(2, 3)


def doubled(weight: Tensor) -> Tensor:
    """Nearest × 2 and a transposed convolution of 3 × 3 as one of 4 × 4, stride 2, padding 1.

    Each pixel fills 2 × 2, so the kernel is the sum of its four shifts.
    """
    wide = F.pad(weight, (1, 1, 1, 1))
    return torch.stack([wide[..., i : i + 4, j : j + 4] for i in (0, 1) for j in (0, 1)]).sum(0)
