"""The augmentations of ADA (Karras et al. 2020, arXiv:2006.06676, appendix B), differentiable in the images.

`variates` draws for each image how strongly each transformation acts, 0 where it does not; `transform` carries it out;
`augment` is both. Ranges and deviations are the paper's; the order within a set is that of its tables.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ganctl.errors import UsageError
from ganctl.nn.precision import products


@runtime_checkable
class Draw(Protocol):
    """Where random numbers come from: `Progress` in training, so that ranks and resumed runs draw the same."""

    def normal(self, n: int, *shape: int) -> Tensor: ...

    def uniform(self, n: int, *shape: int) -> Tensor: ...


@dataclass(frozen=True)
class Law:
    """Of what law the variates of one transformation are, [n, columns]."""

    kind: Literal["choice", "range", "normal", "half_normal", "cutout"]
    columns: int = 1
    options: int = 2
    """Of a choice: 0 … options - 1."""
    apart: bool = False
    """Each column happens or not by itself; otherwise all together."""


LAWS = {
    "xflip": Law("choice"),
    "rotate90": Law("choice", options=4),
    "xint": Law("range", 2),
    "scale": Law("normal"),
    "rotate": Law("range", 2, apart=True),
    "aniso": Law("normal"),
    "xfrac": Law("normal", 2),
    "brightness": Law("normal"),
    "contrast": Law("normal"),
    "lumaflip": Law("choice"),
    "hue": Law("range"),
    "saturation": Law("normal"),
    "imgfilter": Law("normal", 4, apart=True),
    "noise": Law("half_normal"),
    "cutout": Law("cutout", 3),
}
"""Of `rotate` the two columns are before and after `aniso`; of `cutout` whether there is one, and its centre."""
BLIT = ("xflip", "rotate90", "xint")
GEOM = ("scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
SETS: dict[str, tuple[str, ...]] = {
    "blit": BLIT,
    "geom": GEOM,
    "color": COLOR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": BLIT + GEOM,
    "bgc": BLIT + GEOM + COLOR,
    "bgcf": (*BLIT, *GEOM, *COLOR, "imgfilter"),
    "bgcfn": (*BLIT, *GEOM, *COLOR, "imgfilter", "noise"),
    "bgcfnc": tuple(LAWS),
}
"""Fig. 4's categories, alone and added up. bgc helps most (sec. 2.2)."""

XINT_MAX = 0.125
"""Of the side (appendix B)."""
XFRAC_STD = 0.125
SCALE_STD = ANISO_STD = 0.2
"""Of log2."""
BRIGHTNESS_STD = 0.2
CONTRAST_STD = 0.5
"""Of log2, as the next two."""
SATURATION_STD = FILTER_STD = 1.0
NOISE_STD = 0.1
CUTOUT_SIZE = 0.5
POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""Expected power of images in the four bands: 1/f."""

SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
"""Daubechies' symlets of 4 and 12 taps: low-pass halves of orthogonal wavelets."""
RIM = len(SYM6) // 4
"""Half the reach of sym6 on the finer grid, in pixels of the coarse one."""


def augment(
    x: Float[Tensor, "n c h w"], p: float, draw: Draw, chances: Mapping[str, float]
) -> Float[Tensor, "n c h w"]:
    """Images, each transformed at random: transformation `name` with probability p · chances[name].

    x is grey or RGB in [-1, 1]; the answer is float32 of the same size, and may leave that range. p: [0, 1].
    All randomness is from `draw`. Raises UsageError where images are too small for the filter, or of other colours.
    """
    found = variates(chances, p, len(x), draw)
    field = draw.normal(*x.shape) if "noise" in found else None
    return transform(x, found, field)


def every(name: str) -> dict[str, float]:
    """The transformations of one of SETS at full chance, for `augment`."""
    return dict.fromkeys(SETS[name], 1.0)


def variates(chances: Mapping[str, float], p: float, n: int, draw: Draw) -> dict[str, Tensor]:
    """For each name of `chances`, in the paper's order: [n, columns] standard variates, 0 where nothing happens.

    choice: 0 … options - 1; range: (-1, 1); normal and half-normal: of deviation 1; cutout: 1 and its centre in [0, 1).
    """
    laws = {name: law for name, law in LAWS.items() if name in chances}
    widths = [law.columns for law in laws.values()]
    uniform, gate = (part.split(widths, 1) for part in draw.uniform(n, sum(widths), 2).unbind(2))
    normal = draw.normal(n, sum(widths)).split(widths, 1)
    found = {}
    for i, (name, law) in enumerate(laws.items()):
        value = _variate(law, uniform[i], normal[i])
        happens = gate[i] if law.apart else gate[i][:, :1]
        found[name] = torch.where(happens < _chance(name, p * chances[name]), value, 0.0)
    return found


def _variate(law: Law, uniform: Tensor, normal: Tensor) -> Tensor:
    if law.kind == "choice":
        return (uniform * law.options).floor()
    if law.kind == "range":
        return uniform * 2 - 1
    if law.kind == "cutout":
        return torch.cat([torch.ones_like(uniform[:, :1]), uniform[:, 1:]], 1)
    return normal.abs() if law.kind == "half_normal" else normal


def _chance(name: str, p: float) -> float:
    """Of two rotations either happens with probability p, so that p(before or after) = p (appendix B)."""
    return 1 - math.sqrt(1 - min(p, 1.0)) if name == "rotate" else p


def transform(x: Float[Tensor, "n c h w"], v: Mapping[str, Tensor], field: Tensor | None = None) -> Tensor:
    """Carries out what `variates` gave; `field`, N(0, 1) of x's shape, is the noise where `v` has some. In float32."""
    # TF32 too would misplace pixels.
    with torch.autocast(x.device.type, enabled=False), products(tf32=False):
        x = x.float()
        if v.keys() & set(SETS["bg"]):
            x = warp(x, inverse_map(v, *x.shape[2:]))
        if v.keys() & set(COLOR):
            x = recolour(x, v)
        if "imgfilter" in v:
            x = amplify(x, v["imgfilter"])
        if "noise" in v and field is not None:
            x = x + field * (v["noise"] * NOISE_STD)[:, :, None, None]
        if "cutout" in v:
            x = x * cutout_mask(v["cutout"], *x.shape[2:])
        return x


def inverse_map(v: Mapping[str, Tensor], height: int, width: int) -> Float[Tensor, "n 3 3"]:
    """Maps a pixel of the result to one of the image: the transformations' inverses, the first of all on the left.

    On homogeneous coordinates whose origin is the middle of the image.
    """
    (flip,), (quarters,), (scale,), (aniso,) = (_columns(v, name) for name in ("xflip", "rotate90", "scale", "aniso"))
    (before, after), (xint, yint), (xfrac, yfrac) = (_columns(v, name) for name in ("rotate", "xint", "xfrac"))
    scale, aniso = torch.exp2(-SCALE_STD * scale), torch.exp2(-ANISO_STD * aniso)
    steps = (
        _scaling(1 - 2 * flip, torch.ones_like(flip)),
        _rotation(quarters * (math.pi / 2)),
        _shift(-(xint * XINT_MAX * width).round(), -(yint * XINT_MAX * height).round()),
        _scaling(scale, scale),
        _rotation(before * math.pi),
        _scaling(aniso, 1 / aniso),
        _rotation(after * math.pi),
        _shift(-xfrac * XFRAC_STD * width, -yfrac * XFRAC_STD * height),
    )
    return functools.reduce(torch.matmul, steps)


def _columns(v: Mapping[str, Tensor], name: str) -> tuple[Tensor, ...]:
    """A transformation's variates, each [n]; 0, which does nothing, where it is not among them."""
    some = next(iter(v.values()))
    return v[name].unbind(1) if name in v else (some.new_zeros(len(some)),) * LAWS[name].columns


def _matrix(*rows: tuple[Tensor | float, ...]) -> Tensor:
    """[n, rows, columns] of vectors [n] and numbers."""
    like = next(e for row in rows for e in row if isinstance(e, Tensor))
    entries = [e if isinstance(e, Tensor) else torch.full_like(like, e) for row in rows for e in row]
    return torch.stack(entries, 1).unflatten(1, (len(rows), -1))


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return _matrix((x, 0.0, 0.0), (0.0, y, 0.0), (0.0, 0.0, 1.0))


def _rotation(theta: Tensor) -> Tensor:
    cos, sin = theta.cos(), theta.sin()
    return _matrix((cos, -sin, 0.0), (sin, cos, 0.0), (0.0, 0.0, 1.0))


def _shift(x: Tensor, y: Tensor) -> Tensor:
    return _matrix((1.0, 0.0, x), (0.0, 1.0, y), (0.0, 0.0, 1.0))


def warp(x: Float[Tensor, "n c h w"], g: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n c h w"]:
    """result(q) = x(g q), almost without aliases: at twice the resolution, between low-pass filters (appendix B).

    Beyond its border the image is reflected, once; farther away it is 0.
    """
    height, width = x.shape[2:]
    left, top, right, bottom = _margins(g, height, width)
    x = _separable(x, _enlarging(height, top, bottom, x), _enlarging(width, left, right, x))
    # `inner` leads from affine_grid's coordinates, -1 to 1 over the finer result with RIM more coarse pixels around it,
    # to coarse pixels; after g, `outer` leads to those of the padded image. Fine pixel 2i lies on coarse pixel i: half
    # a fine pixel from where doubling the distance from the middle puts it.
    fine_h, fine_w = 2 * (height + 2 * RIM), 2 * (width + 2 * RIM)
    inner = [[fine_w / 4, 0, 0.25], [0, fine_h / 4, 0.25], [0, 0, 1]]
    across, down = 2 / x.shape[3], 2 / x.shape[2]
    outer = [[2 * across, 0, across * (left - right - 0.5)], [0, 2 * down, down * (top - bottom - 0.5)], [0, 0, 1]]
    theta = g.new_tensor(outer) @ g @ g.new_tensor(inner)
    grid = F.affine_grid(theta[:, :2], [*x.shape[:2], fine_h, fine_w], align_corners=False)
    fine: Any = _Sample.apply(x, grid)
    return _separable(fine, _reducing(height, x), _reducing(width, x))


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`rows` [h2, h] mixes an image's rows, `columns` [w2, w] its columns.

    A CPU multiplies by a matrix that holds a filter ten to thirty times as fast as it convolves single channels.
    """
    return F.linear(F.linear(x, columns).mT, rows).mT


def _enlarging(side: int, before: int, after: int, like: Tensor) -> Tensor:
    """[2 (before + side + after), side]: reflection at the borders, then upsampling by 2 with sym6."""
    place = reflected(torch.arange(-before, side + after, device=like.device), side)
    matrix = _upsampling(len(place), like)
    return matrix.new_zeros(len(matrix), side).index_add(1, place, matrix)


def _reducing(side: int, like: Tensor) -> Tensor:
    """[side, 2 (side + 2 RIM)]: downsampling by 2 with sym6 turned round, the transpose of upsampling; RIM cut off."""
    return _upsampling(side + 2 * RIM, like)[:, RIM:-RIM].T / 2


def _upsampling(n: int, like: Tensor) -> Tensor:
    """[2n, n]: zeros inserted, then sym6, which keeps the brightness."""
    taps = like.new_tensor(SYM6)
    rows, columns = torch.arange(2 * n, device=like.device), torch.arange(n, device=like.device)
    tap = rows[:, None] - 2 * columns + 2 * RIM - 1
    inside = (tap >= 0) & (tap < len(taps))
    return torch.where(inside, taps[tap.clamp(0, len(taps) - 1)] * (2 / taps.sum()), 0.0)


def reflected(place: Int[Tensor, " n"], side: int) -> Int[Tensor, " n"]:
    """Pixels -side < place < 2 side - 1 reflected into 0 … side - 1, about the middle of the outermost ones."""
    return side - 1 - (side - 1 - place.abs()).abs()


def _margins(g: Tensor, height: int, width: int) -> list[int]:
    """Pixels that some result of the batch takes from beyond each border: left, top, right, bottom."""
    half = g.new_tensor([(width - 1) / 2, (height - 1) / 2])
    corners = g.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    reached = corners @ g[:, :2, :2].mT + g[:, None, :2, 2]
    beyond = torch.cat([(-reached).amax((0, 1)), reached.amax((0, 1))]) - half.repeat(2) + 2 * RIM
    return beyond.ceil().clamp(torch.zeros(4, device=g.device), (2 * half).repeat(2)).int().tolist()


class _Sample(torch.autograd.Function):
    """Bilinear sampling, 0 outside, linear in x. PyTorch's own has no second derivative, which R1 needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, align_corners=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Spread.apply(grad, *ctx.saved_tensors, ctx.shape), None


class _Spread(torch.autograd.Function):
    """Its transpose: each value goes back to the four pixels that it came from."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        backward = torch.ops.aten.grid_sampler_2d_backward
        return backward(y, y.new_zeros(shape), grid, 0, 0, False, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Sample.apply(grad, *ctx.saved_tensors), None, None


def translated(x: Float[Tensor, "n c h w"], draw: Draw, most: float) -> Float[Tensor, "n c h w"]:
    """Each image moved by whole pixels, up to `most` of its sides and 1 at least; reflected at its borders."""
    u = draw.uniform(len(x), 2)
    for axis in (2, 3):
        side = x.shape[axis]
        reach = max(round(most * side), 1)
        shift = (u[:, axis - 2] * (2 * reach + 1)).long().clamp(max=2 * reach) - reach
        place = reflected((torch.arange(side, device=x.device) + shift[:, None]).flatten(), side)
        x = x.gather(axis, place.view((-1, 1, side, 1) if axis == 2 else (-1, 1, 1, side)).expand_as(x))
    return x


def recolour(x: Float[Tensor, "n c h w"], v: Mapping[str, Tensor]) -> Float[Tensor, "n c h w"]:
    """Brightness, contrast, luma flip, hue, saturation: an affine map of RGB values about the axis of greys.

    Along the axis, the values are scaled by contrast and flip, across it by contrast and saturation, and turned by the
    hue's angle. Of a grey image there is only what lies along it.
    """
    brightness, contrast, flip, hue, saturation = (_columns(v, name)[0][:, None, None] for name in COLOR)
    x, size = (x + brightness[..., None] * BRIGHTNESS_STD).flatten(2), x.shape[2:]
    contrast = torch.exp2(contrast * CONTRAST_STD)
    along = contrast * (1 - 2 * flip)
    if x.shape[1] == 1:
        return (along * x).unflatten(2, size)
    if x.shape[1] != 3:
        why = "colours can be changed in grey and RGB images"
        raise UsageError(f"cannot augment images of {x.shape[1]} channels", why, "choose transformations such as bg")
    across = contrast * torch.exp2(saturation * SATURATION_STD)
    axis = torch.full((3, 3), 1 / 3, device=x.device)
    plane = torch.eye(3, device=x.device) - axis
    turned = x.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    theta = hue * math.pi
    return ((along * axis + across * (theta.cos() * plane + theta.sin() * turned)) @ x).unflatten(2, size)


def amplify(x: Float[Tensor, "n c h w"], v: Float[Tensor, "n 4"]) -> Float[Tensor, "n c h w"]:
    """Four octaves of frequencies, each amplified by 2^v along both axes; 1/f spectra keep their power (appendix B)."""
    gain = torch.exp2(v * FILTER_STD)
    power = 1 + gain.new_tensor(POWER) * (gain.square() - 1)
    gain = gain / power.prod(1, keepdim=True).sqrt()
    rows, columns = (torch.einsum("nb,bij->nij", gain, _bands(side, x))[:, None] for side in x.shape[2:])
    return rows @ x @ columns.mT


def _bands(side: int, like: Tensor) -> Tensor:
    """[4, side, side]: the bank's filters along an axis reflected at its ends. Raises UsageError for short ones."""
    bank = like.new_tensor(filter_bank())
    reach = bank.shape[1] // 2
    if side <= reach:
        why = f"a filter of {bank.shape[1]} taps needs more than {reach} px"
        raise UsageError(f"cannot filter images of {side} px", why, "choose transformations such as bgc")
    place = torch.arange(-reach, side + reach, device=like.device)
    tap = place - torch.arange(side, device=like.device)[:, None] + reach
    inside = (tap >= 0) & (tap <= 2 * reach)
    matrix = torch.where(inside, bank[:, tap.clamp(0, 2 * reach)], 0.0)
    return matrix.new_zeros(len(bank), side, side).index_add(2, reflected(place, side), matrix)


@functools.cache
def filter_bank() -> list[list[float]]:
    """The bands [0, π/8], [π/8, π/4], [π/4, π/2], [π/2, π], whose sum is 1: 4 filters of 43 taps  (appendix B).

    With P(z) = H(z) H(1/z) / 2 of sym2 for low pass and P(-z) for high pass, and z, z², z⁴ for the three octaves.
    """
    h = np.asarray(SYM2)
    low = np.convolve(h, h[::-1]) / 2
    high = low * (-1.0) ** np.arange(-3, 4)
    steps = [(low, low, low), (low, low, high), (low, high), (high,)]
    bank = []
    for filters in steps:
        band = np.ones(1)
        for octave, taps in enumerate(filters):
            spaced = np.zeros((len(taps) - 1) * 2**octave + 1)
            spaced[:: 2**octave] = taps
            band = np.convolve(band, spaced)
        bank.append(np.pad(band, (43 - len(band)) // 2))
    return [band.tolist() for band in bank]


def cutout_mask(v: Float[Tensor, "n 3"], height: int, width: int) -> Float[Tensor, "n 1 h w"]:
    """0 in a square of half the image's sides about the centre given, 1 elsewhere."""
    there, x, y = (column[:, None, None] for column in v.unbind(1))

    def outside(centre: Tensor, side: int) -> Tensor:
        middles = (torch.arange(side, device=v.device) + 0.5) / side
        return (middles - centre).abs() >= there * CUTOUT_SIZE / 2

    return (outside(x, width) | outside(y, height).mT)[:, None].float()
