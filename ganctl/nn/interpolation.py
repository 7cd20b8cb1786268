"""Paths through latent space: straight lines, arcs and splines that pass exactly through their keyframes."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

Method = Literal["lerp", "slerp", "cubic"]
Easing = Literal["linear", "ease-in-out"]


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The straight line (1-t)·a + t·b, with t broadcast over `a` and `b`."""
    return (1 - t) * a + t * b


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The arc sin((1-t)Ω)/sin Ω · a + sin(tΩ)/sin Ω · b, with Ω the angle between a and b; t is 0 … 1.

    Shoemake 1985, "Animating Rotation with Quaternion Curves", sec. 3.3; for latents: White 2016, arXiv:1609.04468,
    sec. 2.1. Keeps the norm when both ends have the same one, as draws from a wide normal nearly do; a straight line
    would pass near the origin, where the prior has no mass. Shapes [N, *z], t [N]. Where no single arc exists
    (parallel, opposite or zero vectors) it is the straight line.
    """
    n = a.shape[0]
    t = t.reshape(n, *[1] * (a.ndim - 1))
    flat_a, flat_b = a.reshape(n, -1), b.reshape(n, -1)
    norms = flat_a.norm(dim=1) * flat_b.norm(dim=1)
    cosine = (flat_a * flat_b).sum(1) / norms.clamp_min(torch.finfo(a.dtype).tiny)
    omega = cosine.clamp(-1, 1).acos().reshape(t.shape)
    sine = omega.sin()
    line = (sine < 1e-6) | (norms == 0).reshape(t.shape)
    safe = torch.where(line, 1.0, sine)
    arc = ((1 - t) * omega).sin() / safe * a + (t * omega).sin() / safe * b
    return torch.where(line, lerp(a, b, t), arc)


def positions(keys: int, frames: int, *, easing: Easing = "linear", loop: bool = True) -> Float64[Tensor, " f"]:
    """When each frame is, in units of keyframes: frame k·frames is exactly at keyframe k.

    A loop has keys·frames frames and goes on from its last one to its first; an open path has (keys-1)·frames + 1 and
    ends on the last keyframe. ease-in-out slows down at every keyframe: t ← 3t² - 2t³.
    """
    t = torch.arange(frames, dtype=torch.float64) / frames
    if easing == "ease-in-out":
        t = t * t * (3 - 2 * t)
    segments = keys if loop else keys - 1
    path = (torch.arange(segments, dtype=torch.float64)[:, None] + t).flatten()
    return path if loop else torch.cat([path, torch.tensor([float(segments)], dtype=torch.float64)])


def walk(keys: Tensor, method: Method, *, loop: bool = True) -> Callable[[Float64[Tensor, " f"]], Tensor]:
    """A function from positions (see `positions`) to latents [F, *z], in the dtype of `keys` [K, *z].

    At a whole position it returns that keyframe bit for bit. cubic: the interpolating spline with continuous first and
    second derivatives, periodic in a loop and natural (no curvature at the ends) otherwise (de Boor 1978, "A Practical
    Guide to Splines", ch. IV). Computed in float64.
    """
    count = keys.shape[0]
    exact = keys.double()
    spline = _spline(exact, loop) if method == "cubic" and count > 1 else None

    def at(u: Float64[Tensor, " f"]) -> Tensor:
        start = u.floor().long().clamp(max=count - 1)
        t = u - start
        if spline is not None:
            found = spline(u)
        else:
            a, b = exact[start], exact[(start + 1) % count if loop else (start + 1).clamp(max=count - 1)]
            found = slerp(a, b, t) if method == "slerp" else lerp(a, b, t.reshape(-1, *[1] * (keys.ndim - 1)))
        on_key = (t == 0).reshape(-1, *[1] * (keys.ndim - 1))
        return torch.where(on_key, exact[start], found).to(keys.dtype)

    return at


def _spline(keys: Tensor, loop: bool) -> Callable[[Tensor], Tensor]:
    from scipy.interpolate import CubicSpline

    knots = torch.cat([keys, keys[:1]]) if loop else keys
    flat = knots.reshape(knots.shape[0], -1).numpy()
    spline = CubicSpline(range(flat.shape[0]), flat, axis=0, bc_type="periodic" if loop else "natural")
    return lambda u: torch.from_numpy(spline(u.numpy())).reshape(u.shape[0], *keys.shape[1:])
