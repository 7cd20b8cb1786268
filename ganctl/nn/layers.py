"""Small pieces the networks share: priors, sizes, initialisation, dropout with a generator of one's own."""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.errors import UsageError

N = TypeVar("N", bound=nn.Module)


def normal_prior(seeds: Sequence[int], *shape: int) -> Tensor:
    """z ~ N(0, I), [len(seeds), *shape], float32 on the CPU: row i depends on seeds[i] alone."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(s)) for s in seeds])


def numpy_prior(seeds: Sequence[int], z_dim: int) -> Tensor:
    """z ~ N(0, I), [len(seeds), z_dim], float32 on the CPU: numpy's RandomState(seed).randn(1, z_dim).

    The rule of the StyleGAN line's own scripts, by which a known seed gives the known picture.
    """
    return torch.stack([torch.from_numpy(np.random.RandomState(s).randn(z_dim)).float() for s in seeds])


def truncated_normal(z: Tensor, psi: float) -> Tensor:
    """psi times a normal held within ± 2, of z ~ N(0, I) value by value; 1 leaves z as it is.

    The threshold of Brock et al. 2019, sec. 3.1, as their published generators have it. Values are not drawn again
    until they fall inside: each goes to the same quantile of the narrower distribution. So a seed keeps its picture's
    character at every psi, and a walk stays a walk.
    """
    if psi == 1:
        return z
    outside = 0.022750131948179195  # Φ(-2)
    quantile = outside + torch.special.ndtr(z.double()) * (1 - 2 * outside)
    return (psi * torch.special.ndtri(quantile)).to(z.dtype)


def class_given(c: Int[Tensor, " n"] | None, classes: int) -> Int[Tensor, " n"]:
    """The classes of a conditional network's images. Raises UsageError where there are none."""
    if c is None:
        raise UsageError("no class given", f"the network was trained on {classes} classes", "pass --class")
    return c


def halvings(resolution: int) -> tuple[int, int]:
    """How often a side can be halved down to DCGAN's 4 px (or an odd number of 3 to 7), and the side that is left.

    64 → (4, 4), 32 → (3, 4), 28 → (2, 7). Raises UsageError for sides that end elsewhere.
    """
    side, n = resolution, 0
    while side > 4 and side % 2 == 0:
        side, n = side // 2, n + 1
    if not 3 <= side <= 7 or n == 0:
        raise UsageError(
            f"cannot build a network for {resolution} px",
            "the side must be 3 to 7 doubled one or more times, such as 28, 32, 48, 64, 96 or 128",
            "choose another --resolution",
        )
    return n, side


def init_normal(net: nn.Module, std: float = 0.02) -> None:
    """Weights of every (transposed) convolution and linear layer from N(0, std²), biases 0 (DCGAN, sec. 4).

    Affine scales of batch norms are drawn around 1.
    """
    for m in net.modules():
        weight = getattr(m, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        nn.init.normal_(weight, 0.0 if weight.ndim > 1 else 1.0, std)
        if isinstance(getattr(m, "bias", None), Tensor):
            nn.init.zeros_(m.bias)  # type: ignore[arg-type]


def fixed(net: N) -> N:
    """`net` with its parameters made buffers: saved with the network it is a part of, and moved by no optimiser."""
    for module in net.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, value.detach())
    return net


Uniform = Callable[..., Tensor]
"""uniform(n, *shape) → U[0, 1) [n, *shape]: `Progress.uniform` in training, `uniform_from(seed)` elsewhere."""


def uniform_from(seed: int) -> Uniform:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.rand(*shape, generator=generator)


def dropout(x: Tensor, p: float, uniform: Uniform) -> Tensor:
    """Zeroes each value with probability p and scales the rest by 1 / (1 - p).

    Draws from `uniform` on the CPU, so that a seed repeats a picture on any device (torch's own dropout cannot).
    """
    keep = uniform(*x.shape) >= p
    return x * keep.to(x.device, x.dtype) / (1 - p)


def for_pictures(x: Tensor) -> Tensor:
    """Maps [n, c, h, w] with their channels last in memory on a CPU, where no gradient is asked for.

    There 3 × 3 convolutions of a few dozen channels take up to a third less; elsewhere x stays as it is.
    """
    plain = x.device.type == "cpu" and not torch.is_grad_enabled()
    return x.contiguous(memory_format=torch.channels_last) if plain else x


def mlp(sizes: Sequence[int], activation: nn.Module) -> list[nn.Module]:
    """Linear layers between consecutive sizes, the activation after each but the last."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(a, b)] + ([activation] if i < len(sizes) - 2 else [])
    return layers


def doublings(
    n: int, width: int, channels: int, conv: Callable[[int, int], nn.Module], norm: Callable[[int], nn.Module]
) -> nn.Sequential:
    """A generator's n layers that double the side and halve the width: `conv`, norm and ReLU; the last to an image's
    channels, with a tanh (DCGAN, fig. 1).
    """
    layers: list[nn.Module] = []
    for _ in range(n - 1):
        layers += [conv(width, width // 2), norm(width // 2), nn.ReLU()]
        width //= 2
    return nn.Sequential(*layers, conv(width, channels), nn.Tanh())


def halved(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """Half as large, for a discriminator of a coarser scale: means of 3 × 3 pixels, at the border of fewer."""
    return F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)


def pixels(channels: int, resolution: int) -> int:
    return math.prod((channels, resolution, resolution))


def numbered_convs(state: Mapping[str, Tensor], pattern: str) -> list[Tensor]:
    """The convolutions of a Sequential in a published file, by the number in their key, group 1 of `pattern`.

    The order of the keys says nothing: safetensors sorts them as text, 10 before 2.
    """
    found = {int(m[1]): v for k, v in state.items() if (m := re.fullmatch(pattern, k)) and v.ndim == 4}
    return [found[i] for i in sorted(found)]


def numbered_blocks(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many blocks of a published file, numbered from 0 on in group 1 of `pattern`, hold such a convolution; 0 where
    one of them is missing or is none."""
    found = {int(m[1]): v.ndim for k, v in state.items() if (m := re.fullmatch(pattern, k))}
    return len(found) if sorted(found) == list(range(len(found))) and set(found.values()) == {4} else 0
