"""From latents to pictures, with what a style-based sampler takes besides: a class, truncation, noise."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ganctl.io.seeds import seed_class
from ganctl.protocols import Noise, StyleSampler, classes_of

NOISE_NAMES = {"noise_const": "noise_strength", "noise": "weight"}
"""What networks of the family call their stored maps, and beside each its strength."""

NoiseMode = Literal["const", "random", "none"]


@dataclass(frozen=True)
class Drawing:
    """How a style-based sampler draws, or one whose prior can be truncated."""

    psi: float = 1.0
    """Truncation: w ← mean + psi · (w - mean) (Karras et al. 2019, app. B); of a `TruncatedSampler`, of its z."""
    cutoff: int | None = None
    """Only the first so many layers are truncated; None: all."""
    noise: NoiseMode = "const"
    noise_layers: tuple[int, ...] | None = None
    """The layers that add noise (Karras et al. 2019, fig. 5); None: all."""


PLAIN = Drawing()


@dataclass(frozen=True)
class Latent:
    """What one picture is made of: w, or z and the class of a conditional network, from which w is made."""

    seed: int = 0
    """Of random noise."""
    z: Tensor | None = None
    """[*z]"""
    c: int | None = None
    w: Tensor | None = None
    """[l, w] as the synthesis network takes it: truncated already."""
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    """Noise maps of its own in place of the network's stored ones, by the names of their buffers."""


def draw(
    net: Any, latents: Sequence[Latent], drawing: Drawing, device: torch.device
) -> tuple[Tensor, tuple[Latent, ...]]:
    """Images [n, c, h, w] in `net.x.range`, and the latents with the w that was made of them (on the CPU).

    A picture depends on its own latent alone, to rounding: random noise comes from a generator for each image.
    """
    if not isinstance(net, StyleSampler):
        z = torch.stack([latent.z for latent in latents if latent.z is not None]).to(device)
        c, options = _classes(net, latents, device), {} if drawing.psi == 1 else {"psi": drawing.psi}
        return net.sample(z, **options) if c is None else net.sample(z, c, **options), tuple(latents)
    w = styles(net, latents, drawing, device)
    if drawing.noise == "const" and any(latent.maps for latent in latents):
        parts = [synthesize(net, w[i : i + 1], drawing, maps=latent.maps) for i, latent in enumerate(latents)]
        images = torch.cat(parts)
    else:
        images = synthesize(net, w, drawing, [latent.seed for latent in latents])
    return images, tuple(replace(latent, w=one) for latent, one in zip(latents, w.cpu(), strict=True))


def of_seeds(
    net: Any, seeds: Sequence[int], device: torch.device, *, psi: float = 1.0, classes: Sequence[int] | None = None
) -> Tensor:
    """Images [n, c, h, w] of seeds, truncated by `psi` where the network has a W or a prior that can be truncated.

    Of a conditional network each of the class that its seed draws, from all or from `classes`.
    """
    z, label = net.prior(seeds).to(device), classes_of(net)
    options = {} if psi == 1.0 else {"psi": psi}
    if label is None:
        return net.sample(z, **options)
    known = range(label.n) if classes is None else classes
    c = [known[seed_class(seed, len(known))] for seed in seeds]
    return net.sample(z, torch.tensor(c, device=device), **options)


def styles(net: StyleSampler, latents: Sequence[Latent], drawing: Drawing, device: torch.device) -> Tensor:
    """w [n, l, w] of latents, those that have one taken as they are. In fp32, whatever autocast is on."""
    missing = [latent for latent in latents if latent.w is None]
    mapped: Any = iter(())
    if missing:
        z = torch.stack([latent.z for latent in missing if latent.z is not None]).to(device)
        with torch.autocast(device.type, enabled=False):
            mapped = iter(net.map(z, _classes(net, missing, device), psi=drawing.psi, cutoff=drawing.cutoff))
    return torch.stack([next(mapped) if latent.w is None else latent.w.to(device) for latent in latents])


def noise_maps(net: Any) -> dict[str, Tensor]:
    """The stored noise maps of a style-based network, by the names of their buffers."""
    return {name: value for name, value in net.named_buffers() if name.split(".")[-1] in NOISE_NAMES}


def synthesize(
    net: StyleSampler,
    w: Tensor,
    drawing: Drawing = PLAIN,
    seeds: Sequence[int] = (),
    *,
    maps: Mapping[str, Tensor] = MappingProxyType({}),
) -> Tensor:
    """Images of w, with the noise of `drawing`: random noise by the `seeds`, `maps` in place of the stored ones."""
    noise = noise_of(drawing.noise, seeds)
    values = {f"net.{name}": value.to(w.device) for name, value in maps.items()}
    if drawing.noise_layers is not None:
        known = dict(cast(nn.Module, net).named_parameters())
        for layer, name in enumerate(noise_maps(net)):
            place, _, buffer = name.rpartition(".")
            strength = f"{place}.{NOISE_NAMES[buffer]}"
            if layer not in drawing.noise_layers:
                values[f"net.{strength}"] = torch.zeros_like(known[strength])
    if not values:
        return net.synthesize(w, noise=noise)
    return torch.func.functional_call(_Synthesis(net), values, (w, noise))


class _Synthesis(nn.Module):
    """`synthesize` as a module's forward, which `functional_call` needs."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, w: Tensor, noise: Noise) -> Tensor:
        return self.net.synthesize(w, noise=noise)


def noise_of(mode: NoiseMode, seeds: Iterable[int]) -> Noise:
    """The noise argument of `synthesize` for images of these seeds."""
    return [torch.Generator().manual_seed(seed) for seed in seeds] if mode == "random" else mode


def _classes(net: Any, latents: Sequence[Latent], device: torch.device) -> Tensor | None:
    if classes_of(net) is None:
        return None
    return torch.tensor([latent.c for latent in latents], dtype=torch.int64, device=device)
