"""BigGAN-deep: Brock, Donahue & Simonyan, Large Scale GAN Training for High Fidelity Natural Image Synthesis, 2019. arXiv:1809.11096."""  # noqa: E501

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, MaxLen
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.objective import Loss
from ganctl.models.biggan import d_loss, g_loss, stand
from ganctl.nn.attention import SelfAttention
from ganctl.nn.layers import class_given, halvings, normal_prior, numbered_blocks, truncated_normal
from ganctl.nn.norm import ConditionalBatchNorm, GainNorm
from ganctl.nn.projection import WIDTHS, attended, widths
from ganctl.nn.spectral import SNConv2d, SNEmbedding, SNLinear
from ganctl.phase import Adam, Optimizer, Phase
from ganctl.published import biggan as published
from ganctl.published import residual
from ganctl.ranges import Count, Moment, Rate, Weight, Widths
from ganctl.spec import Image, Label

TRAIN = {"batch": 2048, "ema_kimg": 14000}
"""As BigGAN's."""
AUGMENTS = ASKS = True

DEPTH = 2
"""Blocks of a stage, the last of which changes size and width (tables 7 to 9)."""


@config
class Config:
    """Appendix B, tables 7 to 9: two bottleneck blocks where BigGAN has one; z whole, beside the class everywhere."""

    resolution: Count = 128
    """Side of the images: 128 (table 7), 256 and 512 (tables 8 and 9)."""
    channels: Count = 3
    """1 grey, 3 colour."""
    classes: Count = 1000
    """ImageNet's."""
    z_dim: Count = 128
    """Dimension of z (appendix B)."""
    shared_dim: Count = 128
    """Of the shared embedding of classes."""
    ngf: Count = 128
    """Ch. of table 7: the width of G's last block …"""
    ndf: Count = 128
    """… and of D's first layer."""
    g_widths: Widths | None = None
    """Feature maps before G's first block and after each block; None: the tables'. Published files may have others."""
    attention: Widths | None = None
    """Sides of the feature maps with self-attention; None: 64 px, half the resolution where that is less."""
    g_attention: Annotated[tuple[Annotated[int, Ge(0), Le(64)], ...], MaxLen(64)] | None = None
    """Blocks of G that attention follows; None: the last ones of `attention`'s sides."""
    bn_eps: Rate = 1e-4
    """ε of batch norms (the published generators)."""
    sn_eps: Rate = 1e-4
    """ε of spectral norms (the same)."""
    spectral: bool = True
    """False: G's weights are used as they are. Those of the published generators were divided when they were read."""
    statistics: Annotated[int, Ge(1), Le(1 << 10)] = 1
    """Rows of batch statistics, over truncation from 0 to 1: the published generators have 51."""
    ortho: Weight = 1e-4
    """β of orthogonal regularisation (eq. 3; sec. 3.1)."""
    standing: Annotated[int, Ge(1), Le(1000)] = 16
    """Batches of 64 behind the standing statistics of a snapshot's average: those of its own pictures, not of the last
    steps of training (appendix C: 100; the authors' PyTorch code: 16)."""
    loss: Loss = "hinge"
    """Appendix C."""
    n_dis: Count = 2
    """Steps of D for each of G (appendix C)."""
    glr: Rate = 5e-5
    """Adam's learning rate at 128 px; 2.5e-5 at 256 and 512 px (appendix C)."""
    dlr: Rate = 2e-4
    """The same for D: 2.5e-5 too at the larger sizes."""
    beta1: Moment = 0.0
    """Adam's first moment …"""
    beta2: Moment = 0.999
    """… and second (appendix C)."""


class UpBlock(nn.Module):
    """Fig. 16b: 1 × 1 to a quarter, 3 × 3, 3 × 3, 1 × 1, a norm and a ReLU before each; × 2 after the second ReLU.

    The shortcut drops the last channels where there are fewer after it.
    """

    def __init__(self, inputs: int, outputs: int, norm: Any, conv: Any, *, up: bool) -> None:
        super().__init__()
        self.outputs, self.up, hidden = outputs, up, inputs // 4
        self.bn1, self.conv1 = norm(inputs), conv(inputs, hidden, 1)
        self.bn2, self.conv2 = norm(hidden), conv(hidden, hidden, 3)
        self.bn3, self.conv3 = norm(hidden), conv(hidden, hidden, 3)
        self.bn4, self.conv4 = norm(hidden), conv(hidden, outputs, 1)

    def forward(self, x: Float[Tensor, "n i h w"], y: Float[Tensor, "n d"], psi: float) -> Float[Tensor, "n o h2 w2"]:
        h = F.relu(self.bn2(self.conv1(F.relu(self.bn1(x, y, psi))), y, psi))
        x = x[:, : self.outputs]
        if self.up:
            h, x = F.interpolate(h, scale_factor=2.0), F.interpolate(x, scale_factor=2.0)
        h = self.conv3(F.relu(self.bn3(self.conv2(h), y, psi)))
        return self.conv4(F.relu(self.bn4(h, y, psi))) + x


class Generator(nn.Module):
    """Linear, two blocks for each doubling, norm, ReLU, 3 × 3, tanh (tables 7 to 9). Satisfies ConditionalSampler and
    TruncatedSampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n, self.base = halvings(cfg.resolution)
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes)
        self.z_dim = cfg.z_dim
        sizes = cfg.g_widths or stage_widths(cfg)
        if len(sizes) != DEPTH * n + 1 or any(a < b or a < 4 for a, b in itertools.pairwise(sizes)):
            why = f"at {cfg.resolution} px they are {DEPTH * n + 1} numbers that never grow, of 4 and more"
            raise UsageError(
                "cannot build biggan_deep of these widths", why, "leave g_widths out, or choose a larger ngf"
            )

        def conv(inputs: int, outputs: int, kernel: int) -> SNConv2d:
            return SNConv2d(inputs, outputs, kernel, eps=cfg.sn_eps, spectral=cfg.spectral)

        def norm(width: int) -> ConditionalBatchNorm:
            inputs, options = cfg.shared_dim + cfg.z_dim, {"bias": False, "eps": cfg.sn_eps, "spectral": cfg.spectral}
            maps = (SNLinear(inputs, width, **options) for _ in range(2))
            return ConditionalBatchNorm(width, *maps, eps=cfg.bn_eps, rows=cfg.statistics)

        self.shared = nn.Embedding(cfg.classes, cfg.shared_dim)
        nn.init.orthogonal_(self.shared.weight)
        outputs, options = sizes[0] * self.base**2, {"eps": cfg.sn_eps, "spectral": cfg.spectral}
        self.linear = SNLinear(cfg.shared_dim + cfg.z_dim, outputs, **options)
        rows, follows = [], attention_blocks(cfg)
        for i, (width, out) in enumerate(itertools.pairwise(sizes)):
            row: list[nn.Module] = [UpBlock(width, out, norm, conv, up=i % DEPTH == DEPTH - 1)]
            if i in follows:
                row.append(SelfAttention(out, **options))
            rows.append(nn.ModuleList(row))
        self.blocks = nn.ModuleList(rows)
        last = GainNorm(sizes[-1], eps=cfg.bn_eps, rows=cfg.statistics)
        self.output_layer = nn.ModuleList([last, nn.ReLU(), conv(sizes[-1], cfg.channels, 3)])

    def forward(self, z: Float[Tensor, "n z"], y: Float[Tensor, "n d"], psi: float = 1.0) -> Float[Tensor, "n k h w"]:
        """`y`: the classes' embeddings. `psi` chooses among stored statistics, and does not change z."""
        condition = torch.cat([y, z], 1)
        h = self.linear(condition).unflatten(1, (-1, self.base, self.base))
        for row in self.blocks:
            for layer in row.children():
                h = layer(h, condition, psi) if isinstance(layer, UpBlock) else layer(h)
        norm, relu, conv = self.output_layer.children()
        return conv(relu(norm(h, psi))).tanh()

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def truncated(self, z: Float[Tensor, "n z"], psi: float) -> Float[Tensor, "n z"]:
        """The truncation trick (sec. 3.1): values of a normal within ± 2 psi; 1 leaves z as it is."""
        return truncated_normal(z, psi)

    def sample(
        self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None, *, psi: float = 1.0
    ) -> Float[Tensor, "n k h w"]:
        return self(self.truncated(z, psi), self.shared(class_given(c, self.c.n)), psi)


def stage_widths(cfg: Config) -> tuple[int, ...]:
    """`WIDTHS` with each stage's first block as wide as its input."""
    first, *rest = (k * cfg.ngf for k in widths("biggan_deep", cfg.resolution))
    found = [first]
    for out in rest:
        found += [*[found[-1]] * (DEPTH - 1), out]
    return tuple(found)


def attention_blocks(cfg: Config) -> set[int]:
    """The numbers of G's blocks that attention follows."""
    if cfg.g_attention is not None:
        return set(cfg.g_attention)
    n, base = halvings(cfg.resolution)
    sides = attended("biggan_deep", cfg.resolution, cfg.attention)
    return {DEPTH * (i + 1) - 1 for i in range(n) if base << (i + 1) in sides}


class DownBlock(nn.Module):
    """Fig. 16c: 1 × 1 to a quarter, 3 × 3, 3 × 3, 1 × 1, a ReLU before each; pooling before the last.

    The shortcut is pooled; where there are more channels after it, they come from a 1 × 1 convolution of it.
    """

    def __init__(self, inputs: int, outputs: int, conv: Any, *, down: bool) -> None:
        super().__init__()
        self.down, hidden = down, outputs // 4
        self.conv1, self.conv2 = conv(inputs, hidden, 1), conv(hidden, hidden, 3)
        self.conv3, self.conv4 = conv(hidden, hidden, 3), conv(hidden, outputs, 1)
        self.conv_sc = conv(inputs, outputs - inputs, 1) if outputs != inputs else None

    def forward(self, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "n o h2 w2"]:
        h = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(F.relu(x)))))))
        if self.down:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return self.conv4(h) + (x if self.conv_sc is None else torch.cat([x, self.conv_sc(x)], 1))


class Discriminator(nn.Module):
    """3 × 3 from the image, two blocks for each halving, ReLU, sum over the pixels, projection (tables 7 to 9)."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        sides = attended("biggan_deep", cfg.resolution, cfg.attention)

        def conv(inputs: int, outputs: int, kernel: int) -> SNConv2d:
            return SNConv2d(inputs, outputs, kernel, eps=cfg.sn_eps)

        multiples = widths("biggan_deep", cfg.resolution)
        if cfg.ndf < 4:
            raise UsageError(
                "cannot build biggan_deep with ndf below 4", "bottlenecks have a quarter of it", "choose more"
            )
        small, width = len(multiples) <= 4, multiples[-1] * cfg.ndf
        self.input_conv, rows = conv(cfg.channels, width, 3), []
        for i, k in enumerate([*multiples[-2::-1]]):
            # Up to 32 px two stages halve the size, and attention at half the resolution follows each of the stages
            # (the authors' PyTorch code); beyond, all halve it.
            down, out, side = not small or i < 2, k * cfg.ndf, cfg.resolution >> (1 if small else i + 1)
            row: list[nn.Module] = [DownBlock(width, out, conv, down=down)]
            row += [DownBlock(out, out, conv, down=False) for _ in range(DEPTH - 1)]
            if side in sides:
                row.append(SelfAttention(out, eps=cfg.sn_eps))
            rows.append(nn.Sequential(*row))
            width = out
        self.blocks = nn.ModuleList(rows)
        self.linear, self.embed = SNLinear(width, 1, eps=cfg.sn_eps), SNEmbedding(cfg.classes, width, eps=cfg.sn_eps)

    def forward(self, x: Float[Tensor, "n k h w"], c: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        x = self.input_conv(x)
        for row in self.blocks:
            x = row(x)
        features = F.relu(x).sum((2, 3))
        return self.linear(features).squeeze(1) + (self.embed(c) * features).sum(1)


@dataclass
class Nets:
    G: Generator
    D: Discriminator


def build(cfg: Config) -> Nets:
    return Nets(Generator(cfg), Discriminator(cfg))


def settle(G: Generator, cfg: Config) -> None:
    """Standing statistics, before each snapshot."""
    stand(G, cfg.standing)


def phases(cfg: Config) -> list[Phase]:
    """Raises UsageError for a network with statistics by truncation: a batch of training has no truncation."""
    if cfg.statistics > 1:
        why = f"it has {cfg.statistics} rows of batch statistics, which training does not move"
        raise UsageError("cannot train this biggan_deep", why, "pass --set statistics=1 spectral=true")
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg.loss), repeat=cfg.n_dis),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg.loss, cfg.ortho)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    # ε of Adam: 1e-6 (the authors' PyTorch code).
    return {"G": Adam(cfg.glr, cfg.beta1, cfg.beta2, 1e-6), "D": Adam(cfg.dlr, cfg.beta1, cfg.beta2, 1e-6)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """G or D of the authors' PyTorch code (`blocks.0.0.conv4.weight`), G of Hugging Face (`generator.gen_z`), OpenMMLab
    (`noise2feat`) and StudioGAN (`linear0`).

    Blocks are taken to come in twos, of which the second doubles the size: no tensor says it.
    """
    if published.is_theirs(state):
        found = published.hugging_face(state)
        return None if found is None else (found[0], {"G": found[1]})
    if residual.kind(state) == "biggan_deep":
        return _generator(residual.rows(state) or {}, studio="bn4.running_var" in state)
    tensors = {k: v for k, v in state.items() if not k.endswith(".sv0")}
    linear, shared, embed = (state.get(f"{k}.weight") for k in ("linear", "shared", "embed"))
    if linear is None or linear.ndim != 2 or "blocks.0.0.conv4.weight" not in state:
        return None
    count = numbered_blocks(state, r"blocks\.(\d{1,2})\.0\.conv4\.weight")
    if shared is not None and shared.ndim == 2:
        sizes = _sizes(state, count, "blocks.{}.0.conv1.weight", "blocks.{}.0.conv4.weight")
        out = state.get("output_layer.2.weight")
        if sizes is None or out is None or out.ndim != 4:
            return None
        cfg = {
            "channels": out.shape[0], "classes": shared.shape[0], "shared_dim": shared.shape[1],
            "z_dim": linear.shape[1] - shared.shape[1],
            "g_attention": [i for i in range(count) if f"blocks.{i}.1.gamma" in state],
            "bn_eps": 1e-5, "sn_eps": 1e-6, **sizes,
        }  # fmt: skip
        return cfg, {"G": tensors}
    stem = state.get("input_conv.weight")
    if embed is None or stem is None or embed.ndim != 2 or stem.ndim != 4 or not 3 <= count <= 7:
        return None
    small, resolution = count == 3, 4 << count
    rows = [i for i in range(count) if f"blocks.{i}.{DEPTH}.gamma" in state]
    cfg = {
        "resolution": resolution, "channels": stem.shape[1], "classes": embed.shape[0],
        "ndf": linear.shape[1] // (4 if small else 16), "bn_eps": 1e-5, "sn_eps": 1e-6,
        "attention": sorted({16 if small else resolution >> (i + 1) for i in rows}),
    }  # fmt: skip
    return cfg, {"D": tensors}


def _generator(
    tensors: dict[str, Tensor], *, studio: bool
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """OpenMMLab kept Hugging Face's order of conditions, [z, class], and of the first map, [h, w, c]; of its ε 1e-5."""
    sizes, shared = residual.sizes(tensors), tensors.get("shared.weight")
    if sizes is None or shared is None or shared.ndim != 2 or "blocks.0.0.conv4.weight" not in tensors:
        return None
    z_dim = sizes["inputs"] - shared.shape[1]
    measures = _sizes(tensors, sizes["blocks"], "blocks.{}.0.conv1.weight", "blocks.{}.0.conv4.weight")
    if measures is None or z_dim < 1:
        return None
    if not studio:
        tensors = {k: v if k.startswith("shared.") else published.class_first(k, v, z_dim) for k, v in tensors.items()}
    cfg = {
        "channels": sizes["channels"], "classes": shared.shape[0], "shared_dim": shared.shape[1], "z_dim": z_dim,
        "g_attention": sizes["follows"], "bn_eps": residual.EPS if studio else 1e-5, "spectral": "linear.u0" in tensors,
        **measures,
    }  # fmt: skip
    return cfg, {"G": residual.last_layers(tensors)}


def _sizes(state: Mapping[str, Tensor], count: int, first: str, last: str) -> dict[str, Any] | None:
    """Resolution and widths of a G of so many blocks, whose first and last convolutions bear these names."""
    start, ends = state.get(first.format(0)), [state.get(last.format(i)) for i in range(count)]
    if not count or count % DEPTH or count // DEPTH not in WIDTHS or start is None or start.ndim != 4:
        return None
    outputs = [end.shape[0] for end in ends if end is not None and end.ndim == 4]
    if len(outputs) != count:
        return None
    widths = (start.shape[1], *outputs)
    return {"resolution": 4 << (count // DEPTH), "g_widths": widths, "ngf": widths[-1]}
