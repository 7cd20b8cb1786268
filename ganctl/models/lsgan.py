"""LSGAN: Mao et al., Least Squares Generative Adversarial Networks, 2017. arXiv:1611.04076."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganctl.config import config
from ganctl.losses.objective import Loss, d_terms, g_terms
from ganctl.models import dcgan
from ganctl.models.dcgan import Layers, Nets
from ganctl.phase import Adam, Batch, Optimizer, Phase, Progress, Terms
from ganctl.published.convolutional import openmmlab_lsgan
from ganctl.ranges import Count, Moment, Rate, Real

TRAIN = {"batch": 64}
AUGMENTS = ASKS = True


@config
class Config:
    """Deviation: DCGAN's networks, which the paper's D is; its G adds two layers of stride 1 at 112 px (fig. 2)."""

    resolution: Count = 64
    """Side of the images. Deviation: 64 in place of 112."""
    channels: Count = 3
    """1 grey, 3 colour."""
    z_dim: Count = 1024
    """Fig. 2."""
    ngf: Count = 64
    """Width of G's last hidden layer."""
    ndf: Count = 64
    """Width of D's first layer (fig. 2)."""
    g_layers: Layers | None = None
    """G's layers where a published network begins with a linear one, as fig. 2 does; None: DCGAN's."""
    d_batch_norm: bool = True
    """False leaves it out of D."""
    loss: Loss = "least_squares"
    """Eq. 2."""
    a: Real = 0.0
    """Target of D for generated images (eq. 9: a = 0, b = c = 1) …"""
    b: Real = 1.0
    """… for real ones …"""
    c: Real = 1.0
    """… and what G wants D to say. Eq. 8's a = -1, b = 1, c = 0 minimises the Pearson χ² divergence."""
    glr: Rate = 1e-3
    """Sec. 4.1: 0.001 on LSUN."""
    dlr: Rate = 1e-3
    """The same for D."""
    beta1: Moment = 0.5
    """Adam's first moment (sec. 4.1)."""


def networks(cfg: Config) -> dcgan.Config:
    return dcgan.Config(
        resolution=cfg.resolution,
        channels=cfg.channels,
        z_dim=cfg.z_dim,
        ngf=cfg.ngf,
        ndf=cfg.ndf,
        d_batch_norm=cfg.d_batch_norm,
        g_layers=cfg.g_layers,
        g_first="linear_norm" if cfg.g_layers else "conv",
        g_bias=cfg.g_layers is not None,
    )


def build(cfg: Config) -> Nets:
    return dcgan.build(networks(cfg))


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """min_D ½ E (D(x) - b)² + ½ E (D(G(z)) - a)²  (eq. 2)."""
    return d_terms(cfg.loss, n.D, b.x, n.G(p.normal(len(b.x), n.G.z_dim)), p, (cfg.a, cfg.b))


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """min_G ½ E (D(G(z)) - c)²  (eq. 2)."""
    return g_terms(cfg.loss, n.D, b.x, n.G(p.normal(len(b.x), n.G.z_dim)), p, cfg.c)


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase("D", ("D",), lambda n, b, p: d_loss(n, b, p, cfg)),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": Adam(cfg.glr, cfg.beta1), "D": Adam(cfg.dlr, cfg.beta1)}


def from_upstream(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """G of OpenMMLab's own architecture for it (`noise2feat_head`)."""
    found = openmmlab_lsgan(state)
    return found and (found[0], {"G": found[1]})
