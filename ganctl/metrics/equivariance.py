"""Equivariance of a generator: EQ-T, EQ-T_frac and EQ-R of Karras et al. 2021, appendix E. arXiv:2106.12423.

Does moving the plane that a picture is made of move the picture? A peak signal-to-noise ratio between the picture of
the moved plane and the moved picture, over the pixels that are known in both.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ganctl.models.stylegan3 import transform_of
from ganctl.nn.resample import upfirdn2d

Images = Float[Tensor, "n c h w"]
Draw = Callable[[Float[Tensor, "n l d"], Float[Tensor, "3 3"]], Images]
"""Images of w under an inverse transform of the plane (`stylegan3.Input.transform`), not cut to their range."""

KINDS = ("eqt_int", "eqt_frac", "eqr")
"""Moved by whole pixels, by fractions of them, turned."""
LANCZOS = 3
"""a: half the width of a Lanczos window, px."""


@torch.no_grad()
def equivariance(
    draw: Draw,
    batches: Iterable[Float[Tensor, "n l d"]],
    *,
    kinds: tuple[str, ...] = KINDS,
    seed: int = 0,
    translate: float = 0.125,
    rotate: float = 180.0,
) -> dict[str, float]:
    """10 log₁₀ (2² / E (moved picture - picture of the moved plane)²) in dB, of each kind (eqs. 1 to 3 of appendix E).

    Each batch of w is moved by up to ±`translate` sides along both axes and turned by up to ±`rotate` degrees, the same
    for all its images, drawn from `seed`. Images on [-1, 1]. Raises ValueError for kinds that there are not, and where
    no pixel is known in both.
    """
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"no such equivariance: {', '.join(sorted(unknown))}")
    rng = np.random.default_rng(seed)
    errors, known = dict.fromkeys(kinds, 0.0), dict.fromkeys(kinds, 0.0)
    for w in batches:
        still = draw(w, transform_of())
        side = still.shape[3]
        # Drawn whether used or not: each kind's value is the same alone and beside others.
        whole, fraction = rng.uniform(-translate, translate, (2, 2)) * side
        angle = float(rng.uniform(-rotate, rotate))
        for kind in kinds:
            if kind == "eqr":
                ours, in_ours = pseudo_rotated(draw(w, transform_of(rotate=angle)), angle)
                theirs, in_theirs = rotated(still, angle)
            else:
                x, y = (float(t) for t in (np.round(whole) if kind == "eqt_int" else fraction))
                ours, in_ours = draw(w, transform_of((x / side, y / still.shape[2]))), torch.ones_like(still[0, 0])
                theirs, in_theirs = translated(still, x, y)
            mask = in_ours * in_theirs
            errors[kind] += float(((theirs - ours).double().square() * mask).sum())
            known[kind] += float(mask.sum()) * still.shape[0] * still.shape[1]
    if not all(known.values()):
        raise ValueError("no pixel is known in both pictures")
    return {kind: 10 * math.log10(4 / max(errors[kind] / known[kind], 1e-20)) for kind in kinds}


def translated(image: Images, x: float, y: float) -> tuple[Images, Float[Tensor, "h w"]]:
    """The image moved right by x and down by y px, and where it is known: 1, elsewhere 0 (E.1, E.2).

    Between pixels by a Lanczos filter of 2a taps along each axis, none where x or y is whole.
    """
    for axis, shift in ((3, x), (2, y)):
        image = _shifted(image, shift, axis)
    known = torch.ones_like(image[0, 0])
    for axis, shift in ((1, x), (0, y)):
        low, high = _reach(shift)
        at = torch.arange(known.shape[axis], device=image.device)
        inside = (at - low >= 0) & (at - high < known.shape[axis])
        known = known * (inside if axis else inside[:, None])
    return image, known


def _reach(shift: float) -> tuple[int, int]:
    """Which inputs a shifted pixel is made of: from `low` before it to `high` before it."""
    whole = math.floor(shift)
    return (whole, whole) if shift == whole else (whole + LANCZOS, whole - LANCZOS + 1)


def _shifted(image: Images, shift: float, axis: int) -> Images:
    low, high = _reach(shift)
    before = torch.arange(high, low + 1, dtype=torch.float64)
    f = torch.sinc(before - shift) * torch.sinc((before - shift) / LANCZOS)
    f = (f / f.sum()).to(image.device, image.dtype)
    # Output j is the sum of f[k] image[j - before[k]].
    if axis == 3:
        return upfirdn2d(image, f[None], padding=(low, -high, 0, 0))
    return upfirdn2d(image, f[:, None], padding=(0, 0, low, -high))


def rotated(image: Images, angle: float, *, up: int = 4) -> tuple[Images, Float[Tensor, "h w"]]:
    """The image turned counter-clockwise by `angle` degrees about its centre, and where it is known (R_α, E.3).

    By a filter that keeps only what the pixel grids of both, the upright and the turned, can hold; from `up` times the
    resolution, linearly.
    """
    f = rotation_filter(angle, up=up).to(image.device, image.dtype)
    p, (height, width) = f.shape[0] // 2, image.shape[2:]
    # Pixel i lies at up · i + p of the fine image, which goes on for p beyond the last.
    fine = upfirdn2d(image, f, up=up, padding=2 * p, gain=float(up**2))
    back = transform_of(rotate=angle)[:2, :2].to(image.device, image.dtype)
    x = torch.arange(width, device=image.device) + 0.5 - width / 2
    y = torch.arange(height, device=image.device) + 0.5 - height / 2
    source = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2) @ back.T
    centre = torch.tensor([width, height], device=image.device) / 2 - 0.5
    place = (source + centre) * up + p
    size = torch.tensor(fine.shape[:1:-1], device=image.device)
    grid = ((2 * place + 1) / size - 1).expand(len(image), -1, -1, -1)
    inner = 2 * p + 1
    known = F.pad(torch.ones_like(fine[:1, :1, inner:-inner, inner:-inner]), (inner,) * 4)
    turned = F.grid_sample(fine, grid, align_corners=False)
    return turned, F.grid_sample(known, grid[:1], mode="nearest", align_corners=False)[0, 0]


def pseudo_rotated(image: Images, angle: float) -> tuple[Images, Float[Tensor, "h w"]]:
    """The image where it is, with the band limits of one that `rotated` turned, and where it is known (R*_α, E.3).

    The filter's taps lie on the pixel grid, as in the authors' code: beyond the turned grid's corners they alias.
    """
    f = rotation_filter(-angle, up=1).to(image.device, image.dtype)
    p = f.shape[0] // 2
    known = F.pad(torch.ones_like(image[0, 0, p:-p, p:-p]), (p,) * 4)
    return upfirdn2d(image, f, padding=p), known


def rotation_filter(angle: float, *, up: int, far: int = 64) -> Float[Tensor, "k k"]:
    """Low-pass for both the upright and the turned pixel grid, [2r·up - 1] taps along each axis, r = 2a  (E.3).

    The convolution of the two grids' ideal filters (sinc), in a window that is the convolution of their Lanczos
    windows; each of the `up`² sets of taps that can meet the pixels sums to 1 / up². `far`: where the ideal filters are
    cut off, px.
    """
    reach = 2 * LANCZOS
    t = torch.arange(1 - far * up, far * up, dtype=torch.float64) / up
    upright = torch.stack(torch.meshgrid(t, t, indexing="xy"), 2)
    turned = upright @ torch.linalg.inv(transform_of(rotate=angle)[:2, :2].double()).T

    def window(at: Tensor) -> Tensor:
        return torch.where(at.abs() < LANCZOS, torch.sinc(at / LANCZOS), 0.0).prod(2)

    ideal = _convolved(torch.sinc(upright).prod(2), torch.sinc(turned).prod(2))
    f = ideal * _convolved(window(upright), window(turned))
    cut = (far - reach) * up
    f = F.pad(f[cut:-cut, cut:-cut], (0, 1, 0, 1)).unflatten(1, (2 * reach, up)).unflatten(0, (2 * reach, up))
    f = f / f.sum((0, 2), keepdim=True) / up**2
    return f.flatten(2).flatten(0, 1)[:-1, :-1].float()


def _convolved(a: Float[Tensor, "k k"], b: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """Round convolution of two maps whose origin is their centre."""
    product = torch.fft.fft2(torch.fft.ifftshift(a)) * torch.fft.fft2(torch.fft.ifftshift(b))
    return torch.fft.fftshift(torch.fft.ifft2(product).real)
