"""WGAN: Arjovsky, Chintala & Bottou, Wasserstein GAN, 2017. arXiv:1701.07875."""

from ganctl.config import config
from ganctl.losses.objective import Loss, d_terms, g_terms
from ganctl.losses.regularizers import clip_weights
from ganctl.models import dcgan
from ganctl.models.dcgan import Nets
from ganctl.phase import Batch, Optimizer, Phase, Progress, RMSprop, Terms
from ganctl.ranges import Count, Rate

TRAIN = {"batch": 64}
AUGMENTS = ASKS = True


@config
class Config:
    """The networks are DCGAN's (sec. 4.2); D is the critic f."""

    resolution: Count = 64
    """Side of the images: 64 (sec. 4.1)."""
    channels: Count = 3
    """1 grey, 3 colour."""
    z_dim: Count = 100
    """Dimension of z, DCGAN's."""
    ngf: Count = 64
    """Width of G's last hidden layer, doubled towards the input."""
    ndf: Count = 64
    """Width of the critic's first layer, doubled at every halving."""
    batch_norm: bool = True
    """False: G without batch norm, where DCGAN fails and WGAN still learns (fig. 6).

    Deviation: G's widths still double towards the input; the figure's are constant.
    """
    d_batch_norm: bool = True
    """False leaves it out of the critic."""
    loss: Loss = "wasserstein"
    """Eq. 3."""
    clip: Rate = 0.01
    """c: the box [-c, c] that holds the critic's weights (alg. 1)."""
    n_critic: Count = 5
    """Critic steps for each generator step (alg. 1)."""
    glr: Rate = 5e-5
    """α (alg. 1), RMSProp: momentum makes the critic unstable (sec. 4.3)."""
    dlr: Rate = 5e-5
    """The same for the critic."""


def networks(cfg: Config) -> dcgan.Config:
    return dcgan.Config(
        resolution=cfg.resolution,
        channels=cfg.channels,
        z_dim=cfg.z_dim,
        ngf=cfg.ngf,
        ndf=cfg.ndf,
        batch_norm=cfg.batch_norm,
        d_batch_norm=cfg.d_batch_norm,
    )


def build(cfg: Config) -> Nets:
    return dcgan.build(networks(cfg))


def d_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """max_f E f(x) - E f(g(z))  (eq. 3); minus this term is the estimate of the Wasserstein distance."""
    return d_terms(cfg.loss, n.D, b.x, n.G(p.normal(len(b.x), n.G.z_dim)), p)


def g_loss(n: Nets, b: Batch, p: Progress, cfg: Config) -> Terms:
    """min_g -E f(g(z))  (alg. 1, line 10)."""
    return g_terms(cfg.loss, n.D, b.x, n.G(p.normal(len(b.x), n.G.z_dim)), p)


def phases(cfg: Config) -> list[Phase]:
    return [
        Phase(
            "D",
            ("D",),
            lambda n, b, p: d_loss(n, b, p, cfg),
            repeat=cfg.n_critic,
            after=lambda n: clip_weights(n.D, cfg.clip),
        ),
        Phase("G", ("G",), lambda n, b, p: g_loss(n, b, p, cfg)),
    ]


def optimizers(cfg: Config) -> dict[str, Optimizer]:
    return {"G": RMSprop(cfg.glr), "D": RMSprop(cfg.dlr)}
