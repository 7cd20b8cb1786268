"""Perceptual path length: Karras, Laine & Aila, 2019. arXiv:1812.04948, sec. 4.1, eqs. 2 and 3."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ganctl.io.seeds import seed_class
from ganctl.nn.features.lpips import lpips_input
from ganctl.nn.interpolation import lerp, slerp
from ganctl.nn.precision import inference
from ganctl.protocols import Sampler, StyleSampler, classes_of

EPSILON = 1e-4

Distance = Callable[[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]], Float[Tensor, " n"]]
"""Such as `LPIPS.distance`: of RGB images on [-1, 1]."""


def path_length(distances: Float[np.ndarray, " n"], *, epsilon: float = EPSILON) -> tuple[float, float]:
    """Mean and population deviation of d / ε², over the distances d of pictures that lie ε apart in latent space.

    What lies outside the 1st … 99th percentile is dropped, as in the authors' code: the percentiles are elements (the
    lower and the higher neighbour), and are kept. In float64.
    Raises ValueError for fewer than two distances, and for NaN or infinity.
    """
    lengths = np.asarray(distances, np.float64) / epsilon**2
    if lengths.size < 2:
        raise ValueError(f"a path length needs at least 2 samples, not {lengths.size}")
    if not np.isfinite(lengths).all():
        raise ValueError("the pictures hold NaN or infinity")
    low, high = np.percentile(lengths, 1, method="lower"), np.percentile(lengths, 99, method="higher")
    kept = lengths[(lengths >= low) & (lengths <= high)]
    return float(kept.mean()), float(kept.std())


def named_path_length(
    name: str,
    net: Sampler,
    distance: Distance,
    *,
    n: int,
    seed: int = 0,
    batch_size: int = 16,
    device: torch.device,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[float, float]:
    """The path length by its published name: `ppl_wend` is StyleGAN's in W at the first of two latents, of a crop
    around FFHQ's faces; `ppl2_zfull` StyleGAN2's in Z anywhere between them, of whole pictures.

    Raises ValueError, with the reason as a sentence, for a network that has no W, and as `path_length` does.
    """
    kind, path = name.split("_")
    if path[0] == "w" and not isinstance(net, StyleSampler):
        raise ValueError("the network has no space W")
    return sampler_path_length(
        net,
        distance,
        space="w" if path[0] == "w" else "z",
        ends="full" if path[1:] == "full" else "end",
        n=n,
        seed=seed,
        batch_size=batch_size,
        device=device,
        crop=kind == "ppl",
        done=done,
    )


def sampler_path_length(
    net: Sampler,
    distance: Distance,
    *,
    space: Literal["z", "w"],
    ends: Literal["full", "end"],
    n: int,
    seed: int,
    batch_size: int,
    device: torch.device,
    crop: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[float, float]:
    """The path length of a sampler on `device`, by the protocol of StyleGAN's code: `step_distances` of n samples."""
    steps = step_distances(
        net,
        distance,
        range(n),
        space=space,
        ends=ends,
        seed=seed,
        batch_size=batch_size,
        device=device,
        crop=crop,
        done=done,
    )
    return path_length(steps)


def step_distances(
    net: Sampler,
    distance: Distance,
    samples: Sequence[int],
    *,
    space: Literal["z", "w"],
    ends: Literal["full", "end"],
    seed: int,
    batch_size: int,
    device: torch.device,
    crop: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> Float64[np.ndarray, " n"]:
    """Distances of two pictures each, EPSILON apart on the path between two draws from the prior.

    The path is an arc in z (eq. 2), or a straight line in w (eq. 3), and the pictures lie anywhere on it (`full`), or
    at its start (`end`). They are compared as floats, both with the network's constant noise; `crop` keeps the part
    where FFHQ has its faces, as the ids ppl_* of StyleGAN's code do and ppl2_wend does not. Sample i, with
    its class in a conditional network, depends on (seed, i) alone: any split of `samples` over batches or machines
    gives the same, to rounding.
    Raises ValueError for `w` of a network that has none, and for pictures that are neither grey nor RGB.
    """
    if space == "w" and not isinstance(net, StyleSampler):
        raise ValueError("the network has no space w: measure its path in z")
    if net.x.channels not in (1, 3):
        raise ValueError(f"pictures have {net.x.channels} channels, and the distance is of grey or RGB ones")
    found, count = [], 0
    with inference(device):
        for start, end, c in _latents(net, samples, space, ends, seed, batch_size, device):
            both = torch.cat([start, end])
            drawn = net.sample(both, *c) if space == "z" else net.synthesize(both)  # type: ignore[attr-defined]
            pictures = lpips_input(drawn, net.x.range)
            if crop:
                rows, columns = pictures.shape[2] // 8, pictures.shape[3] // 8
                pictures = pictures[:, :, 3 * rows : 7 * rows, 2 * columns : 6 * columns]
            a, b = pictures.chunk(2)
            found.append(distance(a, b).double().cpu().numpy())
            count += len(a)
            done(count)
    return np.concatenate(found) if found else np.empty(0)


def _latents(
    net: Sampler, samples: Sequence[int], space: str, ends: str, seed: int, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Batches of latents at t and at t + ε, and the classes of both of a conditional network: one for each path."""
    label = classes_of(net)
    times = np.random.default_rng(seed).random(max(samples, default=-1) + 1)
    for at in range(0, len(samples), batch_size):
        chosen = samples[at : at + batch_size]
        t = torch.from_numpy(times[list(chosen)]) if ends == "full" else torch.zeros(len(chosen), dtype=torch.float64)
        # Seeds are 32 bits wide, and go round.
        a = net.prior([(seed + 2 * i) % 2**32 for i in chosen])
        b = net.prior([(seed + 2 * i + 1) % 2**32 for i in chosen])
        drawn = [] if label is None else [seed_class((seed + 2 * i) % 2**32, label.n) for i in chosen]
        c = [] if label is None else [torch.tensor(2 * drawn, device=device)]
        if space == "z":
            # In float64, on the CPU: in float32, ε is only some thousand steps of rounding.
            start, end = (arc(a.double(), b.double(), u).to(a.dtype) for u in (t, t + EPSILON))
            yield start.to(device), end.to(device), c
        else:
            w0, w1 = net.map(torch.cat([a, b]).to(device), *c).chunk(2)  # type: ignore[attr-defined]
            u = t.to(device, w0.dtype).reshape(-1, *[1] * (w0.ndim - 1))
            yield lerp(w0, w1, u), lerp(w0, w1, u + EPSILON), c


def arc(a: Float[Tensor, "n *z"], b: Float[Tensor, "n *z"], t: Float[Tensor, " n"]) -> Float[Tensor, "n *z"]:
    """From a to b: the direction along the great circle (eq. 2), the length along a straight line.

    StyleGAN divides z by its length, so that only the direction counts there; other generators stay where their prior
    has its mass.
    """
    shape = (-1, *[1] * (a.ndim - 1))
    norm_a, norm_b = (v.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(shape) for v in (a, b))
    return slerp(a / norm_a, b / norm_b, t) * lerp(norm_a, norm_b, t.reshape(shape))
