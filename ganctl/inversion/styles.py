"""Inversion in W and W+ of a style-based generator: StyleGAN2's projector, and one style for each layer.

Karras et al., 2020, arXiv:1912.04958, app. D: from the mean of w, with noise on w that fades in the first three
quarters of the search, and on request with the noise maps searched too. W+: Abdal, Qin & Wonka, 2019, arXiv:1904.03189.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ganctl.inversion.optimize import Inversion, InvertConfig, Loss, Maps, Step, descend, squared_error
from ganctl.io.seeds import seed_class
from ganctl.nn.drawing import Drawing, Latent, styles, synthesize
from ganctl.protocols import StyleSampler, classes_of

SAMPLES = 10_000
"""Draws of w that its mean and deviation are taken from."""
TOGETHER = 1000
JITTER, JITTER_UNTIL = 0.05, 0.75
"""Noise on w: so many of its deviations at first, and none from this part of the search on."""
NOISE_WEIGHT = 1e5
"""α of the noise maps' penalty."""


@dataclass(frozen=True)
class StyleStatistics:
    """μ and σ of w, and how many layers take one."""

    mean: Float[Tensor, " w"]
    deviation: float
    """σ² = E ‖w - μ‖²"""
    layers: int


def style_statistics(net: StyleSampler, device: torch.device, n: int, c: int | None = None) -> StyleStatistics:
    """Of the w of seeds 0 … n - 1, of a conditional network in the class c, or over the classes that they draw."""
    label = classes_of(net)
    parts, layers = [], 1
    for first in range(0, n, TOGETHER):
        seeds = range(first, min(first + TOGETHER, n))
        latents = [
            Latent(seed, z, seed_class(seed, label.n) if c is None and label is not None else c)
            for seed, z in zip(seeds, net.prior(seeds), strict=True)
        ]
        with torch.no_grad():
            w = styles(net, latents, Drawing(), device)
        layers = w.shape[1]
        parts.append(w[:, 0].double().cpu())
    w = torch.cat(parts)
    return StyleStatistics(w.mean(0).float(), (w - w.mean(0)).square().sum(1).mean().sqrt().item(), layers)


def project(
    net: StyleSampler,
    x: Float[Tensor, "n c h w"],
    cfg: InvertConfig,
    statistics: StyleStatistics,
    on_step: Callable[[Step], None] = lambda _: None,
    *,
    space: Literal["w", "w+"],
    init: Float[Tensor, "l w"] | None = None,
    mask: Float[Tensor, "n 1 h w"] | None = None,
    distance: Loss = squared_error,
    maps: Maps | None = None,
) -> Inversion:
    """Styles [n, l, w] for the images x (in net.x.range, on net's device): in W all layers have the same one.

    Starts from `init`, or from the mean of w. `maps` are the noise maps to search from, of one image alone. Raises
    GanctlError as `descend` does, and for an `init` of several styles in W.
    """
    layers = statistics.layers if space == "w+" else 1
    first = statistics.mean[None] if init is None else init[:layers]
    start = first.to(x).expand(layers, -1).expand(len(x), 1, layers, -1)
    generator = torch.Generator().manual_seed(cfg.seed)

    def jitter(t: float) -> Tensor:
        fading = max(0.0, 1 - t / JITTER_UNTIL) ** 2
        return JITTER * statistics.deviation * fading * torch.randn(start.shape[2:], generator=generator)

    def picture(points: Tensor, moving: Maps) -> Tensor:
        return synthesize(net, points.expand(-1, statistics.layers, -1), maps=moving)

    found = descend(
        picture, start, x, cfg, on_step, mask=mask, distance=distance,
        jitter=jitter, maps=maps, penalty=noise_penalty if maps else None,
    )  # fmt: skip
    latent = found.latent.expand(-1, statistics.layers, -1).contiguous()
    return Inversion(latent, found.x, found.loss, found.maps)


def start_maps(maps: Maps, seed: int) -> Maps:
    """Noise maps to search from: fresh ones of the same shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator).to(value) for name, value in maps.items()}


def noise_penalty(maps: Maps) -> Tensor:
    """α Σ over maps and their halvings down to 8 px of the squared correlation with neighbours to the right and below.

    App. D. Halving by the mean of 4 pixels, times 2, keeps the variance of noise.
    """
    total = torch.zeros(())
    for value in maps.values():
        n = value.reshape(1, 1, *value.shape[-2:])
        while True:
            total = total.to(n) + (n * n.roll(1, 3)).mean().square() + (n * n.roll(1, 2)).mean().square()
            if n.shape[-1] <= 8:
                break
            n = 2 * F.avg_pool2d(n, 2)
    return NOISE_WEIGHT * total
