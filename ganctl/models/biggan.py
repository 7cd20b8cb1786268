"""BigGAN: Brock, Donahue & Simonyan, Large Scale GAN Training for High Fidelity Natural Image Synthesis, 2019. arXiv:1809.11096."""  # noqa: E501

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor, nn

from ganctl.config import config
from ganctl.errors import UsageError
from ganctl.losses.objective import Loss, d_terms, g_terms
from ganctl.losses.regularizers import orthogonality
from ganctl.nn.attention import SelfAttention
from ganctl.nn.layers import class_given, halvings, normal_prior, numbered_blocks, truncated_normal
from ganctl.nn.norm import ConditionalBatchNorm, GainNorm, standing_statistics
from ganctl.nn.projection import WIDTHS, ProjectionDiscriminator, UpBlock, attended, published_discriminator, widths
from ganctl.nn.spectral import SNConv2d, SNLinear
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.published import residual as published
from ganctl.ranges import Count, Moment, Rate, Weight, Widths
from ganctl.spec import Image, Label

TRAIN = {"batch": 2048, "ema_kimg": 14000}
"""Table 1, and a decay of 0.9999 a step (appendix C): half of the average is left after 6,931 steps."""
AUGMENTS = ASKS = True


@config
class Config:
    resolution: Count = 128
    """Side of the images: 128 (table 4), 256 and 512 (tables 5 and 6)."""
    channels: Count = 3
    """1 grey, 3 colour."""
    classes: Count = 1000
    """ImageNet's."""
    z_dim: Count = 120
    """Cut into one part for each block and one for the first layer (appendix B, fig. 15): 20 each at 128 px. What is
    left over is not drawn."""
    shared_dim: Count = 128
    """Of the embedding of classes that all layers share (appendix B)."""
    ngf: Count = 96
    """Ch. of table 4, the width of G's last block …"""
    ndf: Count = 96
    """… and of D's first."""
    attention: Widths | None = None
    """Sides of the feature maps with self-attention; None: 64 px (tables 4 to 6), half the resolution where that is
    less."""
    bn_eps: Rate = 1e-5
    """ε of batch norms (the authors' PyTorch code)."""
    sn_eps: Rate = 1e-6
    """ε of spectral norms (the same)."""
    spectral: bool = True
    """False: G's weights are used as they are. Those of some published generators were divided when they were read."""
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
    """Adam's learning rate (appendix C)."""
    dlr: Rate = 2e-4
    """The same for D."""
    beta1: Moment = 0.0
    """Adam's first moment …"""
    beta2: Moment = 0.999
    """… and second (appendix C)."""


class Generator(nn.Module):
    """Linear, a residual block for each doubling, norm, ReLU, 3 × 3, tanh (table 4a). Satisfies ConditionalSampler and
    TruncatedSampler."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        n, self.base = halvings(cfg.resolution)
        self.x = Image((cfg.resolution, cfg.resolution), cfg.channels)
        self.c = Label(cfg.classes)
        self.part = cfg.z_dim // (n + 1)
        if not self.part:
            raise UsageError(f"cannot build biggan with z_dim = {cfg.z_dim}", f"z has {n + 1} parts", "choose more")
        self.z_dim = self.part * (n + 1)
        normal: dict[str, Any] = {"eps": cfg.sn_eps, "spectral": cfg.spectral}

        def conv(inputs: int, outputs: int, kernel: int) -> SNConv2d:
            return SNConv2d(inputs, outputs, kernel, **normal)

        def norm(width: int) -> ConditionalBatchNorm:
            maps = (SNLinear(cfg.shared_dim + self.part, width, bias=False, **normal) for _ in range(2))
            return ConditionalBatchNorm(width, *maps, eps=cfg.bn_eps)

        first, *rest = (k * cfg.ngf for k in widths("biggan", cfg.resolution))
        with_attention = attended("biggan", cfg.resolution, cfg.attention)
        self.shared = nn.Embedding(cfg.classes, cfg.shared_dim)
        nn.init.orthogonal_(self.shared.weight)
        self.linear = SNLinear(self.part, first * self.base**2, **normal)
        blocks, width = [], first
        for i, out in enumerate(rest):
            row: list[nn.Module] = [UpBlock(width, out, conv=conv, norm=norm)]
            if self.base << (i + 1) in with_attention:
                row.append(SelfAttention(out, **normal))
            blocks.append(nn.ModuleList(row))
            width = out
        self.blocks = nn.ModuleList(blocks)
        # Deviation: ε of this norm is 1e-5 whatever bn_eps says, as in the authors' PyTorch code.
        self.output_layer = nn.Sequential(GainNorm(width), nn.ReLU(), conv(width, cfg.channels, 3))

    def forward(self, z: Float[Tensor, "n z"], y: Float[Tensor, "n d"]) -> Float[Tensor, "n k h w"]:
        """`y`: the classes' embeddings, so that a picture between two classes can be made (sec. 4.1, fig. 8)."""
        parts = z.split(self.part, 1)
        h = self.linear(parts[0]).unflatten(1, (-1, self.base, self.base))
        for row, part in zip(self.blocks, parts[1:], strict=True):
            condition = torch.cat([y, part], 1)
            for layer in row.children():
                h = layer(h, condition) if isinstance(layer, UpBlock) else layer(h)
        return self.output_layer(h).tanh()

    def prior(self, seeds: Sequence[int]) -> Float[Tensor, "n z"]:
        return normal_prior(seeds, self.z_dim)

    def truncated(self, z: Float[Tensor, "n z"], psi: float) -> Float[Tensor, "n z"]:
        """The truncation trick (sec. 3.1): values of a normal within ± 2 psi; 1 leaves z as it is."""
        return truncated_normal(z, psi)

    def sample(
        self, z: Float[Tensor, "n z"], c: Int[Tensor, " n"] | None = None, *, psi: float = 1.0
    ) -> Float[Tensor, "n k h w"]:
        return self(self.truncated(z, psi), self.shared(class_given(c, self.c.n)))


@dataclass
class Nets:
    G: Generator
    D: ProjectionDiscriminator


def build(cfg: Config) -> Nets:
    return Nets(Generator(cfg), discriminator(cfg))


def discriminator(cfg: Config) -> ProjectionDiscriminator:
    """Table 4b: SAGAN's, its blocks' hidden layers as wide as their outputs (appendix B)."""
    multiples, sides = widths("biggan", cfg.resolution), attended("biggan", cfg.resolution, cfg.attention)
    sizes = (cfg.channels, multiples, cfg.ndf, cfg.resolution, cfg.classes)
    return ProjectionDiscriminator(*sizes, wide=True, attention=sides, eps=cfg.sn_eps)


def generated(n: Any, b: Batch, p: Progress) -> Float[Tensor, "n k h w"]:
    """Images of the real batch's classes: they are distributed as the data's."""
    return n.G(p.normal(len(b.x), n.G.z_dim), n.G.shared(b.c))


def d_loss(n: Any, b: Batch, p: Progress, loss: Loss) -> Terms:
    """E max(0, 1 - D(x, y)) + E max(0, 1 + D(G(z, y), y))  (appendix C: the hinge loss)."""
    with torch.no_grad():
        fake = generated(n, b, p)
    return d_terms(loss, lambda x: n.D(x, b.c), b.x, fake, p)


def g_loss(n: Any, b: Batch, p: Progress, loss: Loss, ortho: float) -> Terms:
    """-E D(G(z, y), y), and β Σ ‖WᵀW ⊙ (1 - I)‖²_F over G's weights, the shared embedding left out  (eq. 3)."""
    terms = g_terms(loss, lambda x: n.D(x, b.c), b.x, generated(n, b, p), p)
    if ortho:
        terms["G_ortho"] = ortho * orthogonality(regularised(n.G))
    return terms


def regularised(G: nn.Module) -> Iterator[Tensor]:
    """G's weights of two or more dimensions but the shared embedding (appendix C; the authors' PyTorch code)."""
    return (w for name, w in G.named_parameters() if w.ndim > 1 and not name.startswith("shared."))


def settle(G: Generator, cfg: Config) -> None:
    """Standing statistics, before each snapshot."""
    stand(G, cfg.standing)


def stand(G: Any, passes: int) -> None:
    """Standing statistics of a G of this paper: over batches of noise and classes that are always the same."""
    g, device = torch.Generator().manual_seed(0), next(G.parameters()).device

    def draw() -> Tensor:
        z, c = torch.randn(64, G.z_dim, generator=g), torch.randint(G.c.n, (64,), generator=g)
        return G(z.to(device), G.shared(c.to(device)))

    standing_statistics(G, draw, passes)


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg.loss), repeat=cfg.n_dis),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg.loss, cfg.ortho)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    # ε of Adam: 1e-6 (the authors' PyTorch code).
    return {"G": Adam(cfg.glr, cfg.beta1, cfg.beta2, 1e-6), "D": Adam(cfg.dlr, cfg.beta1, cfg.beta2, 1e-6)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """G or D of the authors' PyTorch code (`blocks.0.0.conv1.weight`), G of OpenMMLab (`noise2feat`) and StudioGAN
    (`linear0`): with a shared embedding and z in parts.
    """
    if published.kind(state) == "biggan":
        return _generator(published.rows(state) or {}, studio="bn4.running_var" in state)
    count = numbered_blocks(state, r"blocks\.(\d{1,2})\.0\.conv2\.weight")
    linear, last = state.get("linear.weight"), state.get(f"blocks.{count - 1}.0.conv2.weight")
    if last is None or linear is None or linear.ndim != 2 or "blocks.0.0.conv4.weight" in state:
        return None
    tensors = {k: v for k, v in state.items() if not k.endswith(".sv0")}
    rows = [i for i in range(count) if f"blocks.{i}.1.gamma" in state]
    shared, out = state.get("shared.weight"), state.get("output_layer.2.weight")
    if shared is not None and out is not None and shared.ndim == 2 and out.ndim == 4 and count in WIDTHS:
        cfg = {
            "resolution": 4 << count, "channels": out.shape[0], "ngf": last.shape[0] // WIDTHS[count][-1],
            "classes": shared.shape[0], "shared_dim": shared.shape[1], "z_dim": linear.shape[1] * (count + 1),
            "attention": [8 << i for i in rows],
        }  # fmt: skip
        return cfg, {"G": tensors}
    found = published_discriminator(state)
    return (found[0], {"D": tensors}) if found and found[1] and found[0]["classes"] else None


def _generator(
    tensors: dict[str, Tensor], *, studio: bool
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    sizes, shared = published.sizes(tensors), tensors.get("shared.weight")
    if sizes is None or shared is None or shared.ndim != 2 or sizes["blocks"] not in WIDTHS:
        return None
    if studio and (var := tensors.get("norm.running_var")) is not None:
        # ε of the last norm is 1e-5 here and 1e-4 there.
        tensors["norm.running_var"] = var + (published.EPS - 1e-5)
    cfg = {
        "resolution": 4 << sizes["blocks"], "channels": sizes["channels"], "classes": shared.shape[0],
        "shared_dim": shared.shape[1], "ngf": sizes["width"] // WIDTHS[sizes["blocks"]][-1],
        "z_dim": sizes["inputs"] * (sizes["blocks"] + 1), "attention": [8 << i for i in sizes["follows"]],
        "bn_eps": published.EPS if studio else 1e-5, "spectral": "linear.u0" in tensors,
    }  # fmt: skip
    return cfg, {"G": published.last_layers(tensors)}
