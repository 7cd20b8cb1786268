"""Equivariance of a generator: EQ-T, EQ-T_frac and EQ-R of Karras et al. 2021, appendix E. arXiv:2106.12423.

Does moving the plane that a picture is made of move the picture? A peak signal-to-noise ratio between the picture of
the moved plane and the moved picture, over the pixels that are known in both.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ganctl.io.seeds import seed_class
from ganctl.models import stylegan3
from ganctl.models.stylegan3 import transform_of
from ganctl.nn.precision import inference
from ganctl.nn.resample import upfirdn2d
from ganctl.protocols import classes_of

CPU = torch.device("cpu")
Images = Float[Tensor, "n c h w"]
Draw = Callable[[Float[Tensor, "n l d"], Float[Tensor, "3 3"]], Images]
"""Images of w under an inverse transform of the plane (`stylegan3.Input.transform`), not cut to their range."""

KINDS = ("eqt_int", "eqt_frac", "eqr")
"""Moved by whole pixels, by fractions of them, turned."""
LANCZOS = 3
"""a: half the width of a Lanczos window, px."""
TRANSLATE, ROTATE = 0.125, 180.0
"""The furthest movements: sides of the image, degrees."""
GROUP = 4
"""Images moved together, the authors' batch: a part of the protocol, whatever fits into memory."""


def check_moves(net: Any) -> None:
    """Raises ValueError, with the reason as a sentence, for a network that cannot move the plane of its pictures."""
    if not isinstance(net, stylegan3.Generator):
        raise ValueError("its layers are bound to the pixels: only a stylegan3 can move the plane of its pictures")


def sampler_equivariance(
    net: Any,
    *,
    kinds: tuple[str, ...],
    n: int,
    seed: int = 0,
    device: torch.device,
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, float]:
    """Each kind in dB, of the pictures of seeds `seed` … `seed` + n - 1, of a conditional network each of the class
    that its seed draws, untruncated, in fp32.

    The network's own transform is afterwards what it was. Raises ValueError as `check_moves` and `equivariance` do.
    """
    check_moves(net)
    transform = net.synthesis.input.transform
    before = transform.clone()

    def draw(w: Tensor, moved: Tensor) -> Tensor:
        transform.copy_(moved)
        return net.synthesis(w)

    try:
        with inference(device):
            return equivariance(draw, _styles(net, n, seed, device, done), kinds=kinds, seed=seed)
    finally:
        transform.copy_(before)


def _styles(net: Any, n: int, seed: int, device: torch.device, done: Callable[[int], None]) -> Iterator[Tensor]:
    label = classes_of(net)
    for start in range(0, n, GROUP):
        # Seeds are 32 bits wide, and go round.
        seeds = [(seed + i) % 2**32 for i in range(start, min(start + GROUP, n))]
        c = [] if label is None else [torch.tensor([seed_class(s, label.n) for s in seeds], device=device)]
        yield net.map(net.prior(seeds).to(device), *c)
        done(start + len(seeds))


@torch.no_grad()
def equivariance(
    draw: Draw,
    batches: Iterable[Float[Tensor, "n l d"]],
    *,
    kinds: tuple[str, ...] = KINDS,
    seed: int = 0,
    translate: float = TRANSLATE,
    rotate: float = ROTATE,
) -> dict[str, float]:
    """10 log₁₀ (2² / E (moved picture - picture of the moved plane)²) in dB, of each kind (eqs. 1 to 3 of appendix E).

    Each batch of w is moved by up to ±`translate` sides along both axes and turned by up to ±`rotate` degrees, the same
    for all its images, drawn from `seed`. Images on [-1, 1]. Raises ValueError for kinds that there are not, where no
    pixel is known in both, and for NaN and infinity.
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
        raise ValueError("the pictures are too small: none of their pixels is known in both, the moved and the other")
    if not all(map(math.isfinite, errors.values())):
        raise ValueError("the pictures hold NaN or infinity")
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
    f = rotation_filter(angle, up=up, device=image.device).to(image)
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
    inner, known = 2 * p + 1, torch.zeros_like(fine[:1, :1])
    known[:, :, inner:-inner, inner:-inner] = 1
    turned = F.grid_sample(fine, grid, align_corners=False)
    return turned, F.grid_sample(known, grid[:1], mode="nearest", align_corners=False)[0, 0]


def pseudo_rotated(image: Images, angle: float) -> tuple[Images, Float[Tensor, "h w"]]:
    """The image where it is, with the band limits of one that `rotated` turned, and where it is known (R*_α, E.3).

    The filter's taps lie on the pixel grid, as in the authors' code: beyond the turned grid's corners they alias.
    """
    f = rotation_filter(-angle, up=1, device=image.device).to(image)
    p = f.shape[0] // 2
    known = torch.zeros_like(image[0, 0])
    known[p:-p, p:-p] = 1
    return upfirdn2d(image, f, padding=p), known


def rotation_filter(angle: float, *, up: int, far: int = 64, device: torch.device = CPU) -> Float[Tensor, "k k"]:
    """Low-pass for both the upright and the turned pixel grid, [2r·up - 1] taps along each axis, r = 2a  (E.3).

    The convolution of the two grids' ideal filters (sinc), in a window that is the convolution of their Lanczos
    windows; each of the `up`² sets of taps that can meet the pixels sums to 1 / up². `far`: where the ideal filters are
    cut off, px. Computed in float64.
    """
    device = CPU if device.type == "mps" else device  # which has no float64
    (a, b), (c, d) = torch.linalg.inv(transform_of(rotate=angle)[:2, :2].double()).T.tolist()
    reach = 2 * LANCZOS

    def both(kernel: Callable[[Tensor], Tensor], width: int) -> Tensor:
        """A kernel along the axes of either grid, cut off at `width` px, convolved round: the taps within reach.

        The upright one is a product of one along x and one along y: so is its convolution.
        """
        last = width * up - 1
        k = torch.arange(-last, last + 1, dtype=torch.float64, device=device)
        x, y = k / up, k[:, None] / up
        turned = kernel(a * x + c * y) * kernel(b * x + d * y)
        apart = (k[k.abs() < reach * up][:, None] - k + last) % (2 * last + 1) - last
        upright = kernel(apart / up)
        return upright @ turned @ upright.T

    def window(at: Tensor) -> Tensor:
        return torch.where(at.abs() < LANCZOS, torch.sinc(at / LANCZOS), 0.0)

    # The windows reach 1 and √2 times a: of 3 a, what goes round does not come within reach.
    f = both(torch.sinc, far) * both(window, 3 * LANCZOS)
    f = F.pad(f, (0, 1, 0, 1)).unflatten(1, (2 * reach, up)).unflatten(0, (2 * reach, up))
    f = f / f.sum((0, 2), keepdim=True) / up**2
    return f.flatten(2).flatten(0, 1)[:-1, :-1].float()
