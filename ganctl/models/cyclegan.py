"""CycleGAN: Zhu, Park, Isola & Efros, Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, 2017. arXiv:1703.10593."""  # noqa: E501

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.adversarial import least_squares_d, least_squares_g
from ganctl.nn.layers import for_pictures, init_normal
from ganctl.nn.norm import NORMS, from_all_ranks, without_statistics
from ganctl.nn.patchgan import PatchGAN
from ganctl.nn.winograd import Conv3x3
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms, falling
from ganctl.ranges import Count, Moment, Rate, Weight
from ganctl.spec import Image

TRAIN = {"batch": 1}
DATA = {"pairs": "unpaired"}
WAYS = ("AtoB.", "BtoA.")
SMALLEST = 8
"""Pixels: below, the reflected border of the innermost layers would be wider than what it reflects."""


@config
class Config:
    resolution: Count = 256
    """Side of training images; the networks take any multiple of 4."""
    source_channels: Count = 3
    """Channels of domain A, X in the paper."""
    channels: Count = 3
    """Channels of domain B, Y in the paper."""
    both_ways: bool = True
    """Whether there is a mapping back (F) beside A to B (G): the paper has both, a published file one."""
    ngf: Count = 64
    """Width of a generator's first layer (appendix 7.2: c7s1-64)."""
    res_blocks: Annotated[int, Ge(1), Le(64)] = 9
    """Residual blocks: 9 for 256 px and more, 6 for 128 px (appendix 7.2)."""
    ndf: Count = 64
    """Width of PatchGAN's first layer (appendix 7.2: C64)."""
    n_layers: Annotated[int, Ge(1), Le(8)] = 3
    """Of PatchGAN: 3 is the 70 × 70 discriminator (sec. 4)."""
    norm: Literal["instance", "batch"] = "instance"
    """instance is the paper's (sec. 4)."""
    cycle_weight: Weight = 10.0
    """λ (eq. 3): 10 (sec. 4)."""
    identity_weight: Weight = 0.5
    """Of the identity loss, as a share of λ: 0.5 where colours should stay (sec. 5.2); 0 leaves it out. There is none
    between domains of different channels."""
    pool: Annotated[int, Ge(1), Le(4096)] = 50
    """Generated images that D's history holds (sec. 4)."""
    glr: Rate = 2e-4
    """Sec. 4: Adam, 0.0002 …"""
    dlr: Rate = 2e-4
    """The same for D."""
    decay_from: Annotated[float, Ge(0), Le(1)] = 0.5
    """… constant for this share of the run, then linearly to 0: 100 epochs and 100 more (sec. 4)."""
    beta1: Moment = 0.5
    """Adam's first moment (the authors' code)."""


class Block(nn.Module):
    """x + f(x), two 3 × 3 convolutions of one width, reflection at the border (appendix 7.2: Rk)."""

    def __init__(self, width: int, cfg: Config) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(*convolution(width, cfg), nn.ReLU(), *convolution(width, cfg))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.conv_block(x)


def convolution(width: int, cfg: Config) -> list[nn.Module]:
    # The authors' layer of reflection, here the convolution's own, has a place in their keys.
    return [nn.Identity(), Conv3x3(width, width, bias=cfg.norm != "batch", reflect=True), NORMS[cfg.norm](width)]


class ResNet(nn.Module):
    """One mapping (appendix 7.2). Satisfies Translator; keys are those of the authors' PyTorch code.

    c7s1-k, d2k, d4k, residual blocks, u2k, uk, c7s1-3; a convolution before a batch norm has no bias.
    """

    def __init__(self, source: int, target: int, cfg: Config) -> None:
        super().__init__()
        self.source, self.target, self.stride = Image(None, source), Image(None, target), 4
        norm, bias, k = NORMS[cfg.norm], cfg.norm != "batch", cfg.ngf
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(source, k, 7, bias=bias), norm(k), nn.ReLU()]
        for width in (k, 2 * k):
            layers += [nn.Conv2d(width, 2 * width, 3, 2, 1, bias=bias), norm(2 * width), nn.ReLU()]
        layers += [Block(4 * k, cfg) for _ in range(cfg.res_blocks)]
        for width in (4 * k, 2 * k):
            up = nn.ConvTranspose2d(width, width // 2, 3, 2, 1, output_padding=1, bias=bias)
            layers += [up, norm(width // 2), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(k, target, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        init_normal(self)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        return self.model(x)

    def translate(self, x: Float[Tensor, "n c h w"], *, seed: int = 0) -> Float[Tensor, "n k h w"]:
        """No randomness: every seed gives the same. Sides below 8 px are continued by their last row and column."""
        h, w = x.shape[2:]
        return self(F.pad(for_pictures(x), (0, max(SMALLEST - w, 0), 0, max(SMALLEST - h, 0)), "replicate"))[
            ..., :h, :w
        ]


class Generator(nn.Module):
    """G: A → B, and F: B → A where the config has it. Satisfies Translator by G; `reverse` is F, or None."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.AtoB = ResNet(cfg.source_channels, cfg.channels, cfg)
        self.BtoA = ResNet(cfg.channels, cfg.source_channels, cfg) if cfg.both_ways else None
        self.source, self.target, self.stride = self.AtoB.source, self.AtoB.target, self.AtoB.stride

    @property
    def reverse(self) -> ResNet | None:
        return self.BtoA

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        return self.AtoB(x)

    def translate(self, x: Float[Tensor, "n c h w"], *, seed: int = 0) -> Float[Tensor, "n k h w"]:
        return self.AtoB.translate(x, seed=seed)


class Discriminators(nn.Module):
    """Of each domain one: A (D_X in the paper) and B (D_Y)."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        sides = (cfg.source_channels, cfg.channels)
        self.A, self.B = (PatchGAN(c, ndf=cfg.ndf, n_layers=cfg.n_layers, norm=cfg.norm) for c in sides)
        init_normal(self)


class Pool(nn.Module):
    """The last generated images, more or less (sec. 4, after Shrivastava et al.): part of where training stands."""

    images: Tensor
    count: Tensor

    def __init__(self, size: int, channels: int, resolution: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, channels, resolution, resolution))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def query(self, new: Float[Tensor, "n c h w"], draws: Float[Tensor, "n 2"]) -> Float[Tensor, "n c h w"]:
        """What D is shown in the place of `new`, image by image and in order.

        Until it is full the pool keeps the image and shows it. Then, by halves (the first draw, U[0, 1)), it shows the
        image and forgets it, or shows a kept one, chosen by the second draw, and keeps the image in its place.
        """
        shown = new.detach().to(self.images.dtype, copy=True)
        held, size = int(self.count), len(self.images)
        for row, (coin, place) in enumerate(draws.tolist()):
            if held < size:
                self.images[held] = shown[row]
                held += 1
            elif coin > 0.5:
                kept = int(place * size)
                old = self.images[kept].clone()
                self.images[kept] = shown[row]
                shown[row] = old
        self.count.fill_(held)
        return shown


class Pools(nn.Module):
    """Of each domain one."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.A, self.B = (Pool(cfg.pool, c, cfg.resolution) for c in (cfg.source_channels, cfg.channels))


@dataclass
class Nets:
    G: Generator
    D: Discriminators
    pools: Pools


def build(cfg: Config) -> Nets:
    """Raises UsageError for a training side that is no multiple of 4, or of which PatchGAN sees no patch."""
    where = f"cannot build cyclegan for {cfg.resolution} px"
    if cfg.resolution % 4:
        raise UsageError(where, "it halves the side twice", "choose a multiple of 4")
    if cfg.resolution < 3 * 2**cfg.n_layers:
        raise UsageError(where, f"n_layers = {cfg.n_layers} needs {3 * 2**cfg.n_layers} px", "choose fewer n_layers")
    return Nets(Generator(cfg), Discriminators(cfg), Pools(cfg))


def both(n: Nets, b: Batch) -> tuple[Tensor, Tensor, nn.Module, nn.Module]:
    """Images of A and of B, G and F."""
    assert b.y is not None and n.G.BtoA is not None
    return b.x, b.y, n.G.AtoB, n.G.BtoA


def d_loss(n: Nets, b: Batch, p: Progress) -> Terms:
    """½ E (D_Y(y) - 1)² + ½ E D_Y(G(x))², and the same of D_X(F(y))  (eq. 1 with sec. 4's least squares).

    Generated images pass the pools. Halved to slow D (sec. 4, appendix 7.1).
    """
    x, y, G, back = both(n, b)
    with torch.no_grad():
        fake_y, fake_x = G(x), back(y)
    fakes_y = remembered(n.pools.B, fake_y, p)
    fakes_x = remembered(n.pools.A, fake_x, p)
    return {
        "D_loss_B": least_squares_d(n.D.B(y), n.D.B(fakes_y), 0.0, 1.0),
        "D_loss_A": least_squares_d(n.D.A(x), n.D.A(fakes_x), 0.0, 1.0),
    }


def remembered(pool: Pool, new: Tensor, p: Progress) -> Tensor:
    """This rank's rows of what the pool shows for the images of all ranks: every rank has the same pool."""
    count = len(new)
    shown = pool.query(from_all_ranks(new), from_all_ranks(p.uniform(count, 2)))
    return shown[p.rank :: p.world]


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """E (D_Y(G(x)) - 1)² + E (D_X(F(y)) - 1)²  (sec. 4),

    λ (E ‖F(G(x)) - x‖₁ + E ‖G(F(y)) - y‖₁)  (eq. 2), and λ / 2 (E ‖G(y) - y‖₁ + E ‖F(x) - x‖₁)  (sec. 5.2).
    """
    x, y, G, back = both(n, b)
    fake_y, fake_x = G(x), back(y)
    terms = {
        "G_loss_B": 2 * least_squares_g(n.D.B(fake_y), 1.0),
        "G_loss_A": 2 * least_squares_g(n.D.A(fake_x), 1.0),
        "G_cycle": cfg.cycle_weight * (F.l1_loss(back(fake_y), x) + F.l1_loss(G(fake_x), y)),
    }
    if cfg.identity_weight and cfg.channels == cfg.source_channels:
        weight = cfg.cycle_weight * cfg.identity_weight
        terms["G_identity"] = weight * (F.l1_loss(G(y), y) + F.l1_loss(back(x), x))
    return terms


def phases(cfg: Config) -> list[Phase]:
    """Raises UsageError for a network of one direction, whose cycle is never closed."""
    if not cfg.both_ways:
        what, hint = "cannot train cyclegan one way", "pass --set both_ways=true"
        raise UsageError(what, "its loss goes there and back", hint)
    return [
        Phase("D", ("D",), d_loss),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {name: Adam(falling(lr, cfg.decay_from), cfg.beta1) for name, lr in (("G", cfg.glr), ("D", cfg.dlr))}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """The authors' PyTorch generator, one direction a file: `model.1`, `model.10.conv_block.1` … in one sequence, GAN
    Compression's full ones too; those of OpenMMLab, both directions in one file.

    Instance norms saved with running statistics by its oldest versions are read without them.
    """
    ways = {name: {k.removeprefix(name): t for k, t in state.items() if k.startswith(name)} for name in WAYS}
    if not all(ways.values()):
        found = _one_way(state)
        return found and ({**found[0], "both_ways": False}, {"G": {f"AtoB.{k}": t for k, t in found[1].items()}})
    there, back = (_one_way(ways[name]) for name in WAYS)
    if there is None or back is None:
        return None
    tensors = {f"{name}{k}": t for name, part in zip(WAYS, (there, back), strict=True) for k, t in part[1].items()}
    return {**there[0], "both_ways": True}, {"G": tensors}


def _one_way(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    if any(re.fullmatch(r"model\.\d{1,3}\.conv_block\.6\.weight", k) and t.ndim == 4 for k, t in state.items()):
        # A layer of dropout, which draws nothing at test time, stands before the second half of a block.
        for there, here in ((".6.", ".5."), (".7.", ".6.")):
            state = {k.replace(f"conv_block{there}", f"conv_block{here}"): t for k, t in state.items()}
    blocks = sum(re.fullmatch(r"model\.\d{1,3}\.conv_block\.1\.weight", k) is not None for k in state)
    first, last = state.get("model.1.weight"), state.get(f"model.{17 + blocks}.weight")
    if not blocks or first is None or last is None or first.ndim != 4 or last.ndim != 4:
        return None
    batch_norm = "model.2.weight" in state
    cfg = {
        "source_channels": first.shape[1],
        "channels": last.shape[0],
        "ngf": first.shape[0],
        "res_blocks": blocks,
        "norm": "batch" if batch_norm else "instance",
    }
    return cfg, dict(state) if batch_norm else without_statistics(state)
