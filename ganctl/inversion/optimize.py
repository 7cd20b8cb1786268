"""Inversion by optimisation: the latent whose picture is nearest to a given one.

min_z d(m ⊙ G(z), m ⊙ x) by Adam through a frozen generator (Zhu et al. 2016, arXiv:1609.03552, eq. 4; Lipton & Tripathi
2017, arXiv:1702.04782), with the learning rate schedule of StyleGAN2's projector (Karras et al. 2020, app. D).
`descend` is the search, in whatever space; `optimize` runs it in z.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ganctl.config import config
from ganctl.errors import GanctlError
from ganctl.protocols import Sampler

MAX_PSNR = 100.0

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""How far pictures [n, c, h, w] lie from given ones, under a mask [n, 1, h, w] or None: one number each, [n]."""

Maps = Mapping[str, Tensor]
"""Noise maps by their buffers' names, where they are searched too; empty where not."""

Picture = Callable[[Tensor, Maps], Tensor]
"""Images [n, c, h, w] of points [n, *p] and of the noise maps."""


@config
class InvertConfig:
    steps: int = 1000
    """Adam steps, one image of the generator each."""
    lr: float = 0.1
    """Adam's learning rate at its height (Karras et al. 2020, app. D)."""
    seed: int = 0
    """Of the starting points drawn from the prior."""
    starts: int = 4
    """Starting points per image; the best end is kept. GANs' landscapes have local minima (Creswell & Bharath 2018)."""
    ramp_up: float = 0.05
    """Share of the steps in which the learning rate rises."""
    ramp_down: float = 0.25
    """Share of the steps in which it falls to zero, as half a cosine."""


@dataclass(frozen=True)
class Step:
    """What `on_step` sees: after `step` steps, the best so far of each image."""

    step: int
    loss: Float[Tensor, " n"]
    latent: Float[Tensor, "n *p"]
    picture: Callable[[], Float[Tensor, "n c h w"]]
    """Their pictures, drawn when they are asked for."""


@dataclass(frozen=True)
class Inversion:
    """The best latent of each image, its picture in the generator's range, and the loss there."""

    latent: Float[Tensor, "n *p"]
    x: Float[Tensor, "n c h w"]
    loss: Float[Tensor, " n"]
    maps: Maps = field(default_factory=dict)
    """Its noise maps, where they were searched."""


def squared_error(
    x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"], mask: Float[Tensor, "n 1 h w"] | None = None
) -> Float[Tensor, " n"]:
    """The mean of (x - y)², over the pixels where mask is 1."""
    if mask is None:
        return ((x - y) ** 2).mean((1, 2, 3))
    weight = mask.to(x)
    return (weight * (x - y) ** 2).mean((1, 2, 3)) / weight.mean((1, 2, 3)).clamp_min(1e-12)


def optimize(
    G: Sampler,
    x: Float[Tensor, "n c h w"],
    cfg: InvertConfig,
    on_step: Callable[[Step], None] = lambda _: None,
    *,
    init: Tensor | None = None,
    c: int | None = None,
    mask: Float[Tensor, "n 1 h w"] | None = None,
    distance: Loss = squared_error,
) -> Inversion:
    """Latents for the images x (in G.x.range, on G's device), the nearest by `distance`.

    The first start of every image is `init` [n, *z], or the prior's mean; the others are draws from the prior. `c` is
    the class of all, in a conditional G. Only pixels where `mask` is 1 count. Images do not influence each other: Adam
    works on each number alone. Raises GanctlError when the loss or a gradient is not finite.
    """
    start = start_points(G, len(x), cfg, init).to(x)

    def picture(z: Tensor, _: Maps) -> Tensor:
        return G.sample(z) if c is None else G.sample(z, torch.full((len(z),), c, device=z.device))  # type: ignore[call-arg]

    return descend(picture, start.unflatten(0, (len(x), -1)), x, cfg, on_step, mask=mask, distance=distance)


def descend(
    picture: Picture,
    start: Float[Tensor, "n s *p"],
    x: Float[Tensor, "n c h w"],
    cfg: InvertConfig,
    on_step: Callable[[Step], None] = lambda _: None,
    *,
    mask: Float[Tensor, "n 1 h w"] | None = None,
    distance: Loss = squared_error,
    jitter: Callable[[float], Tensor] | None = None,
    maps: Maps | None = None,
    penalty: Callable[[Maps], Tensor] | None = None,
) -> Inversion:
    """The search itself, from s starts for each image.

    `jitter(t)` [*p] is added to every point at time t = 0 … 1; the best of the points tried is kept. `maps` move too,
    which needs one start of one image; their `penalty` is added to the loss, and after each step they are brought back
    to mean 0 and variance 1.
    """
    if not torch.isfinite(x).all():
        raise GanctlError("cannot invert the image", "it holds NaN or infinite values")
    n, starts = start.shape[:2]
    points = start.flatten(0, 1).clone().requires_grad_(True)  # the starts of an image side by side
    moving = {name: value.clone().requires_grad_(True) for name, value in (maps or {}).items()}
    target = x.repeat_interleave(starts, 0)
    masks = None if mask is None else mask.repeat_interleave(starts, 0)

    adam = torch.optim.Adam([points, *moving.values()], lr=cfg.lr)
    best, best_maps = points.detach().clone(), {name: value.detach() for name, value in moving.items()}
    best_loss = torch.full((n * starts,), math.inf, device=x.device)
    for step in range(cfg.steps + 1):
        t = step / cfg.steps
        with torch.enable_grad():
            tried = points if jitter is None else points + jitter(t).to(points)
            error = distance(target, picture(tried, moving), masks)
            total = error.sum() if penalty is None else error.sum() + penalty(moving)
        loss = error.detach()
        if not torch.isfinite(loss).all():
            raise GanctlError("the inversion broke off", f"the loss is not finite at step {step}", "try a smaller --lr")
        better = loss < best_loss
        best_loss = torch.where(better, loss, best_loss)
        best = torch.where(better.reshape(-1, *[1] * (best.ndim - 1)), tried.detach(), best)
        if moving and better.all():
            best_maps = {name: value.detach().clone() for name, value in moving.items()}
        found = _best_start(best_loss, best, n)
        on_step(Step(step, *found, partial(_drawn, picture, found[1], best_maps)))
        if step == cfg.steps:
            break
        adam.param_groups[0]["lr"] = cfg.lr * schedule(t, cfg)
        _step(adam, total, step)
        normalize(moving)
    loss, latent = _best_start(best_loss, best, n)
    return Inversion(latent, _drawn(picture, latent, best_maps), loss, best_maps)


def _step(adam: torch.optim.Adam, total: Tensor, step: int) -> None:
    leaves = adam.param_groups[0]["params"]
    for leaf, gradient in zip(leaves, torch.autograd.grad(total, leaves), strict=True):
        if not torch.isfinite(gradient).all():
            raise GanctlError("the inversion broke off", f"a gradient is not finite at step {step}")
        leaf.grad = gradient
    adam.step()


def _drawn(picture: Picture, latent: Tensor, maps: Maps) -> Tensor:
    with torch.no_grad():
        return picture(latent, maps)


def normalize(maps: Maps) -> None:
    """Brings every noise map back to mean 0 and variance 1, in place (Karras et al. 2020, app. D)."""
    with torch.no_grad():
        for value in maps.values():
            value -= value.mean()
            value *= value.square().mean().rsqrt()


def start_points(G: Sampler, n: int, cfg: InvertConfig, init: Tensor | None) -> Tensor:
    """[n·starts, *z]: for each image the given start or the prior's mean, then the same draws from the prior."""
    draws = G.prior([cfg.seed + i for i in range(max(cfg.starts - 1, 1))])
    # Every prior here is symmetric about zero: standard normal, or uniform on [-1, 1].
    first = torch.zeros_like(draws[:1]).expand(n, *draws.shape[1:]) if init is None else init.to(draws)
    rest = draws[: cfg.starts - 1].expand(n, cfg.starts - 1, *draws.shape[1:])
    return torch.cat([first[:, None], rest], 1).flatten(0, 1).clone()


def schedule(t: float, cfg: InvertConfig) -> float:
    """Factor on the learning rate at t = 0 … 1: a linear rise, a plateau, half a cosine down."""
    up = min(1.0, t / cfg.ramp_up) if cfg.ramp_up else 1.0
    down = min(1.0, (1 - t) / cfg.ramp_down) if cfg.ramp_down else 1.0
    return up * (0.5 - 0.5 * math.cos(math.pi * down))


def psnr(error: Float[Tensor, " n"], image_range: tuple[float, float]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio in dB of mean squared errors, 10·log10(peak² / error), at most 100."""
    peak = image_range[1] - image_range[0]
    return (10 * torch.log10(peak**2 / error.double().clamp_min(1e-30))).clamp(max=MAX_PSNR).float()


def _best_start(loss: Tensor, z: Tensor, n: int) -> tuple[Tensor, Tensor]:
    rows = loss.reshape(n, -1)
    index = rows.argmin(1)
    each = torch.arange(n, device=loss.device)
    return rows[each, index], z.reshape(n, rows.shape[1], *z.shape[1:])[each, index]
